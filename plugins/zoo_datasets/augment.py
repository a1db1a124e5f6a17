"""Augmentation of training images: random changes that keep what an image shows.

The operations are pure functions of their input and of torch's generator, which the trainer seeds for each step, so
that a resumed training is bit-identical. They run on the device of the images, a batch at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

Augmentation = Literal["flip", "crop", "color"]
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the luma of ITU-R 601."""


def flip(x: Tensor) -> Tensor:
    """Mirror each image left to right with probability 1/2.

    Args:
        x: (N, C, H, W).
    """
    flipped = torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5
    return torch.where(flipped, x.flip(-1), x)


def crop(x: Tensor) -> Tensor:
    """Shift each image by up to an eighth of its height and width, uniformly. The edges are mirrored.

    Args:
        x: (N, C, H, W).
    """
    n, _, height, width = x.shape
    shifts = []
    for size in (height, width):
        reach = size // 8
        offset = torch.randint(0, 2 * reach + 1, (n, 1), device=x.device)
        shifts.append(offset + torch.arange(size, device=x.device))
    rows, columns = shifts
    padded = pad(x, (width // 8, width // 8, height // 8, height // 8), mode="reflect")
    example = torch.arange(n, device=x.device)[:, None, None]
    return padded[example, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def color(x: Tensor, strength: float = 0.2) -> Tensor:
    """Scale the brightness, the contrast and, of colour images, the saturation of each image.

    The factors are uniform in [1 - strength, 1 + strength]. The result is clipped to [0, 1].

    Args:
        x: (N, C, H, W) in [0, 1].
        strength: greatest relative change.
    """
    brightness, contrast, saturation = 1 + strength * (2 * torch.rand(3, len(x), 1, 1, 1, device=x.device) - 1)
    x = x * brightness
    x = torch.lerp(x.mean((1, 2, 3), keepdim=True), x, contrast)
    if x.shape[1] == len(LUMA):
        luma = (x * x.new_tensor(LUMA).view(-1, 1, 1)).sum(1, keepdim=True)
        x = torch.lerp(luma, x, saturation)
    return x.clamp(0, 1)


OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {"flip": flip, "crop": crop, "color": color}


def augmentation(names: Sequence[Augmentation]) -> Callable[[Tensor], Tensor] | None:
    """Compose operations, applied in the order of `names`; None for no operations.

    >>> augmentation([]) is None
    True
    >>> augmentation(["flip", "crop"])(torch.rand(8, 3, 32, 32)).shape
    torch.Size([8, 3, 32, 32])
    """
    if not names:
        return None

    def augment(x: Tensor) -> Tensor:
        for name in names:
            x = OPERATIONS[name](x)
        return x

    return augment
