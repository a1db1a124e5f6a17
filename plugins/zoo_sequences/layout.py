"""Event shapes as sequences, and maps of features as parameters of a likelihood."""

from __future__ import annotations

import math

from torch import Tensor

from zoo import ComponentError


def sequence_shape(data_shape: tuple[int, ...], component: str) -> tuple[int, int]:
    """Return an event shape as (C, L): C channels of L steps.

    A vector (L,) is one channel. Axes after the first are joined, so an image is read row by row, pixel by pixel.

    Args:
        data_shape: event shape of x.
        component: name of the component in the message, such as ``"encoder 'rnn'"``.

    Raises:
        ComponentError: the shape is empty.

    >>> sequence_shape((3, 50), "encoder 'rnn'"), sequence_shape((7,), "encoder 'rnn'")
    ((3, 50), (1, 7))
    >>> sequence_shape((1, 8, 8), "encoder 'rnn'")
    (1, 64)
    """
    if not data_shape:
        raise ComponentError(f"{component} needs sequences of shape (C, L) or (L,); data_shape is {data_shape}.")
    return (1, data_shape[0]) if len(data_shape) == 1 else (data_shape[0], math.prod(data_shape[1:]))


def as_parameters(maps: Tensor, count: int, data_shape: tuple[int, ...]) -> Tensor:
    """Reshape the output of a decoder to the parameters of its likelihood.

    Args:
        maps: (N, count * C, L), in which the `count` parameters of a channel are adjacent.
        count: parameters per entry.
        data_shape: event shape of x, which has C * L entries.

    Returns:
        (N, *data_shape, count).

    >>> import torch
    >>> as_parameters(torch.arange(4.0).view(1, 2, 2), 2, (1, 2))
    tensor([[[[0., 2.],
              [1., 3.]]]])
    """
    parameters = maps.reshape(maps.shape[0], maps.shape[1] // count, count, maps.shape[-1])
    return parameters.movedim(2, -1).reshape(maps.shape[0], *data_shape, count)
