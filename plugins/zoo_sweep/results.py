"""Results of a sweep: the outcome of a training, and the mean and spread over the seeds of a setting."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from zoo import Run, RunError, best_epoch
from zoo_sweep.axes import Settings, describe, show
from zoo_sweep.trial import Trial

TERMS = ("loss", "distortion", "rate")
"""Terms with a column in tables."""
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Outcome:
    """The outcome of one training, in its best epoch.

    Attributes:
        run: the run folder.
        seed: of the training, if the sweep trains several seeds.
        state: ``finished``, ``failed`` or ``unfinished``.
        reason: why it failed.
        epoch: the best epoch by ``train.monitor``, whose weights the run keeps.
        seconds: duration of all epochs.
        train, validation, test: the terms of the best epoch, in nats per example.
    """

    run: str
    seed: int | None = None
    state: str = "finished"
    reason: str | None = None
    epoch: int | None = None
    seconds: float | None = None
    train: Mapping[str, float] = field(default_factory=dict)
    validation: Mapping[str, float] = field(default_factory=dict)
    test: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Outcome:
        """Read an outcome from a study, where numbers that are not finite are strings such as ``"NaN"``."""
        terms = {
            split: {name: float(value) for name, value in values[split].items()} for split in SPLITS if split in values
        }
        return cls(**{**values, **terms})

    @classmethod
    def of(cls, run: Run) -> Outcome:
        """The outcome of a run.

        Raises:
            RunError: it has no finished epoch.
        """
        epochs = run.epochs()
        if not epochs:
            raise RunError(f"{run.path} has no finished epoch, and therefore no results.")
        best = best_epoch(epochs, run.recipe.train.monitor)
        return cls(
            str(run),
            state="finished" if run.finished else "unfinished",
            epoch=best.epoch,
            seconds=round(sum(epoch.seconds for epoch in epochs), 3),
            train={name: value for name, value in best.train.items() if name in best.test},
            validation=best.validation,
            test=best.test,
        )

    @classmethod
    def of_trial(cls, trial: Trial) -> Outcome:
        """The outcome of a trial in any state."""
        if trial.state == "finished":
            return cls(**{**asdict(cls.of(trial.run)), "seed": trial.seed})
        return cls(str(trial.path), trial.seed, trial.state, trial.failure)


@dataclass(frozen=True)
class Row:
    """All trainings of one setting: one, or one for each seed.

    Attributes:
        number: of the trial, counted from 1.
        settings: the swept keys and their values.
        outcomes: of the trainings.
        machine: the machine that trained them; None for this one.
    """

    number: int
    settings: Settings
    outcomes: Sequence[Outcome]
    machine: str | None = None

    @property
    def finished(self) -> list[Outcome]:
        """The outcomes of finished trainings."""
        return [outcome for outcome in self.outcomes if outcome.state == "finished"]

    @property
    def state(self) -> str:
        """The worst state: ``failed``, then ``unfinished``, then ``finished``."""
        states = {outcome.state for outcome in self.outcomes}
        return next((state for state in ("failed", "unfinished") if state in states), "finished")

    @property
    def reasons(self) -> list[str]:
        """The reasons of failed trainings."""
        return [outcome.reason for outcome in self.outcomes if outcome.reason]

    def spread(self, number: Callable[[Outcome], float | None]) -> tuple[float | None, float | None]:
        """Mean and standard deviation (with n - 1 in the denominator) of a number over the finished trainings.

        The mean is None without a value, the standard deviation with fewer than two. It is NaN if a value is not
        finite.
        """
        values = [value for outcome in self.finished if (value := number(outcome)) is not None]
        if not all(map(math.isfinite, values)):  # not supported by the module statistics
            return sum(values) / len(values), math.nan if len(values) > 1 else None
        return (
            statistics.fmean(values) if values else None,
            statistics.stdev(values) if len(values) > 1 else None,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain mappings and lists."""
        summary: dict[str, dict[str, Any]] = {"mean": {}, "sd": {}}
        for split in SPLITS:
            terms = dict.fromkeys(term for outcome in self.finished for term in getattr(outcome, split))
            spreads = {term: self.spread(lambda o, s=split, t=term: getattr(o, s).get(t)) for term in terms}  # type: ignore[misc]
            summary["mean"][split] = {term: mean for term, (mean, _) in spreads.items()}
            summary["sd"][split] = {term: sd for term, (_, sd) in spreads.items()}
        summary["mean"]["seconds"], summary["sd"]["seconds"] = self.spread(lambda outcome: outcome.seconds)
        return {
            "trial": self.number,
            "settings": dict(self.settings),
            "state": self.state,
            **summary,
            "runs": [asdict(outcome) for outcome in self.outcomes],
            **({} if self.machine is None else {"machine": self.machine}),
        }


@dataclass(frozen=True)
class Results:
    """The results of a sweep so far.

    Attributes:
        sweep: its folder.
        model: the name of the recipe.
        data: the data set; None if it is swept.
        monitor: the validation term that the best setting minimizes.
        rows: one for each setting, by number.
    """

    sweep: str
    model: str
    data: str | None
    monitor: str
    rows: Sequence[Row]

    @property
    def best(self) -> Row | None:
        """The finished setting with the lowest mean of the monitored term; None without a validation split."""
        candidates = [row for row in self.rows if row.state == "finished" and self.score(row) < math.inf]
        return min(candidates, key=self.score, default=None)

    def score(self, row: Row) -> float:
        """The mean of the monitored validation term; infinite without a finished training or a validation split."""
        mean, _ = row.spread(lambda outcome: outcome.validation.get(self.monitor))
        return math.inf if mean is None or math.isnan(mean) else mean

    def to_json(self) -> dict[str, Any]:
        """The output of ``zoo sweep --json``."""
        best = self.best
        return {
            "sweep": self.sweep,
            "model": self.model,
            "data": self.data,
            "monitor": self.monitor,
            "best": best
            and {
                "trial": best.number,
                "settings": dict(best.settings),
                "value": self.score(best),
                "run": best.outcomes[0].run,
            },
            "trials": [row.to_json() for row in self.rows],
        }


def group(trials: Sequence[Trial]) -> list[Row]:
    """Group trials by setting."""
    rows: dict[int, list[Trial]] = {}
    for trial in trials:
        rows.setdefault(trial.number, []).append(trial)
    return [
        Row(number, members[0].settings, [Outcome.of_trial(trial) for trial in members])
        for number, members in sorted(rows.items())
    ]


def label(row: Row, axes: Sequence[str]) -> str:
    """A short label that tells a setting from the others."""
    if len(axes) == 1:
        return describe(row.settings).partition("=")[2]
    return describe(row.settings)


def table(results: Results, axes: Sequence[str], longest_note: int | None = None) -> tuple[list[str], list[list[str]]]:
    """Format results as a header and a row of strings for each setting.

    The columns are the trial, the swept keys, the numbers of the best epoch (mean ± standard deviation over several
    seeds) and, if any row has one, a note: why a training failed, or that it is not finished.

    Args:
        results: the results.
        axes: the swept keys.
        longest_note: the number of characters after which a reason is cut.
    """
    terms = tuple(dict.fromkeys((*TERMS, results.monitor)))
    validated = any(outcome.validation for row in results.rows for outcome in row.outcomes)
    selecting = dict.fromkeys(("loss", results.monitor)) if validated else ()
    columns = [("train", "loss"), *(("validation", term) for term in selecting), *(("test", term) for term in terms)]
    header = ["trial", *axes, *map(" ".join, columns), "epoch", "seconds", "note"]
    rows = [_cells(row, axes, columns, longest_note) for row in results.rows]
    if all(row[-1] == "" for row in rows):
        return header[:-1], [row[:-1] for row in rows]
    return header, rows


def _cells(row: Row, axes: Sequence[str], columns: Sequence[tuple[str, str]], longest_note: int | None) -> list[str]:
    def cell(number: Callable[[Outcome], float | None], digits: int = 2) -> str:
        mean, sd = row.spread(number)
        if mean is None:
            return "-"
        return f"{mean:.{digits}f}" + ("" if sd is None else f" ± {sd:.{digits}f}")

    epochs = sorted({str(outcome.epoch) for outcome in row.finished}, key=int)
    notes = [
        reason if longest_note is None else textwrap.shorten(reason, longest_note, placeholder=" ...")
        for reason in row.reasons
    ] or ([row.state] if row.state != "finished" else [])
    if row.machine:
        notes.append(f"on {row.machine}")
    prefix = "failed: " if row.reasons else ""
    return [
        str(row.number),
        *(show(row.settings.get(key)) for key in axes),
        *(cell(lambda outcome, s=split, t=term: getattr(outcome, s).get(t)) for split, term in columns),  # type: ignore[misc]
        "-".join(dict.fromkeys([epochs[0], epochs[-1]])) if epochs else "-",
        cell(lambda outcome: outcome.seconds, 1),
        prefix + "; ".join(dict.fromkeys(notes)),
    ]
