"""Diagnosis of a trained model: collapse, amortization, importance weights, prior and codes."""

from __future__ import annotations

from collections.abc import Iterable

from zoo import Command, hookimpl


@hookimpl
def zoo_commands() -> Iterable[Command]:
    """The command of this plugin."""
    return (Command("diagnose", "Check a trained model for common failures.", "zoo_diagnose.cli:diagnose"),)
