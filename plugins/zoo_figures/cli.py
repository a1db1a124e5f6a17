"""Looking at a trained model: ``zoo reconstruct``, ``sample``, ``traverse``, ``interpolate`` and ``latent``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from zoo import RunError, UsageError, did_you_mean, parse_overrides
from zoo.cli import complete_datasets, json_option, print_json, prior_option
from zoo_sweep.folder import RUN_OR_BEST

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from zoo import VAE, Batch, Run
    from zoo_figures.interpolation import Path as LatentPath

RANKED = 2000
"""Test images that latent dimensions are ranked by."""
NAMED = 10
"""Labels that a message names."""

out = click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The PNG to write.  [default: in the run, or in runs/NAME for installed weights]",
)
data_dir = click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Where data files lie.  [default: $ZOO_DATA, else the cache]"
)

label = click.option(
    "--label", metavar="Y", help="Of this label, by name or number, where the model is conditional on labels."
)


class Numbers(click.ParamType):  # type: ignore[type-arg]
    """Whole numbers between commas."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        """Read ``0,3,5``."""
        try:
            return [int(number) for number in str(value).split(",")]
        except ValueError:
            self.fail(f"{value!r} is no list of whole numbers such as 0,3,5.", param, ctx)


@click.command()
@click.argument("run", type=RUN_OR_BEST)
@click.option(
    "-n", "count", type=click.IntRange(1, 10_000), default=24, show_default=True, help="How many test images."
)
@data_dir
@out
@json_option
def reconstruct(run: str, count: int, data_dir: Path | None, out: Path | None, as_json: bool) -> None:
    """Draw test images above their reconstructions.

    RUN is a run folder, or the folder of a model's runs, whose newest is meant.
    """
    import zoo
    from zoo_figures import figures

    opened = zoo.Run.open(run)
    test = opened.test_batch(count, data_dir)
    title = f"{opened.title}: test images"
    figure = figures.reconstructions(opened.load(), test.x, title, test.condition)
    _finish(opened, figure, "reconstructions.png", out, as_json)


@click.command()
@click.argument("run", type=RUN_OR_BEST)
@click.option("-n", "count", type=click.IntRange(1, 10_000), default=64, show_default=True, help="How many images.")
@click.option(
    "--z", "points", multiple=True, metavar="Z0,Z1,...", help="Decode this point; may be given several times."
)
@label
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the draws.")
@prior_option
@out
@json_option
def sample(
    run: str,
    count: int,
    points: tuple[str, ...],
    label: str | None,
    seed: int,
    prior: Literal["fitted", "original"],
    out: Path | None,
    as_json: bool,
) -> None:
    """Decode draws from the prior, or chosen latent points.

    \b
    zoo sample runs/mlp-vae -n 100
    zoo sample runs/mlp-vae-2d --z 0,0 --z 0,1 --z 1,1 --z -1,-1
    zoo sample runs/a-conditional-model --label 3
    zoo sample mlp-vae-2d@mnist --z 0,0
    zoo sample runs/mlp-vae/sweep-2026-01-31T12-00-00

    RUN is a run folder, the folder of a model's runs, whose newest is meant, a sweep, whose best run is, or a name of
    `zoo list --weights`.
    """
    import zoo
    from zoo_figures import figures

    opened = zoo.Run.open(run)
    vae = opened.load(prior=prior)
    condition, of_label = _labelled(vae, label, opened.label_names)
    if points:
        z, title = parse_points(points, vae.latent_shape), f"{opened.title}: decoded from chosen points{of_label}"
        _finish(opened, figures.decoded(vae, z, title, condition), "decoded.png", out, as_json)
    else:
        fitted = prior == "fitted" and opened.fitted_prior.exists
        drawn = f"{opened.fitted_prior.said()['prior']['use']}, fitted after training" if fitted else "the prior"
        title = f"{opened.title}: means of p(x | z) at samples from {drawn}{of_label}"
        _finish(opened, figures.samples(vae, count, title, seed, condition), "samples.png", out, as_json)


@click.command(short_help="Sweep each latent dimension while the others stay.")
@click.argument("run", type=RUN_OR_BEST)
@click.option(
    "--image", type=click.IntRange(min=0), metavar="N", help="Around the code of test image N.  [default: the origin]"
)
@click.option("--dims", type=Numbers(), metavar="0,3,5", help="Sweep these.  [default: the ten with the highest rate]")
@click.option("--steps", type=click.IntRange(2, 100), help="Images on each row.  [default: 11; of a manifold, 20]")
@click.option(
    "--range",
    "reach",
    type=click.FloatRange(min=0, min_open=True, max=1e6),
    default=3.0,
    show_default=True,
    metavar="R",
    help="Sweep from -R to R.",
)
@label
@data_dir
@out
@json_option
def traverse(
    run: str,
    image: int | None,
    dims: list[int] | None,
    steps: int | None,
    reach: float,
    label: str | None,
    data_dir: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Sweep one latent dimension after the other while the rest stay.

    A latent of two dimensions is drawn as a grid of decoded images over the prior, unless --image or --dims asks for
    sweeps. Dimensions are counted from 0.

    \b
    zoo traverse runs/mlp-vae
    zoo traverse runs/mlp-vae --image 3 --dims 0,3,5
    zoo traverse runs/mlp-vae-2d
    """
    import zoo
    from zoo_figures import figures
    from zoo_figures.latents import encoded

    opened = zoo.Run.open(run)
    vae = opened.load(prior="original")  # a fitted prior has no rate for each dimension
    condition, of_label = _labelled(vae, label, opened.label_names)
    if vae.latent_shape == (2,) and image is None and dims is None:
        title = f"{opened.title}: the latent space, decoded{of_label}"
        figure = figures.manifold(vae, steps or 20, condition=condition, title=title)
        _finish(opened, figure, "manifold.png", out, as_json)
        return
    images = opened.test_batch(RANKED, data_dir) if dims is None else None
    z, around = None, "the origin"
    if image is not None:
        chosen = _pick(opened, [image], data_dir)
        z, around = encoded(vae, chosen)[0], f"test image {image}"
        condition = chosen.condition if condition is None else condition
    figure = figures.traversals(
        vae,
        z,
        dims,
        steps=steps or 11,
        reach=reach,
        images=images,
        condition=condition,
        title=f"{opened.title}: latent traversals around {around}{of_label}",
    )
    _finish(opened, figure, "traverse.png", out, as_json)


@click.command(short_help="Go from test image A to B through the latent space.")
@click.argument("run", type=RUN_OR_BEST)
@click.argument("a", type=click.IntRange(min=0))
@click.argument("b", type=click.IntRange(min=0))
@click.option("--steps", type=click.IntRange(2, 100), default=10, show_default=True, help="Images along the path.")
@click.option(
    "--path",
    type=click.Choice(["linear", "spherical"]),
    default="linear",
    show_default=True,
    help="A straight line, or an arc around the origin.",
)
@data_dir
@out
@json_option
def interpolate(
    run: str, a: int, b: int, steps: int, path: LatentPath, data_dir: Path | None, out: Path | None, as_json: bool
) -> None:
    """Go from test image A to test image B through the latent space. Images are counted from 0.

    \b
    zoo interpolate runs/mlp-vae 0 17
    zoo interpolate runs/mlp-vae 0 17 --path spherical --steps 16
    """
    import zoo
    from zoo_figures import figures

    opened = zoo.Run.open(run)
    test = _pick(opened, [a, b], data_dir)
    figure = figures.interpolation(
        opened.load(),
        test.x,
        steps=steps,
        path=path,
        condition=test.condition,
        names=(f"image {a}", f"image {b}"),
        title=f"{opened.title}: from test image {a} to {b}",
    )
    _finish(opened, figure, "interpolate.png", out, as_json)


@click.command(short_help="Draw where test images lie in the latent space.")
@click.argument("run", type=RUN_OR_BEST)
@click.option("-n", "count", type=click.IntRange(min=2), default=5000, show_default=True, help="How many test images.")
@click.option(
    "--threshold",
    type=click.FloatRange(min=0),
    default=0.1,
    show_default=True,
    help="In nats; dimensions of a higher rate are counted.",
)
@data_dir
@out
@json_option
def latent(run: str, count: int, threshold: float, data_dir: Path | None, out: Path | None, as_json: bool) -> None:
    """Draw where test images lie in the latent space, by label, and the rate of each latent dimension.

    More than two dimensions are drawn by their first two principal components.
    """
    import zoo
    from zoo_figures import figures

    opened = zoo.Run.open(run)
    test = opened.test_batch(count, data_dir)
    title = f"{opened.title}: the latent space of test images"
    vae = opened.load(prior="original")  # a fitted prior has no rate for each dimension
    figure = figures.latent_space(vae, test.x, test.condition, threshold=threshold, title=title)
    _finish(opened, figure, "latent.png", out, as_json)


def parse_points(texts: Sequence[str], latent_shape: tuple[int, ...]) -> Tensor:
    """Points written as numbers between commas, as a tensor (N, *latent_shape).

    Raises:
        UsageError: one is not numbers, or not as many as the latent has.
    """
    import torch

    size = math.prod(latent_shape)
    points = []
    for text in texts:
        try:
            point = [float(number) for number in text.split(",")]
        except ValueError:
            raise UsageError(f"--z {text}: expected numbers between commas, such as 0,1") from None
        if len(point) != size:
            raise UsageError(f"--z {text}: {len(point)} numbers for a latent of {size} dimensions")
        points.append(point)
    return torch.tensor(points).reshape(-1, *latent_shape)


def _labelled(vae: VAE, label: str | None, names: Sequence[str] = ()) -> tuple[Tensor | None, str]:
    """The label as a condition (1,), and what a title says of it.

    Raises:
        UsageError: the model is not conditional, or knows no such label.
    """
    import torch

    if label is None:
        return None, ""
    if not vae.classes:
        raise UsageError(f"--label {label}: this model is not conditional on labels.")
    if label in names:
        return torch.tensor([list(names).index(label)]), f", label {label}"
    if not label.isdecimal() or int(label) >= vae.classes:
        known = f" or {', '.join(names[:NAMED])}{', ...' if len(names) > NAMED else ''}" if names else ""
        raise UsageError(
            f"--label {label}: there is no such label, the model knows those from 0 to {vae.classes - 1}{known}."
            + did_you_mean(label, names)
        )
    number = int(label)
    return torch.tensor([number]), f", label {names[number] if number < len(names) else number}"


def _pick(run: Run, indices: Sequence[int], data_dir: Path | None) -> Batch:
    """The test images at `indices`.

    Raises:
        UsageError: there are not so many.
    """
    import zoo

    test = run.test_batch(max(indices) + 1, data_dir)
    for index in indices:
        if index >= len(test.x):
            raise UsageError(f"There is no test image {index}: there are {len(test.x)}, counted from 0.")
    wanted = list(indices)
    return zoo.Batch(test.x[wanted], None if test.condition is None else test.condition[wanted])


def _save(figure: Figure, path: Path) -> None:
    from zoo_figures import figures

    try:
        figures.save(figure, path)
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be written: {error}") from error


def _finish(run: Run, figure: Figure, name: str, out: Path | None, as_json: bool) -> None:

    path = out or run.figures / name
    _save(figure, path)
    if as_json:
        print_json({"run": str(run), "figure": str(path)})
    else:
        click.echo(path)


@click.command()
@click.argument("data", metavar="NAME|PATH", shell_complete=complete_datasets)
@click.argument("parameters", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("preview.png"),
    show_default=True,
    help="The PNG to write.",
)
@data_dir
@json_option
def preview(data: str, parameters: tuple[str, ...], out: Path, data_dir: Path | None, as_json: bool) -> None:
    """Draw some training images of a data set, by label where there are labels.

    \b
    zoo preview mnist
    zoo preview photos size=[32,32] --out photos.png
    """
    import zoo
    from zoo_figures.gallery import gallery

    figure = gallery(zoo.load_dataset(data, data_dir=data_dir, **parse_overrides(parameters)), data)
    _save(figure, out)
    if as_json:
        print_json({"data": data, "figure": str(out)})
    else:
        click.echo(out)
