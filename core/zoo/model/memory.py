"""A model that is too large for this machine is refused before its weights are written."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from zoo.errors import UsageError

TRAINED = 4
"""Times that a training holds its parameters: weights, gradients and the two moments of Adam."""
MOST_TENSORS = 5000
SMALLER = "Make the model smaller: latent_dim, or the layers of encoder and decoder."


def total_memory(device: torch.device) -> float:
    """The bytes of memory that a device has; infinite where that is not known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return float("inf")


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Refuse modules that are made inside the block once they register more than half of the memory of this machine, or
    more tensors than any model has.

    The hooks see an allocated tensor before anything is written to it, which is when it begins to take memory.

    Raises:
        UsageError: they do.
    """
    limit = total_memory(torch.device("cpu")) / 2
    registered = tensors = 0

    def count(module: torch.nn.Module, name: str, tensor: Tensor | None) -> None:
        nonlocal registered, tensors
        registered += 0 if tensor is None else tensor.nbytes
        tensors += 1
        if tensors > MOST_TENSORS:
            raise UsageError(f"The model has more than {MOST_TENSORS:,} tensors of weights. Give it fewer layers.")
        if registered > limit:
            raise UsageError(
                f"The model has more than {registered / 2**30:.1f} GiB of weights, and this machine has "
                f"{2 * limit / 2**30:.1f} GiB of memory. {SMALLER}"
            )

    with register_module_parameter_registration_hook(count), register_module_buffer_registration_hook(count):
        yield


def require_memory(parameters: Iterable[Tensor], device: torch.device) -> None:
    """See that a device can hold what training some parameters takes.

    Raises:
        UsageError: it cannot.
    """
    needed, total = TRAINED * sum(parameter.nbytes for parameter in parameters), total_memory(device)
    if needed > total:
        raise UsageError(
            f"Training the model takes {needed / 2**30:.1f} GiB for weights, gradients and the state of the optimiser, "
            f"and {device} has {total / 2**30:.1f} GiB. {SMALLER}"
        )
