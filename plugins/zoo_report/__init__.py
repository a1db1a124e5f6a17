"""Reports of runs and sweeps as one HTML file."""

from __future__ import annotations

from collections.abc import Iterable

from zoo import Command, hookimpl


@hookimpl
def zoo_commands() -> Iterable[Command]:
    """The commands of this plugin."""
    return (Command("report", "Write a report of a run or sweep as one HTML file.", "zoo_report.cli:report"),)
