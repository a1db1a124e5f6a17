"""The beginnings of a plugin: a package that installs, passes its tests and trains as it comes."""

from __future__ import annotations

import importlib.util
import keyword
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from zoo import KINDS, UsageError, did_you_mean, list_components, list_models

SUFFIX = ".in"
"""Of every template, so that no tool takes one for a file of our own."""


@dataclass(frozen=True)
class Start:
    """What a plugin can start from.

    Attributes:
        brings: in words.
        kinds: of the components that it brings.
        folder: of templates, besides those of the package and of the components.
        attempt: commands that use it.
    """

    brings: str
    kinds: tuple[str, ...]
    folder: str
    attempt: tuple[str, ...]


MODEL, ANY = "zoo train acme-vae --data digits", "zoo train mlp-vae --data digits"

STARTS = {
    "model": Start("an encoder of residual layers and a loss with free bits", ("encoder", "loss"), "model", (MODEL,)),
    "encoder": Start("an encoder of residual layers", ("encoder",), "model", (MODEL,)),
    "decoder": Start("a decoder of residual layers", ("decoder",), "model", (MODEL,)),
    "prior": Start("a mixture of Gaussians for its prior", ("prior",), "model", (MODEL,)),
    "loss": Start("a loss with free bits", ("loss",), "model", (MODEL,)),
    "dataset": Start("images of bars for its data", ("dataset",), "model", ("zoo train acme-vae",)),
    "metric": Start(
        "a measure of sparsity", ("metric",), "measure", (ANY, "zoo evaluate runs/mlp-vae --metric acme-vae")
    ),
    "callback": Start("a table of the losses of every run", (), "callback", (ANY,)),
    "command": Start("a command that counts parameters", (), "command", (ANY, "zoo acme-vae runs/mlp-vae")),
}


@dataclass(frozen=True)
class Part:
    """The component that a template holds: its class or function, what it is, and its line in the recipe."""

    attribute: str
    summary: str
    recipe: str = ""


PARTS = {
    "encoder": Part(
        "ResidualEncoder", "Residual layers on the flattened image", "encoder: {use: acme-vae, width: 256, depth: 2}"
    ),
    "decoder": Part(
        "ResidualDecoder", "Residual layers to the flattened image", "decoder: {use: acme-vae, width: 256, depth: 2}"
    ),
    "prior": Part("GaussianMixture", "A learned mixture of Gaussians", "prior: {use: acme-vae, components: 10}"),
    "loss": Part("FreeBits", "Evidence bound with a floor under the rate", "loss: {use: acme-vae, floor: 2.0}"),
    "dataset": Part("bars", "White bars on black", "data: {use: acme-vae, size: 8}"),
    "metric": Part("Sparsity", "The share of code values near zero"),
}


def new_plugin(name: str, start: str = "model", parent: Path = Path()) -> Path:
    """Write a new package.

    Args:
        name: of the distribution, and of the model or component that it brings.
        start: one of `STARTS`.
        parent: where its folder is made.

    Returns:
        The folder.

    Raises:
        UsageError: the name is not one or is taken, or the folder exists or cannot be written.
    """
    module = _module(name)
    if start not in STARTS:
        raise UsageError(
            f"A plugin cannot start from {start!r}.{did_you_mean(start, STARTS)} There are: {', '.join(STARTS)}."
        )
    folder = parent / name
    if folder.exists() or folder.is_symlink():
        raise UsageError(f"{folder} exists already. Choose another name, or another place with --out.")
    written = {_renamed(path, name, module): _renamed(text, name, module) for path, text in _rendered(STARTS[start])}
    try:
        for path, text in written.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be written: {error.strerror or error}. Choose another place with --out."
        ) from error
    return folder


def _module(name: str) -> str:
    """The name of the module of a distribution, if it can have one."""
    normal = re.sub(r"[-_.]+", "-", name).strip("-").lower()
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        better = f" Write {normal!r}." if re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", normal) else ""
        raise UsageError(
            f"{name!r} is no name for a package: small letters, digits and single hyphens, a letter first.{better}"
        )
    module = name.replace("-", "_")
    if keyword.iskeyword(module) or importlib.util.find_spec(module) is not None:
        raise UsageError(f"{name!r} cannot be a package: Python has a {module!r} already. Choose another name.")
    for kind in ("model", *KINDS):
        names = list_models() if kind == "model" else list_components(kind)
        if any(known.rpartition(":")[2] == name for known in names):
            raise UsageError(f"There is a {kind} named {name!r} already. Choose another name.")
    return module


def _rendered(start: Start) -> Iterator[tuple[str, str]]:
    """Path and text of each file, for the package ``acme-vae`` that the templates are written for."""
    contents = {
        path.removesuffix(SUFFIX): text
        for folder in ("package", start.folder, *start.kinds)
        for path, text in _walk(files("zoo_scaffold") / "templates" / folder)
    }
    components = [
        "    yield Component(\n"
        f'        kind="{kind}",\n'
        '        name="acme-vae",\n'
        f'        target="acme_vae.{kind}:{PARTS[kind].attribute}",\n'
        f'        summary="{PARTS[kind].summary}",\n'
        "    )"
        for kind in start.kinds
    ]
    held = {f"{kind}.py": f"the {kind}" for kind in start.kinds} | {
        "recipes.yaml": "the model, as it differs from another"
    }
    values = {
        "brings": start.brings,
        "version": version("vae-zoo"),
        "attempt": "\n".join(start.attempt),
        "components": "\n".join(components),
        "recipe": "\n".join(f"    {PARTS[kind].recipe}" for kind in start.kinds),
        "overrides": "[]" if "dataset" in start.kinds else '["data=digits"]',
        "files": "\n".join(
            f"| `src/acme_vae/{name}` | {what} |" for name, what in held.items() if f"src/acme_vae/{name}" in contents
        ),
    }
    for path, text in contents.items():
        yield path, re.sub(r"@(\w+)@\n?", lambda match: _value(values[match[1]], match[0]), text)


def _value(value: str, found: str) -> str:
    """What stands in the place of a marker; where there is nothing to put, its line goes too."""
    return value + "\n" if value and found.endswith("\n") else value


def _walk(folder: Traversable, inside: str = "") -> Iterator[tuple[str, str]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _walk(entry, f"{inside}{entry.name}/")
        else:
            yield inside + entry.name, entry.read_text("utf-8")


def _renamed(text: str, name: str, module: str) -> str:
    return text.replace("acme-vae", name).replace("acme_vae", module)
