"""Data-parallel training: each process computes its share of every batch, and the sums are those of the whole batch.

``torchrun`` starts the processes and sets their ranks in the environment. With a single process everything here is a
no-op, so the trainer has one code path.
"""

from __future__ import annotations

import datetime
import functools
import importlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from zoo.errors import TrainingError, UsageError, ZooError, shortened

T = TypeVar("T")

TIMEOUT = 120
"""Default of ``ZOO_TIMEOUT``: seconds that a process waits for the others before it fails."""


def from_environment(variable: str, default: int, low: int = 0, high: int = 2**31 - 1) -> int:
    """The integer in an environment variable; `default` if it is not set or empty.

    Raises:
        UsageError: it is not an integer from `low` to `high`.
    """
    text = os.environ.get(variable, "").strip() or str(default)
    if not re.fullmatch("[0-9]{1,10}", text) or not low <= int(text) <= high:
        raise UsageError(
            f"The environment variable {variable} must be an integer from {low} to {high}, as torchrun sets it; got "
            f"{shortened(text)!r}. Without torchrun, unset it."
        )
    return int(text)


def world_size() -> int:
    """The number of processes that ``torchrun`` started together."""
    return from_environment("WORLD_SIZE", 1, low=1)


def is_rank_zero() -> bool:
    """Whether this process writes and prints."""
    return world_size() == 1 or from_environment("RANK", 0, high=world_size() - 1) == 0


@dataclass(frozen=True)
class Group:
    """The processes that train together.

    Attributes:
        rank: rank of this process; rank 0 writes the run.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, device: torch.device) -> Group:
        """Join the group that ``torchrun`` started, or return a group of this process only.

        Raises:
            UsageError: the environment is not that of ``torchrun``.
            TrainingError: the processes cannot connect.
        """
        size = world_size()
        if size == 1:
            return cls()
        missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
        if missing:
            raise UsageError(
                f"WORLD_SIZE is {size}, but {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set. "
                "Start the processes with torchrun, or unset WORLD_SIZE."
            )
        from_environment("RANK", 0, high=size - 1)
        from_environment("MASTER_PORT", 0, high=65535)
        timeout = datetime.timedelta(seconds=from_environment("ZOO_TIMEOUT", TIMEOUT, low=1, high=10**6))
        if not dist.is_initialized():
            # The default arguments of these modules refer to the group that exists when they are first imported, which
            # torch.optim does. That group would never be freed, and its threads might abort the process at exit.
            for module in ("torch.distributed.nn", "torch.distributed.optim"):
                importlib.import_module(module)
            try:
                backend = dist.Backend.default_device_backend_map.get(device.type, "gloo")
                dist.init_process_group(backend, timeout=timeout)
            except (RuntimeError, ValueError, TypeError, OSError) as error:
                raise TrainingError(f"The {size} processes could not connect: {error}") from error
        return cls(dist.get_rank(), dist.get_world_size())

    def leave(self) -> None:
        """Leave the group."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def share(self, parts: int) -> range:
        """The parts of a batch, numbered over all processes, that this process computes."""
        return range(self.rank * parts, (self.rank + 1) * parts)

    def all_reduce_sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes, in one collective call.

        Raises:
            TrainingError: another process has died.
        """
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        self._exchange(dist.all_reduce, flat)
        for tensor, summed in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
            tensor.copy_(summed.view_as(tensor))

    def all_reduce_max(self, number: int, device: torch.device) -> int:
        """The maximum of a number over the processes."""
        if self.size == 1:
            return number
        box = torch.tensor([int(number)], device=device)
        self._exchange(functools.partial(dist.all_reduce, op=dist.ReduceOp.MAX), box)
        return int(box.item())

    def on_rank_zero(self, function: Callable[[], T]) -> T:
        """Call a function on rank 0, and return its result or raise its error on every rank."""
        if self.size == 1:
            return function()
        outcome: list[Any] = [None, None]
        if self.is_rank_zero:
            try:
                outcome = [function(), None]
            except ZooError as error:
                outcome = [None, error]
        self._exchange(dist.broadcast_object_list, outcome)
        result, failure = outcome
        if failure is not None:
            raise failure
        return result  # type: ignore[no-any-return]

    def _exchange(self, operation: Any, value: Any) -> None:
        failure = None
        try:
            operation(value)
        except RuntimeError as error:
            failure = str(error).splitlines()[0]
        if failure is not None:  # outside the block, since torch's traceback would keep the group alive
            raise TrainingError(
                f"Process {self.rank} of {self.size} lost the connection to another one: {failure} "
                "The run can be resumed from its last checkpoint."
            )


def local_device(name: torch.device) -> torch.device:
    """The device of this process; with several devices, that of its local rank.

    Raises:
        UsageError: there are more processes than devices.
    """
    if name.type == "cpu" or name.index is not None:
        return name
    index = from_environment("LOCAL_RANK", 0)
    count = torch.accelerator.device_count()
    if index >= count:
        raise UsageError(f"There is no device for process {index}: this machine has {count} {name.type} devices.")
    torch.accelerator.set_device_index(index)
    return torch.device(name.type, index)
