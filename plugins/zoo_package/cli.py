"""``zoo package``."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path
from typing import Any

import click

from zoo.cli import (
    RunFolder,
    data_dir_option,
    device_option,
    evaluation_progress,
    json_option,
    log_to_stderr,
    print_json,
)


class NamedRun(RunFolder):
    """A run, as `RUN`, or ``NAME=RUN``. The value is the name, or None, and the run."""

    name = "[name=]run"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str | None, str]:
        """Split the name from the run, and check that there is a run. A path that exists has no name."""
        name, equals, run = value.partition("=")
        if not equals or Path(value).exists():
            return None, str(super().convert(value, param, ctx))
        return name, str(super().convert(run, param, ctx))


@click.command(short_help="Create a package of trained weights from RUNS.")
@click.argument("runs", type=NamedRun(), nargs=-1, required=True, metavar="[NAME=]RUN...")
@click.option("--name", required=True, help="The name of the package, such as acme-weights.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="Where the folder of the package is created.  [default: here]",
)
@click.option("--package-version", default="1.0", show_default=True, help="The version of the package.")
@click.option("--license", metavar="SPDX", help="The licence of the weights, such as MIT.")
@click.option("--metrics/--no-metrics", default=True, help="Measure the models for their cards; this needs the data.")
@click.option("--samples", type=click.IntRange(min=1), help="Importance samples: estimate the log-likelihood too.")
@click.option("--limit", type=click.IntRange(min=1), help="Measure on so many images only, the first ones.")
@data_dir_option
@device_option
@json_option
def package(runs: tuple[tuple[str | None, str], ...], name: str, out: Path, as_json: bool, **options: Any) -> None:
    """Create a package of trained weights from RUNS. Once it is installed, commands accept the weights by name.

    The weights of a run are named MODEL@DATA, or as given by NAME=RUN. The package holds the recipe, the curves and the
    weights of each run, and a card with its protocol and its metrics, which are measured now. Paths, command lines and
    other facts about this machine are left out.

    \b
    zoo package runs/mlp-vae runs/conv-vae --name acme-weights
    zoo package wide-vae@mnist=runs/mlp-vae/2026-01-31T12-00-00 --name acme-weights --license MIT
    pip install ./acme-weights && zoo sample wide-vae@mnist
    """
    from zoo_package.package import write_package

    log_to_stderr(logging.WARNING)
    with evaluation_progress(True) as progress:
        written = write_package(runs, name, out, announce=progress.begin, progress=progress.update, **options)
    if as_json:
        print_json({"folder": str(written.folder), "weights": [entry.card for entry in written.entries]})
        return
    for entry in written.entries:
        click.echo(f"{entry.name}   {entry.summary}")
    install = shlex.join(["pip", "install", str(written.folder.absolute())])
    click.echo(f"\nNext:\n  {install}\n  zoo show {written.entries[0].name}")
