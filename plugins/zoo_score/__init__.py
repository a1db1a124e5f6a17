"""Anomaly scores of examples under a trained model."""

from __future__ import annotations

from collections.abc import Iterable

from zoo import Command, hookimpl


@hookimpl
def zoo_commands() -> Iterable[Command]:
    """The command of this plugin."""
    return (Command("score", "Score how anomalous examples are.", "zoo_score.cli:score"),)
