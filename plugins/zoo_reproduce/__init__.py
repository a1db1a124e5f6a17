"""Published results, each with its protocol, reproduced by one command."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from importlib.resources.abc import Traversable

from zoo import Command, hookimpl


@hookimpl
def zoo_commands() -> Iterable[Command]:
    """The command of this plugin."""
    return (
        Command("reproduce", "Train and evaluate published results, with a verdict.", "zoo_reproduce.cli:reproduce"),
    )


@hookimpl
def zoo_reproductions() -> Iterable[Traversable]:
    """The rows that come with the zoo."""
    return (files("zoo_reproduce") / "rows.yaml",)
