"""Strided convolutional networks for images of any size and number of channels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from pydantic import PositiveInt
from torch import Tensor, nn
from torch.distributions import Distribution

from zoo import ComponentFactory, Decoder, Encoder, Likelihood, Posterior, halved_sizes, image_shape, merge_leading


class ConvEncoder(Encoder):
    """q(z | x) from 3x3 convolutions with stride 2, each of which maps n pixels per side to ceil(n / 2).

    Args:
        data_shape: (C, H, W).
        latent_dim: number of latent dimensions.
        channels: output channels of each layer, from x to z.
        posterior: the head.

    Raises:
        ComponentError: x is not an image.
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_dim: int,
        channels: Sequence[PositiveInt] = (32, 64, 128),
        posterior: Callable[..., Posterior] = ComponentFactory("posterior", "gaussian"),
    ) -> None:
        super().__init__()
        channels_in, *_ = image_shape(data_shape, "encoder 'conv'")
        self.trunk = nn.Sequential(
            *(
                layer
                for c_in, c_out in pairwise([channels_in, *channels])
                for layer in (nn.Conv2d(c_in, c_out, 3, stride=2, padding=1), nn.ReLU())
            ),
            nn.Flatten(),
        )
        *_, (height, width) = halved_sizes(data_shape, len(channels))
        features = [channels_in, *channels][-1] * height * width
        self.posterior = posterior(features=features, latent_dim=latent_dim)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Distribution:
        """Map images (N, C, H, W) to q(z | x)."""
        q: Distribution = self.posterior(self.trunk(x))
        return q


class ConvDecoder(Decoder):
    """p(x | z) from 3x3 transposed convolutions with stride 2; the sizes of the layers mirror `ConvEncoder`.

    Args:
        data_shape: (C, H, W).
        latent_shape: event shape of the latent.
        channels: input channels of each layer, from z to x.
        likelihood: the head.

    Raises:
        ComponentError: x is not an image.
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_shape: tuple[int, ...],
        channels: Sequence[PositiveInt] = (128, 64, 32),
        likelihood: Callable[..., Likelihood] = ComponentFactory("likelihood", "bernoulli"),
    ) -> None:
        super().__init__()
        channels_out, *_ = image_shape(data_shape, "decoder 'conv'")
        self.likelihood = likelihood(data_shape=data_shape)
        parameters = (self.likelihood.parameters_per_entry, channels_out)
        self.latent_dims = len(latent_shape)
        sizes = halved_sizes(data_shape, len(channels))[::-1]
        outputs = [*channels, math.prod(parameters)]
        start = (outputs[0], *sizes[0])
        layers: list[nn.Module] = [nn.Flatten(), nn.Linear(math.prod(latent_shape), math.prod(start))]
        layers.append(nn.Unflatten(-1, start))
        for (c_in, c_out), (size, target) in zip(pairwise(outputs), pairwise(sizes), strict=True):
            # Without output padding, n pixels become 2n - 1; an even target needs one more.
            padding = (target[0] - (2 * size[0] - 1), target[1] - (2 * size[1] - 1))
            layers += [nn.ReLU(), nn.ConvTranspose2d(c_in, c_out, 3, stride=2, padding=1, output_padding=padding)]
        self.trunk = nn.Sequential(*layers, nn.Unflatten(1, parameters))

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Distribution:
        """Map latents (K..., N, *latent_shape) to p(x | z)."""
        p: Distribution = self.likelihood(merge_leading(self.trunk, z, self.latent_dims).movedim(-4, -1))
        return p
