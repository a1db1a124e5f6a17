"""The record of a training: its terms by step and by epoch."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.model.loss import Terms
from zoo.training.distributed import Group
from zoo.training.failures import not_finite


@dataclass(frozen=True)
class Epoch:
    """The terms of an epoch.

    Attributes:
        epoch: its number, from 1.
        step: optimizer steps taken so far.
        seconds: duration of training and evaluation.
        train: terms averaged over the examples of the epoch, while the weights changed.
        test: terms on the test split at the end of the epoch.
        curve: values of each term at the steps that computed it.
        validation: terms on the validation split at the end of the epoch; empty if there is none.
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
        """The terms on ``validation``, if there is such a split, and ``test``."""
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


def packed(history: Sequence[Epoch]) -> dict[str, Any]:
    """Epochs as the state of a training. Every checkpoint contains every step so far, so the curves are one tensor."""
    curves = [values for epoch in history for values in epoch.curve.values()]
    lengths = [{name: len(values) for name, values in epoch.curve.items()} for epoch in history]
    epochs = [{**vars(epoch), "curve": curve} for epoch, curve in zip(history, lengths, strict=True)]
    values = np.fromiter(itertools.chain.from_iterable(curves), np.float64)
    return {"epochs": json.dumps(epochs), "curves": torch.from_numpy(values)}


def unpacked(state: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> list[Epoch]:
    """The epochs of `packed`. Older checkpoints have a list of epochs with their curves.

    >>> epochs = [Epoch(1, 3, 0.5, {"loss": 2.0}, {"loss": math.inf}, {"loss": [0.1 + 0.2, 3.0, 1e-300], "rate": []})]
    >>> unpacked(packed(epochs)) == epochs
    True
    >>> unpacked([vars(epoch) for epoch in epochs]) == epochs
    True
    """
    if not isinstance(state, Mapping):
        return [Epoch(**epoch) for epoch in state]
    values = iter(state["curves"].tolist())

    def curves(lengths: Mapping[str, int]) -> dict[str, list[float]]:
        return {name: list(itertools.islice(values, length)) for name, length in lengths.items()}

    return [Epoch(**{**epoch, "curve": curves(epoch["curve"])}) for epoch in json.loads(state["epochs"])]


def best_epoch(history: Sequence[Epoch], monitor: str) -> Epoch:
    """The epoch with the least value of a validation term; the last epoch if there is no validation split.

    Args:
        history: at least one epoch.
        monitor: the term.
    """
    scored = [epoch for epoch in history if math.isfinite(epoch.validation.get(monitor, math.nan))]
    return min(scored, key=lambda epoch: epoch.validation[monitor]) if scored else history[-1]


class Record:
    """The terms of each step of an epoch. They stay on the device, so that steps need not be synchronized."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._names: list[tuple[str, ...]] = []
        self._rows: list[Tensor] = []
        self._sizes: list[int] = []

    def add(self, terms: Terms, batch_size: int) -> None:
        """Add the terms of a step, averaged over `batch_size` examples."""
        self._names.append(tuple(terms))
        self._rows.append(torch.stack(list(terms.values())))
        self._sizes.append(batch_size)

    def curve(self, group: Group) -> dict[str, Tensor]:
        """The values of each term at the steps that computed it, over all processes, in float64 on the CPU.

        Raises:
            TrainingError: a value is NaN or infinite.
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
        """Average each term over examples."""
        means = {}
        for name, values in curve.items():
            sizes = [size for names, size in zip(self._names, self._sizes, strict=True) if name in names]
            weights = torch.tensor(sizes, dtype=torch.float64)
            means[name] = float(values @ weights / weights.sum())
        return means

    def state_dict(self, group: Group) -> dict[str, Any]:
        """The record so far, over all processes."""
        self.curve(group)  # raises if a value is not finite
        rows = list(self._summed(group))
        return {"names": [list(n) for n in self._names], "rows": rows, "images": self._sizes, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any], group: Group) -> None:
        """Load the result of `state_dict`. With several processes, rank 0 has the sums and the others have zeros."""
        self.seconds = state["seconds"]
        self._names = [tuple(names) for names in state["names"]]
        self._rows = [row if group.is_rank_zero else torch.zeros_like(row) for row in state["rows"]]
        self._sizes = list(state["images"])

    def _summed(self, group: Group) -> Sequence[Tensor]:
        """The rows on the CPU, summed over the processes."""
        if not self._rows:
            return []
        sizes = [len(row) for row in self._rows]
        flat = torch.cat([row.to(self._rows[-1].device) for row in self._rows])
        group.all_reduce_sum([flat])
        return torch.split(flat.cpu(), sizes)
