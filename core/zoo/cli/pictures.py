"""Looking at a trained model: ``zoo reconstruct`` and ``zoo sample``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo.cli.catalogue import as_json
from zoo.cli.output import print_json
from zoo.errors import RunError, UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from zoo.run import Run

out = click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="The PNG to write.  [default: in the run]"
)


@click.command()
@click.argument("run")
@click.option("-n", "count", type=click.IntRange(min=1), default=24, show_default=True, help="How many test images.")
@click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Where data files lie.  [default: $ZOO_DATA, else the cache]"
)
@out
@as_json
def reconstruct(run: str, count: int, data_dir: Path | None, out: Path | None, as_json: bool) -> None:
    """Draw test images above their reconstructions.

    RUN is a run folder, or the folder of a model's runs, whose newest is meant.
    """
    import zoo
    from zoo.evaluation import figures

    opened = zoo.Run.open(run)
    x = opened.test_images(count, data_dir)
    title = f"{opened.recipe.name} on {opened.environment['data']['name']}: test images"
    _finish(opened, figures.reconstructions(opened.load(), x, title), "reconstruct.png", out, as_json)


@click.command()
@click.argument("run")
@click.option("-n", "count", type=click.IntRange(min=1), default=64, show_default=True, help="How many images.")
@click.option(
    "--z", "points", multiple=True, metavar="Z1,Z2,...", help="Decode this point; may be given several times."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the draws.")
@out
@as_json
def sample(run: str, count: int, points: tuple[str, ...], seed: int, out: Path | None, as_json: bool) -> None:
    """Decode draws from the prior, or chosen latent points.

    \b
    zoo sample runs/mlp-vae -n 100
    zoo sample runs/mlp-vae-2d --z 0,0 --z 0,1 --z 1,1 --z -1,-1
    """
    import zoo
    from zoo.evaluation import figures

    opened = zoo.Run.open(run)
    vae = opened.load()
    name = f"{opened.recipe.name} on {opened.environment['data']['name']}"
    if points:
        figure = figures.decoded(vae, parse_points(points, vae.latent_shape), f"{name}: decoded from chosen points")
        _finish(opened, figure, "decoded.png", out, as_json)
    else:
        figure = figures.samples(vae, count, f"{name}: samples from the prior", seed)
        _finish(opened, figure, "sample.png", out, as_json)


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


def _finish(run: Run, figure: Figure, name: str, out: Path | None, as_json: bool) -> None:
    from zoo.evaluation import figures

    path = out or run.figures / name
    try:
        figures.save(figure, path)
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be written: {error}") from error
    if as_json:
        print_json({"run": str(run.path), "figure": str(path)})
    else:
        click.echo(path)


COMMANDS = (reconstruct, sample)
