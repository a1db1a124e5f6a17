"""The digits of scikit-learn: no download, small enough to train on in seconds."""

from __future__ import annotations

import torch
from pydantic import PositiveInt

from zoo import Dataset, Split


def digits(repeat: PositiveInt = 1) -> Dataset:
    """1797 handwritten digits, 8x8 grey, in 17 levels (UCI, Optical Recognition of Handwritten Digits).

    Every fifth image is a test image: 1438 training and 359 test images.

    Args:
        repeat: passes over the training images per epoch. A recipe for MNIST expects 469 steps per epoch, not 12.
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    levels = torch.from_numpy(images).view(-1, 1, 8, 8)  # 0 to 16
    pixels = (levels * (255 / 16)).round().to(torch.uint8)
    targets = torch.from_numpy(labels).to(torch.int64)
    test = torch.arange(len(pixels)) % 5 == 4
    index = torch.arange(int((~test).sum())).repeat(repeat)
    return Dataset(
        train=Split(pixels[~test].repeat(repeat, 1, 1, 1), targets[~test].repeat(repeat), index=index),
        test=Split(pixels[test], targets[test]),
    )
