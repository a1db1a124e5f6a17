"""Loader of images: gathered where the images lie, in an order that is a function of (seed, epoch) alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from zoo.data.dataset import Split
from zoo.devices import HOSTS
from zoo.model.context import derive_seed
from zoo.model.vae import Batch

# The stream of random numbers that the order of the data is drawn from.
ORDER = 1


class Loader:
    """The images of a split, as batches of floats in [0, 1] on a device.

    Args:
        images: the split.
        batch_size: images in a batch; the last one of an epoch may hold fewer.
        binarize: ``none``, ``threshold`` (at one half) or ``dynamic`` (a new draw each time, from torch's generator).
        device: where the batches are wanted.
        resident: whether the images move to `device` once, as uint8; if not, they stay where they are and each batch
            moves. By default they move if they take at most half of the device's free memory. For the CPU nothing
            moves: images mapped from a file stay mapped.
    """

    def __init__(
        self,
        images: Split,
        batch_size: int,
        binarize: str = "none",
        device: torch.device | str = "cpu",
        resident: bool | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.resident = _fits(images.x, self.device) if resident is None else resident
        home = self.device if self.resident else images.x.device
        self.x = images.x.to(home)
        self.labels = None if images.labels is None else images.labels.to(home)
        self.batch_size = batch_size
        self.binarize = binarize

    def __len__(self) -> int:
        """Loader in an epoch."""
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
        """The images at `index`, a tensor of int64; where the images lie, if that is not to cost a copy."""
        index = index.to(self.x.device)
        x = self._moved(self.x.index_select(0, index)) * (1 / 255)
        if self.binarize == "threshold":
            x = (x >= 0.5).to(x.dtype)
        elif self.binarize == "dynamic":
            x = torch.bernoulli(x)
        return Batch(x, None if self.labels is None else self._moved(self.labels.index_select(0, index)))

    def _moved(self, gathered: Tensor) -> Tensor:
        if self.resident:
            return gathered
        if self.device.type != "cpu":
            gathered = gathered.pin_memory()  # without it the copy would wait for the steps before it
        return gathered.to(self.device, non_blocking=True)


def _fits(pixels: Tensor, device: torch.device) -> bool:
    """Whether half of the device's free memory is enough for the pixels."""
    if device.type in HOSTS:
        return True
    look = getattr(torch.get_device_module(device), "mem_get_info", None)
    return look is None or pixels.nbytes <= look(device)[0] / 2  # one that cannot tell shares the memory of the host
