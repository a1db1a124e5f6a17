"""Batches of a split: gathered where the data lie, in an order that is a function of (seed, epoch) alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from zoo.data.dataset import Split
from zoo.errors import DataError
from zoo.model.batch import Batch
from zoo.model.context import derive_seed
from zoo.model.devices import HOSTS

# The stream of random numbers that the order of the data is drawn from.
ORDER = 1


class Loader:
    """The examples of a split, as float batches on a device; uint8 data are divided by 255, missing entries are 0.

    Args:
        split: the split.
        batch_size: images in a batch; the last one of an epoch may hold fewer.
        binarize: ``none``, ``threshold`` (at one half) or ``dynamic`` (a new draw each time, from torch's generator).
        device: of the batches.
        resident: whether the data move to `device` once, as they are stored; if not, they stay where they are and each
            batch moves. By default they move if they take at most half of the device's free memory. For the CPU nothing
            moves: data mapped from a file stay mapped.

    Raises:
        DataError: float data outside [0, 1] are to be binarised.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        binarize: str = "none",
        device: torch.device | str = "cpu",
        resident: bool | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.resident = _fits(split.x, self.device) if resident is None else resident
        home = self.device if self.resident else split.x.device
        self.x = split.x.to(home)
        self.labels = None if split.labels is None else split.labels.to(home)
        self.mask = None if split.mask is None else split.mask.to(home)
        self.batch_size = batch_size
        self.binarize = binarize
        if binarize != "none" and split.x.dtype != torch.uint8 and not _in_unit_interval(split):
            raise DataError(
                f"binarize={binarize} needs data in [0, 1], and these have other values. Set binarize=none."
            )

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return -(-len(self.x) // self.batch_size)

    def order(self, seed: int, epoch: int) -> Tensor:
        """The order of an epoch, int64 (N,). Drawn on the CPU, so that it is the same on every device."""
        generator = torch.Generator().manual_seed(derive_seed(seed, ORDER, epoch))
        return torch.randperm(len(self.x), generator=generator).to(self.x.device)

    def shuffled(self, seed: int, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """The indices of each batch of an epoch, from batch `start` on."""
        yield from torch.split(self.order(seed, epoch), self.batch_size)[start:]

    def in_order(self) -> Iterator[Batch]:
        """The batches in the order of the data."""
        for start in range(0, len(self.x), self.batch_size):
            yield self[torch.arange(start, min(start + self.batch_size, len(self.x)), device=self.x.device)]

    def __getitem__(self, index: Tensor) -> Batch:
        """The examples at `index`, a tensor of int64, best on the device where the data lie."""
        index = index.to(self.x.device)
        x = self._moved(self.x.index_select(0, index))
        x = x * (1 / 255) if x.dtype == torch.uint8 else x
        mask = None if self.mask is None else self._moved(self.mask.index_select(0, index))
        if mask is not None:
            x = x.masked_fill(~mask, 0.0)
        if self.binarize == "threshold":
            x = (x >= 0.5).to(x.dtype)
        elif self.binarize == "dynamic":
            x = torch.bernoulli(x)
        condition = None if self.labels is None else self._moved(self.labels.index_select(0, index))
        return Batch(x, condition, mask)

    def _moved(self, gathered: Tensor) -> Tensor:
        if self.resident:
            return gathered
        if self.device.type in ("cuda", "xpu"):
            gathered = gathered.pin_memory()  # without it the copy would wait for the steps before it
        return gathered.to(self.device, non_blocking=True)


def _in_unit_interval(split: Split) -> bool:
    return all(bool(((x[mask] >= 0) & (x[mask] <= 1)).all()) for x, mask in split.chunks())


def _fits(x: Tensor, device: torch.device) -> bool:
    """Whether half of the device's free memory is enough for the data."""
    if device.type in HOSTS:
        return True
    look = getattr(torch.get_device_module(device), "mem_get_info", None)
    return look is None or x.nbytes <= look(device)[0] / 2  # one that cannot tell shares the memory of the host
