"""Shell completion of models, components, keys and runs. Only parameters of components require torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem, get_completion_class

from zoo.errors import ZooError
from zoo.plugins.hookspecs import KINDS
from zoo.plugins.registry import registry
from zoo.plugins.weights import list_weights
from zoo.recipes.library import library, load
from zoo.recipes.merge import merge, parse_overrides
from zoo.recipes.source import Raw
from zoo.storage.locate import natural

if TYPE_CHECKING:
    from zoo.recipes.signatures import Parameter

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the script that completes models, components and keys in SHELL.

    \b
    eval "$(zoo completion bash)"                in ~/.bashrc
    eval "$(zoo completion zsh)"                 in ~/.zshrc
    zoo completion fish | source                 in ~/.config/fish/config.fish
    """
    shell_class = get_completion_class(shell)
    assert shell_class is not None
    root = click.get_current_context().find_root().command
    click.echo(shell_class(root, {}, "zoo", "_ZOO_COMPLETE").source())


def complete_models(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete names of models."""
    recipes = library()
    return [CompletionItem(name, help=recipes.summary(name)) for name in recipes.names() if name.startswith(incomplete)]


def complete_shown(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete names of models and weights, and of components after a kind and a slash."""
    kind, slash, _ = incomplete.partition("/")
    if not slash:
        return [*complete_models(ctx, param, incomplete), *_matching(list_weights(), incomplete)]
    names = registry().names(kind).matching() if kind in KINDS else []
    return [CompletionItem(f"{kind}/{name}") for name in names if f"{kind}/{name}".startswith(incomplete)]


def complete_datasets(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete names of data sets, or files and folders if none matches."""
    names = _matching(registry().names("dataset").matching(), incomplete)
    return names or [CompletionItem(incomplete, type="file")]


def complete_priors(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete names of priors."""
    return _matching(registry().names("prior").matching(), incomplete)


def complete_runs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete folders of runs, folders of a model's runs, and names of installed weights."""
    recipes = sorted(Path("runs").glob("*/*/recipe.yaml"), key=lambda recipe: natural(recipe.as_posix()))
    folders = dict.fromkeys([*(r.parent.parent.as_posix() for r in recipes), *(r.parent.as_posix() for r in recipes)])
    return _matching([*folders, *list_weights()], incomplete)


def complete_overrides(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete ``KEY=`` for the keys of the model's recipe, and names as values."""
    try:
        model = ctx.params.get("model")
        raw = load(model)[1] if model else {}
        recipe = merge(raw, parse_overrides(tuple(ctx.params.get("overrides") or ())))
        key, equals, _ = incomplete.partition("=")
        if equals:
            return _matching([f"{key}={value}" for value in _values(key, recipe)], incomplete)
        return _matching([f"{key}=" for key in _keys(recipe, incomplete)], incomplete)
    except ZooError:
        return []


def _keys(recipe: Raw, incomplete: str) -> Iterator[str]:
    from zoo.recipes.schema import Checkpointing, Recipe, TrainConfig

    yield from (name for name in Recipe.model_fields if name not in ("name", "summary", "train"))
    yield from (f"train.{name}" for name in TrainConfig.model_fields if name != "checkpoint")
    yield from (f"train.checkpoint.{name}" for name in Checkpointing.model_fields)
    part = incomplete.partition(".")[0]
    if part != incomplete:
        yield from (f"{part}.{parameter.name}" for parameter in _parameters(part, recipe.get(part)))


def _values(key: str, recipe: Raw) -> Iterable[str]:
    part, _, inner = key.partition(".")
    if key in ("encoder", "decoder", "prior", "loss"):
        return registry().names(key).matching()
    if key == "data":
        return registry().names("dataset").matching()
    nested = [p.nested for p in _parameters(part, recipe.get(part)) if p.name == inner and p.nested]
    return registry().names(nested[0]).matching() if nested else []


def _parameters(kind: str, block: Any) -> list[Parameter]:
    """The parameters of a component that a recipe can set."""
    use = block.get("use") if isinstance(block, dict) else block
    if kind not in KINDS or not isinstance(use, str):
        return []
    from zoo.recipes.signatures import describe  # imports torch

    return [parameter for parameter in describe(kind, use).parameters if not parameter.injected]


def _matching(words: Iterable[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(word) for word in words if word.startswith(incomplete)]
