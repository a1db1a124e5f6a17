"""``zoo evaluate``."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo.cli.catalogue import as_json
from zoo.cli.options import RUN, which_prior
from zoo.cli.output import print_json, print_table
from zoo.cli.train import log_to_stderr, wait_politely
from zoo.errors import UsageError
from zoo.recipes.merge import parse_overrides

if TYPE_CHECKING:
    from zoo.evaluation.evaluate import Evaluation

SAY_EVERY = 10.0  # seconds, where stderr is no terminal
REDRAW_EVERY = 0.1


@click.command()
@click.argument("run", type=RUN)
@click.argument("settings", nargs=-1, metavar="[METRIC.SETTING=VALUE]...")
@click.option("--metric", "metrics", multiple=True, metavar="NAME", help="This metric; may be given several times.")
@click.option("--samples", type=click.IntRange(min=1), help="Importance samples: estimate the log-likelihood too.")
@click.option("--split", type=click.Choice(["test", "train"]), default="test", show_default=True, help="Which images.")
@click.option("--limit", type=click.IntRange(min=1), help="Only so many images, the first ones.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of every draw.")
@which_prior
@click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Where data files lie.  [default: $ZOO_DATA, else the cache]"
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, mps, ...")
@as_json
def evaluate(
    run: str,
    settings: tuple[str, ...],
    metrics: tuple[str, ...],
    samples: int | None,
    split: str,
    limit: int | None,
    seed: int,
    prior: str,
    data_dir: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Measure the trained model of RUN. Without --metric, everything that costs little and applies.

    \b
    zoo evaluate runs/mlp-vae
    zoo evaluate runs/mlp-vae --samples 5000 --limit 1000
    zoo evaluate runs/mlp-vae --metric active-units active-units.threshold=0.05
    zoo evaluate runs/mlp-vae frechet.extractor=lenet.pt
    torchrun --nproc-per-node 2 -m zoo evaluate runs/mlp-vae --metric log-likelihood

    `zoo list --kind metric` names them all. RUN is a run folder, or the folder of a model's runs, whose newest is
    meant.
    """
    wait_politely()
    import zoo
    from zoo.training import distributed

    rank_zero = distributed.is_rank_zero()
    log_to_stderr(logging.WARNING if rank_zero else logging.ERROR)
    given = parse_overrides(settings)
    for name, block in given.items():
        if not isinstance(block, dict):
            raise UsageError(f"{name}={block}: expected METRIC.SETTING=VALUE, such as active-units.threshold=0.05")
    opened = zoo.Run.open(run)
    with following(rank_zero) as follower:
        evaluation = zoo.evaluate(
            *(opened, metrics, given),
            **{"samples": samples, "split": split, "limit": limit, "seed": seed, "prior": prior},  # type: ignore[arg-type]
            data_dir=data_dir,
            device=device,
            announce=follower.begin,
            progress=follower.move,
        )
    if not rank_zero:
        return
    named = {"run": str(opened.path), "model": opened.recipe.name, "data": opened.data_name}
    if as_json:
        print_json({**named, **evaluation.to_json()})
    else:
        click.echo("{model} on {data}: ".format(**named) + evaluation.how)
        print_evaluation(evaluation)


def print_evaluation(evaluation: Evaluation) -> None:
    """The numbers as a table, with the notes below it, and what was left out."""
    measured = [one for measurements in evaluation.measurements.values() for one in measurements]
    notes = list(dict.fromkeys(one.note for one in measured if one.note))
    marks = {note: f" [{position}]" for position, note in enumerate(notes, start=1)}
    rows = [(one.name + marks.get(one.note, ""), one.shown, one.unit, one.how) for one in measured]
    if rows:
        print_table(("NUMBER", "VALUE", "UNIT", "HOW"), rows)
    for note, mark in marks.items():
        click.echo(f"{mark.strip()} {note}")
    for name, reason in evaluation.left_out.items():
        click.echo(f"Left out: {name}, since {reason.rstrip('.')}.", err=True)


class Silent:
    """Says nothing of how far an evaluation is."""

    def begin(self, metric: str) -> None:
        """Another metric begins."""

    def move(self, done: int, of: int) -> None:
        """The one under way is so far."""


class Lines(Silent):
    """Says now and then how far it is."""

    def begin(self, metric: str) -> None:
        """Note its name."""
        self.metric, self.said = metric, time.monotonic()

    def move(self, done: int, of: int) -> None:
        """Say it, if it is long since the last time."""
        if time.monotonic() - self.said > SAY_EVERY:
            self.said = time.monotonic()
            click.echo(f"{self.metric}: {done} of {of}", err=True)


class Bar(Silent):
    """A bar for the metric under way."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, console=Console(file=sys.stderr), transient=True)
        self.task = self.bar.add_task("", total=None)
        self.drawn = 0.0

    def begin(self, metric: str) -> None:
        """Start again."""
        self.bar.reset(self.task, description=metric, total=None)

    def move(self, done: int, of: int) -> None:
        """Move it, a few times a second."""
        if time.monotonic() - self.drawn > REDRAW_EVERY:
            self.drawn = time.monotonic()
            self.bar.update(self.task, completed=done, total=of)


@contextmanager
def following(rank_zero: bool) -> Iterator[Silent]:
    """What suits the place that stderr goes to."""
    if not rank_zero:
        yield Silent()
    elif sys.stderr.isatty():
        bar = Bar()
        with bar.bar:
            yield bar
    else:
        yield Lines()
