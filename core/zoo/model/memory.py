"""Refuse models that do not fit into memory before their weights are written."""

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
"""Copies of the parameters that training needs: weights, gradients and the two moments of Adam."""
MOST_TENSORS = 5000
SMALLER = "Reduce latent_dim, or the layers of encoder and decoder."


def total_memory(device: torch.device) -> float:
    """The memory of a device in bytes; infinite if unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return float("inf")


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Limit the modules built inside the block to half of the machine's memory and `MOST_TENSORS` tensors.

    The hooks see a tensor after its allocation and before it is written, which is when it occupies memory.

    Raises:
        UsageError: a limit is exceeded.
    """
    limit = total_memory(torch.device("cpu")) / 2
    registered = tensors = 0

    def count(module: torch.nn.Module, name: str, tensor: Tensor | None) -> None:
        nonlocal registered, tensors
        registered += 0 if tensor is None else tensor.nbytes
        tensors += 1
        if tensors > MOST_TENSORS:
            raise UsageError(f"The model has more than {MOST_TENSORS:,} tensors of weights. Use fewer layers.")
        if registered > limit:
            raise UsageError(
                f"The model has more than {registered / 2**30:.1f} GiB of weights, but this machine has "
                f"{2 * limit / 2**30:.1f} GiB of memory. {SMALLER}"
            )

    with register_module_parameter_registration_hook(count), register_module_buffer_registration_hook(count):
        yield


def require_memory(parameters: Iterable[Tensor], device: torch.device) -> None:
    """Check that a device has enough memory to train parameters.

    Raises:
        UsageError: it has not.
    """
    required, total = TRAINED * sum(parameter.nbytes for parameter in parameters), total_memory(device)
    if required > total:
        raise UsageError(
            f"Training the model takes {required / 2**30:.1f} GiB for weights, gradients and optimizer state, "
            f"but {device} has {total / 2**30:.1f} GiB. {SMALLER}"
        )
