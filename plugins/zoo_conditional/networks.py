"""Any encoder and any decoder, made conditional by a wrapper that tells them the label."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from zoo import ComponentError, ComponentFactory, Conditional, Decoder, Encoder
from zoo_conditional.labels import checked, one_hot, required


class ConditionalEncoder(Encoder, Conditional):
    """q(z | x, y): an encoder that sees the label y as one more channel (entry of the first axis),
    a learnt map for each label.

    Args:
        data_shape: event shape of x.
        latent_dim: number of latent dimensions.
        classes: number of labels.
        encoder: any; it is built for one more channel.
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_dim: int,
        classes: int,
        encoder: Callable[..., Encoder] = ComponentFactory("encoder", "mlp"),
    ) -> None:
        super().__init__()
        self.classes = required(classes)
        channels, *size = data_shape
        self.maps = nn.Embedding(classes, math.prod(size))
        # As large as an image, roughly: a label neither drowns it nor is lost beside it.
        nn.init.normal_(self.maps.weight, std=0.3)
        self.encoder = encoder(data_shape=(channels + 1, *size), latent_dim=latent_dim, classes=classes)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Distribution:
        """Map x (N, *data_shape) and labels (N,) to q(z | x, y)."""
        labels = checked(condition, self.classes)
        maps = self.maps(labels).unflatten(-1, (1, *x.shape[2:])).to(x.dtype)
        q: Distribution = self.encoder(torch.cat([x, maps], dim=1), labels)
        return q


class ConditionalDecoder(Decoder, Conditional):
    """p(x | z, y): a decoder that gets the label y beside the latent, as zeros and a one.

    Args:
        data_shape: event shape of x.
        latent_shape: event shape of the latent, a vector.
        classes: number of labels.
        decoder: any; it is made for latents with ``classes`` more coordinates.
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_shape: tuple[int, ...],
        classes: int,
        decoder: Callable[..., Decoder] = ComponentFactory("decoder", "mlp"),
    ) -> None:
        super().__init__()
        self.classes = required(classes)
        if len(latent_shape) != 1:
            raise ComponentError(
                f"The decoder 'conditional' puts the label beside a latent that is a vector; this one has the shape "
                f"{latent_shape}."
            )
        size = latent_shape[0] + classes
        self.decoder = decoder(data_shape=data_shape, latent_dim=size, latent_shape=(size,), classes=classes)

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Distribution:
        """Latents (K..., N, latent_dim) and labels (N,), or one for all (1,), to p(x | z, y)."""
        labels = checked(condition, self.classes)
        label = one_hot(labels, self.classes, z.dtype).expand(*z.shape[:-1], -1)
        p: Distribution = self.decoder(torch.cat([z, label], dim=-1), labels)
        return p
