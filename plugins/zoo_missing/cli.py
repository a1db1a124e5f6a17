"""``zoo impute``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click

from zoo.cli import (
    RUN,
    data_dir_option,
    device_option,
    evaluation_progress,
    json_option,
    log_to_stderr,
    print_json,
    prior_option,
    seed_option,
)


@click.command("impute", short_help="Fill in missing values.")
@click.argument("run", type=RUN)
@click.argument("data")
@click.option(
    "-o",
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write: .npy, .npz or .pt; for tables also .csv, .tsv or .parquet.",
)
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@click.option(
    "--multiple",
    type=click.IntRange(1, 10_000),
    metavar="M",
    help="Write M random imputations instead of one: arrays get a first axis of size M, tables a column `imputation`.",
)
@click.option(
    "--samples",
    type=click.IntRange(1, 10_000_000),
    default=1000,
    show_default=True,
    metavar="K",
    help="Importance samples per example.",
)
@seed_option
@prior_option
@data_dir_option
@device_option
@json_option
def impute_(
    run: str,
    data: str,
    out: Path,
    force: bool,
    multiple: int | None,
    samples: int,
    seed: int,
    prior: str,
    data_dir: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Fill in the missing values of DATA, given the observed ones, with the model of RUN.

    DATA is read like the training data of the run; a NaN or an empty cell is a missing value. Observed values are
    written unchanged. A missing number becomes its conditional mean, a missing category the most probable one; with
    --multiple, each is drawn from its conditional distribution.

    \b
    zoo impute runs/miwae-impute data.npy --out complete.npy
    zoo impute runs/table-vae data.csv --out complete.csv
    zoo impute runs/table-vae data.csv --out five.csv --multiple 5
    """
    import zoo
    from zoo_missing import completed

    log_to_stderr(logging.WARNING)
    opened = zoo.Run.open(run)
    completed.check_target(out, bool(opened.columns), force)
    split = opened.read(data, data_dir)
    with evaluation_progress() as progress:
        progress.begin("impute")
        imputation = completed.impute_split(
            opened, split, samples, multiple or 0, seed=seed, prior=prior, device=device, progress=progress.update
        )
    separator = opened.recipe.data[0].parameters.get("separator")
    completed.write(out, imputation, split, opened.columns, data, bool(multiple), separator)
    _report(completed.summary(imputation, split), out, as_json)


def _report(summary: dict[str, Any], out: Path, as_json: bool) -> None:
    if as_json:
        print_json({**summary, "out": str(out)})
        return
    if not summary["missing"]:
        click.echo("No entry is missing: the output equals the data.", err=True)
    else:
        click.echo(f"{summary['missing']} of {summary['entries']} entries imputed, in {summary['incomplete']} examples")
        click.echo(
            f"effective samples per example: median {summary['effective_samples']['median']:.1f}, "
            f"least {summary['effective_samples']['least']:.1f}"
        )
    if summary["empty"]:
        click.echo(f"Warning: {summary['empty']} examples have no observed entry.", err=True)
    if summary["unreliable"]:
        click.echo(
            f"Warning: {summary['unreliable']} examples have fewer than {summary['few']} effective samples. "
            "Increase --samples.",
            err=True,
        )
    click.echo(out)
