"""``zoo list``, ``zoo show``, ``zoo plugins`` and ``zoo schema``. Only components and the schema need torch."""

from __future__ import annotations

from pathlib import Path

import click

from zoo.cli.completion import complete_overrides, complete_shown
from zoo.cli.options import json_option, registry_option
from zoo.cli.output import print_json, print_table
from zoo.errors import RecipeError, RunError
from zoo.plugins.hookspecs import KINDS
from zoo.plugins.manager import DISTRIBUTION
from zoo.plugins.registry import registry
from zoo.plugins.weights import find_run, is_weights_name
from zoo.plugins.weights import weights as installed_weights
from zoo.recipes.library import library, load, plain
from zoo.recipes.merge import merge, parse_overrides
from zoo.recipes.source import parse_yaml, write_models
from zoo.storage.locate import CARD, RECIPE

LISTED = ("zoo_components", "zoo_recipes", "zoo_weights")
"""Hooks whose items `zoo plugins` lists."""


@click.command("list", short_help="List models, or components of one kind.")
@click.argument("pattern", default="*")
@click.option("--kind", default="model", type=click.Choice(["model", *KINDS]), help="What to list.", show_default=True)
@click.option("--weights", is_flag=True, help="List installed weights, which commands accept in place of a run.")
@registry_option
@json_option
def list_(pattern: str, kind: str, weights: bool, registries: tuple[Path, ...], as_json: bool) -> None:
    """List models, components of one kind, or weights, whose name holds PATTERN (conv) or matches it ("conv*")."""
    if weights:
        kind, trained = "trained model", installed_weights()
        found = [trained.find(name) for name in trained.matching(pattern)]
        rows = [(trained.shortest(claim), str(claim.plugin), claim.item.summary) for claim in found]
    elif kind == "model":
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


@click.command(short_help="Show the recipe of MODEL, what a component takes, or the card of weights.")
@click.argument("model", metavar="MODEL|KIND/NAME|WEIGHTS", shell_complete=complete_shown)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...", shell_complete=complete_overrides)
@click.option("--resolved", is_flag=True, help="With everything that it inherits; `zoo train FILE.yaml` accepts it.")
@registry_option
@json_option
def show(model: str, overrides: tuple[str, ...], resolved: bool, registries: tuple[Path, ...], as_json: bool) -> None:
    """Show the recipe of MODEL, what a component is and takes, or the card of weights.

    \b
    zoo show mlp-vae --resolved
    zoo show loss/elbo
    zoo show mlp-vae@mnist
    zoo show mlp-vae@mnist --resolved     its recipe
    """
    if is_weights_name(model):
        folder = find_run(model)
        if not (resolved or overrides):
            _show_card(folder, as_json)
            return
        model = str(folder / RECIPE)
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


def _show_card(folder: Path, as_json: bool) -> None:
    file = folder / CARD
    try:
        text = file.read_text("utf-8")
    except OSError as error:
        raise RunError(f"{file} cannot be read: {error.strerror}") from error
    if as_json:
        print_json({**parse_yaml(text), "folder": str(folder)})
    else:
        click.echo(f"{text}folder: {folder}")


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


@click.command(short_help="Print the JSON Schema of recipe files, for editors.")
@click.option("--builtin", is_flag=True, help="Only what comes with vae-zoo itself.")
def schema(builtin: bool) -> None:
    """Print the JSON Schema of recipe files, installed plugins included, for editors.

    \b
    zoo schema > recipes.schema.json
    """
    from zoo.recipes.json_schema import recipe_file_schema

    print_json(recipe_file_schema(DISTRIBUTION if builtin else None))


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
        brings += [f"weights {claim.name}" for claim in installed_weights() if claim.plugin is plugin]
        brings += [f"hook {hook}" for hook in plugin.hooks if hook not in LISTED]
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
    for conflict in (*components.conflicts(), *recipes.models.conflicts(), *installed_weights().conflicts()):
        click.echo(f"\n{conflict}")
