"""Validation and encoding of labels."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo import UsageError


def require_labels(classes: int) -> int:
    """Return the number of labels in the data.

    Raises:
        UsageError: the data have no labels.
    """
    if classes < 1:
        raise UsageError("A conditional model needs labels; these data have none.")
    return classes


def check_labels(condition: Tensor | None, classes: int) -> Tensor:
    """Return the labels (N,). Their range is checked on the CPU only, to avoid a device synchronisation.

    Raises:
        UsageError: there are no labels, or one is out of range.
    """
    if condition is None:
        raise UsageError(
            f"The model is conditional on labels from 0 to {classes - 1}, and none were given. Pass them as "
            "`condition`, or as --label on the command line."
        )
    if condition.device.type == "cpu" and not torch.compiler.is_compiling():
        invalid = condition[(condition < 0) | (condition >= classes)]
        if len(invalid):
            raise UsageError(f"The model has labels from 0 to {classes - 1}; got {int(invalid[0])}.")
    return condition


def one_hot(labels: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """Encode labels (...) as one-hot vectors (..., classes)."""
    return (labels.unsqueeze(-1) == torch.arange(classes, device=labels.device)).to(dtype)
