"""``zoo list``, ``zoo show`` and ``zoo plugins``. Only ``zoo show KIND/NAME`` imports torch."""

from __future__ import annotations

from pathlib import Path

import click

from zoo.cli.completion import complete_overrides, complete_shown
from zoo.cli.options import json_option, registry_option
from zoo.cli.output import print_json, print_table
from zoo.errors import RecipeError
from zoo.plugins.hookspecs import KINDS
from zoo.plugins.registry import registry
from zoo.recipes.library import library, load, plain
from zoo.recipes.merge import merge, parse_overrides
from zoo.recipes.source import write_models


@click.command("list", short_help="List models, or components of one kind.")
@click.argument("pattern", default="*")
@click.option("--kind", default="model", type=click.Choice(["model", *KINDS]), help="What to list.", show_default=True)
@registry_option
@json_option
def list_(pattern: str, kind: str, registries: tuple[Path, ...], as_json: bool) -> None:
    """List models, or components of one kind, whose name holds PATTERN (conv) or matches it ("conv*")."""
    if kind == "model":
        recipes = library(*registries)
        rows = [(name, recipes.source(name), recipes.summary(name)) for name in recipes.names(pattern)]
    else:
        names = registry().names(kind)
        claims = [names.find(name) for name in names.matching(pattern)]
        rows = [(name, str(c.plugin), c.item.summary) for name, c in zip(names.matching(pattern), claims, strict=True)]
    if as_json:
        print_json([dict(zip(("name", "from", "summary"), row, strict=True)) for row in rows])
    elif rows:
        print_table((kind.upper(), "FROM", "SUMMARY"), rows)
    else:
        click.echo(f"No {kind} matches {pattern!r}.", err=True)


@click.command(short_help="Show the recipe of MODEL, or what a component takes.")
@click.argument("model", metavar="MODEL|KIND/NAME", shell_complete=complete_shown)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...", shell_complete=complete_overrides)
@click.option("--resolved", is_flag=True, help="With everything that it inherits; `zoo train FILE.yaml` accepts it.")
@registry_option
@json_option
def show(model: str, overrides: tuple[str, ...], resolved: bool, registries: tuple[Path, ...], as_json: bool) -> None:
    """Show the recipe of MODEL, or what a component is and takes.

    \b
    zoo show mlp-vae --resolved
    zoo show loss/elbo
    """
    kind, slash, component = model.partition("/")
    if slash and not model.endswith((".yaml", ".yml")):
        _show_component(kind, component, as_json)
        return
    if resolved or overrides or model.endswith((".yaml", ".yml")):
        from zoo.recipes.checking import check_recipe

        name, raw = load(model, registries)
        recipe, problems = check_recipe(name, merge(raw, parse_overrides(overrides)))
        if problems:
            raise RecipeError(f"The recipe {name!r} is not valid:", problems)
        shown = recipe.to_raw()
    else:
        name, shown = plain(model), library(*registries).written(model)
    if as_json:
        print_json({"name": name, **shown})
    else:
        click.echo(write_models({name: shown}), nl=False)


def _show_component(kind: str, name: str, as_json: bool) -> None:
    from zoo.recipes.signatures import describe  # imports torch

    description = describe(kind, name)
    if as_json:
        print_json(description.to_json())
        return
    click.secho(f"{kind} {name}", bold=True, nl=False)
    click.echo(f"   {description.source}, {description.target}\n\n{description.documentation}\n")
    rows = [
        (p.name, p.type, "set by the zoo" if p.injected else "required" if p.default is None else p.default)
        for p in description.parameters
    ]
    if rows:
        print_table(("PARAMETER", "TYPE", "DEFAULT"), rows)


@click.command("plugins", short_help="Show the plugins, and what is wrong with the broken ones.")
@json_option
def plugins_(as_json: bool) -> None:
    """Show the plugins, what they bring, and what is wrong with the broken ones."""
    click.get_current_context().meta["zoo.plugins_named"] = True
    components, recipes = registry(), library()
    rows = []
    notes = {}
    for plugin in components.plugins.found:
        brings = [
            f"{kind} {claim.name}" for kind in KINDS for claim in components.names(kind) if claim.plugin is plugin
        ]
        brings += [f"model {claim.name}" for claim in recipes.models if claim.plugin is plugin]
        brings += [f"hook {hook}" for hook in plugin.hooks if hook not in ("zoo_components", "zoo_recipes")]
        rows.append((plugin, brings))
        notes[plugin] = plugin.notes()
    if as_json:
        print_json(
            [
                {
                    "name": plugin.name,
                    "distribution": plugin.distribution,
                    "version": plugin.version,
                    "status": plugin.status,
                    "brings": brings,
                    "errors": plugin.errors,
                    "notes": notes[plugin],
                }
                for plugin, brings in rows
            ]
        )
        return
    print_table(
        ("PLUGIN", "DISTRIBUTION", "VERSION", "STATUS", "BRINGS"),
        [(p.name, p.distribution, p.version, p.status, ", ".join(brings)) for p, brings in rows],
    )
    for plugin, _ in rows:
        for text in (*plugin.errors, *notes[plugin]):
            click.echo(f"\n{plugin.name} of {plugin}: {text}")
    for conflict in (*components.conflicts(), *recipes.models.conflicts()):
        click.echo(f"\n{conflict}")
