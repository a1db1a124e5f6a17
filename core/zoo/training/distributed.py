"""Several processes as one: each works through its share of every batch, and the sums are those of the whole.

The processes are started by ``torchrun``, which tells each its rank in the environment. Alone, everything here is a
no-op, so that the trainer has one path.
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
"""Seconds that a process waits for the others before it gives them up for dead, if ``ZOO_TIMEOUT`` does not say."""


def from_environment(variable: str, default: int, low: int = 0, high: int = 2**31 - 1) -> int:
    """The whole number that an environment variable holds; `default` where it is not set or empty.

    Raises:
        UsageError: it holds something else.
    """
    text = os.environ.get(variable, "").strip() or str(default)
    if not re.fullmatch("[0-9]{1,10}", text) or not low <= int(text) <= high:
        raise UsageError(
            f"The environment variable {variable} is {shortened(text)!r}, not a whole number from {low} to {high}, "
            "as torchrun sets it. Without torchrun, unset it."
        )
    return int(text)


def world_size() -> int:
    """The number of processes that ``torchrun`` started together."""
    return from_environment("WORLD_SIZE", 1, low=1)


def is_rank_zero() -> bool:
    """Whether this process is the one that writes and prints."""
    return world_size() == 1 or from_environment("RANK", 0, high=world_size() - 1) == 0


@dataclass(frozen=True)
class Group:
    """The processes that train together.

    Attributes:
        rank: of this process; 0 writes the run.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, device: torch.device) -> Group:
        """The group that ``torchrun`` started this process in, or one of its own.

        Raises:
            TrainingError: the others did not come.
        """
        size = world_size()
        if size == 1:
            return cls()
        absent = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
        if absent:
            raise UsageError(
                f"WORLD_SIZE is {size}, but {', '.join(absent)} {'is' if len(absent) == 1 else 'are'} not set. "
                "Start the processes with torchrun, or unset WORLD_SIZE."
            )
        from_environment("RANK", 0, high=size - 1)
        from_environment("MASTER_PORT", 0, high=65535)
        timeout = datetime.timedelta(seconds=from_environment("ZOO_TIMEOUT", TIMEOUT, low=1, high=10**6))
        if not dist.is_initialized():
            # These have the group that exists when they are first imported, which torch.optim sees to, as a default
            # argument. It would never be freed, and its threads would abort the process at its end, now and then.
            for module in ("torch.distributed.nn", "torch.distributed.optim"):
                importlib.import_module(module)
            try:
                backend = dist.Backend.default_device_backend_map.get(device.type, "gloo")
                dist.init_process_group(backend, timeout=timeout)
            except (RuntimeError, ValueError, TypeError, OSError) as error:
                raise TrainingError(f"The {size} processes could not find each other: {error}") from error
        return cls(dist.get_rank(), dist.get_world_size())

    def leave(self) -> None:
        """Part from the others."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def share(self, parts: int) -> range:
        """Which of a batch's parts, numbered over all processes, are worked through here."""
        return range(self.rank * parts, (self.rank + 1) * parts)

    def all_reduce_sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes, in one exchange.

        Raises:
            TrainingError: another process is gone.
        """
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        self._exchange(dist.all_reduce, flat)
        for tensor, summed in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
            tensor.copy_(summed.view_as(tensor))

    def all_reduce_max(self, number: int, device: torch.device) -> int:
        """The greatest of the numbers that the processes have."""
        if self.size == 1:
            return number
        box = torch.tensor([int(number)], device=device)
        self._exchange(functools.partial(dist.all_reduce, op=dist.ReduceOp.MAX), box)
        return int(box.item())

    def agree(self, value: Any) -> Any:
        """The value of process 0, everywhere."""
        if self.size == 1:
            return value
        box = [value]
        self._exchange(dist.broadcast_object_list, box)
        return box[0]

    def on_rank_zero(self, make: Callable[[], T]) -> T:
        """What the first process makes, everywhere; or what it raised."""
        if self.size == 1:
            return make()
        outcome: tuple[T | None, ZooError | None] = (None, None)
        if self.is_rank_zero:
            try:
                outcome = (make(), None)
            except ZooError as error:
                outcome = (None, error)
        made, failure = self.agree(outcome)
        if failure is not None:
            raise failure
        result: T = made
        return result

    def _exchange(self, operation: Any, value: Any) -> None:
        lost = None
        try:
            operation(value)
        except RuntimeError as error:
            lost = str(error).splitlines()[0]
        if lost is not None:  # out of the block, since torch's traceback would keep the group from being freed
            raise TrainingError(
                f"Process {self.rank} of {self.size} lost another one: {lost} "
                "The run can be resumed from its last checkpoint."
            )


def local_device(name: torch.device) -> torch.device:
    """The device of this process: of several cards, that of its local rank.

    Raises:
        UsageError: there are more processes than cards.
    """
    if name.type == "cpu" or name.index is not None:
        return name
    index = from_environment("LOCAL_RANK", 0)
    count = torch.accelerator.device_count()
    if index >= count:
        raise UsageError(f"Process {index} has no card: there are {count} {name.type} devices here.")
    torch.accelerator.set_device_index(index)
    return torch.device(name.type, index)
