"""Sweep folders on the command line, recognized without torch."""

from __future__ import annotations

import json
import math
import os
import statistics
from pathlib import Path
from typing import Any

import click
import yaml

from zoo import RunError, parse_yaml
from zoo.cli import RunFolder

PLAN, TRIALS, TRIAL = "sweep.yaml", "trials", "trial.yaml"


def is_sweep(path: object) -> bool:
    """Whether `path` is the folder of a sweep."""
    return isinstance(path, str | os.PathLike) and (Path(path) / PLAN).is_file()


def best_run(sweep: Path) -> Path:
    """Return the run of the best setting of a sweep. With several seeds, it is the run of the first seed.

    The best setting is that of `Results.best`, computed without torch.

    Raises:
        RunError: no trial is finished.
    """
    settings: dict[str, list[Path]] = {}
    for file in sorted((sweep / TRIALS).glob(f"*/{TRIAL}")):
        settings.setdefault(file.parent.name.partition("-seed-")[0], []).append(file.parent)
    finished = [runs for runs in settings.values() if all((run / "manifest.json").is_file() for run in runs)]
    if not finished:
        raise RunError(f"The sweep {sweep} has no finished trial.")
    return min(finished, key=lambda runs: statistics.fmean(map(_best_score, runs)))[0]


def _best_score(run: Path) -> float:
    try:
        (recipe,) = parse_yaml((run / "recipe.yaml").read_text("utf-8"))["models"].values()
        epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
        scores = [float(epoch["validation"][recipe["train"]["monitor"]]) for epoch in epochs if epoch["validation"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise RunError(f"The metrics of {run} cannot be read: {' '.join(str(error).split())}") from error
    if not scores:
        raise RunError(f"{run.parent.parent} has no best run: it was trained without a validation split. Choose a run.")
    return min((score for score in scores if not math.isnan(score)), default=math.inf)


class RunOrSweep(RunFolder):
    """The folder of a run, as `RUN`, or of a sweep."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check that the folder holds a run or a sweep."""
        return value if is_sweep(value) else super().convert(value, param, ctx)


class RunOrBest(RunFolder):
    """The folder of a run, as `RUN`, or of a sweep, which is replaced by its best run."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check that the folder holds a run."""
        return str(best_run(Path(value))) if is_sweep(value) else super().convert(value, param, ctx)


RUN_OR_SWEEP, RUN_OR_BEST = RunOrSweep(), RunOrBest()
