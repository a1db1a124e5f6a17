"""Verdicts: measured numbers beside the published ones."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import zoo
from zoo import RunError
from zoo_reproduce.rows import Quantity

VERDICT = "verdict.json"


@dataclass(frozen=True)
class Outcome:
    """A measured quantity and its target.

    Attributes:
        name, unit, split: of the quantity.
        protocol: of the measurement: number of examples, samples, binarization, seed of the evaluation.
        note: of the measurement.
        value: the mean over the seeds.
        error: the standard error of the mean over the seeds, or over the examples if there is one seed.
        error_over: ``seeds`` or ``examples``; empty without an error.
        by_seed: the value of each seed.
        target, target_error: the published value and its error.
        source: of the target.
        tolerance: the largest difference that counts as reproduced.
    """

    name: str
    unit: str
    split: str
    protocol: Mapping[str, Any]
    note: str
    value: float
    error: float | None
    error_over: str
    by_seed: Sequence[float]
    target: float
    target_error: float | None
    source: str
    tolerance: float

    @classmethod
    def of(
        cls, quantity: Quantity, measured: Sequence[Mapping[str, Any]], target: float, target_error: float | None
    ) -> Outcome:
        """Compare the measurements of all seeds with the target.

        Args:
            quantity: the quantity.
            measured: for each seed the ``value``, ``error``, ``protocol`` and ``note`` of its measurement.
            target, target_error: the published value.
        """
        values = [float(one["value"]) for one in measured]
        error, over = measured[0]["error"], "examples"
        if len(values) > 1:
            error, over = statistics.stdev(values) / math.sqrt(len(values)), "seeds"
        return cls(
            name=quantity.name,
            unit=quantity.unit,
            split=quantity.split,
            protocol=dict(measured[0]["protocol"]),
            note=str(measured[0]["note"]),
            value=statistics.fmean(values),
            error=error,
            error_over="" if error is None else over,
            by_seed=values,
            target=target,
            target_error=target_error,
            source=quantity.published.source,
            tolerance=quantity.tolerance,
        )

    @property
    def difference(self) -> float:
        """The measured value minus the target."""
        return self.value - self.target

    @property
    def reproduced(self) -> bool:
        """Whether the difference is within the tolerance, in either direction."""
        return abs(self.difference) <= self.tolerance

    def __str__(self) -> str:
        target = f"{self.target:.6g}" + ("" if self.target_error is None else f" ± {self.target_error:g}")
        verdict = "reproduced" if self.reproduced else "off"
        return (
            f"{self.name} {shown(self.value, self.error)} {self.unit}, published {target}: {verdict} "
            f"(difference {self.difference:+.3g}, tolerance {self.tolerance:g})"
        )


@dataclass(frozen=True)
class Verdict:
    """What became of a row.

    Attributes:
        row: its name.
        outcomes: of its quantities.
        seeds: of the runs.
        recipe: with the first seed, every default written out.
        environment: of the first run: versions, device, data with their digest.
        epochs: finished epochs of each run.
        seconds: of all trainings and evaluations: ``training`` and ``evaluation``.
        deviations: of the recipe from the protocol of the paper.
        finished: when it was written, ISO 8601.
    """

    row: str
    outcomes: Sequence[Outcome]
    seeds: Sequence[int]
    recipe: Mapping[str, Any]
    environment: Mapping[str, Any]
    epochs: Sequence[int]
    seconds: Mapping[str, float]
    deviations: Sequence[str]
    finished: str

    @property
    def reproduced(self) -> bool:
        """Whether every quantity is within its tolerance."""
        return all(outcome.reproduced for outcome in self.outcomes)

    def __str__(self) -> str:
        if self.reproduced:
            return "reproduced"
        return "; ".join(
            f"{outcome.name} off by {outcome.difference:+.3g} {outcome.unit}".rstrip()
            for outcome in self.outcomes
            if not outcome.reproduced
        )

    def to_json(self) -> dict[str, Any]:
        """As plain mappings and lists, with what follows from the numbers."""
        content = asdict(self)
        for written, outcome in zip(content["outcomes"], self.outcomes, strict=True):
            written.update(difference=outcome.difference, reproduced=outcome.reproduced)
        return {"verdict": "reproduced" if self.reproduced else "off", **content}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Verdict:
        """The verdict that `to_json` gave.

        Raises:
            KeyError, TypeError: it is something else.
        """
        derived = ("difference", "reproduced")
        outcomes = [
            Outcome(**{key: value for key, value in one.items() if key not in derived}) for one in content["outcomes"]
        ]
        fields = {key: value for key, value in content.items() if key not in ("verdict", "outcomes")}
        return cls(outcomes=outcomes, **fields)

    def save(self, folder: Path) -> None:
        """Write ``verdict.json`` in the folder of the row, atomically."""
        with zoo.atomic_write(folder / VERDICT) as file:
            file.write(zoo.to_json(self.to_json()).encode())

    @classmethod
    def load(cls, folder: Path) -> Verdict | None:
        """The last verdict in the folder of a row, if there is one.

        Raises:
            RunError: the file cannot be read.
        """
        path = folder / VERDICT
        try:
            return cls.from_json(json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(f"{path} cannot be read: {error}. Delete it and reproduce the row again.") from error


def shown(value: float, error: float | None) -> str:
    """A number with its error, as many digits as the error has.

    >>> shown(-93.8412, 0.3), shown(13.0, None)
    ('-93.84 ± 0.30', '13')
    """
    return zoo.Measurement("", value, error=error).shown
