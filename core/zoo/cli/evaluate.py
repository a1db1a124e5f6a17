"""``zoo evaluate``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo.cli.options import RUN, data_dir_option, device_option, json_option, prior_option
from zoo.cli.output import log_to_stderr, print_json, print_table
from zoo.cli.progress import evaluation_progress
from zoo.errors import UsageError
from zoo.recipes.merge import parse_overrides

if TYPE_CHECKING:
    from zoo.evaluation.evaluate import Evaluation


@click.command()
@click.argument("run", type=RUN)
@click.argument("settings", nargs=-1, metavar="[METRIC.SETTING=VALUE]...")
@click.option("--metric", "metrics", multiple=True, metavar="NAME", help="This metric; may be given several times.")
@click.option("--samples", type=click.IntRange(min=1), help="Importance samples: estimate the log-likelihood too.")
@click.option("--split", type=click.Choice(["test", "train"]), default="test", show_default=True, help="Which images.")
@click.option("--limit", type=click.IntRange(min=1), help="Only so many images, the first ones.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of every draw.")
@prior_option
@data_dir_option
@device_option
@json_option
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

    `zoo list --kind metric` names them all. RUN is a run folder, the folder of a model's runs, whose newest is meant,
    or a name of `zoo list --weights`.
    """
    import zoo
    from zoo.training import distributed

    rank_zero = distributed.is_rank_zero()
    log_to_stderr(logging.WARNING if rank_zero else logging.ERROR)
    given = parse_overrides(settings)
    for name, block in given.items():
        if not isinstance(block, dict):
            raise UsageError(f"{name}={block}: expected METRIC.SETTING=VALUE, such as active-units.threshold=0.05")
    opened = zoo.Run.open(run)
    with evaluation_progress(rank_zero) as progress:
        evaluation = zoo.evaluate(
            *(opened, metrics, given),
            **{"samples": samples, "split": split, "limit": limit, "seed": seed, "prior": prior},  # type: ignore[arg-type]
            data_dir=data_dir,
            device=device,
            announce=progress.begin,
            progress=progress.update,
        )
    if not rank_zero:
        return
    named = {"run": str(opened), "model": opened.recipe.name, "data": opened.data_name}
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
