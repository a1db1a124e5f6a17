"""One training of a sweep: a run folder with its settings and, if it failed, the reason."""

from __future__ import annotations

import json
import logging
import shutil
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

import zoo
from zoo import Interrupted, Recipe, Run, RunError, RunLocked, TrainingError, ZooError, parse_yaml
from zoo_sweep.axes import SEED, Settings, describe
from zoo_sweep.folder import TRIAL, TRIALS

log = logging.getLogger("zoo")

FAILURE = "failure.json"


class Trial:
    """A training of a sweep and its folder. Trials that differ only in the seed have the same number.

    Args:
        folder: of the sweep.
        number: of the setting, counted from 1.
        settings: the swept keys and their values.
        seed: of the training, if the sweep trains several seeds.
    """

    def __init__(self, folder: Path, number: int, settings: Settings, seed: int | None = None) -> None:
        self.number = number
        self.settings = settings
        self.seed = seed
        self.path = folder / TRIALS / (f"trial-{number:03d}" + ("" if seed is None else f"-seed-{seed}"))

    def __repr__(self) -> str:
        return f"Trial({str(self.path)!r})"

    def __str__(self) -> str:
        return describe(self.settings if self.seed is None else {**self.settings, SEED: self.seed})

    @classmethod
    def open(cls, path: Path) -> Trial:
        """Open the trial in a folder.

        Raises:
            RunError: its settings cannot be read.
        """
        try:
            content = parse_yaml((path / TRIAL).read_text("utf-8"))
            trial = cls(path.parent.parent, content["trial"], dict(content["settings"]), content["seed"])
            if trial.path != path:
                raise ValueError(f"it belongs to {trial.path.name!r}")
            return trial
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
            raise RunError(f"{path / TRIAL} cannot be read: {' '.join(str(error).split())}") from error

    @property
    def run(self) -> Run:
        """The run folder."""
        return Run(self.path)

    @property
    def failure(self) -> str | None:
        """Why it failed, or None."""
        try:
            return str(json.loads((self.path / FAILURE).read_text("utf-8"))["reason"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            return f"{self.path / FAILURE} cannot be read: {error}"

    @property
    def state(self) -> str:
        """``finished``, ``failed``, or ``unfinished``."""
        if self.run.finished:
            return "finished"
        return "unfinished" if self.failure is None else "failed"

    def train(self, base: Recipe, **options: Any) -> None:
        """Train or resume it. Every failure is recorded. A finished or failed trial is not trained again.

        Args:
            base: the recipe that the settings change.
            options: options of `zoo.train` and `zoo.resume`.

        Raises:
            Interrupted: a signal stopped it.
            RunLocked: another process is training it.
        """
        if self.state != "unfinished":
            return
        try:
            if self.is_resumable:
                log.info("Resuming %s.", self.path)
                zoo.resume(self.run, **options)
            else:
                self.prepare()
                zoo.train(self.recipe(base), folder=self.path, **options)
        except (Interrupted, RunLocked):
            raise
        except Exception as error:
            self.fail(error)

    def recipe(self, base: Recipe) -> Recipe:
        """The recipe of the training, given the one that the settings change."""
        return zoo.recipe(base, self.settings if self.seed is None else {**self.settings, SEED: self.seed})

    @property
    def is_resumable(self) -> bool:
        """Whether it has a valid checkpoint."""
        return (self.path / "recipe.yaml").exists() and self.run.checkpoints.newest() is not None

    def prepare(self) -> None:
        """Create the folder with only the settings in it. A trial killed before its first checkpoint starts again."""
        if self.path.exists():
            shutil.rmtree(self.path)
        self.path.mkdir(parents=True)
        content = {"trial": self.number, "settings": dict(self.settings), "seed": self.seed}
        with zoo.atomic_write(self.path / TRIAL) as file:
            file.write(zoo.write_yaml(content).encode())

    def fail(self, error: Exception) -> None:
        """Record why it failed.

        Raises:
            TrainingError: the folder cannot be written.
        """
        expected = isinstance(error, ZooError)
        reason = str(error) if expected else f"{type(error).__name__}: {error}"
        log.warning("%s failed: %s", self.path.name, reason)
        record = {
            "reason": reason,
            "error": type(error).__name__,
            "traceback": None if expected else traceback.format_exception(error),
        }
        try:
            with zoo.atomic_write(self.path / FAILURE) as file:
                file.write(zoo.to_json(record).encode())
        except OSError as failure:
            raise TrainingError(f"{self.path} could not be written: {failure}. The trial failed: {reason}") from error


def trials_in(folder: Path) -> Sequence[Trial]:
    """The trials in the folder of a sweep, by number and seed. A trial that cannot be read is reported and skipped."""
    trials = []
    for file in (folder / TRIALS).glob(f"*/{TRIAL}"):
        try:
            trials.append(Trial.open(file.parent))
        except RunError as error:
            log.warning("%s Skipping the trial.", error)
    return sorted(trials, key=lambda trial: (trial.number, trial.seed or 0))
