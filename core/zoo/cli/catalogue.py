"""``zoo list``, ``zoo show`` and ``zoo plugins``. Only ``zoo show KIND/NAME`` imports torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from zoo.cli.completion import complete_overrides, complete_shown
from zoo.cli.options import json_option, registry_option
from zoo.cli.output import print_json, print_table
from zoo.errors import RecipeError, RunError
from zoo.plugins.hookspecs import KINDS
from zoo.plugins.registry import Names, registry
from zoo.plugins.weights import find_run, is_weights_name
from zoo.plugins.weights import weights as installed_weights
from zoo.recipes.library import library, load, plain
from zoo.recipes.merge import merge, parse_overrides
from zoo.recipes.source import parse_yaml, write_models
from zoo.storage.locate import CARD, RECIPE

LISTED = ("zoo_components", "zoo_recipes", "zoo_weights")
"""Hooks whose items `zoo plugins` lists."""


@click.command("list")
@click.argument("pattern", default="*")
@click.option("--kind", default="model", type=click.Choice(["model", *KINDS]), help="What to list.", show_default=True)
@click.option("--weights", is_flag=True, help="List installed weights, which commands accept in place of a run.")
@registry_option
@json_option
def list_(pattern: str, kind: str, weights: bool, registries: tuple[Path, ...], as_json: bool) -> None:
    """List models, components of one kind, or weights, whose names contain PATTERN (conv) or match it ("conv*")."""
    if weights:
        kind, trained = "trained model", installed_weights()
        matches = [trained.find(name) for name in trained.matching(pattern)]
        rows = [(trained.shortest(claim), str(claim.plugin), claim.item.summary) for claim in matches]
    elif kind in KINDS:
        names = registry().names(kind)
        claims = {name: names.find(name) for name in names.matching(pattern)}
        rows = [(name, str(claim.plugin), claim.item.summary) for name, claim in claims.items()]
    else:
        recipes = library(*registries)
        rows = [(name, recipes.source(name), recipes.summary(name)) for name in recipes.names(pattern)]
    if as_json:
        print_json([dict(zip(("name", "from", "summary"), row, strict=True)) for row in rows])
    elif rows:
        print_table((kind.upper(), "FROM", "SUMMARY"), rows)
    else:
        click.echo(f"No {kind} matches {pattern!r}.", err=True)


@click.command()
@click.argument("model", metavar="MODEL|KIND/NAME|WEIGHTS", shell_complete=complete_shown)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...", shell_complete=complete_overrides)
@click.option(
    "--resolved", is_flag=True, help="Include inherited keys and defaults; `zoo train FILE.yaml` accepts the output."
)
@registry_option
@json_option
def show(model: str, overrides: tuple[str, ...], resolved: bool, registries: tuple[Path, ...], as_json: bool) -> None:
    """Show the recipe of MODEL, the documentation and parameters of a component, or the card of weights.

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


@click.command("plugins")
@json_option
def plugins_(as_json: bool) -> None:
    """List the plugins, what they provide, and the errors of broken ones."""
    click.get_current_context().meta["zoo.plugins_named"] = True
    tables: dict[str, Names[Any]] = {
        **registry().components,
        "model": library().models,
        "weights": installed_weights(),
    }
    rows: list[dict[str, Any]] = []
    for plugin in registry().plugins:
        brings = [f"{kind} {claim.name}" for kind, names in tables.items() for claim in names if claim.plugin is plugin]
        brings += [f"hook {hook}" for hook in plugin.hooks if hook not in LISTED]
        row = {key: getattr(plugin, key) for key in ("name", "distribution", "version", "status")}
        rows.append({**row, "brings": brings, "errors": plugin.errors, "notes": plugin.notes()})
    if as_json:
        print_json(rows)
        return
    print_table(
        ("PLUGIN", "DISTRIBUTION", "VERSION", "STATUS", "PROVIDES"),
        [(r["name"], r["distribution"], r["version"], r["status"], ", ".join(r["brings"])) for r in rows],
    )
    for row in rows:
        for text in (*row["errors"], *row["notes"]):
            click.echo("\n{name} of {distribution} {version}: ".format(**row) + text)
    for names in tables.values():
        for conflict in names.conflicts():
            click.echo(f"\n{conflict}")
