"""Several processes as one: each works through its share of every batch, and the sums are those of the whole.

The processes are started by ``torchrun``, which tells each its rank in the environment. Alone, everything here is a
no-op, so that the trainer has one path.
"""

from __future__ import annotations

import datetime
import functools
import importlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from zoo.errors import TrainingError, UsageError, ZooError

T = TypeVar("T")

TIMEOUT = datetime.timedelta(seconds=float(os.environ.get("ZOO_TIMEOUT", "120")))
"""How long a process waits for the others before it gives them up for dead."""


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
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        if not dist.is_initialized():
            # These have the group that exists when they are first imported, which torch.optim sees to, as a default
            # argument. It would never be freed, and its threads would abort the process at its end, now and then.
            for module in ("torch.distributed.nn", "torch.distributed.optim"):
                importlib.import_module(module)
            try:
                dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
            except (RuntimeError, ValueError) as error:
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
    """The device of this process: with CUDA, the card of its local rank.

    Raises:
        UsageError: there are more processes than cards.
    """
    if name.type != "cuda" or name.index is not None:
        return name
    index = int(os.environ.get("LOCAL_RANK", "0"))
    if index >= torch.cuda.device_count():
        raise UsageError(f"Process {index} has no card: there are {torch.cuda.device_count()} CUDA devices here.")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)
