"""``zoo evaluate``."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import click

from zoo.cli.options import RUN, data_dir_option, device_option, json_option, prior_option, seed_option
from zoo.cli.output import log_to_stderr, print_json, print_table
from zoo.cli.progress import evaluation_progress
from zoo.errors import UsageError
from zoo.recipes.merge import parse_overrides

if TYPE_CHECKING:
    from zoo.evaluation.evaluate import Evaluation


@click.command()
@click.argument("run", type=RUN)
@click.argument("settings", nargs=-1, metavar="[METRIC.SETTING=VALUE]...")
@click.option("--metric", "metrics", multiple=True, metavar="NAME", help="Measure this metric; repeatable.")
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    help="Also estimate the log-likelihood with K importance samples per image.",
    metavar="K",
)
@click.option(
    "--split",
    type=click.Choice(["test", "validation", "train"]),
    default="test",
    show_default=True,
    help="Split to measure.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Use the first N images only.", metavar="N")
@seed_option
@prior_option
@data_dir_option
@device_option
@json_option
def evaluate(run: str, settings: tuple[str, ...], metrics: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Measure the trained model of RUN. Without --metric, measure all inexpensive metrics that apply.

    \b
    zoo evaluate runs/mlp-vae
    zoo evaluate runs/mlp-vae --samples 5000 --limit 1000
    zoo evaluate runs/mlp-vae --metric active-units active-units.threshold=0.05
    zoo evaluate runs/mlp-vae frechet.extractor=lenet.pt
    torchrun --nproc-per-node 2 -m zoo evaluate runs/mlp-vae --metric log-likelihood

    `zoo list --kind metric` lists all metrics. RUN is a run folder, a folder of runs, which selects the newest, or a
    name of `zoo list --weights`.
    """
    import zoo
    from zoo.training import distributed

    rank_zero = distributed.is_rank_zero()
    log_to_stderr(logging.WARNING if rank_zero else logging.ERROR)
    overrides = parse_overrides(settings)
    for name, values in overrides.items():
        if not isinstance(values, dict):
            raise UsageError(f"{name}={values}: expected METRIC.SETTING=VALUE, such as active-units.threshold=0.05")
    opened = zoo.Run.open(run)
    with evaluation_progress(rank_zero) as progress:
        evaluation = zoo.evaluate(
            opened, metrics, overrides, announce=progress.begin, progress=progress.update, **options
        )
    if not rank_zero:
        return
    model, data = opened.recipe.name, opened.data_name
    if as_json:
        print_json({"run": str(opened), "model": model, "data": data, **evaluation.to_json()})
    else:
        click.echo(f"{model} on {data}: {evaluation.how}")
        _print_table(evaluation)


def _print_table(evaluation: Evaluation) -> None:
    """Print the measurements as a table with footnotes, and the metrics that were left out."""
    measurements = [m for group in evaluation.measurements.values() for m in group]
    notes = dict.fromkeys(m.note for m in measurements if m.note)
    marks = {note: f" [{number}]" for number, note in enumerate(notes, start=1)}
    rows = [(m.name + marks.get(m.note, ""), m.shown, m.unit, m.how) for m in measurements]
    if rows:
        print_table(("NAME", "VALUE", "UNIT", "PROTOCOL"), rows)
    for note, mark in marks.items():
        click.echo(f"{mark.strip()} {note}")
    for name, reason in evaluation.left_out.items():
        click.echo(f"Left out: {name} ({reason.rstrip('.')}).", err=True)
