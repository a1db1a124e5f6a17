"""The conformance kit for components and models."""

from __future__ import annotations

from collections.abc import Iterable

from zoo import Command, hookimpl


@hookimpl
def zoo_commands() -> Iterable[Command]:
    """The commands of this plugin."""
    return (Command("check", "Check that NAME keeps its contract.", "zoo_conformance.cli:check"),)
