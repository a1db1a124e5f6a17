"""Strided convolutions, for images of any size and any number of channels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from pydantic import PositiveInt
from torch import Tensor, nn
from torch.distributions import Distribution

from zoo import ComponentFactory, Decoder, Encoder, Likelihood, Posterior, halved_sizes, image_shape, merge_leading


class ConvEncoder(Encoder):
    """q(z | x) from 3x3 convolutions with stride 2: a side of n pixels becomes ceil(n / 2).

    Args:
        data_shape: (C, H, W).
        latent_dim: number of latent dimensions.
        channels: channels of each layer, the first next to the image.
        posterior: the head.
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
    """p(x | z) from 3x3 transposed convolutions with stride 2, to exactly the size asked for, odd or even.

    Args:
        data_shape: (C, H, W).
        latent_shape: event shape of the latent.
        channels: channels of each layer, the first next to the latent.
        likelihood: the head.
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
            # A side of n comes back as 2n - 1, plus one more where the side it came from was even.
            extra = (target[0] - (2 * size[0] - 1), target[1] - (2 * size[1] - 1))
            layers += [nn.ReLU(), nn.ConvTranspose2d(c_in, c_out, 3, stride=2, padding=1, output_padding=extra)]
        self.trunk = nn.Sequential(*layers, nn.Unflatten(1, parameters))

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Distribution:
        """Map latents (K..., N, *latent_shape) to p(x | z)."""
        p: Distribution = self.likelihood(merge_leading(self.trunk, z, self.latent_dims).movedim(-4, -1))
        return p
