"""Parameters and options shared by several commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from zoo.cli.completion import complete_runs
from zoo.cli.output import keep_stdout_for_json
from zoo.plugins.weights import find_run


class RunFolder(click.ParamType):  # type: ignore[type-arg]
    """A run folder, a folder of runs, or a name of weights.

    It is checked before torch is imported and not converted.
    """

    name = "run"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check that the run exists; see `find_run`."""
        find_run(value)
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete run folders and names of weights."""
        return complete_runs(ctx, param, incomplete)


RUN = RunFolder()

json_option = click.option("--json", "as_json", is_flag=True, callback=keep_stdout_for_json, help="Print JSON.")
registry_option = click.option(
    "--registry",
    "registries",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A recipe file; repeatable.",
)
data_dir_option = click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Folder of data files.  [default: $ZOO_DATA, else the cache]"
)
device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, mps, ...")
seed_option = click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of every draw."
)
prior_option = click.option(
    "--prior",
    type=click.Choice(["fitted", "original"]),
    default="fitted",
    show_default=True,
    help="The prior fitted by `zoo fit-prior`, if any, or that of the training.",
)
