"""Precision: networks run in the dtype of their parameters, densities in float32 or higher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn


def at_least_float32(values: Tensor) -> Tensor:
    """Cast bfloat16 and float16 to float32; leave float32 and float64 as they are.

    >>> at_least_float32(torch.ones(1, dtype=torch.bfloat16)).dtype, at_least_float32(torch.ones(1).double()).dtype
    (torch.float32, torch.float64)
    """
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def match_dtype(values: Tensor, module: nn.Module) -> Tensor:
    """Cast floating-point values to the dtype of the first floating-point parameter of `module`.

    >>> match_dtype(torch.ones(2), torch.nn.Linear(2, 1).bfloat16()).dtype
    torch.bfloat16
    """
    for parameter in module.parameters():
        if parameter.is_floating_point() and values.is_floating_point():
            return values.to(parameter.dtype)
    return values


class KeepsFloat32(nn.Module):
    """A module that stays in float32 when the model is cast to a lower precision, such as one that defines a density.

    ``model.to(torch.bfloat16)`` and ``model.half()`` do not cast it; its input must be in float32 too
    (`at_least_float32`). ``model.double()`` casts it like any other module.

    >>> class Scale(KeepsFloat32):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.scale = torch.nn.Parameter(torch.tensor(0.1))
    >>> Scale().bfloat16().scale
    Parameter containing:
    tensor(0.1000, requires_grad=True)
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Apply `fn`, which moves or casts, to every tensor of this module and its submodules."""

        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            low = moved.is_floating_point() and moved.dtype.itemsize < torch.float32.itemsize
            return tensor.to(moved.device) if low else moved

        return super()._apply(move, recurse)  # type: ignore[no-untyped-call, no-any-return]
