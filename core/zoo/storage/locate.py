"""Locate runs without importing torch, so that a wrong name is reported immediately."""

from __future__ import annotations

import datetime
import json
import os
import re
from pathlib import Path
from typing import Any

from zoo.errors import NoRun, RunError
from zoo.storage.files import MANIFEST

WEIGHTS, RECIPE = "model.safetensors", "recipe.yaml"
"""A run contains a recipe; a finished run also contains weights and a manifest, which is written last."""
ENVIRONMENT = "environment.json"
CARD = "card.yaml"
"""A run that was packaged as weights also holds a card, which describes it."""
STAMP = "%Y-%m-%dT%H-%M-%S"
_STAMPED = re.compile(r"(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d)(?:-(\d+))?")

NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?")
NAME_RULE = (
    "a name has at most 100 letters, digits, '.', '_' and '-', starts with a letter or digit and does not end with '.'"
)
"""The rule for names of models, which become folder names."""
EXAMPLE = "runs/mlp-vae/2026-01-31T12-00-00"


def run_folder(path: str | Path) -> Path:
    """Return the run at `path`, or the newest finished run in that folder (``runs/mlp-vae``).

    Raises:
        NoRun: there is no such run.
    """
    folder = require_path(path)
    if (folder / RECIPE).is_file():
        return folder
    for run in runs_in(folder):
        if is_finished(run):
            return run
    raise NoRun(f"{folder} contains no finished run. A run is a folder such as {EXAMPLE}.")


def holds_run(folder: Path) -> bool:
    """Whether there is a run at a path or directly inside it."""
    return (folder / RECIPE).is_file() or any(folder.glob(f"*/{RECIPE}"))


def require_path(path: object) -> Path:
    """Convert the argument of a function that takes a run to a path.

    Raises:
        RunError: the argument is something else, such as a model.
    """
    if not isinstance(path, str | os.PathLike):
        raise RunError(
            f"A run is a folder, such as {EXAMPLE}, or a zoo.Run; got a {type(path).__name__}. A model has no data and "
            "no recipe: pass its run instead."
        )
    return Path(path)


def runs_in(folder: Path) -> list[Path]:
    """List the runs in a folder, the newest first, by the time and number in their names.

    A run with another name is sorted by its start time.

    Raises:
        NoRun: there is no such folder.
    """
    if not folder.is_dir():
        raise NoRun(f"{folder} is not a directory. A run is a folder such as {EXAMPLE}.")
    return sorted((file.parent for file in folder.glob(f"*/{RECIPE}")), key=_age, reverse=True)


def is_finished(run: Path) -> bool:
    """Whether the training of a run is complete."""
    return (run / WEIGHTS).is_file() and (run / MANIFEST).is_file()


def natural(name: str) -> list[tuple[int, str]]:
    """A sort key that compares numbers in names numerically.

    >>> sorted(["vae10", "vae2"], key=natural)
    ['vae2', 'vae10']
    """
    return [(int(part), "") if odd % 2 else (-1, part) for odd, part in enumerate(re.split(r"(\d+)", name))]


def _age(run: Path) -> tuple[str, int, Any]:
    """A sort key for runs: the time, the number among runs of the same second, the name."""
    if stamped := _STAMPED.fullmatch(run.name):
        return stamped[1], int(stamped[2] or 1), natural(run.name)
    try:
        started = datetime.datetime.fromisoformat(json.loads((run / ENVIRONMENT).read_bytes())["started"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", 0, natural(run.name)
    return started.strftime(STAMP), 0, natural(run.name)
