"""What trainings gave: the numbers of one, and mean and spread over the seeds of a setting."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from zoo import Epoch, Run, RunError
from zoo_sweep.axes import Settings, describe, show
from zoo_sweep.trial import Trial

TERMS = ("loss", "distortion", "rate")
"""Those that tables have a column for."""


@dataclass(frozen=True)
class Outcome:
    """What one training gave, in its best epoch, whose weights it keeps. Terms in nats per example.

    Attributes:
        run: the folder.
        seed: of the training, where several were trained.
        state: ``finished``, ``failed`` or ``unfinished``.
        reason: why it failed.
        epoch: the best epoch by ``train.monitor``.
        seconds: for all epochs.
        train, test: the terms of that epoch.
    """

    run: str
    seed: int | None = None
    state: str = "finished"
    reason: str | None = None
    epoch: int | None = None
    seconds: float | None = None
    train: Mapping[str, float] = field(default_factory=dict)
    test: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Outcome:
        """The outcome that a study remembers, where a number that is not finite is a string such as ``"NaN"``."""
        terms = {
            split: {name: float(value) for name, value in values[split].items()}
            for split in ("train", "test")
            if split in values
        }
        return cls(**{**values, **terms})

    @classmethod
    def of(cls, run: Run) -> Outcome:
        """That of a run that has at least an epoch."""
        epochs = run.epochs()
        if not epochs:
            raise RunError(f"{run.path} was stopped before its first epoch ended: there is nothing to show of it.")
        best = best_epoch(epochs, run.recipe.train.monitor)
        return cls(
            str(run),
            state="finished" if run.finished else "unfinished",
            epoch=best.epoch,
            seconds=round(sum(epoch.seconds for epoch in epochs), 3),
            train={name: value for name, value in best.train.items() if name in best.test},
            test=best.test,
        )

    @classmethod
    def of_trial(cls, trial: Trial) -> Outcome:
        """That of a trial, whatever became of it."""
        if trial.state == "finished":
            return cls(**{**asdict(cls.of(trial.run)), "seed": trial.seed})
        return cls(str(trial.path), trial.seed, trial.state, trial.failure)


def best_epoch(epochs: Sequence[Epoch], select: str) -> Epoch:
    """The epoch whose weights a run keeps: the first with the least value of the term that selects."""
    return min(epochs, key=lambda epoch: _last_if_nan(epoch.test[select]))


def _last_if_nan(value: float) -> float:
    return math.inf if math.isnan(value) else value


@dataclass(frozen=True)
class Row:
    """All trainings of one setting: one, or one for each seed.

    Attributes:
        number: of the trial, counted from 1.
        settings: what is swept, and the values here.
        outcomes: of the trainings.
        machine: where they ran, if not here.
    """

    number: int
    settings: Settings
    outcomes: Sequence[Outcome]
    machine: str | None = None

    @property
    def finished(self) -> list[Outcome]:
        """The outcomes that came to their end."""
        return [outcome for outcome in self.outcomes if outcome.state == "finished"]

    @property
    def state(self) -> str:
        """That of the worst: ``failed`` before ``unfinished`` before ``finished``."""
        states = {outcome.state for outcome in self.outcomes}
        return next((state for state in ("failed", "unfinished") if state in states), "finished")

    @property
    def reasons(self) -> list[str]:
        """Why trainings failed."""
        return [outcome.reason for outcome in self.outcomes if outcome.reason]

    def spread(self, number: Callable[[Outcome], float | None]) -> tuple[float | None, float | None]:
        """Mean and standard deviation (n - 1 in the denominator) of a number over the finished trainings.

        The first is None where none has the number, the second where fewer than two have. Of numbers that are not
        finite, the second is NaN.
        """
        values = [value for outcome in self.finished if (value := number(outcome)) is not None]
        if not all(map(math.isfinite, values)):  # which the module statistics cannot take
            return sum(values) / len(values), math.nan if len(values) > 1 else None
        return (
            statistics.fmean(values) if values else None,
            statistics.stdev(values) if len(values) > 1 else None,
        )

    def to_json(self) -> dict[str, Any]:
        """The row as plain values."""
        summary: dict[str, dict[str, Any]] = {"mean": {}, "sd": {}}
        for split in ("train", "test"):
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
    """What a sweep has given so far.

    Attributes:
        sweep: its folder.
        model: the model.
        data: the data set, where it is the same for all.
        select: the test term that is to be small.
        rows: one for each setting, by number.
    """

    sweep: str
    model: str
    data: str | None
    select: str
    rows: Sequence[Row]

    @property
    def best(self) -> Row | None:
        """The finished setting with the least mean of the term that selects."""
        candidates = [row for row in self.rows if row.state == "finished"]
        return min(candidates, key=self.score, default=None)

    def score(self, row: Row) -> float:
        """What the best has least of; infinite where nothing is finished."""
        mean, _ = row.spread(lambda outcome: outcome.test.get(self.select))
        return math.inf if mean is None else mean

    def to_json(self) -> dict[str, Any]:
        """What ``zoo sweep --json`` prints."""
        best = self.best
        return {
            "sweep": self.sweep,
            "model": self.model,
            "data": self.data,
            "select": self.select,
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
    """The rows of trials that lie in a folder."""
    rows: dict[int, list[Trial]] = {}
    for trial in trials:
        rows.setdefault(trial.number, []).append(trial)
    return [
        Row(number, members[0].settings, [Outcome.of_trial(trial) for trial in members])
        for number, members in sorted(rows.items())
    ]


def label(row: Row, axes: Sequence[str]) -> str:
    """A setting in as few words as tell it from the others."""
    if len(axes) == 1:
        return describe(row.settings).partition("=")[2]
    return describe(row.settings)


def table(results: Results, axes: Sequence[str], longest_note: int | None = None) -> tuple[list[str], list[list[str]]]:
    """What a sweep gave, as text: a header and a row for each setting.

    Trial, what is swept, then numbers, mean and spread where there are several seeds, of each run's best epoch; last,
    where anybody has one, a note: why a training failed, or that it is not finished.

    Args:
        axes: what is swept.
        longest_note: letters of a reason; a longer one is cut.
    """
    terms = tuple(dict.fromkeys((*TERMS, results.select)))
    header = ["trial", *axes, "train loss", *(f"test {term}" for term in terms), "epoch", "seconds", "note"]
    rows = [_cells(row, axes, terms, longest_note) for row in results.rows]
    if all(row[-1] == "" for row in rows):
        return header[:-1], [row[:-1] for row in rows]
    return header, rows


def _cells(row: Row, axes: Sequence[str], terms: Sequence[str], longest_note: int | None) -> list[str]:
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
        cell(lambda outcome: outcome.train.get("loss")),
        *(cell(lambda outcome, t=term: outcome.test.get(t)) for term in terms),  # type: ignore[misc]
        "-".join(dict.fromkeys([epochs[0], epochs[-1]])) if epochs else "-",
        cell(lambda outcome: outcome.seconds, 1),
        prefix + "; ".join(dict.fromkeys(notes)),
    ]
