"""Generate a page for each model and each kind of component from the registry."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import cache

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import zoo
from zoo.recipes.library import library
from zoo.recipes.schema import ComponentSpec
from zoo.recipes.signatures import Description, describe
from zoo.recipes.source import write_models

KINDS = {kind: f"components/{kind}.md" for kind in zoo.KINDS}
BASE = "zoo_gaussian"
"""The family that the other families build on."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the generated pages to the navigation."""
    models: list[object] = ["models/index.md"]
    models += [{title(f): [{name: f"models/{name}.md"} for name in names]} for f, names in families().items()]
    components: list[object] = [{kind: page} for kind, page in KINDS.items()]
    config["nav"] = [*config["nav"], {"Models": models}, {"Components": components}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Generate the pages."""
    pages = {"models/index.md": all_models()}
    pages |= {f"models/{name}.md": model_page(name) for name in library().names()}
    pages |= {page: component_page(kind) for kind, page in KINDS.items()}
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def all_models() -> str:
    """The models by family."""
    lines = ["# Models", "", "![Twelve samples from each model](../images/models.png)", ""]
    for package, names in families().items():
        lines += [f"## {title(package)}", "", importlib.import_module(package).__doc__.splitlines()[0], ""]
        lines += ["| model | summary |", "|---|---|"]
        lines += [f"| [`{name}`]({name}.md) | {library().summary(name)} |" for name in names]
        lines.append("")
    return "\n".join(lines)


@cache
def families() -> dict[str, list[str]]:
    """The models of each family, the base family first."""
    members: dict[str, list[str]] = {BASE: []}
    for name in library().names():
        members.setdefault(family(zoo.recipe(name)), []).append(name)
    return {package: members[package] for package in sorted(members, key=lambda package: (package != BASE, package))}


def family(recipe: zoo.Recipe) -> str:
    """The package of the first component outside the base family: loss, prior, or a part of the networks."""
    packages = (p for kind in ("loss", "prior", "encoder", "decoder") for p in packages_of(kind, getattr(recipe, kind)))
    return next((package for package in packages if package != BASE), BASE)


def packages_of(kind: str, spec: ComponentSpec | dict[str, object] | str) -> Iterator[str]:
    """The packages of a component and of the components nested in it."""
    spec = ComponentSpec.model_validate(spec)
    described = describe(kind, spec.use)
    yield described.target.split(".")[0]
    for parameter in described.parameters:
        if parameter.nested and parameter.name in spec.parameters:
            yield from packages_of(parameter.nested, spec.parameters[parameter.name])


def title(package: str) -> str:
    """A heading for a family: ``zoo_importance`` becomes ``Importance``."""
    return package.removeprefix("zoo_").capitalize()


def model_page(name: str) -> str:
    """A model: its summary, its recipe and its components."""
    recipe = zoo.recipe(name)
    written = write_models({name: library().written(name)})
    resolved = write_models({name: recipe.to_raw()})
    used = [(kind, getattr(recipe, kind).use) for kind in ("encoder", "decoder", "prior", "loss")]
    lines = [f"# {name}", "", library().summary(name), ""]
    lines += ["```text", f"zoo train {name}", "```", "", "## Recipe", "", "```yaml", written.rstrip(), "```", ""]
    lines += ["Resolved:", "", "```yaml", resolved.rstrip(), "```", "", "## Components", ""]
    for kind, use in used:
        described = describe(kind, use)
        lines += [f"### {kind}: [`{use}`](../{KINDS[kind]}#{use})", "", summary(described), ""]
    return "\n".join(lines)


def component_page(kind: str) -> str:
    """The components of a kind, with their parameters."""
    lines = [f"# {kind}", ""]
    for name in zoo.list_components(kind):
        described = describe(kind, name)
        lines += [f"## {name} {{#{name}}}", "", f"*{described.summary}* (`{described.target}`)", ""]
        lines += ["```text", described.documentation, "```", ""]
        settable = [parameter for parameter in described.parameters if not parameter.injected]
        if settable:
            lines += ["| parameter | type | default |", "|---|---|---|"]
            lines += [f"| `{p.name}` | {code(p.type)} | {code(p.default or 'required')} |" for p in settable]
            lines.append("")
    return "\n".join(lines)


def summary(described: Description) -> str:
    """The first paragraph of a docstring."""
    return " ".join(described.documentation.split("\n\n")[0].split())


def code(text: str) -> str:
    """Format text as code in a table cell."""
    return "`" + text.replace("|", "\\|") + "`"
