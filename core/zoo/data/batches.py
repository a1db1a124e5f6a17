"""Batches of resident images: gathered on the device, in an order that is a function of (seed, epoch) alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from zoo.data.images import Images
from zoo.vae import Batch


class Batches:
    """The images of a split on a device, as batches of floats in [0, 1].

    Args:
        images: the split; moved to `device` once, as uint8.
        batch_size: images in a batch; the last one of an epoch may hold fewer.
        binarize: ``none``, ``threshold`` (at one half) or ``dynamic`` (a new draw each time, from torch's generator).
        device: where the batches are wanted.
    """

    def __init__(self, images: Images, batch_size: int, binarize: str = "none", device: torch.device | str = "cpu"):
        self.pixels = images.pixels.to(device)
        self.labels = None if images.labels is None else images.labels.to(device)
        self.batch_size = batch_size
        self.binarize = binarize

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.pixels) // self.batch_size)

    def sizes(self) -> Tensor:
        """The number of images in each batch of an epoch, float64."""
        sizes = torch.full((len(self),), self.batch_size, dtype=torch.float64)
        sizes[-1] = len(self.pixels) - self.batch_size * (len(self) - 1)
        return sizes

    def shuffled(self, seed: int, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch. The order is drawn on the CPU, so that it is the same on every device."""
        generator = torch.Generator().manual_seed(_mix(seed, epoch))
        order = torch.randperm(len(self.pixels), generator=generator).to(self.pixels.device)
        for start in range(0, len(order), self.batch_size):
            yield self[order[start : start + self.batch_size]]

    def in_order(self) -> Iterator[Batch]:
        """The batches in the order of the data."""
        for start in range(0, len(self.pixels), self.batch_size):
            yield self[torch.arange(start, min(start + self.batch_size, len(self.pixels)), device=self.pixels.device)]

    def __getitem__(self, index: Tensor) -> Batch:
        """The images at `index`, a tensor of int64 on the device."""
        x = self.pixels.index_select(0, index) / 255.0
        if self.binarize == "threshold":
            x = (x >= 0.5).to(x.dtype)
        elif self.binarize == "dynamic":
            x = torch.bernoulli(x)
        return Batch(x, None if self.labels is None else self.labels.index_select(0, index))


def _mix(seed: int, epoch: int) -> int:
    """One 63-bit seed out of two numbers, so that (0, 1) and (1, 0) give different orders."""
    return (seed * 0x9E3779B97F4A7C15 + epoch * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) % 2**63
