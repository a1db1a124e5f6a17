"""Packages of trained weights: ``zoo package``."""

from __future__ import annotations

from collections.abc import Iterable

from zoo import Command, hookimpl


@hookimpl
def zoo_commands() -> Iterable[Command]:
    """The commands of this plugin."""
    return (Command("package", "Create a package of trained weights from runs.", "zoo_package.cli:package"),)
