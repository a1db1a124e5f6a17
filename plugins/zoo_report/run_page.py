"""The page of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

import zoo
from zoo import Evaluation, EvaluationContext, Run
from zoo_figures import figures
from zoo_figures.views import drawings
from zoo_report.page import Gallery, Headline, Page, Part, Picture, Section, Table, Text
from zoo_report.sections import Attempts, day, duration, environment_facts, footer, recipe_parts
from zoo_sweep.results import Outcome

if TYPE_CHECKING:
    from zoo import VAE, Batch, Epoch

VIEWED = 2000
"""Number of test examples in the figures of data other than images."""
LATENT_IMAGES, RANKING_IMAGES, RECONSTRUCTIONS, SAMPLES = 5000, 2000, 2 * figures.COLUMNS, 64
"""Numbers of images: in the latent space, for ranking its dimensions, reconstructed, and sampled."""


@dataclass(frozen=True)
class Measuring:
    """The metrics of a report, and callbacks for their progress; see `report`."""

    enabled: bool = True
    samples: int | None = None
    limit: int | None = None
    announce: Callable[[str], None] | None = None
    progress: Callable[[int, int], None] | None = None


class RunPage:
    """The page of a run.

    Args:
        run: the run.
        root: the folder of data files.
        device: of the model.
        measuring: the metrics to include.
        attempts: records the parts that are left out.
    """

    def __init__(
        self, run: Run, root: Path | None, device: torch.device, measuring: Measuring, attempts: Attempts
    ) -> None:
        self.run, self.root, self.device = run, root, device
        self.outcome = Outcome.of(run)
        self.epochs = run.epochs()
        self.attempts = attempts
        self.measuring = measuring
        self.vae = run.load().to(device)
        self.original = run.load(prior="original").to(device) if run.fitted_prior.exists else self.vae
        self.context = attempts("reconstructions, latent space, metrics", lambda: self._context(root, device))
        self.data = run.environment["data"]

    def page(self) -> Page:
        """Build the page."""
        recipe, environment = self.run.recipe, self.run.environment
        evaluation = self._evaluation()
        parameters = sum(parameter.numel() for parameter in self.vae.parameters())
        badges = [
            self.run.data_name,
            f"{'x'.join(map(str, self.data['shape']))} {'images' if self.is_image else self.modality}",
            f"latent {'x'.join(map(str, self.vae.latent_shape))}",
            f"{parameters:,} parameters",
            day(environment["started"]),
            *([] if self.outcome.state == "finished" else [self.outcome.state]),
        ]
        sections = [
            Section("Training", self._training()),
            Section("Images", self._images()) if self.is_image else Section("Data", self._views()),
            Section("Latent space", self._latent_space()),
            Section("Metrics", [] if evaluation is None else self._metrics(evaluation)),
            Section("Recipe", recipe_parts(recipe, (self.run.path / "recipe.yaml").read_text("utf-8"))),
            Section("Environment", [environment_facts(self.run)]),
            self.attempts.section(),
        ]
        return Page(recipe.name, recipe.summary, badges, self._headlines(evaluation), sections, footer())

    def _context(self, root: Path | None, device: torch.device) -> EvaluationContext:
        dataset, measuring = self.run.loaded(root).dataset, self.measuring
        return EvaluationContext(
            *(self.vae, self.run.recipe, dataset, "test", measuring.limit, 0, device), progress=measuring.progress
        )

    def _evaluation(self) -> Evaluation | None:
        measuring = self.measuring
        if self.context is None or not measuring.enabled:
            return None
        evaluation = zoo.evaluate(
            self.run,
            samples=measuring.samples,
            limit=measuring.limit,
            data_dir=self.root,
            device=str(self.device),
            announce=measuring.announce,
            progress=measuring.progress,
        )
        self.attempts.left_out.update({f"metric {name}": why for name, why in evaluation.left_out.items()})
        return evaluation

    def _headlines(self, evaluation: Evaluation | None) -> list[Headline]:
        monitor, epochs = self.run.recipe.train.monitor, len(self.epochs)
        best = f"best of {epochs} epochs: {self.outcome.epoch}" if epochs > 1 else "1 epoch"
        test = f"{self.data['test']} test images"
        headlines = [
            Headline(f"test {term}", f"{self.outcome.test[term]:.2f}", "nats", test)
            for term in ("loss", "distortion", "rate")
            if term in self.outcome.test
        ]
        if monitor in self.outcome.validation:
            value = f"{self.outcome.validation[monitor]:.2f}"
            headlines.insert(0, Headline(f"validation {monitor}", value, "nats", best))
        if evaluation is not None:
            headlines += _metric_headlines(evaluation)
        seconds = f"{epochs} epoch{'s' * (epochs > 1)} on {self.run.environment['device']}"
        return [*headlines, Headline("training time", duration(self.outcome.seconds or 0.0), "", seconds)]

    def _training(self) -> list[Part]:
        terms = list(self.epochs[0].test)
        curves = self.attempts.all({f"curve of {term}": lambda term=term: self._curve(term) for term in terms})  # type: ignore[misc]
        context = self.context
        reason = None if context is None else self.attempts("check of the likelihood", lambda: context.no_likelihood)
        note = [Text(f"The loss is not a bound on log p(x): {reason.partition(': ')[2]}.")] if reason else []
        return [*note, Gallery(curves), _epoch_table(self.epochs, terms, self.outcome)]

    def _curve(self, term: str) -> Picture:
        values = [epoch.test[term] for epoch in self.epochs]
        splits = " and ".join(f"the {split} split" for split in self.epochs[0].held_out)
        trend = f"{values[0]:.2f} after the first epoch"
        if values[1:]:
            trend += f" and {values[-1]:.2f} after the last"
        alt = f"The {term} against the epochs, in training and on {splits}. On the test split it is {trend}."
        return Picture.of(figures.curves(self.epochs, "", [term]), term.capitalize(), alt, chart=True, headed=False)

    @property
    def modality(self) -> str:
        """How an example is drawn; see `zoo.Dataset`."""
        return str(self.data.get("modality", "image"))

    @property
    def is_image(self) -> bool:
        """Whether the data are images."""
        return self.modality == "image"

    def _views(self) -> list[Part]:
        """The figures that suit data other than images."""
        if (context := self.context) is None:
            return []
        made = drawings(self.vae, _batch(context, VIEWED), self.run)
        if not made:
            return [Text(f"There are no figures for data of the modality {self.modality}.")]
        description = "of the data, reconstructions and samples, side by side."
        makers = {
            name: lambda name=name, draw=draw: Picture.of(
                draw(), name.capitalize(), f"{name.capitalize()} {description}"
            )
            for name, draw in made.items()
        }
        return [Gallery(self.attempts.all(makers))]

    def _images(self) -> list[Part]:
        name, data = self.run.recipe.name, self.run.data_name
        makers = {}
        if (context := self.context) is not None:
            makers["reconstructions"] = lambda: _reconstructions(context, f"of {data}", name)
        makers["samples"] = lambda: Picture.of(
            figures.samples(self.vae, SAMPLES, ""),
            f"Samples from {self.prior}",
            f"{SAMPLES} images decoded by {name} from samples of {self.prior}.",
            "The means of p(x | z) at samples of z.",
        )
        pictures = self.attempts.all(makers)
        return [Gallery(pictures)] if pictures else []

    @property
    def prior(self) -> str:
        """The name of the prior of samples and metrics."""
        if self.original is self.vae:
            return "the prior"
        return f"the prior {self.run.fitted_prior.name}, fitted after training"

    def _metrics(self, evaluation: Evaluation) -> list[Part]:
        note = [] if self.original is self.vae else [Text(f"Of the model with {self.prior}.")]
        return [*note, _metrics(evaluation)]

    def _latent_space(self) -> list[Part]:
        vae, context = self.original, self.context
        makers: dict[str, Callable[[], Picture]] = {}
        if context is not None:
            makers["scatter plot of the latent space"] = lambda: _scatter(vae, _batch(context, LATENT_IMAGES))
            makers["rate of each dimension"] = lambda: _rates(vae, _batch(context, LATENT_IMAGES))
        if not self.is_image:
            pass
        elif vae.latent_shape == (2,):
            makers["manifold"] = lambda: Picture.of(
                figures.manifold(vae, title=""),
                "The latent space, decoded",
                "A grid of images decoded from points of the two-dimensional latent space.",
                "The points are equal quantiles of the prior.",
            )
        elif context is not None:
            makers["traversals"] = lambda: Picture.of(
                figures.traversals(vae, images=_batch(context, RANKING_IMAGES), title=""),
                "Latent traversals",
                "Images decoded while one dimension varies from -3 to 3 and the others are 0, one row per dimension.",
                f"Dimensions by rate over {len(_batch(context, RANKING_IMAGES).x)} test images, highest first.",
            )
        pictures = self.attempts.all(makers)
        return [Gallery(pictures)] if pictures else []


def _reconstructions(context: EvaluationContext, origin: str, model: str) -> Picture:
    images = _batch(context, RECONSTRUCTIONS)
    return Picture.of(
        figures.reconstructions(context.vae, images.x, "", images.condition),
        "Reconstructions",
        f"{len(images.x)} test images {origin}, each above its reconstruction by {model}.",
        "The mean of p(x | z) at the mean of q(z | x).",
    )


def _scatter(vae: VAE, images: Batch) -> Picture:
    return Picture.of(
        figures.latent_space(vae, images.x, images.condition, title="", panels=["codes"]),
        "Test images in the latent space",
        f"The posterior means of {len(images.x)} test images as points, coloured by label.",
        chart=True,
    )


def _rates(vae: VAE, images: Batch) -> Picture:
    return Picture.of(
        figures.latent_space(vae, images.x, images.condition, title="", panels=["rates"]),
        "Rate of each dimension",
        f"A bar for each latent dimension: its rate over {len(images.x)} test images, highest first.",
        "The information in each dimension. A dimension with a rate near 0 is not used.",
        chart=True,
    )


def _batch(context: EvaluationContext, n: int) -> Batch:
    """The first `n` test images, or all there are."""
    return context.images[torch.arange(min(n, len(context)))]


def _epoch_table(epochs: Sequence[Epoch], terms: Sequence[str], outcome: Outcome) -> Table:
    rows = [
        [
            str(epoch.epoch),
            *(f"{split[term]:.2f}" for split in (epoch.train, *epoch.held_out.values()) for term in terms),
            f"{epoch.seconds:.1f}",
        ]
        for epoch in epochs
    ]
    splits = ("train", *epochs[0].held_out)
    header = ["epoch", *(f"{split} {term}" for split in splits for term in terms), "seconds"]
    best = next(i for i, epoch in enumerate(epochs) if epoch.epoch == outcome.epoch)
    caption = "Every epoch, in nats per example; the one whose weights are kept is highlighted"
    return Table(caption, header, rows, range(1, len(header)), best, folded=True)


def _metrics(evaluation: Evaluation) -> Table:
    values = [value for measurements in evaluation.measurements.values() for value in measurements]
    notes = list(dict.fromkeys(value.note for value in values if value.note))
    marks = {note: f" [{position}]" for position, note in enumerate(notes, start=1)}
    rows = [[value.name + marks.get(value.note, ""), value.shown, value.unit, value.how] for value in values]
    footnotes = [f"{mark.strip()} {note}" for note, mark in marks.items()]
    return Table(evaluation.how, ["metric", "value", "unit", "protocol"], rows, range(1, 2), None, footnotes)


def _metric_headlines(evaluation: Evaluation) -> list[Headline]:
    """The numbers of an evaluation at the top of the page."""
    titles = {
        "log-likelihood": ("log-likelihood", "nats"),
        "bits-per-dimension": ("bits per dimension", ""),
        "active-units": ("active units", None),
        "linear-probe": ("linear probe", "accuracy"),
    }
    values = {value.name: value for measurements in evaluation.measurements.values() for value in measurements}
    return [
        Headline(
            title,
            values[name].shown.partition(" ±")[0],
            values[name].unit if unit is None else unit,
            values[name].note or f"{evaluation.protocol['images']} test images",
        )
        for name, (title, unit) in titles.items()
        if name in values
    ]
