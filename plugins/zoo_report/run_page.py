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
from zoo_report.page import Gallery, Headline, Page, Part, Picture, Section, Table, Text
from zoo_report.sections import Attempts, day, duration, environment_facts, footer, recipe_parts
from zoo_sweep.results import Outcome

if TYPE_CHECKING:
    from zoo import VAE, Batch, Epoch

SCATTERED, RANKED, RECONSTRUCTED, SAMPLED = 5000, 2000, 2 * figures.COLUMNS, 64
"""Images that are shown in the latent space, that its dimensions are ranked by, that are reconstructed, and drawn."""


@dataclass(frozen=True)
class Measuring:
    """Which metrics a report has, and who follows them; see `report`."""

    wanted: bool = True
    samples: int | None = None
    limit: int | None = None
    announce: Callable[[str], None] | None = None
    progress: Callable[[int, int], None] | None = None


class RunPage:
    """The page of a run.

    Args:
        run: the run.
        root: where the files of data sets lie.
        device: where the model works.
        measuring: which metrics.
        attempts: takes up what is left out.
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
        self.subject = attempts("reconstructions, latent space, metrics", lambda: self._subject(root, device))
        self.data = run.environment["data"]

    def page(self) -> Page:
        """All of it."""
        recipe, environment = self.run.recipe, self.run.environment
        evaluation = self._evaluation()
        parameters = sum(parameter.numel() for parameter in self.vae.parameters())
        badges = [
            self.run.data_name,
            f"{'x'.join(map(str, self.data['shape']))} images",
            f"latent {'x'.join(map(str, self.vae.latent_shape))}",
            f"{parameters:,} parameters",
            day(environment["started"]),
            *([] if self.outcome.state == "finished" else [self.outcome.state]),
        ]
        sections = [
            Section("Training", self._training()),
            Section("Images", self._images()),
            Section("Latent space", self._latent_space()),
            Section("Metrics", [] if evaluation is None else self._metrics(evaluation)),
            Section("Recipe", recipe_parts(recipe, (self.run.path / "recipe.yaml").read_text("utf-8"))),
            Section("Environment", [environment_facts(self.run)]),
            self.attempts.section(),
        ]
        return Page(recipe.name, recipe.summary, badges, self._headlines(evaluation), sections, footer())

    def _subject(self, root: Path | None, device: torch.device) -> EvaluationContext:
        dataset, measuring = self.run.loaded(root).dataset, self.measuring
        return EvaluationContext(
            *(self.vae, self.run.recipe, dataset, "test", measuring.limit, 0, device), progress=measuring.progress
        )

    def _evaluation(self) -> Evaluation | None:
        measuring = self.measuring
        if self.subject is None or not measuring.wanted:
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
        select, epochs = self.run.recipe.train.monitor, len(self.epochs)
        best = f"best of {epochs} epochs: {self.outcome.epoch}" if epochs > 1 else "1 epoch"
        test = f"{self.data['test']} test images"
        notes = {select: best} | ({} if select == "loss" else {"loss": ""})
        headlines = [
            Headline(f"test {term}", f"{self.outcome.test[term]:.2f}", "nats", notes.get(term, test))
            for term in dict.fromkeys(("loss", "distortion", "rate", select))
            if term in self.outcome.test
        ]
        if evaluation is not None:
            headlines += _measured(evaluation)
        seconds = f"{epochs} epoch{'s' * (epochs > 1)} on {self.run.environment['device']}"
        return [*headlines, Headline("training time", duration(self.outcome.seconds or 0.0), "", seconds)]

    def _training(self) -> list[Part]:
        terms = list(self.epochs[0].test)
        curves = self.attempts.all({f"curve of {term}": lambda term=term: self._curve(term) for term in terms})  # type: ignore[misc]
        subject = self.subject
        why = None if subject is None else self.attempts("whether it is a likelihood", lambda: subject.no_likelihood)
        note = [Text(f"The loss is no bound on log p(x): {why.partition(': ')[2]}.")] if why else []
        return [*note, Gallery(curves), _epoch_table(self.epochs, terms, self.outcome)]

    def _curve(self, term: str) -> Picture:
        values = [epoch.test[term] for epoch in self.epochs]
        went = f"from {values[0]:.2f} after the first epoch to {values[-1]:.2f} after the last" if values[1:] else ""
        alt = (
            f"The {term} against the epochs, in training and on the test set, where it is {went or f'{values[0]:.2f}'}."
        )
        return Picture.of(figures.curves(self.epochs, "", [term]), term.capitalize(), alt, chart=True, headed=False)

    def _images(self) -> list[Part]:
        name, data = self.run.recipe.name, self.run.data_name
        makers = {}
        if (subject := self.subject) is not None:
            makers["reconstructions"] = lambda: _reconstructions(subject, f"of {data} as {name} gives them back")
        makers["samples"] = lambda: Picture.of(
            figures.samples(self.vae, SAMPLED, ""),
            f"Samples from {self.prior}",
            f"{SAMPLED} images that {name} decodes from draws of {self.prior}.",
            "The means of p(x | z) at draws of z.",
        )
        pictures = self.attempts.all(makers)
        return [Gallery(pictures)] if pictures else []

    @property
    def prior(self) -> str:
        """What to call the prior that samples and metrics are of."""
        if self.original is self.vae:
            return "the prior"
        return f"the prior {self.run.fitted_prior.name}, fitted after training"

    def _metrics(self, evaluation: Evaluation) -> list[Part]:
        said = [] if self.original is self.vae else [Text(f"Of the model with {self.prior}.")]
        return [*said, _metrics(evaluation)]

    def _latent_space(self) -> list[Part]:
        vae, subject = self.original, self.subject
        makers: dict[str, Callable[[], Picture]] = {}
        if subject is not None:
            makers["scatter of the latent space"] = lambda: _scatter(vae, _batch(subject, SCATTERED))
            makers["rate of each dimension"] = lambda: _rates(vae, _batch(subject, SCATTERED))
        if vae.latent_shape == (2,):
            makers["manifold"] = lambda: Picture.of(
                figures.manifold(vae, title=""),
                "The latent space, decoded",
                "A grid of images decoded from points of the two-dimensional latent space.",
                "Each image stands for an equal share of the prior.",
            )
        elif subject is not None:
            makers["traversals"] = lambda: Picture.of(
                figures.traversals(vae, images=_batch(subject, RANKED), title=""),
                "Each dimension swept",
                "Images decoded while one dimension goes from -3 to 3 and the others stay at 0, a row for each.",
                f"The dimensions of the highest rate first, over {len(_batch(subject, RANKED).x)} test images.",
            )
        pictures = self.attempts.all(makers)
        return [Gallery(pictures)] if pictures else []


def _reconstructions(subject: EvaluationContext, whose: str) -> Picture:
    images = _batch(subject, RECONSTRUCTED)
    return Picture.of(
        figures.reconstructions(subject.vae, images.x, "", images.condition),
        "Reconstructions",
        f"{len(images.x)} test images {whose}, below each.",
        "The mean of p(x | z) at the mean of q(z | x).",
    )


def _scatter(vae: VAE, images: Batch) -> Picture:
    return Picture.of(
        figures.latent_space(vae, images.x, images.condition, title="", panels=["codes"]),
        "Where test images lie",
        f"The codes of {len(images.x)} test images as points, coloured by label.",
        chart=True,
    )


def _rates(vae: VAE, images: Batch) -> Picture:
    return Picture.of(
        figures.latent_space(vae, images.x, images.condition, title="", panels=["rates"]),
        "Rate of each dimension",
        f"A bar for each latent dimension: its rate over {len(images.x)} test images, the highest first.",
        "What each dimension costs to tell. One near 0 is not in use.",
        chart=True,
    )


def _batch(subject: EvaluationContext, n: int) -> Batch:
    """The first `n` test images, or all there are."""
    return subject.images[torch.arange(min(n, len(subject)))]


def _epoch_table(epochs: Sequence[Epoch], terms: Sequence[str], outcome: Outcome) -> Table:
    rows = [
        [
            str(epoch.epoch),
            *(f"{epoch.train[term]:.2f}" for term in terms),
            *(f"{epoch.test[term]:.2f}" for term in terms),
            f"{epoch.seconds:.1f}",
        ]
        for epoch in epochs
    ]
    header = ["epoch", *(f"train {term}" for term in terms), *(f"test {term}" for term in terms), "seconds"]
    best = next(i for i, epoch in enumerate(epochs) if epoch.epoch == outcome.epoch)
    caption = "Every epoch, in nats per example; the best one stands out"
    return Table(caption, header, rows, range(1, len(header)), best, folded=True)


def _metrics(evaluation: Evaluation) -> Table:
    measured = [one for measurements in evaluation.measurements.values() for one in measurements]
    notes = list(dict.fromkeys(one.note for one in measured if one.note))
    marks = {note: f" [{position}]" for position, note in enumerate(notes, start=1)}
    rows = [[one.name + marks.get(one.note, ""), one.shown, one.unit, one.how] for one in measured]
    said = [f"{mark.strip()} {note}" for note, mark in marks.items()]
    return Table(evaluation.how, ["number", "value", "unit", "how"], rows, range(1, 2), None, said)


def _measured(evaluation: Evaluation) -> list[Headline]:
    """The numbers of an evaluation that are seen first."""
    first = {
        "log-likelihood": ("log-likelihood", "nats"),
        "bits-per-dimension": ("bits per dimension", ""),
        "active-units": ("active units", None),
        "linear-probe": ("linear probe", "accuracy"),
    }
    found = {one.name: one for measurements in evaluation.measurements.values() for one in measurements}
    return [
        Headline(
            title,
            found[name].shown.partition(" ±")[0],
            found[name].unit if unit is None else unit,
            found[name].note or f"{evaluation.protocol['images']} test images",
        )
        for name, (title, unit) in first.items()
        if name in found
    ]
