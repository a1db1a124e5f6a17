"""``zoo new-plugin`` and ``zoo schema``. Only the latter imports torch."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from zoo import UsageError
from zoo.cli import json_option, print_json
from zoo_scaffold.scaffold import STARTS, new_plugin


@click.command("new-plugin", short_help="Write a package of your own that trains as it comes.")
@click.argument("name")
@click.option(
    "--kind", type=click.Choice(list(STARTS)), default="model", show_default=True, help="What the plugin starts from."
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="Where the folder NAME is made.  [default: here]",
)
@json_option
@click.pass_context
def new_plugin_(ctx: click.Context, name: str, kind: str, out: Path, as_json: bool) -> None:
    """Write a package of your own that installs, passes its tests and trains as it comes.

    A model brings an encoder, a loss and a recipe that joins them; every other kind brings just that.

    \b
    zoo new-plugin acme-vae
    zoo new-plugin acme-bars --kind dataset
    """
    commands = ctx.find_root().command
    if kind == "command" and isinstance(commands, click.Group) and name in commands.list_commands(ctx):
        raise UsageError(f"There is a command {name!r} already. Choose another name.")
    folder = new_plugin(name, kind, out)
    written = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    attempt = [command.replace("acme-vae", name) for command in STARTS[kind].attempt]
    following = [f"cd {shlex.quote(str(folder))}", "pip install -e '.[test]'", "pytest", f"zoo check {name}", *attempt]
    if as_json:
        print_json({"folder": str(folder), "files": written, "next": following})
        return
    for path in written:
        click.echo(folder / path)
    click.echo("\nNext:\n" + "\n".join(f"  {line}" for line in following))


@click.command(short_help="Print the JSON Schema of recipe files, for editors.")
@click.option("--builtin", is_flag=True, help="Include only the components of vae-zoo itself.")
def schema(builtin: bool) -> None:
    """Print the JSON Schema of recipe files, with all installed components, for completion in editors.

    \b
    zoo schema > recipes.schema.json
    """
    from zoo_scaffold.json_schema import recipe_file_schema

    print_json(recipe_file_schema("vae-zoo" if builtin else None))
