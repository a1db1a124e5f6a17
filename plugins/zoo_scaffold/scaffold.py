"""Templates of plugin packages, which install, pass their tests and train unchanged."""

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
"""Suffix of every template, so that tools ignore it."""


@dataclass(frozen=True)
class Start:
    """A kind of plugin to start from.

    Attributes:
        content: a description of what the plugin provides.
        kinds: the kinds of its components.
        folder: of templates, in addition to those of the package and of the components.
        attempt: commands that use the plugin.
    """

    content: str
    kinds: tuple[str, ...]
    folder: str
    attempt: tuple[str, ...]


MODEL, ANY = "zoo train acme-vae --data digits", "zoo train mlp-vae --data digits"

STARTS = {
    "model": Start("an encoder of residual layers and a loss with free bits", ("encoder", "loss"), "model", (MODEL,)),
    "encoder": Start("an encoder of residual layers", ("encoder",), "model", (MODEL,)),
    "decoder": Start("a decoder of residual layers", ("decoder",), "model", (MODEL,)),
    "prior": Start("a mixture of Gaussians as prior", ("prior",), "model", (MODEL,)),
    "loss": Start("a loss with free bits", ("loss",), "model", (MODEL,)),
    "dataset": Start("a data set of bars", ("dataset",), "model", ("zoo train acme-vae",)),
    "metric": Start(
        "a measure of sparsity", ("metric",), "measure", (ANY, "zoo evaluate runs/mlp-vae --metric acme-vae")
    ),
    "callback": Start("a callback that writes the losses of every run to a table", (), "callback", (ANY,)),
    "command": Start("a command that counts parameters", (), "command", (ANY, "zoo acme-vae runs/mlp-vae")),
}


@dataclass(frozen=True)
class Part:
    """The component of a template: its class or function, its summary, and its line in the recipe."""

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
    "loss": Part("FreeBits", "Evidence bound with a lower limit on the rate", "loss: {use: acme-vae, floor: 2.0}"),
    "dataset": Part("bars", "White bars on black", "data: {use: acme-vae, size: 8}"),
    "metric": Part("Sparsity", "Fraction of latents near zero"),
}


def new_plugin(name: str, start: str = "model", parent: Path = Path()) -> Path:
    """Create a plugin package.

    Args:
        name: of the distribution, and of its model or component.
        start: one of `STARTS`.
        parent: the folder in which the package is created.

    Returns:
        The folder of the package.

    Raises:
        UsageError: the name is invalid or taken, or the folder exists or cannot be written.
    """
    module = _module(name)
    if start not in STARTS:
        raise UsageError(
            f"There is no template {start!r}.{did_you_mean(start, STARTS)} Choose from: {', '.join(STARTS)}."
        )
    folder = parent / name
    if folder.exists() or folder.is_symlink():
        raise UsageError(f"{folder} already exists. Choose another name, or another folder with --out.")
    contents = {_renamed(path, name, module): _renamed(text, name, module) for path, text in _rendered(STARTS[start])}
    try:
        for path, text in contents.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be written: {error.strerror or error}. Choose another folder with --out."
        ) from error
    return folder


def _module(name: str) -> str:
    """The module name of a distribution.

    Raises:
        UsageError: the name is invalid or taken.
    """
    normal = re.sub(r"[-_.]+", "-", name).strip("-").lower()
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        better = f" Write {normal!r}." if re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", normal) else ""
        raise UsageError(
            f"{name!r} is not a package name: expected lower-case letters, digits and hyphens, a letter first.{better}"
        )
    module = name.replace("-", "_")
    if keyword.iskeyword(module) or importlib.util.find_spec(module) is not None:
        raise UsageError(
            f"{name!r} cannot be used: {module!r} is a keyword or an installed module. Choose another name."
        )
    for kind in ("model", *KINDS):
        names = list_models() if kind == "model" else list_components(kind)
        if any(taken.rpartition(":")[2] == name for taken in names):
            raise UsageError(f"There is already a {kind} named {name!r}. Choose another name.")
    return module


def _rendered(start: Start) -> Iterator[tuple[str, str]]:
    """Yield the path and the text of each file, for a package named ``acme-vae`` as in the templates."""
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
    descriptions = {f"{kind}.py": f"the {kind}" for kind in start.kinds} | {
        "recipes.yaml": "the model, as changes to another model"
    }
    values = {
        "content": start.content,
        "version": version("vae-zoo"),
        "attempt": "\n".join(start.attempt),
        "components": "\n".join(components),
        "recipe": "\n".join(f"    {PARTS[kind].recipe}" for kind in start.kinds),
        "overrides": "[]" if "dataset" in start.kinds else '["data=digits"]',
        "files": "\n".join(
            f"| `src/acme_vae/{name}` | {text} |"
            for name, text in descriptions.items()
            if f"src/acme_vae/{name}" in contents
        ),
    }
    for path, text in contents.items():
        yield path, re.sub(r"@(\w+)@\n?", lambda match: _value(values[match[1]], match[0]), text)


def _value(value: str, marker: str) -> str:
    """The replacement of a marker. The line of an empty value is removed."""
    return value + "\n" if value and marker.endswith("\n") else value


def _walk(folder: Traversable, inside: str = "") -> Iterator[tuple[str, str]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _walk(entry, f"{inside}{entry.name}/")
        else:
            yield inside + entry.name, entry.read_text("utf-8")


def _renamed(text: str, name: str, module: str) -> str:
    return text.replace("acme-vae", name).replace("acme_vae", module)
