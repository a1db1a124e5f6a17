"""A package of trained weights, written from runs: sources that pip installs."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import keyword
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from importlib.resources import files
from pathlib import Path
from typing import Any

import zoo
from zoo import Evaluation, Run, UsageError
from zoo_package.card import card_of, table
from zoo_package.run import copy_run, distributions

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
SUMMARY_LENGTH = 95
"""Characters of a summary that fit in a line of the module."""


@dataclass(frozen=True)
class Entry:
    """One of the trained models of a package.

    Attributes:
        name: ``MODEL@DATA``.
        run: that it was made from.
        card: as in ``card.yaml``.
        evaluation: its metrics, if they were measured.
    """

    name: str
    run: Run
    card: dict[str, Any]
    evaluation: Evaluation | None

    @property
    def summary(self) -> str:
        """One line."""
        return str(self.card["summary"])


@dataclass(frozen=True)
class Package:
    """A package that was written.

    Attributes:
        folder: with its ``pyproject.toml``.
        entries: what it holds.
    """

    folder: Path
    entries: Sequence[Entry]


def write_package(
    runs: Sequence[str | Path | Run | tuple[str | None, str | Path | Run]],
    name: str,
    parent: Path | str = ".",
    *,
    package_version: str = "1.0",
    license: str | None = None,
    metrics: bool = True,
    samples: int | None = None,
    limit: int | None = None,
    data_dir: Path | str | None = None,
    device: str = "auto",
    announce: Callable[[str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Package:
    """Write a package of trained weights from runs: what ``zoo package`` does.

    Args:
        runs: finished runs, each as in `zoo.load` or with a name: ``("wide-vae@mnist", run)``. The default name is that
            of the model and of the data.
        name: of the distribution. Its folder must not exist.
        parent: where the folder is created.
        package_version, license: of the distribution; the licence is an SPDX expression such as ``MIT``.
        metrics: measure the models for their cards.
        samples, limit, data_dir, device, announce, progress: as in `zoo.evaluate`.

    Raises:
        UsageError: a name is invalid or used twice, the folder exists or cannot be written, or the data are missing.
        RunError: a run is missing, unfinished or damaged, or its model was built in code.
    """
    module = _module(name)
    folder = Path(parent) / name
    if folder.exists() or folder.is_symlink():
        raise UsageError(f"{folder} already exists. Remove it, or choose another --name or --out.")
    named = _named(runs)

    def entry(weights: str, run: Run) -> Entry:
        vae, evaluation = run.load(), None
        if metrics:
            options: dict[str, Any] = {"samples": samples, "limit": limit, "data_dir": data_dir, "device": device}
            evaluation = zoo.evaluate(run, **options, announce=announce, progress=progress)
        return Entry(weights, run, card_of(weights, run, vae, evaluation), evaluation)

    entries = [entry(weights, run) for weights, run in named.items()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
        try:
            _write(stage, entries, name, module, package_version, license)
            stage.chmod(0o755)
            stage.rename(folder)
        except BaseException:
            shutil.rmtree(stage, ignore_errors=True)
            raise
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror or error}. Choose another --out.") from error
    return Package(folder, entries)


def _module(name: str) -> str:
    """The module of a distribution.

    Raises:
        UsageError: the name is invalid, or an installed module other than a plugin has it.
    """
    module = name.replace("-", "_")
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a valid package name: use lowercase letters, digits and single hyphens, a letter first."
        )
    plugins = {plugin.module for plugin in zoo.registry().plugins if not plugin.builtin}
    if keyword.iskeyword(module) or (module not in plugins and importlib.util.find_spec(module) is not None):
        raise UsageError(f"Python already has a module {module!r}. Choose another --name.")
    return module


def _named(runs: Sequence[str | Path | Run | tuple[str | None, str | Path | Run]]) -> dict[str, Run]:
    """The runs by the names of their weights.

    Raises:
        UsageError: a name is invalid, two runs have the same, or a run is unfinished.
    """
    named: dict[str, Run] = {}
    for entry in runs:
        name, source = entry if isinstance(entry, tuple) else (None, entry)
        run = source if isinstance(source, Run) else Run.open(source)
        if not run.finished:
            raise UsageError(f"{run} is not finished. Resume it: zoo train --resume {run}")
        name = name or f"{run.recipe.name}@{run.data_name}"
        if not zoo.is_weights_name(name) or ":" in name:
            raise UsageError(
                f"{name!r} cannot be the name of the weights of {run}: expected MODEL@DATA, each made of letters, "
                f"digits, '.', '_' and '-'. Write NAME={run}."
            )
        if name in named:
            raise UsageError(f"{named[name]} and {run} are both called {name}. Name one of them: NAME={run}.")
        named[name] = run
    if not named:
        raise UsageError("Give at least one run.")
    return named


def _write(folder: Path, entries: Sequence[Entry], name: str, module: str, version: str, license: str | None) -> None:
    """Write all files of a package."""
    inside = folder / "src" / module
    for entry in entries:
        copy_run(entry.run, inside / "weights" / entry.name, entry.card)
    weights = [_declaration(entry, inside / "weights" / entry.name) for entry in entries]
    needs = {"vae-zoo", *(used for entry in entries for used in distributions(entry.run))}
    values = {
        "name": name,
        "module": module,
        "version": version,
        "license": f'license = "{license}"\n' if license else "",
        "dependencies": ", ".join(f'"{needed}>={installed_version(needed)}"' for needed in sorted(needs)),
        "first": entries[0].name,
        "declarations": "\n".join(weights),
        "cards": "\n".join(_sections(entries)).rstrip(),
    }
    for template, file in (
        ("pyproject.toml", folder / "pyproject.toml"),
        ("README.md", folder / "README.md"),
        ("gitattributes", folder / ".gitattributes"),
        ("__init__.py", inside / "__init__.py"),
    ):
        text = (files("zoo_package") / "templates" / f"{template}.in").read_text("utf-8")
        text = re.sub(r"@(\w+)@", lambda match: values[match[1]], text)
        file.write_text(text, "utf-8", newline="\n")


def _declaration(entry: Entry, folder: Path) -> str:
    """The lines of a module that yield the weights in a folder."""
    digest = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    summary = entry.summary
    summary = summary if len(summary) <= SUMMARY_LENGTH else summary[: SUMMARY_LENGTH - 3] + "..."
    fields = {"name": json.dumps(entry.name), "folder": f"FOLDER / {json.dumps(entry.name)}"}
    fields |= {"sha256": json.dumps(digest), "summary": json.dumps(summary, ensure_ascii=False)}
    lines = "".join(f"        {key}={value},\n" for key, value in fields.items())
    return f"    yield zoo.Weights(\n{lines}    )"


def _sections(entries: Sequence[Entry]) -> Iterator[str]:
    """A section of the README for each trained model."""
    for entry in entries:
        protocol = entry.card["protocol"]
        trained = (
            f"{entry.card['data']['train']} training examples, {protocol['epochs']} epochs, seed {protocol['seed']}"
        )
        yield f"## {entry.name}\n\n{entry.run.recipe.summary or entry.card['model']}\n"
        yield f"{entry.card['parameters']:,} parameters; {trained}; binarize {protocol['binarize']}.\n"
        if entry.evaluation is not None:
            yield f"On {entry.evaluation.how}, with the standard error over images where there is one:\n"
            yield table(entry.evaluation) + "\n"
