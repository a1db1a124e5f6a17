"""Hyperparameter sweeps and the comparison of runs."""

from __future__ import annotations

from collections.abc import Iterable

from zoo import Command, hookimpl


@hookimpl
def zoo_commands() -> Iterable[Command]:
    """The commands of this plugin."""
    return (
        Command("sweep", "Train MODEL with many settings, and compare them.", "zoo_sweep.cli:sweep"),
        Command("compare", "Compare RUNS: their metrics, and how their recipes differ.", "zoo_sweep.cli:compare"),
    )
