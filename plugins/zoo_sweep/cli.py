"""``zoo sweep`` and ``zoo compare``."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from zoo import RunError
from zoo.cli import (
    complete_datasets,
    complete_models,
    complete_overrides,
    data_dir_option,
    device_option,
    json_option,
    log_to_stderr,
    print_json,
    print_resume_command,
    print_table,
    registry_option,
)
from zoo_sweep.folder import RUN_OR_SWEEP

if TYPE_CHECKING:
    from zoo_sweep.comparison import Comparison
    from zoo_sweep.results import Results
    from zoo_sweep.sweep import Sweep

NOTE_LENGTH = 60
"""Characters of a reason in the table. The log and the folder of the trial have all of it."""


@click.command()
@click.argument("model", required=False, shell_complete=complete_models)
@click.argument("overrides", nargs=-1, metavar="KEY=V1,V2,... [KEY=VALUE]...", shell_complete=complete_overrides)
@click.option("--seeds", type=click.IntRange(2, 1000), help="Train each setting with this many seeds, counted from 0.")
@click.option(
    "--trials", type=click.IntRange(1, 1_000_000), help="Search with Optuna, with this many trials, instead of a grid."
)
@click.option(
    "--storage",
    metavar="URL",
    envvar="ZOO_STORAGE",
    help="Database of the study of a search, which several machines can share.  [default: in the sweep; env: "
    "ZOO_STORAGE]",
)
@click.option("--stacked", is_flag=True, help="Train trials with the same shapes together, as one stacked model.")
@click.option("--name", help="Name of the sweep and its study.  [default: the time]")
@click.option("--data", shell_complete=complete_datasets, help="Train on this data set.")
@data_dir_option
@click.option("--epochs", type=click.IntRange(min=1), help="Passes over the training set.")
@device_option
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Folder of all runs."
)
@click.option("--resume", metavar="SWEEP", type=click.Path(path_type=Path), help="Continue this sweep.")
@registry_option
@json_option
@click.pass_context
def sweep(
    ctx: click.Context,
    model: str | None,
    overrides: tuple[str, ...],
    seeds: int | None,
    trials: int | None,
    storage: str | None,
    stacked: bool,
    name: str | None,
    data: str | None,
    data_dir: Path | None,
    epochs: int | None,
    device: str,
    out: Path,
    resume: Path | None,
    registries: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Train MODEL with many settings, and compare them.

    Every combination of the comma-separated values is trained. With --trials, Optuna searches them instead, and ranges
    too: 2..64 for integers, 0.5..4.0 for reals, 1e-4..1e-2:log for a logarithmic scale. A trial that fails is recorded
    and does not stop the sweep. Ctrl-C saves and prints the command that continues.

    \b
    zoo sweep mlp-vae latent_dim=2,5,10,20,40
    zoo sweep mlp-vae encoder.hidden=[512,256],[400] loss=elbo,mse train.epochs=3
    zoo sweep mlp-vae latent_dim=5,20 --seeds 3          # mean and spread over seeds 0, 1, 2
    zoo sweep mlp-vae train.seed=0..7 --stacked          # eight models as one, several times as fast
    zoo sweep mlp-vae latent_dim=2..64 train.optimizer.lr=1e-4..1e-2:log --trials 30
    zoo sweep --resume runs/mlp-vae/sweep-2026-01-31T12-00-00
    """
    import zoo
    from zoo_sweep.sweep import Sweep

    log_to_stderr(logging.INFO)
    zoo.resolve_device(device)
    if resume is not None:
        if (
            model
            or overrides
            or registries
            or stacked
            or any(value is not None for value in (seeds, trials, name, data, epochs))
        ):
            raise click.UsageError(
                "--resume continues the sweep unchanged: leave out MODEL, KEY=VALUE and all other settings."
            )
        active_sweep = Sweep.open(resume, storage)
    elif model is None:
        raise click.UsageError("Missing argument 'MODEL'.")
    else:
        if trials is None and ctx.get_parameter_source("storage") is ParameterSource.ENVIRONMENT:
            storage = None  # the variable applies to searches only
        active_sweep = Sweep.create(
            model,
            overrides,
            seeds=seeds,
            trials=trials,
            storage=storage,
            stacked=stacked,
            name=name,
            data=data,
            data_dir=data_dir,
            epochs=epochs,
            out=out,
            registries=registries,
        )
    try:
        active_sweep.run(data_dir=data_dir, device=device, progress=True)
    except zoo.Interrupted as interrupted:
        print_resume_command(str(interrupted), "sweep", active_sweep.path, data_dir, device)
        sys.exit(interrupted.exit_code)
    except KeyboardInterrupt:
        print_resume_command("Stopped at once.", "sweep", active_sweep.path, data_dir, device)
        sys.exit(130)
    results = active_sweep.results()
    _report(active_sweep, results, as_json)
    if not any(row.finished for row in results.rows):
        sys.exit(1)


def _report(sweep: Sweep, results: Results, as_json: bool) -> None:
    from zoo_sweep.results import table

    figures = sorted(sweep.path.glob("figures/*.png"))
    if as_json:
        print_json({**results.to_json(), "figures": [str(file) for file in figures]})
        return
    keys = [axis.key for axis in sweep.plan.axes]
    header, rows = table(results, keys, NOTE_LENGTH)
    header = [name if name in keys else name.upper() for name in header]
    _print_numbers(header, rows, range(1 + len(keys), len(header) - ("NOTE" in header)))
    seeds = f"mean ± standard deviation over {len(sweep.plan.seeds)} seeds; " if sweep.plan.seeds else ""
    click.echo(f"\n({seeds}nats per example, in each run's best epoch)")
    if (best := results.best) is not None:
        from zoo_sweep.axes import describe

        where = f"   on {best.machine}" if best.machine else f"   {best.outcomes[0].run}"
        settings = f": {describe(best.settings)}" if best.settings else ""
        click.echo(
            f"best     trial {best.number}{settings}   validation {results.monitor} {results.score(best):.2f}{where}"
        )
    click.echo(f"sweep    {sweep.path}")
    if figures:
        click.echo(f"figures  {', '.join(file.name for file in figures)}")


def _print_numbers(header: Sequence[str], rows: Sequence[Sequence[str]], columns: range) -> None:
    """Print a table with some columns aligned to the right."""
    table = [list(row) for row in (header, *rows)]
    for column in columns:
        width = max(len(row[column]) for row in table)
        for row in table:
            row[column] = row[column].rjust(width)
    print_table(table[0], table[1:])


@click.command(short_help="Compare RUNS: their metrics, and how their recipes differ.")
@click.argument("runs", type=RUN_OR_SWEEP, nargs=-1, required=True)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("comparison.png"),
    show_default=True,
    help="PNG file to write.",
)
@json_option
def compare(runs: tuple[str, ...], out: Path, as_json: bool) -> None:
    """Compare RUNS: their metrics, and how their recipes differ.

    Each is a run folder, the folder of a model, for its newest run, or a sweep, for all of its finished runs.

    \b
    zoo compare runs/mlp-vae runs/conv-vae
    zoo compare runs/mlp-vae/sweep-2026-01-31T12-00-00
    """
    from zoo_canvas import save
    from zoo_sweep import comparison

    log_to_stderr(logging.INFO)
    result = comparison.compare(*runs)
    for warning in result.warnings:
        click.echo(f"Warning: {warning}", err=True)
    try:
        save(result.figure(), out)
    except (OSError, ValueError) as error:
        raise RunError(f"{out} cannot be written: {error}") from error
    if as_json:
        print_json({**result.to_json(), "figure": str(out)})
    else:
        _print_comparison(result)
        click.echo(f"figure   {out}")


def _print_comparison(comparison: Comparison) -> None:
    from zoo_sweep.axes import show
    from zoo_sweep.results import TERMS

    rows = []
    for number, (run, outcome) in enumerate(zip(comparison.runs, comparison.outcomes, strict=True), start=1):
        terms = [f"{outcome.test[term]:.2f}" if term in outcome.test else "-" for term in TERMS]
        place = str(run) if outcome.state == "finished" else f"{run} ({outcome.state})"
        numbers = [f"{outcome.train['loss']:.2f}", *terms, str(outcome.epoch), f"{outcome.seconds:.1f}"]
        rows.append([str(number), run.recipe.name, run.data_name, *numbers, place])
    header = ["", "MODEL", "DATA", "TRAIN LOSS", *(f"TEST {term.upper()}" for term in TERMS), "EPOCH", "SECONDS", "RUN"]
    _print_numbers(header, rows, range(3, len(header) - 1))
    click.echo("\n(nats per example, in each run's best epoch)\n")
    if not comparison.differences:
        click.echo("The recipes are equal.\n")
        return
    print_table(
        ["DIFFERENCE", *map(str, range(1, len(rows) + 1))],
        [
            [key, *("-" if value is None else show(value) for value in values)]
            for key, values in comparison.differences.items()
        ],
    )
    click.echo()
