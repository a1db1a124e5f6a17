"""The record of a training, epoch by epoch."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave.

    Attributes:
        epoch: counted from 1.
        step: optimiser steps taken so far.
        seconds: for training and for testing together.
        train: terms averaged over the epoch, while the weights changed.
        test: terms on the test set, at the epoch's end.
        curve: every term at every step of the epoch.
    """

    epoch: int
    step: int
    seconds: float
    train: dict[str, float]
    test: dict[str, float]
    curve: dict[str, list[float]] = field(repr=False)
