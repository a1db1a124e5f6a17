"""Drawn shapes: every combination of five known factors, without a file to fetch."""

from __future__ import annotations

import math

import torch
from pydantic import PositiveInt
from torch import Tensor

from zoo import Dataset, Split

NAMES = ("shape", "scale", "rotation", "x", "y")
LABELS = ("ellipse", "rectangle", "triangle")
COUNTS = (3, 3, 8, 8, 8)
SIDE = 32
TEST = 922  # a fifth


def shapes(repeat: PositiveInt = 16) -> Dataset:
    """4608 white shapes on black, 32x32: one for each combination of shape (ellipse, rectangle, triangle), scale (3),
    rotation (8 steps of a sixteenth of a turn), x and y (8 steps each). The label is the shape.

    The images are in a random order that is always the same: the first 922 are test images, the others to train on.

    Args:
        repeat: how often an epoch goes through the training images; 16 times make about one of MNIST.
    """
    factors = torch.cartesian_prod(*(torch.arange(n) for n in COUNTS))
    factors = factors[torch.randperm(len(factors), generator=torch.Generator().manual_seed(0))]
    pixels = torch.cat([draw(some) for some in torch.split(factors, 512)])
    test, train = (
        Split(pixels[part].repeat(n, 1, 1, 1), factors[part, 0].repeat(n), factors=factors[part].repeat(n, 1))
        for part, n in ((slice(TEST), 1), (slice(TEST, None), repeat))
    )
    return Dataset(train=train, test=test, factor_names=NAMES, label_names=LABELS)


def draw(factors: Tensor) -> Tensor:
    """The images of some combinations, int64 (N, 5), as uint8 (N, 1, 32, 32), 0 or 255."""
    shape, scale, rotation, x, y = (values.double().view(-1, 1, 1) for values in factors.unbind(1))
    # No half turn: an ellipse and a rectangle come back to themselves with it.
    radius, angle = 4.5 + 1.5 * scale, rotation * (math.pi / COUNTS[2])
    place = torch.arange(SIDE, dtype=torch.float64) - (SIDE - 1) / 2
    across, down = place.view(1, 1, -1) - 2 * (x - 3.5), place.view(1, -1, 1) - 2 * (y - 3.5)
    u = (across * angle.cos() + down * angle.sin()) / radius
    v = (down * angle.cos() - across * angle.sin()) / radius
    ellipse = u.square() + (v / 0.5).square() <= 1
    rectangle = (u.abs() <= 0.9) & (v.abs() <= 0.4)
    triangle = (u >= -0.6) & (v.abs() <= 0.35 * (1 - u))
    white = torch.where(shape == 0, ellipse, torch.where(shape == 1, rectangle, triangle))
    return white.to(torch.uint8).mul(255).unsqueeze(1)
