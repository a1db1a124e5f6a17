"""A page for every model and every component, generated from the registry when the documentation is built."""

from __future__ import annotations

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import zoo
from zoo.recipes.library import library
from zoo.recipes.signatures import Description, describe
from zoo.recipes.source import write_models

KINDS = {kind: f"components/{kind}.md" for kind in zoo.KINDS}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the generated pages into the navigation."""
    models: list[object] = ["models/index.md", *({name: f"models/{name}.md"} for name in library().names())]
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
    """A table of the models."""
    rows = [f"| [`{name}`]({name}.md) | {library().summary(name)} |" for name in library().names()]
    return "\n".join(["# Models", "", "| model | what it is |", "|---|---|", *rows, ""])


def model_page(name: str) -> str:
    """What a model is, its recipe, and the components that it uses."""
    recipe = zoo.recipe(name)
    written = write_models({name: library().written(name)})
    resolved = write_models({name: recipe.to_raw()})
    used = [(kind, getattr(recipe, kind).use) for kind in ("encoder", "decoder", "prior", "loss")]
    lines = [f"# {name}", "", library().summary(name), ""]
    lines += ["```text", f"zoo train {name}", "```", "", "## The recipe", "", "```yaml", written.rstrip(), "```", ""]
    lines += ["With all that it inherits:", "", "```yaml", resolved.rstrip(), "```", "", "## Its components", ""]
    for kind, use in used:
        described = describe(kind, use)
        lines += [f"### {kind}: [`{use}`](../{KINDS[kind]}#{use})", "", summary(described), ""]
    return "\n".join(lines)


def component_page(kind: str) -> str:
    """Every component of a kind, with its parameters."""
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
    """Text as code in a table."""
    return "`" + text.replace("|", "\\|") + "`"
