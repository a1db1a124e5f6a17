"""The optimisers of `torch.optim`, by name."""

from __future__ import annotations

from collections.abc import Callable

import torch

from zoo.errors import UnknownName, did_you_mean


def optimizers() -> dict[str, Callable[..., torch.optim.Optimizer]]:
    """Every optimiser of torch, by its name in lower case."""
    return {
        name.lower(): value
        for name, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and value is not torch.optim.Optimizer
    }


def optimizer_class(name: str) -> Callable[..., torch.optim.Optimizer]:
    """The optimiser called `name`.

    Raises:
        UnknownName: torch has none of that name.
    """
    known = optimizers()
    if name not in known:
        raise UnknownName(
            f"There is no optimizer named {name!r}.{did_you_mean(name, known)} There are: {', '.join(sorted(known))}."
        )
    return known[name]
