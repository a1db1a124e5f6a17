"""A synthetic data set of shapes: every combination of five generative factors, with nothing to download."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from pydantic import PositiveInt
from torch import Tensor

from zoo import Dataset, HoldOut, Split

NAMES = ("shape", "scale", "rotation", "x", "y")
LABELS = ("ellipse", "rectangle", "triangle")
COUNTS = (3, 3, 8, 8, 8)
SIDE = 32
TEST = 922  # a fifth of the images


def shapes(repeat: PositiveInt = 16, validation: HoldOut = 0, seed: int = 0) -> Dataset:
    """4608 white shapes on black, 32x32, one for each combination of shape (ellipse, rectangle, triangle), scale (3),
    rotation (8 multiples of 22.5 degrees), x and y (8 each). The label is the shape.

    The images are in a fixed random order; the first 922 are the test split.

    Args:
        repeat: passes over the training images per epoch; with 16, an epoch is about as long as one of MNIST.
        validation: examples to hold out of the training split before it is repeated: a number, or a fraction.
        seed: determines which examples are held out.
    """
    factors = torch.cartesian_prod(*(torch.arange(n) for n in COUNTS))
    factors = factors[torch.randperm(len(factors), generator=torch.Generator().manual_seed(0))]
    pixels = torch.cat([draw(chunk) for chunk in torch.split(factors, 512)])
    test, train = (
        Split(pixels[rows], factors[rows, 0], factors=factors[rows]) for rows in (slice(TEST), slice(TEST, None))
    )
    dataset = Dataset(train, test, factor_names=NAMES, label_names=LABELS)
    if validation:
        dataset = dataset.hold_out(validation, seed)
    return replace(dataset, train=dataset.train.repeat(repeat))


def draw(factors: Tensor) -> Tensor:
    """Render combinations of factors, int64 (N, 5), as images uint8 (N, 1, 32, 32) with values 0 and 255."""
    shape, scale, rotation, x, y = (values.double().view(-1, 1, 1) for values in factors.unbind(1))
    # Rotations cover less than half a turn, which would map an ellipse and a rectangle onto themselves.
    radius, angle = 4.5 + 1.5 * scale, rotation * (math.pi / COUNTS[2])
    grid = torch.arange(SIDE, dtype=torch.float64) - (SIDE - 1) / 2
    dx, dy = grid.view(1, 1, -1) - 2 * (x - 3.5), grid.view(1, -1, 1) - 2 * (y - 3.5)
    u = (dx * angle.cos() + dy * angle.sin()) / radius
    v = (dy * angle.cos() - dx * angle.sin()) / radius
    ellipse = u.square() + (v / 0.5).square() <= 1
    rectangle = (u.abs() <= 0.9) & (v.abs() <= 0.4)
    triangle = (u >= -0.6) & (v.abs() <= 0.35 * (1 - u))
    white = torch.where(shape == 0, ellipse, torch.where(shape == 1, rectangle, triangle))
    return white.to(torch.uint8).mul(255).unsqueeze(1)
