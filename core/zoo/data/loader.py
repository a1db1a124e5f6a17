"""Batches of a split, in an order that depends only on the seed and the epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from zoo.data.dataset import Split
from zoo.errors import DataError
from zoo.model.batch import Batch, evaluation_batch_size
from zoo.model.context import derive_seed
from zoo.model.devices import HOSTS

ORDER = 1
"""The stream of random numbers for the order of the data."""


class Loader:
    """Float batches of a split on a device. uint8 data are divided by 255; missing entries are 0.

    Args:
        split: the split.
        batch_size: examples per batch; the last batch of an epoch may be smaller.
        binarize: ``none``, ``threshold`` (at one half) or ``dynamic`` (a new draw each time, from torch's generator).
        device: device of the batches.
        resident: move all data to `device` once, in the stored type, instead of each batch. By default, data that take
            at most half of the device's free memory are moved. On the CPU, data mapped from a file stay mapped.
        augment: applied to each batch of x before it is binarized; see `zoo.Dataset`.

    Raises:
        DataError: the data cannot be binarized, since values are outside [0, 1]; or they are to be augmented and have
            a mask.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        binarize: str = "none",
        device: torch.device | str = "cpu",
        resident: bool | None = None,
        augment: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.resident = _fits(split.x, self.device) if resident is None else resident
        storage = self.device if self.resident else split.x.device
        self.x = split.x.to(storage)
        self.labels = None if split.labels is None else split.labels.to(storage)
        self.mask = None if split.mask is None else split.mask.to(storage)
        self.batch_size = batch_size
        self.binarize = binarize
        self.augment = augment
        if augment is not None and split.mask is not None:
            raise DataError("Data with missing entries cannot be augmented: the mask would not follow.")
        if binarize != "none" and split.x.dtype != torch.uint8 and not _in_unit_interval(split):
            raise DataError(
                f"binarize={binarize} requires data in [0, 1], and these have other values. Set binarize=none."
            )

    @classmethod
    def for_evaluation(
        cls, split: Split, largest: int, binarize: str = "none", device: torch.device | str = "cpu"
    ) -> Loader:
        """Batches of `largest` examples, or of fewer if they are large; see `zoo.evaluation_batch_size`."""
        return cls(split, evaluation_batch_size(split.x.shape[1:], largest), binarize, device)

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return -(-len(self.x) // self.batch_size)

    def order(self, seed: int, epoch: int) -> Tensor:
        """The order of an epoch, int64 (N,). It is drawn on the CPU, so it is the same for every device."""
        generator = torch.Generator().manual_seed(derive_seed(seed, ORDER, epoch))
        return torch.randperm(len(self.x), generator=generator).to(self.x.device)

    def shuffled(self, seed: int, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """Yield the indices of each batch of an epoch, from batch `start`."""
        yield from torch.split(self.order(seed, epoch), self.batch_size)[start:]

    def in_order(self) -> Iterator[Batch]:
        """Yield the batches in the order of the data."""
        for start in range(0, len(self.x), self.batch_size):
            yield self[torch.arange(start, min(start + self.batch_size, len(self.x)), device=self.x.device)]

    def __getitem__(self, index: Tensor) -> Batch:
        """Return the examples at `index`, an int64 tensor, preferably on the device of the data."""
        index = index.to(self.x.device)
        x = self._moved(self.x.index_select(0, index))
        x = x * (1 / 255) if x.dtype == torch.uint8 else x
        mask = None if self.mask is None else self._moved(self.mask.index_select(0, index))
        if mask is not None:
            x = x.masked_fill(~mask, 0.0)
        if self.augment is not None:
            x = self.augment(x)
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
            gathered = gathered.pin_memory()  # otherwise the copy would wait for the previous steps
        return gathered.to(self.device, non_blocking=True)


def _in_unit_interval(split: Split) -> bool:
    return all(bool(((x[mask] >= 0) & (x[mask] <= 1)).all()) for x, mask in split.chunks())


def _fits(x: Tensor, device: torch.device) -> bool:
    """Whether the data take at most half of the device's free memory."""
    if device.type in HOSTS:
        return True
    mem_get_info = getattr(torch.get_device_module(device), "mem_get_info", None)
    return mem_get_info is None or x.nbytes <= mem_get_info(device)[0] / 2  # without it, the memory is the host's
