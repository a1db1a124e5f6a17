"""``zoo report``."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from zoo.cli import data_dir_option, device_option, evaluation_progress, json_option, log_to_stderr, print_json
from zoo_sweep.folder import RUN_OR_SWEEP


@click.command(short_help="Write a report of a run or sweep as one HTML file.")
@click.argument("source", metavar="RUN|SWEEP", type=RUN_OR_SWEEP)
@click.option(
    "-o",
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="HTML file to write.  [default: report.html in the folder, or in runs/NAME for installed weights]",
)
@click.option("--metrics/--no-metrics", default=True, help="Include or leave out the metrics of `zoo evaluate`.")
@click.option(
    "--samples", type=click.IntRange(min=1), help="Also estimate the log-likelihood, with this many importance samples."
)
@click.option(
    "--limit", type=click.IntRange(min=1), help="Measure only the first test images, this many.  [default: all]"
)
@data_dir_option
@device_option
@json_option
def report(
    source: str,
    out: Path | None,
    metrics: bool,
    samples: int | None,
    limit: int | None,
    data_dir: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Write a report of a run or sweep as one HTML file.

    The page contains the recipe, curves, figures, metrics and environment. It loads no other file and has no script.

    \b
    zoo report runs/mlp-vae
    zoo report runs/mlp-vae --samples 1000 --limit 500 -o mlp-vae.html
    zoo report runs/mlp-vae/sweep-2026-01-31T12-00-00

    RUN is a run folder, or the folder of a model, for its newest run.
    """
    from zoo_report import report as reporting

    log_to_stderr(logging.WARNING)
    with evaluation_progress(True) as progress:
        result = reporting.report(
            source,
            out,
            metrics=metrics,
            samples=samples,
            limit=limit,
            data_dir=data_dir,
            device=device,
            announce=progress.begin,
            progress=progress.update,
        )
    for item, reason in result.left_out.items():
        click.echo(f"Left out {item}: {reason.rstrip('.')}.", err=True)
    if as_json:
        print_json(result.to_json())
    else:
        click.echo(result.path)
