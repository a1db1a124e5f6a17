"""Train and evaluate a row, and reach a verdict."""

from __future__ import annotations

import datetime
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zoo
from zoo import Recipe, Run, RunError
from zoo_reproduce.exact import EXACT
from zoo_reproduce.rows import Exact, Quantity, Row
from zoo_reproduce.verdict import Outcome, Verdict

log = logging.getLogger("zoo")

Measured = dict[str, Any]


@dataclass(frozen=True)
class Reproduction:
    """A row and the folder of its runs, evaluations and verdict.

    Attributes:
        row: the row.
        path: its folder: ``seed-N`` holds a run, ``seed-N.json`` its measurements, ``verdict.json`` the verdict.
        data_dir, device: as in `zoo.train`.
        progress: show the progress of trainings on stderr; by default on a terminal.
    """

    row: Row
    path: Path
    data_dir: Path | None = None
    device: str = "auto"
    progress: bool | None = None

    def train(self) -> list[Run]:
        """Train a run for each seed. A finished one is kept, an unfinished one is resumed.

        Raises:
            Interrupted: the training was stopped. Its state is saved.
            RunError: the folder holds a run of another recipe, or cannot be written.
            RecipeError: the recipe of the row is not valid.
        """
        return [self._trained(seed) for seed in self.row.seeds]

    def judge(
        self,
        runs: Sequence[Run],
        announce: Callable[[str], None] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Verdict:
        """Evaluate the runs, compare the numbers with the published ones, and write the verdict.

        Measurements of an earlier call are not repeated.

        Args:
            runs: those of `train`.
            announce, progress: as in `zoo.evaluate`.

        Raises:
            RunError: a measurement is not among those of its metric.
        """
        measured = [
            self._measured(seed, run, announce, progress) for seed, run in zip(self.row.seeds, runs, strict=True)
        ]
        epochs = [run.epochs() for run in runs]
        verdict = Verdict(
            row=self.row.name,
            outcomes=[
                Outcome.of(
                    quantity, [of_seed[_key(quantity)] for of_seed in measured], *self._target(quantity, runs[0])
                )
                for quantity in self.row.quantities
            ],
            seeds=list(self.row.seeds),
            recipe=runs[0].recipe.to_raw(),
            environment=runs[0].environment,
            epochs=[len(of_run) for of_run in epochs],
            seconds={
                "training": round(sum(epoch.seconds for of_run in epochs for epoch in of_run), 1),
                "evaluation": round(sum(one["seconds"] for of_seed in measured for one in of_seed.values()), 1),
            },
            deviations=list(self.row.deviations),
            finished=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        )
        verdict.save(self.path)
        return verdict

    def _trained(self, seed: int) -> Run:
        """The finished run of a seed."""
        recipe = self.row.checked_recipe(seed)
        run = Run(self.path / f"seed-{seed}")
        options: dict[str, Any] = {"data_dir": self.data_dir, "device": self.device, "progress": self.progress}
        options["figures"] = False
        if (run.path / "recipe.yaml").is_file():
            _require_recipe(run, recipe)
            if run.finished:
                return run
            if run.checkpoints.newest() is not None:
                log.info("Resuming %s.", run.path)
                return zoo.resume(run, **options)
        shutil.rmtree(run.path, ignore_errors=True)  # it was stopped before its first checkpoint
        run.path.parent.mkdir(parents=True, exist_ok=True)
        return zoo.train(recipe, folder=run.path, **options)

    def _measured(
        self,
        seed: int,
        run: Run,
        announce: Callable[[str], None] | None,
        progress: Callable[[int, int], None] | None,
    ) -> dict[str, Measured]:
        """The measurements of a run by their key, those of an earlier evaluation included."""
        path = self.path / f"seed-{seed}.json"
        content = _read(path)
        origin = run.environment["id"]
        measured: dict[str, Measured] = content["measured"] if content.get("run") == origin else {}
        for quantity in self.row.quantities:
            if _key(quantity) in measured:
                continue
            started = time.perf_counter()
            evaluation = zoo.evaluate(
                run,
                [quantity.metric],
                {quantity.metric: quantity.settings},
                split=quantity.split,
                limit=quantity.limit,
                prior="original",
                data_dir=self.data_dir,
                device=self.device,
                announce=announce,
                progress=progress,
            )
            seconds = time.perf_counter() - started
            for of_metric in evaluation.measurements.values():
                for one in of_metric:
                    key = _key(quantity.model_copy(update={"name": one.name}))
                    measured[key] = {
                        "value": one.value,
                        "error": one.error,
                        "protocol": {**evaluation.protocol, **one.protocol},
                        "note": one.note,
                        "seconds": round(seconds, 1),
                    }
                    seconds = 0.0
            if _key(quantity) not in measured:
                names = [one.name for of_metric in evaluation.measurements.values() for one in of_metric]
                raise RunError(
                    f"The metric {quantity.metric!r} measures {', '.join(names)}, not {quantity.name!r}, which the row "
                    f"{self.row.name!r} compares."
                )
            with zoo.atomic_write(path) as file:
                file.write(zoo.to_json({"run": origin, "measured": measured}).encode())
        return measured

    def _target(self, quantity: Quantity, run: Run) -> tuple[float, float | None]:
        """The published value and its error."""
        published = quantity.published
        if not isinstance(published, Exact):
            return published.value, published.error
        return EXACT[published.exact](run.loaded(self.data_dir).dataset, run.recipe, quantity.split), None


def _key(quantity: Quantity) -> str:
    """What a measurement depends on, in one line of JSON."""
    fields = {"name": quantity.name, "metric": quantity.metric, "settings": quantity.settings}
    return json.dumps({**fields, "split": quantity.split, "limit": quantity.limit}, sort_keys=True)


def _read(path: Path) -> Mapping[str, Any]:
    """The content of a file of measurements; nothing where it is absent or torn, since it can be measured again."""
    try:
        content = json.loads(path.read_bytes())
        return content if isinstance(content["measured"], dict) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _require_recipe(run: Run, recipe: Recipe) -> None:
    """Check that a run was trained with a recipe.

    Raises:
        RunError: it was trained with another one.
    """
    expected, trained = zoo.with_defaults(recipe).to_raw(), run.recipe.to_raw()
    ignored = ("data", "summary")  # of several data sets, the run has the one that was used
    differing = [key for key in expected if key not in ignored and expected[key] != trained.get(key)]
    if differing or run.recipe.data[0] not in zoo.with_defaults(recipe).data:
        raise RunError(
            f"{run.path} was trained with another recipe than that of the row; these keys differ: "
            f"{', '.join(differing) or 'data'}. Delete the folder, or choose another one with --out."
        )
