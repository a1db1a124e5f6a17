"""Tools for authors of plugins and recipes: templates of packages, and the JSON Schema of recipe files."""

from __future__ import annotations

from collections.abc import Iterable

from zoo import Command, hookimpl


@hookimpl
def zoo_commands() -> Iterable[Command]:
    """The commands of this plugin."""
    return (
        Command(
            "new-plugin", "Create a plugin package that installs, tests and trains.", "zoo_scaffold.cli:new_plugin_"
        ),
        Command("schema", "Print the JSON Schema of recipe files, for editors.", "zoo_scaffold.cli:schema"),
    )
