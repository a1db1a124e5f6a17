"""What several commands take: a run, which is looked for before torch is imported, and which prior of it."""

from __future__ import annotations

from typing import Any

import click
from click.shell_completion import CompletionItem

from zoo.cli import completion
from zoo.storage.locate import is_sweep, run_folder


class RunFolder(click.ParamType):  # type: ignore[type-arg]
    """A run folder, the folder of a model's runs, or, where they are allowed, a sweep. It stays as it was written.

    Args:
        or_sweep: whether a sweep may be named too.
    """

    name = "run"

    def __init__(self, or_sweep: bool = False) -> None:
        self.or_sweep = or_sweep

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse what is neither.

        Raises:
            RunError: there is no run.
        """
        if not (self.or_sweep and is_sweep(value)):
            run_folder(value)
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """What the shell offers."""
        return completion.runs(ctx, param, incomplete)


RUN, RUN_OR_SWEEP = RunFolder(), RunFolder(or_sweep=True)

which_prior = click.option(
    "--prior",
    type=click.Choice(["fitted", "original"]),
    default="fitted",
    show_default=True,
    help="fitted: by `zoo fit-prior`, where that was done; original: of the training.",
)
