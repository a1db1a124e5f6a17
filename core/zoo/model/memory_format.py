"""The memory format of convolutions, which changes the speed of a network and the rounding of its results."""

from __future__ import annotations

import torch
from torch import nn


def to_channels_last(module: nn.Module) -> None:
    """Store the weights of all 2-d convolutions in channels-last format.

    A convolution with such a weight returns its result in this format, whatever the format of its input, and the
    layers that act on single entries keep it. Shapes and strides of other tensors do not change.

    >>> conv = nn.Conv2d(3, 4, 5)
    >>> to_channels_last(nn.Sequential(conv))
    >>> conv.weight.shape, conv.weight.stride()
    (torch.Size([4, 3, 5, 5]), (75, 1, 15, 3))
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.to(memory_format=torch.channels_last)
