"""The digits of scikit-learn: no download, small enough to train on in seconds."""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import PositiveInt

from zoo import Dataset, HoldOut, Split


def digits(repeat: PositiveInt = 1, validation: HoldOut = 0, seed: int = 0, whole: bool = False) -> Dataset:
    """1797 handwritten digits, 8x8 grey, in 17 levels (UCI, Optical Recognition of Handwritten Digits).

    Every fifth image is a test image: 1438 training and 359 test images.

    Args:
        repeat: passes over the training images per epoch. A recipe for MNIST expects 469 steps per epoch, not 12.
        validation: examples to hold out of the training split before it is repeated: a number, or a fraction.
        seed: determines which examples are held out.
        whole: ignore `repeat` and `validation`.
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    levels = torch.from_numpy(images).view(-1, 1, 8, 8)  # 0 to 16
    pixels = (levels * (255 / 16)).round().to(torch.uint8)
    targets = torch.from_numpy(labels).to(torch.int64)
    test = torch.arange(len(pixels)) % 5 == 4
    index = torch.arange(int((~test).sum()))
    dataset = Dataset(Split(pixels[~test], targets[~test], index=index), Split(pixels[test], targets[test]))
    if whole:
        return dataset
    if validation:
        dataset = dataset.hold_out(validation, seed)
    return replace(dataset, train=dataset.train.repeat(repeat))
