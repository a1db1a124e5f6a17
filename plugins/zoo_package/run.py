"""The copy of a run that a package holds: what others need, and nothing about the machine of the training."""

from __future__ import annotations

import datetime
import itertools
import json
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zoo import Run, atomic_write, components_of, registry, sealed, to_json, write_yaml
from zoo_export import standardization

CURVE_POINTS = 10
"""Values of a curve for each epoch. A run keeps every step, which would outgrow the weights."""

ENVIRONMENT = ("id", "seed", "device", "threads", "python", "versions", "code")
"""Facts of ``environment.json`` that are copied. Everything else may tell about the machine, and is replaced."""


def copy_run(run: Run, folder: Path, card: Mapping[str, Any]) -> None:
    """Write a run with its card into a new folder, and seal it.

    Args:
        run: a finished run.
        folder: is created.
        card: as `card_of` returns it.
    """
    folder.mkdir(parents=True)
    files = {
        "recipe.yaml": write_yaml({"models": {run.recipe.name: portable_recipe(run.recipe.to_raw())}}),
        "environment.json": to_json(portable_environment(run)) + "\n",
        "metrics.jsonl": "".join(to_json(_thinned(asdict(epoch)), None) + "\n" for epoch in run.epochs()),
        "card.yaml": write_yaml(card),
    }
    for name, text in files.items():
        (folder / name).write_text(text, "utf-8", newline="\n")
    copies = [Path("model.safetensors"), *_prior_files(run)]
    if (run.path / standardization.FILE).is_file():
        copies.append(Path(standardization.FILE))
    for path in copies:
        (folder / path).parent.mkdir(exist_ok=True)
        shutil.copyfile(run.path / path, folder / path)
    with atomic_write(folder / "manifest.json") as file:
        file.write(sealed(folder, [*files, *(path.as_posix() for path in copies)]))


def _prior_files(run: Run) -> list[Path]:
    if not run.fitted_prior.exists:
        return []
    manifest = json.loads((run.path / "prior" / "manifest.json").read_bytes())
    return [Path("prior") / name for name in ("manifest.json", *manifest["sha256"])]


def portable_environment(run: Run) -> dict[str, Any]:
    """The environment of a run without paths, the command line, and facts that identify the machine."""
    environment = run.environment
    started = datetime.datetime.fromisoformat(environment["started"]).astimezone(datetime.UTC)
    used = distributions(run)
    return {
        **{key: environment[key] for key in ENVIRONMENT if key in environment},
        "started": started.isoformat(timespec="seconds"),
        "command": [],
        "platform": environment["platform"].partition("-")[0],
        "processors": None,
        "plugins": {
            name: source for name, source in environment["plugins"].items() if source.rpartition(" ")[0] in used
        },
        "data": {**environment["data"], "passed_over": []},
    }


def portable_recipe(value: Any) -> Any:
    """A recipe in which each path has only its last part.

    >>> portable_recipe({"data": [{"use": "folder", "path": "/home/me/photos", "size": [64, 64]}]})
    {'data': [{'use': 'folder', 'path': 'photos', 'size': [64, 64]}]}
    """
    if isinstance(value, Mapping):
        return {
            key: Path(inner).name if key == "path" and isinstance(inner, str) else portable_recipe(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [portable_recipe(inner) for inner in value]
    is_absolute = isinstance(value, str) and (value.startswith("~") or Path(value).is_absolute())
    return Path(value).name if is_absolute else value


def distributions(run: Run) -> set[str]:
    """The distributions of the components that a run uses, except vae-zoo itself."""
    used = [(kind, spec.use) for _, kind, spec in components_of(run.recipe)]
    used += [("dataset", spec.use) for spec in run.recipe.data]
    plugins = [registry().names(kind).find(name).plugin for kind, name in used]
    return {plugin.distribution for plugin in plugins if not plugin.builtin}


def _thinned(epoch: Mapping[str, Any]) -> dict[str, Any]:
    """An epoch whose curves hold means over consecutive steps."""
    return {**epoch, "curve": {name: _means(values) for name, values in epoch["curve"].items()}}


def _means(values: Sequence[float]) -> list[float]:
    """The means of at most `CURVE_POINTS` parts of a curve.

    >>> _means([1.0, 3.0]), _means([float(i // 4) for i in range(40)])[:3]
    ([1.0, 3.0], [0.0, 1.0, 2.0])
    """
    points = min(CURVE_POINTS, len(values))
    edges = [i * len(values) // points for i in range(points + 1)] if points else []
    parts = (values[start:end] for start, end in itertools.pairwise(edges))
    return [float(f"{statistics.fmean(part):.6g}") for part in parts]
