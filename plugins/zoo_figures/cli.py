"""Commands that draw: ``zoo reconstruct``, ``sample``, ``traverse``, ``interpolate``, ``latent`` and ``preview``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from zoo import RunError, UsageError, parse_overrides
from zoo.cli import complete_datasets, data_dir_option, json_option, print_json, prior_option
from zoo_figures.arguments import Numbers, parse_label, parse_points, select_test_images
from zoo_sweep.folder import RUN_OR_BEST

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from zoo import Run
    from zoo_figures.interpolation import Path as LatentPath

IMAGES, ROWS, MOST_IMAGES = 64, 1000, 10_000
RANKED = 2000
"""Test images used to rank latent dimensions."""

out = click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="PNG file to write.  [default: in the run, or in runs/NAME for installed weights]",
)
label = click.option(
    "--label", metavar="Y", help="Label, by name or number, for a model that is conditional on labels."
)


@click.command()
@click.argument("run", type=RUN_OR_BEST)
@click.option(
    "-n", "count", type=click.IntRange(1, 10_000), default=24, show_default=True, help="Number of test images."
)
@click.option(
    "--file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Reconstruct this image instead, at its size, in overlapping tiles of the size of the training images.",
)
@data_dir_option
@out
@json_option
def reconstruct(
    run: str, count: int, file: Path | None, data_dir: Path | None, out: Path | None, as_json: bool
) -> None:
    """Draw test images above their reconstructions.

    \b
    zoo reconstruct runs/mlp-vae -n 48
    zoo reconstruct runs/photo-vae --file photograph.jpg --out reconstruction.png

    RUN is a run folder, the folder of a model, for its newest run, or a sweep, for its best run.
    """
    import zoo
    from zoo_figures import figures

    trained_run = zoo.Run.open(run)
    if file is not None:
        from zoo_figures.large import write_reconstruction

        path = out or trained_run.figures / "reconstruction.png"
        _written(path, lambda: write_reconstruction(trained_run, file, path))
        _print(trained_run, path, as_json, "figure")
        return
    test = trained_run.test_batch(count, data_dir)
    title = f"{trained_run.title}: test images"
    figure = figures.reconstructions(trained_run.load(), test.x, title, test.condition)
    _finish(trained_run, figure, "reconstructions.png", out, as_json)


@click.command()
@click.argument("run", type=RUN_OR_BEST)
@click.option("-n", "count", type=click.IntRange(1), help="Number of examples.  [default: 64 images, 1000 rows]")
@click.option(
    "--format",
    metavar="FORMAT",
    help="png; csv or parquet for tables; txt or npy for sequences; npy for vectors.  "
    "[default: by the ending of --out, else csv, txt or npy]",
)
@click.option("--z", "points", multiple=True, metavar="Z0,Z1,...", help="Decode this point. Can be repeated.")
@label
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the samples.")
@prior_option
@out
@json_option
def sample(
    run: str,
    count: int | None,
    format: str | None,
    points: tuple[str, ...],
    label: str | None,
    seed: int,
    prior: Literal["fitted", "original"],
    out: Path | None,
    as_json: bool,
) -> None:
    """Decode samples of the prior, or latent points.

    \b
    zoo sample runs/mlp-vae -n 100
    zoo sample runs/mlp-vae-2d --z 0,0 --z 0,1 --z 1,1 --z -1,-1
    zoo sample runs/a-conditional-model --label 3
    zoo sample runs/table-vae -n 5000 --out rows.csv
    zoo sample runs/table-vae --format parquet
    zoo sample mlp-vae-2d@mnist --z 0,0
    zoo sample runs/mlp-vae/sweep-2026-01-31T12-00-00

    RUN is a run folder, the folder of a model, for its newest run, a sweep, for its best run, or a name of
    `zoo list --weights`.
    """
    import zoo
    from zoo_figures import figures, views

    trained_run = zoo.Run.open(run)
    vae = trained_run.load(prior=prior)
    condition, label_title = parse_label(label, vae, trained_run.label_names)
    writers = views.writers_of(trained_run)
    ending = "" if out is None else out.suffix.lower().removeprefix(".")
    if format is None and (ending in ("csv", "parquet") or ending in writers):
        format = ending
    if format is None and not points and len(trained_run.data_shape) < 3:  # no images
        format = next(iter(writers))
    if format is not None and format != "png":
        if points:
            raise UsageError("--z draws a figure: omit --format.")
        path = out or trained_run.output / f"samples.{format}"
        _written(path, lambda: views.write_samples(trained_run, vae, count or ROWS, path, format, seed, condition))
        _print(trained_run, path, as_json)
        return
    count = IMAGES if count is None else count
    if count > MOST_IMAGES:
        raise UsageError(f"-n {count}: at most {MOST_IMAGES} images are drawn.")
    if points:
        z, title = parse_points(points, vae.latent_shape), f"{trained_run.title}: decoded latent points{label_title}"
        _finish(trained_run, figures.decoded(vae, z, title, condition), "decoded.png", out, as_json)
    else:
        fitted = prior == "fitted" and trained_run.fitted_prior.exists
        source = f"{trained_run.fitted_prior.name}, fitted after training" if fitted else "the prior"
        title = f"{trained_run.title}: means of p(x | z) at samples from {source}{label_title}"
        _finish(trained_run, figures.samples(vae, count, title, seed, condition), "samples.png", out, as_json)


@click.command(short_help="Vary one latent dimension at a time.")
@click.argument("run", type=RUN_OR_BEST)
@click.option(
    "--image",
    type=click.IntRange(min=0),
    metavar="N",
    help="Start from the posterior mean of test image N.  [default: the origin]",
)
@click.option(
    "--dims",
    type=Numbers(),
    metavar="0,3,5",
    help="Dimensions, counted from 0.  [default: the ten with the highest rate]",
)
@click.option("--steps", type=click.IntRange(2, 100), help="Images per row.  [default: 11; 20 for a manifold]")
@click.option(
    "--range",
    "reach",
    type=click.FloatRange(min=0, min_open=True, max=1e6),
    default=3.0,
    show_default=True,
    metavar="R",
    help="Vary from -R to R.",
)
@label
@data_dir_option
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
    """Vary one latent dimension at a time.

    A two-dimensional latent is drawn as a grid of decoded images over the prior, unless --image or --dims is set.

    \b
    zoo traverse runs/mlp-vae
    zoo traverse runs/mlp-vae --image 3 --dims 0,3,5
    zoo traverse runs/mlp-vae-2d
    """
    import zoo
    from zoo_figures import figures
    from zoo_figures.latents import encode_means

    trained_run = zoo.Run.open(run)
    vae = trained_run.load(prior="original")  # a fitted prior has no rate for each dimension
    condition, label_title = parse_label(label, vae, trained_run.label_names)
    if vae.latent_shape == (2,) and image is None and dims is None:
        title = f"{trained_run.title}: the latent space, decoded{label_title}"
        figure = figures.manifold(vae, steps or 20, condition=condition, title=title)
        _finish(trained_run, figure, "manifold.png", out, as_json)
        return
    images = trained_run.test_batch(RANKED, data_dir) if dims is None else None
    z, around = None, "the origin"
    if image is not None:
        start = select_test_images(trained_run, [image], data_dir)
        z, around = encode_means(vae, start)[0], f"test image {image}"
        condition = start.condition if condition is None else condition
    figure = figures.traversals(
        vae,
        z,
        dims,
        steps=steps or 11,
        reach=reach,
        images=images,
        condition=condition,
        title=f"{trained_run.title}: latent traversals around {around}{label_title}",
    )
    _finish(trained_run, figure, "traverse.png", out, as_json)


@click.command(short_help="Interpolate between two test images in latent space.")
@click.argument("run", type=RUN_OR_BEST)
@click.argument("a", type=click.IntRange(min=0))
@click.argument("b", type=click.IntRange(min=0))
@click.option("--steps", type=click.IntRange(2, 100), default=10, show_default=True, help="Images along the path.")
@click.option(
    "--path",
    type=click.Choice(["linear", "spherical"]),
    default="linear",
    show_default=True,
    help="Straight line, or arc around the origin.",
)
@data_dir_option
@out
@json_option
def interpolate(
    run: str, a: int, b: int, steps: int, path: LatentPath, data_dir: Path | None, out: Path | None, as_json: bool
) -> None:
    """Interpolate between test images A and B in latent space. Images are counted from 0.

    \b
    zoo interpolate runs/mlp-vae 0 17
    zoo interpolate runs/mlp-vae 0 17 --path spherical --steps 16
    """
    import zoo
    from zoo_figures import figures

    trained_run = zoo.Run.open(run)
    test = select_test_images(trained_run, [a, b], data_dir)
    figure = figures.interpolation(
        trained_run.load(),
        test.x,
        steps=steps,
        path=path,
        condition=test.condition,
        names=(f"image {a}", f"image {b}"),
        title=f"{trained_run.title}: from test image {a} to {b}",
    )
    _finish(trained_run, figure, "interpolate.png", out, as_json)


@click.command(short_help="Plot test images in the latent space.")
@click.argument("run", type=RUN_OR_BEST)
@click.option("-n", "count", type=click.IntRange(min=2), default=5000, show_default=True, help="Number of test images.")
@click.option(
    "--threshold",
    type=click.FloatRange(min=0),
    default=0.1,
    show_default=True,
    help="Count the dimensions with a rate above this, in nats.",
)
@data_dir_option
@out
@json_option
def latent(run: str, count: int, threshold: float, data_dir: Path | None, out: Path | None, as_json: bool) -> None:
    """Plot test images in the latent space, by label, and the rate of each latent dimension.

    More than two dimensions are reduced to their first two principal components.
    """
    import zoo
    from zoo_figures import figures

    trained_run = zoo.Run.open(run)
    test = trained_run.test_batch(count, data_dir)
    title = f"{trained_run.title}: the latent space of test images"
    vae = trained_run.load(prior="original")  # a fitted prior has no rate for each dimension
    figure = figures.latent_space(vae, test.x, test.condition, threshold=threshold, title=title)
    _finish(trained_run, figure, "latent.png", out, as_json)


def _save(figure: Figure, path: Path) -> None:
    from zoo_figures import figures

    _written(path, lambda: figures.save(figure, path))


def _written(path: Path, write: Callable[[], object]) -> None:
    try:
        write()
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be written: {error}") from error


def _finish(run: Run, figure: Figure, name: str, out: Path | None, as_json: bool) -> None:
    path = out or run.figures / name
    _save(figure, path)
    _print(run, path, as_json, "figure")


def _print(run: Run, path: Path, as_json: bool, what: str = "file") -> None:
    if as_json:
        print_json({"run": str(run), what: str(path)})
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
    help="PNG file to write.",
)
@data_dir_option
@json_option
def preview(data: str, parameters: tuple[str, ...], out: Path, data_dir: Path | None, as_json: bool) -> None:
    """Draw training images of a data set, by label if it has labels.

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
