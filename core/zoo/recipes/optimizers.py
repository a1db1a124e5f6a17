"""The optimizers and learning-rate schedulers of torch, and two that it lacks, by class name without regard to case."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer, lr_scheduler

from zoo.errors import UnknownName, did_you_mean
from zoo.recipes.normalized import NormalizedAdam
from zoo.recipes.piecewise import PiecewiseConstantLR

UNSUPPORTED = {
    "LBFGS": "it evaluates the loss several times in a step",
    "Muon": "it accepts only matrices, and models have vectors too, such as biases",
    "SparseAdam": "it accepts only sparse gradients",
    **dict.fromkeys(("LambdaLR", "MultiplicativeLR"), "it takes functions, which a recipe cannot hold"),
    **dict.fromkeys(("SequentialLR", "ChainedScheduler"), "it takes other schedulers"),
}
"""Classes of torch that a recipe cannot use, and why."""


def optimizers() -> dict[str, Callable[..., Any]]:
    """The optimizers of `torch.optim` that a recipe can use, such as ``Adam``, and `NormalizedAdam`."""
    return {**_subclasses(torch.optim, Optimizer), "NormalizedAdam": NormalizedAdam}


def schedulers() -> dict[str, Callable[..., Any]]:
    """The schedulers of `torch.optim.lr_scheduler` that a recipe can use, such as ``CosineAnnealingLR``, and
    `PiecewiseConstantLR`."""
    return {**_subclasses(lr_scheduler, lr_scheduler.LRScheduler), "PiecewiseConstantLR": PiecewiseConstantLR}


def find_optim(kind: str, name: str) -> Callable[..., Any]:
    """The optimizer or scheduler with a name.

    >>> find_optim("optimizer", "adamw").__name__, find_optim("scheduler", "StepLR").__name__
    ('AdamW', 'StepLR')

    Raises:
        UnknownName: there is no such class in torch, or a recipe cannot use it.
    """
    classes = CLASSES[kind]()
    for unsupported, reason in UNSUPPORTED.items():
        if name.casefold() == unsupported.casefold():
            raise UnknownName(f"A recipe cannot use {unsupported} of torch: {reason}.")
    for key, value in classes.items():
        if name.casefold() == key.casefold():
            return value
    # Other libraries write hyphens and no LR: cosine-annealing.
    names = {key.casefold().removesuffix("lr"): key for key in classes}
    suggestion = did_you_mean(name.casefold().replace("-", "").replace("_", "").removesuffix("lr"), names)
    for key, title in names.items():
        suggestion = suggestion.replace(f"{key!r}", f"{title!r}")
    raise UnknownName(f"There is no {kind} named {name!r}.{suggestion} Available: {', '.join(sorted(classes))}.")


CLASSES = {"optimizer": optimizers, "scheduler": schedulers}
"""The classes of each kind that is not a component of a plugin."""


def _subclasses(module: Any, base: type) -> dict[str, Callable[..., Any]]:
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, base)
        and value is not base
        and not name.startswith("_")
        and name not in UNSUPPORTED
    }
