"""The examples of the documentation work: each page is executed from top to bottom.

A block with a title is a file, or a change to a file if it is a ``diff``; a Python block without a title is a program;
lines of a ``console`` block that start with ``$`` are commands. ``pip install -e .`` is emulated by writing its
metadata. The packages of a page are then built and installed by pip. ``text`` blocks are not executed.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

import zoo
from test_distribution import pip_install
from zoo.plugins.hookspecs import KINDS, HookSpecs
from zoo.recipes.source import builtin_registry, read_models

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAMS = {"zoo": [sys.executable, "-m", "zoo"], "pytest": [sys.executable, "-m", "pytest"]}
# What the plugin of a distribution provides; imports its components.
PROVIDED = """
import importlib, json, pkgutil, sys
import zoo
from zoo.plugins.manager import plugins
from zoo.recipes.library import library

models = list(library().names())
(plugin,) = (plugin for plugin in plugins() if plugin.distribution == sys.argv[1])
components = [zoo.get(c.kind, c.name) for c in importlib.import_module(plugin.module).zoo_components()]
modules = [sys.modules[component.__module__].__file__ for component in components]
package = getattr(importlib.import_module(plugin.module), "__path__", ())
inside = (module.name for module in pkgutil.iter_modules(package, plugin.module + "."))
modules += [importlib.import_module(name).__file__ for name in inside]
print(json.dumps({"errors": plugin.errors, "models": models, "modules": modules}))
"""


def commands(block: str) -> list[list[str]]:
    """The commands of a console block, split into words."""
    return [shlex.split(line[2:], comments=True) for line in block.splitlines() if line.startswith("$ ")]


def edit(file: Path, diff: str) -> None:
    """Apply a diff with one hunk."""
    lines = diff.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if line[0] in " -")
    after = "".join(line[1:] for line in lines if line[0] in " +")
    text = file.read_text()
    assert text.count(before) == 1, f"{file} must contain once:\n{before}"
    file.write_text(text.replace(before, after))


@dataclass
class Reader:
    """A reader who follows a page.

    Attributes:
        folder: working directory.
        packages: folders installed with pip.
        files: files written.
        runs: number of commands and programs run.
    """

    folder: Path
    packages: list[Path] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    runs: int = 0

    def follow(self, page: Path) -> None:
        for language, title, content in BLOCK.findall(page.read_text()):
            if title and language == "diff":
                edit(self.folder / title, content)
            elif title:
                file = self.folder / title
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(content)
                self.files.append(file)
            elif language == "python":
                self.run([sys.executable, "-c", content])
            elif language == "console":
                for command in commands(content):
                    self.execute(command, page)

    def execute(self, command: list[str], page: Path) -> None:
        if command[:3] == ["pip", "install", "-e"]:
            self.install()
        elif command[0] == "mkdir":
            (self.folder / command[1]).mkdir()
        elif command[0] == "cd":
            self.folder = (self.folder / command[1]).resolve(strict=True)
        else:
            assert command[0] in PROGRAMS, f"{page.name} runs {command}"
            self.run([*PROGRAMS[command[0]], *command[1:]])

    def install(self) -> None:
        """Write the metadata that pip would write, next to the package."""
        project = tomllib.loads((self.folder / "pyproject.toml").read_text())["project"]
        info = sources(self.folder) / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        )
        points = "\n".join(f"{name} = {value}" for name, value in project["entry-points"]["zoo"].items())
        (info / "entry_points.txt").write_text(f"[zoo]\n{points}\n")
        self.packages.append(self.folder)

    def run(self, command: list[str]) -> None:
        run(command, self.folder, *map(sources, self.packages))
        self.runs += 1


def sources(package: Path) -> Path:
    """The folder that ``pip install -e`` adds to the path."""
    return package / "src" if (package / "src").is_dir() else package


def run(command: list[str], folder: Path, *path: Path) -> str:
    """Run a command with `path` on the import path, without the working directory."""
    before = filter(None, [*map(str, path), os.environ.get("PYTHONPATH")])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(before), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


@pytest.mark.parametrize("page", [p for p in PAGES if BLOCK.search(p.read_text())], ids=lambda page: page.stem)
def test_a_page_can_be_followed(page, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    reader = Reader(work)
    reader.follow(page)
    assert reader.runs > 0
    for package in reader.packages:
        named = [file for file in reader.files if file.is_relative_to(package)]
        if not named:  # written by a command, which has its own tests
            continue
        name = tomllib.loads((package / "pyproject.toml").read_text())["project"]["name"]
        run([*PROGRAMS["zoo"], "check", name], tmp_path, *map(sources, reader.packages))
        assert_complete(package, named, tmp_path)


def assert_complete(package: Path, files: list[Path], folder: Path) -> None:
    """Check that a package, built and installed by pip, contains the files of the page and uses them."""
    site = pip_install(package, folder / f"site-{package.name}")
    inside = [file.relative_to(sources(package)) for file in files if file.is_relative_to(sources(package))]
    inside = [file for file in inside if file.parts[0] not in ("pyproject.toml", "tests")]
    assert inside
    missing = [str(file) for file in inside if not (site / file).is_file()]
    assert not missing, f"the wheel of {package.name} lacks {missing}"
    distribution = tomllib.loads((package / "pyproject.toml").read_text())["project"]["name"]
    provided = json.loads(run([sys.executable, "-c", PROVIDED, distribution], folder, site))
    assert provided["errors"] == []
    for file in inside:
        if file.suffix == ".yaml":
            assert set(yaml.safe_load((site / file).read_text()).get("models", {})) <= set(provided["models"])
        elif file.name != "__init__.py":
            assert str(site / file) in provided["modules"]


def test_every_hook_has_a_section():
    text = (DOCS / "plugins" / "hooks.md").read_text()
    for hook in (name for name in vars(HookSpecs) if name.startswith("zoo_")):
        assert f"\n## `{hook}`\n\n`{hook}(" in text, hook


def test_every_kind_has_a_section():
    text = (DOCS / "plugins" / "kinds.md").read_text()
    for kind in KINDS:
        assert f"\n## `{kind}`\n" in text, kind


NOT_MEASURED = {"vdvae", "photo-vae", "autoencoder-kl", "vq-vae", "fsq", "vq-gan"}
"""Models that are newer than the table; the page names them."""


def test_every_model_of_images_is_in_the_results():
    text = (DOCS / "results.md").read_text()
    on_mnist = [name for name in read_models(builtin_registry()) if zoo.recipe(name).data[0].use == "mnist"]
    missing = [name for name in on_mnist if f"\n| `{name}` | " not in text and name not in NOT_MEASURED]
    assert not missing, "measure them: python benchmarks/models.py"
    assert all(f"`{name}`" in text for name in NOT_MEASURED)
