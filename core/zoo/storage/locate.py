"""Where runs lie, found without torch, so that a wrong name is reported at once."""

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
"""A run holds a recipe; a finished run also holds weights and a manifest, which is written last."""
ENVIRONMENT = "environment.json"
CARD = "card.yaml"
"""A run that was packaged as weights also holds a card, which describes it."""
STAMP = "%Y-%m-%dT%H-%M-%S"
_STAMPED = re.compile(r"(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d)(?:-(\d+))?")

NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?")
NAME_RULE = (
    "a name is made of letters, digits, '.', '_' and '-', 100 at most, a letter or digit first and no '.' at the end"
)
"""Names of models: they become folders."""


def run_folder(path: str | Path) -> Path:
    """The run at `path`, or the newest finished one in it (``runs/mlp-vae``).

    Raises:
        NoRun: there is none.
    """
    folder = require_path(path)
    if (folder / RECIPE).is_file():
        return folder
    for run in runs_in(folder):
        if is_finished(run):
            return run
    raise NoRun(f"{folder} holds no finished run. A run is a folder such as runs/mlp-vae/2026-01-31T12-00-00.")


def holds_run(folder: Path) -> bool:
    """Whether there is a run at a path or directly inside it."""
    return (folder / RECIPE).is_file() or any(folder.glob(f"*/{RECIPE}"))


def require_path(path: object) -> Path:
    """The path of a run.

    Raises:
        RunError: it is something else, such as a model.
    """
    if not isinstance(path, str | os.PathLike):
        raise RunError(
            f"A run is a folder, such as runs/mlp-vae/2026-01-31T12-00-00, or a zoo.Run; got a {type(path).__name__}. "
            "A model has no data and no recipe of its own: give the run that it was trained in."
        )
    return Path(path)


def runs_in(folder: Path) -> list[Path]:
    """The runs in a folder, the newest first: by the time and the number in their names, as numbers.

    One whose name is no time is placed by the time at which it was started.

    Raises:
        NoRun: there is no such folder.
    """
    if not folder.is_dir():
        raise NoRun(f"{folder} is no folder. A run is a folder such as runs/mlp-vae/2026-01-31T12-00-00.")
    return sorted((file.parent for file in folder.glob(f"*/{RECIPE}")), key=_age, reverse=True)


def is_finished(run: Path) -> bool:
    """Whether the training of a run came to its end."""
    return (run / WEIGHTS).is_file() and (run / MANIFEST).is_file()


def natural(name: str) -> list[tuple[int, str]]:
    """A sort key that counts numbers as numbers.

    >>> sorted(["vae10", "vae2"], key=natural)
    ['vae2', 'vae10']
    """
    return [(int(part), "") if odd % 2 else (-1, part) for odd, part in enumerate(re.split(r"(\d+)", name))]


def _age(run: Path) -> tuple[str, int, Any]:
    """A sort key for runs: the time, the number among those of that second, the name."""
    if stamped := _STAMPED.fullmatch(run.name):
        return stamped[1], int(stamped[2] or 1), natural(run.name)
    try:
        started = datetime.datetime.fromisoformat(json.loads((run / ENVIRONMENT).read_bytes())["started"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", 0, natural(run.name)
    return started.strftime(STAMP), 0, natural(run.name)
