"""Small parts that components of several families are built from."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.model.parts import Scheduled


class WarmUp(nn.Module, Scheduled):
    """A weight or a target that rises linearly from 0 during the first epochs and then stays.

    Args:
        final: where it stays.
        epochs: until it is there; 0 makes it constant.

    >>> beta = WarmUp(4.0, epochs=10)
    >>> beta.schedule(step=0, epoch=2.5)
    >>> beta()
    tensor(1.)
    """

    value: Tensor

    def __init__(self, final: float, epochs: float) -> None:
        super().__init__()
        self.final = final
        self.epochs = epochs
        self.register_buffer("value", torch.tensor(float(final)))

    def schedule(self, step: int, epoch: float) -> None:
        """Set the value for an epoch, which may be a fraction."""
        if self.epochs > 0:
            self.value.fill_(self.final * min(1.0, epoch / self.epochs))

    def forward(self) -> Tensor:
        """The value now, a scalar."""
        return self.value


def merge_leading(network: nn.Module, z: Tensor, event_dims: int) -> Tensor:
    """Apply a network that takes one leading dimension, as convolutions do, to (K..., N, *event).

    >>> merge_leading(nn.Flatten(), torch.zeros(5, 4, 3, 2), event_dims=2).shape
    torch.Size([5, 4, 6])
    """
    leading = z.shape[: z.ndim - event_dims]
    y: Tensor = network(z.reshape(-1, *z.shape[len(leading) :]))
    return y.reshape(*leading, *y.shape[1:])


def halved_sizes(data_shape: tuple[int, int, int], times: int) -> list[tuple[int, int]]:
    """Height and width of images (C, H, W), and after each halving, in which n pixels become ceil(n / 2).

    >>> halved_sizes((1, 28, 21), 3)
    [(28, 21), (14, 11), (7, 6), (4, 3)]
    """
    _, height, width = data_shape
    sizes = [(height, width)]
    for _ in range(times):
        height, width = -(-height // 2), -(-width // 2)
        sizes.append((height, width))
    return sizes
