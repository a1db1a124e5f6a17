"""The optimisers and the learning-rate schedules of torch, by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch

from zoo.errors import UnknownName, did_you_mean

# What they need cannot be written in a recipe: functions, or other schedules.
_NOT_IN_A_RECIPE = {"LRScheduler", "LambdaLR", "MultiplicativeLR", "SequentialLR", "ChainedScheduler"}

_UNSUPPORTED = {
    "lbfgs": "it evaluates the loss several times in a step",
    "muon": "it takes matrices alone, and models have vectors too, such as biases",
    "sparseadam": "it takes sparse gradients alone",
}
"""Optimisers that torch has and that no recipe can use, and why."""


def optimizers() -> dict[str, Callable[..., Any]]:
    """Every optimiser of `torch.optim` that a recipe can use, by its name in lower case."""
    return {
        name.lower(): value
        for name, value in vars(torch.optim).items()
        if isinstance(value, type)
        and issubclass(value, torch.optim.Optimizer)
        and value is not torch.optim.Optimizer
        and name.lower() not in _UNSUPPORTED
    }


def schedules() -> dict[str, Callable[..., Any]]:
    """Every schedule of `torch.optim.lr_scheduler`, such as ``cosine-annealing`` for ``CosineAnnealingLR``."""
    module = torch.optim.lr_scheduler
    return {
        _kebab(name): value
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, module.LRScheduler)
        and name.lstrip("_") not in _NOT_IN_A_RECIPE
    }


def find_optim(kind: str, name: str) -> Callable[..., Any]:
    """The optimiser or the schedule called `name`.

    Raises:
        UnknownName: torch has none of that name.
    """
    known = optimizers() if kind == "optimizer" else schedules()
    if kind == "optimizer" and name in _UNSUPPORTED:
        raise UnknownName(f"The {kind} {name!r} of torch cannot be used here: {_UNSUPPORTED[name]}.")
    if name not in known:
        raise UnknownName(
            f"There is no {kind} named {name!r}.{did_you_mean(name, known)} There are: {', '.join(sorted(known))}."
        )
    return known[name]


def _kebab(name: str) -> str:
    """
    >>> _kebab("CosineAnnealingWarmRestarts"), _kebab("StepLR"), _kebab("ReduceLROnPlateau")
    ('cosine-annealing-warm-restarts', 'step', 'reduce-lr-on-plateau')
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name.removesuffix("LR")).lower()
