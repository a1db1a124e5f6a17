"""``zoo report``."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from zoo.cli import data_dir_option, device_option, evaluation_progress, json_option, log_to_stderr, print_json
from zoo_sweep.folder import RUN_OR_SWEEP


@click.command(short_help="Write what there is to know of a run into one HTML page.")
@click.argument("source", metavar="RUN|SWEEP", type=RUN_OR_SWEEP)
@click.option(
    "-o",
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The HTML file to write.  [default: report.html in the folder, or in runs/NAME for installed weights]",
)
@click.option("--metrics/--no-metrics", default=True, help="Measure the model, or leave that out.")
@click.option("--samples", type=click.IntRange(min=1), help="Importance samples: estimate the log-likelihood too.")
@click.option(
    "--limit", type=click.IntRange(min=1), help="Look at so many test images only, the first ones.  [default: all]"
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
    """Write what there is to know of a run or a sweep into one HTML page.

    The page holds the recipe, curves, figures, metrics and environment. It loads nothing, so that it opens from disk
    and can be sent by mail.

    \b
    zoo report runs/mlp-vae
    zoo report runs/mlp-vae --samples 1000 --limit 500 -o mlp-vae.html
    zoo report runs/mlp-vae/sweep-2026-01-31T12-00-00

    RUN is a run folder, or the folder of a model's runs, whose newest is meant.
    """
    from zoo_report import report as reporting

    log_to_stderr(logging.WARNING)
    with evaluation_progress(True) as progress:
        written = reporting.report(
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
    for what, why in written.left_out.items():
        click.echo(f"Left out: {what}, since {why.rstrip('.')}.", err=True)
    if as_json:
        print_json(written.to_json())
    else:
        click.echo(written.path)
