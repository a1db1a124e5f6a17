"""Wrappers that make any encoder or decoder conditional on a label."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from zoo import ComponentError, ComponentFactory, Conditional, Decoder, Encoder
from zoo_conditional.labels import check_labels, one_hot, require_labels


class ConditionalEncoder(Encoder, Conditional):
    """q(z | x, y): an encoder of x with an additional channel (entry of the first axis) that is learned for each
    label y.

    Args:
        data_shape: event shape of x.
        latent_dim: number of latent dimensions.
        classes: number of labels.
        encoder: any encoder; it is built with one more channel.

    Raises:
        UsageError: the data have no labels.
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_dim: int,
        classes: int,
        encoder: Callable[..., Encoder] = ComponentFactory("encoder", "mlp"),
    ) -> None:
        super().__init__()
        self.classes = require_labels(classes)
        channels, *size = data_shape
        self.maps = nn.Embedding(classes, math.prod(size))
        # About the scale of image pixels, so that neither dominates the other.
        nn.init.normal_(self.maps.weight, std=0.3)
        self.encoder = encoder(data_shape=(channels + 1, *size), latent_dim=latent_dim, classes=classes)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Distribution:
        """Map x (N, *data_shape) and labels (N,) to q(z | x, y).

        Raises:
            UsageError: there are no labels, or one is out of range.
        """
        labels = check_labels(condition, self.classes)
        maps = self.maps(labels).unflatten(-1, (1, *x.shape[2:])).to(x.dtype)
        q: Distribution = self.encoder(torch.cat([x, maps], dim=1), labels)
        return q


class ConditionalDecoder(Decoder, Conditional):
    """p(x | z, y): a decoder of the latent with the one-hot label y appended.

    Args:
        data_shape: event shape of x.
        latent_shape: event shape of the latent, (latent_dim,).
        classes: number of labels.
        decoder: any decoder; it is built with ``classes`` more latent dimensions.

    Raises:
        UsageError: the data have no labels.
        ComponentError: the latent is not a vector.
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_shape: tuple[int, ...],
        classes: int,
        decoder: Callable[..., Decoder] = ComponentFactory("decoder", "mlp"),
    ) -> None:
        super().__init__()
        self.classes = require_labels(classes)
        if len(latent_shape) != 1:
            raise ComponentError(
                f"The decoder 'conditional' needs a latent of shape (latent_dim,), to which it appends the label; got "
                f"{latent_shape}."
            )
        size = latent_shape[0] + classes
        self.decoder = decoder(data_shape=data_shape, latent_dim=size, latent_shape=(size,), classes=classes)

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Distribution:
        """Map latents (K..., N, latent_dim) and labels, (N,) or (1,), to p(x | z, y).

        Raises:
            UsageError: there are no labels, or one is out of range.
        """
        labels = check_labels(condition, self.classes)
        y = one_hot(labels, self.classes, z.dtype).expand(*z.shape[:-1], -1)
        p: Distribution = self.decoder(torch.cat([z, y], dim=-1), labels)
        return p
