"""The record of a training: step by step on the device, epoch by epoch for the reader."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from zoo.model.loss import Terms
from zoo.training.distributed import Group
from zoo.training.step import not_finite


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave.

    Attributes:
        epoch: counted from 1.
        step: optimiser steps taken so far.
        seconds: for training and for testing together.
        train: terms averaged over the images of the epoch, while the weights changed.
        test: terms on the test split, at the epoch's end.
        curve: every term at every step of the epoch in which it was computed.
        validation: terms on the validation split, at the epoch's end; empty without one.
    """

    epoch: int
    step: int
    seconds: float
    train: dict[str, float]
    test: dict[str, float]
    curve: dict[str, list[float]] = field(repr=False)
    validation: dict[str, float] = field(default_factory=dict)

    @property
    def held_out(self) -> dict[str, dict[str, float]]:
        """The terms on the data that the model was not trained on: ``validation``, where there is such a split, and
        ``test``."""
        return {**({"validation": self.validation} if self.validation else {}), "test": self.test}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Epoch:
        """The epoch in a line of ``metrics.jsonl``, where a number that is not finite is a string such as ``"NaN"``.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: it is something else.
        """
        return cls(
            epoch=int(values["epoch"]),
            step=int(values["step"]),
            seconds=float(values["seconds"]),
            train={name: float(value) for name, value in values["train"].items()},
            test={name: float(value) for name, value in values["test"].items()},
            curve={name: [float(value) for value in curve] for name, curve in values["curve"].items()},
            validation={name: float(value) for name, value in values.get("validation", {}).items()},
        )


def best_epoch(history: Sequence[Epoch], monitor: str) -> Epoch:
    """The epoch with the least value of a validation term; the last epoch where there is no validation split.

    Args:
        history: at least one epoch.
        monitor: the term.
    """
    scored = [epoch for epoch in history if math.isfinite(epoch.validation.get(monitor, math.nan))]
    return min(scored, key=lambda epoch: epoch.validation[monitor]) if scored else history[-1]


class Record:
    """The terms of each step of an epoch, kept on the device so that nobody waits for it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._names: list[tuple[str, ...]] = []
        self._rows: list[Tensor] = []
        self._images: list[int] = []

    def add(self, terms: Terms, images: int) -> None:
        """Note the terms of a step, and how many images they are the mean of."""
        self._names.append(tuple(terms))
        self._rows.append(torch.stack(list(terms.values())))
        self._images.append(images)

    def curve(self, group: Group) -> dict[str, Tensor]:
        """Every term at each step that had it, over all processes; float64 on the CPU. Here the device is waited for.

        Raises:
            TrainingError: one is NaN or infinite.
        """
        curve: dict[str, list[float]] = {}
        for names, row in zip(self._names, self._summed(group), strict=True):
            for name, value in zip(names, row.tolist(), strict=True):
                curve.setdefault(name, []).append(value)
        for name, values in curve.items():
            bad = next((value for value in values if not math.isfinite(value)), None)
            if bad is not None:
                raise not_finite(name, bad)
        return {name: torch.tensor(values, dtype=torch.float64) for name, values in curve.items()}

    def mean(self, curve: dict[str, Tensor]) -> dict[str, float]:
        """Each term averaged over images: a short last batch counts for what it holds."""
        means = {}
        for name, values in curve.items():
            counts = [n for names, n in zip(self._names, self._images, strict=True) if name in names]
            weights = torch.tensor(counts, dtype=torch.float64)
            means[name] = float(values @ weights / weights.sum())
        return means

    def state_dict(self, group: Group) -> dict[str, Any]:
        """The record so far, over all processes."""
        self.curve(group)  # which refuses a NaN
        rows = list(self._summed(group))
        return {"names": [list(n) for n in self._names], "rows": rows, "images": self._images, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any], group: Group) -> None:
        """Take up what `state_dict` gave. With several processes the first keeps the sums, the others start from 0."""
        self.seconds = state["seconds"]
        self._names = [tuple(names) for names in state["names"]]
        self._rows = [row if group.is_rank_zero else torch.zeros_like(row) for row in state["rows"]]
        self._images = list(state["images"])

    def _summed(self, group: Group) -> Sequence[Tensor]:
        """The rows on the CPU, summed over the processes."""
        if not self._rows:
            return []
        sizes = [len(row) for row in self._rows]
        flat = torch.cat([row.to(self._rows[-1].device) for row in self._rows])
        group.all_reduce_sum([flat])
        return torch.split(flat.cpu(), sizes)
