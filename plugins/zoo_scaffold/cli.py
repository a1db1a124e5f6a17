"""``zoo new-plugin`` and ``zoo schema``. Only the latter imports torch."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from zoo import UsageError
from zoo.cli import json_option, print_json
from zoo_scaffold.scaffold import STARTS, new_plugin


@click.command("new-plugin", short_help="Create a plugin package that installs, tests and trains.")
@click.argument("name")
@click.option("--kind", type=click.Choice(list(STARTS)), default="model", show_default=True, help="Kind of the plugin.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="Folder in which NAME is created.  [default: current folder]",
)
@json_option
@click.pass_context
def new_plugin_(ctx: click.Context, name: str, kind: str, out: Path, as_json: bool) -> None:
    """Create a plugin package that installs, passes its tests and trains unchanged.

    A model consists of an encoder, a loss and a recipe with both. Every other kind consists of one example of it.

    \b
    zoo new-plugin acme-vae
    zoo new-plugin acme-bars --kind dataset
    """
    commands = ctx.find_root().command
    if kind == "command" and isinstance(commands, click.Group) and name in commands.list_commands(ctx):
        raise UsageError(f"There is already a command {name!r}. Choose another name.")
    folder = new_plugin(name, kind, out)
    paths = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    attempt = [command.replace("acme-vae", name) for command in STARTS[kind].attempt]
    next_steps = [f"cd {shlex.quote(str(folder))}", "pip install -e '.[test]'", "pytest", f"zoo check {name}", *attempt]
    if as_json:
        print_json({"folder": str(folder), "files": paths, "next": next_steps})
        return
    for path in paths:
        click.echo(folder / path)
    click.echo("\nNext:\n" + "\n".join(f"  {line}" for line in next_steps))


@click.command(short_help="Print the JSON Schema of recipe files, for editors.")
@click.option("--builtin", is_flag=True, help="Include only the components of vae-zoo itself.")
def schema(builtin: bool) -> None:
    """Print the JSON Schema of recipe files, with all installed components, for completion in editors.

    \b
    zoo schema > recipes.schema.json
    """
    from zoo_scaffold.json_schema import recipe_file_schema

    print_json(recipe_file_schema("vae-zoo" if builtin else None))
