"""Residual networks (arXiv 1512.03385, 1603.05027) for images of any size and number of channels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.distributions import Distribution

from zoo import ComponentFactory, Decoder, Encoder, Likelihood, Posterior, halved_sizes, image_shape, merge_leading


class ResidualBlock(nn.Module):
    """x + f(x), with two pre-activated 3x3 convolutions in f (arXiv 1603.05027, fig. 1b).

    Args:
        channels: number of input and output channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *_pre_activation(channels),
            nn.Conv2d(channels, channels, 3, padding=1),
            *_pre_activation(channels),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        y: Tensor = x + self.residual(x)
        return y


class ResNetEncoder(Encoder):
    """q(z | x) from stages of a 3x3 convolution with stride 2, which maps n pixels per side to ceil(n / 2), followed by
    residual blocks.

    Args:
        data_shape: (C, H, W).
        latent_dim: number of latent dimensions.
        channels: output channels of each stage, from x to z.
        blocks: residual blocks per stage.
        posterior: the head.

    Raises:
        ComponentError: x is not an image.
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_dim: int,
        channels: Sequence[PositiveInt] = (32, 64, 128),
        blocks: NonNegativeInt = 2,
        posterior: Callable[..., Posterior] = ComponentFactory("posterior", "gaussian"),
    ) -> None:
        super().__init__()
        channels_in, *_ = image_shape(data_shape, "encoder 'resnet'")
        layers: list[nn.Module] = []
        for c_in, c_out in pairwise([channels_in, *channels]):
            layers.append(nn.Conv2d(c_in, c_out, 3, stride=2, padding=1))
            layers += [*(ResidualBlock(c_out) for _ in range(blocks)), *_pre_activation(c_out)]
        self.trunk = nn.Sequential(*layers, nn.Flatten())
        *_, (height, width) = halved_sizes(data_shape, len(channels))
        features = [channels_in, *channels][-1] * height * width
        self.posterior = posterior(features=features, latent_dim=latent_dim)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Distribution:
        """Map images (N, C, H, W) to q(z | x)."""
        q: Distribution = self.posterior(self.trunk(x))
        return q


class ResNetDecoder(Decoder):
    """p(x | z) from stages of residual blocks, upsampling and a 3x3 convolution; the sizes of the stages mirror
    `ResNetEncoder`.

    Args:
        data_shape: (C, H, W).
        latent_shape: event shape of the latent.
        channels: input channels of each stage, from z to x.
        blocks: residual blocks per stage.
        likelihood: the head.

    Raises:
        ComponentError: x is not an image.
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_shape: tuple[int, ...],
        channels: Sequence[PositiveInt] = (128, 64, 32),
        blocks: NonNegativeInt = 2,
        likelihood: Callable[..., Likelihood] = ComponentFactory("likelihood", "bernoulli"),
    ) -> None:
        super().__init__()
        channels_out, *_ = image_shape(data_shape, "decoder 'resnet'")
        self.likelihood = likelihood(data_shape=data_shape)
        parameters = (self.likelihood.parameters_per_entry, channels_out)
        self.latent_dims = len(latent_shape)
        sizes = halved_sizes(data_shape, len(channels))[::-1]
        outputs = [*channels, math.prod(parameters)]
        start = (outputs[0], *sizes[0])
        layers: list[nn.Module] = [nn.Flatten(), nn.Linear(math.prod(latent_shape), math.prod(start))]
        layers.append(nn.Unflatten(-1, start))
        for (c_in, c_out), target in zip(pairwise(outputs), sizes[1:], strict=True):
            layers += [*(ResidualBlock(c_in) for _ in range(blocks)), *_pre_activation(c_in)]
            layers += [nn.Upsample(size=target), nn.Conv2d(c_in, c_out, 3, padding=1)]
        self.trunk = nn.Sequential(*layers, nn.Unflatten(1, parameters))

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Distribution:
        """Map latents (K..., N, *latent_shape) to p(x | z)."""
        p: Distribution = self.likelihood(merge_leading(self.trunk, z, self.latent_dims).movedim(-4, -1))
        return p


def _pre_activation(channels: int) -> tuple[nn.Module, nn.Module]:
    """Return the normalisation and activation in front of a convolution.

    Groups of about eight channels are normalised within each image. Batch normalisation would make the densities of an
    image depend on the other images in its batch.
    """
    return nn.GroupNorm(math.gcd(channels, max(1, channels // 8)), channels), nn.SiLU()
