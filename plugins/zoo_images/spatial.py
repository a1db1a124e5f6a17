"""Encoder and decoder with a spatial latent, those of latent diffusion (arXiv 2112.10752) and of the VQGAN (arXiv
2012.09841).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated

from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.distributions import Distribution

from zoo import ComponentError, ComponentFactory, Decoder, Encoder, Likelihood, Posterior, image_shape, merge_leading
from zoo_images.layers import Downsample, Middle, ResidualBlock, Upsample, extended, group_norm, in_sequence

Channels = Annotated[Sequence[PositiveInt], Field(min_length=1)]


class SpatialEncoder(Encoder):
    """q(z | x) over a latent (h, w, ...), from residual stages.

    There are `blocks` residual blocks in each stage, a strided convolution between two stages, and self-attention
    after the last one. S stages reduce the image by f = 2^(S - 1) on each side: three are "f4", four are "f8". An
    image whose size is not a multiple of f is extended by repeating its last row and column, so h = ceil(H / f) and
    w = ceil(W / f). Pixels in [0, 1] are mapped to [-1, 1].

    The head acts on each position: a Gaussian latent is (h, w, latent_dim), and a quantizer has `latent_dim` codes per
    position.

    Args:
        data_shape: (C, H, W).
        latent_dim: number of latent dimensions, or of codes, per position.
        channels: of each stage, from x to z.
        blocks: residual blocks per stage.
        groups: of the group norms; where they do not divide the number of channels, their greatest common divisor.
        attention: whether there is self-attention. Its cost is quadratic in the number of positions, h w.
        features: number of features per position, from which the head computes its parameters. None for
            2 latent_dim, the number of parameters of a Gaussian; the head is then the `quant_conv` of diffusers.
        gradient_checkpointing: keep only the input of each block for the gradient and compute its activations again,
            which saves memory and costs time. The gradient is bit-identical.
        posterior: the head.

    Raises:
        ComponentError: x is not an image.
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_dim: int,
        channels: Channels = (32, 64, 128),
        blocks: PositiveInt = 2,
        groups: PositiveInt = 32,
        attention: bool = True,
        features: PositiveInt | None = None,
        gradient_checkpointing: bool = False,
        posterior: Callable[..., Posterior] = ComponentFactory("posterior", "gaussian"),
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = gradient_checkpointing
        channels_in, height, width = image_shape(data_shape, "encoder 'spatial'")
        grid = latent_grid(height, width, len(channels))
        self.size = (grid[0] * factor_of(len(channels)), grid[1] * factor_of(len(channels)))
        self.input = nn.Conv2d(channels_in, channels[0], 3, padding=1)
        self.stages = nn.ModuleList()
        c_in = channels[0]
        for i, c_out in enumerate(channels):
            stage = [ResidualBlock(c_in if block == 0 else c_out, c_out, groups) for block in range(blocks)]
            self.stages.append(nn.Sequential(*stage, *([Downsample(c_out)] if i + 1 < len(channels) else [])))
            c_in = c_out
        self.middle = Middle(c_in, groups, attention)
        features = 2 * latent_dim if features is None else features
        self.output = nn.Sequential(group_norm(c_in, groups), nn.SiLU(), nn.Conv2d(c_in, features, 3, padding=1))
        self.posterior = posterior(features=features, latent_dim=latent_dim)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Distribution:
        """Map images (N, C, H, W) to q(z | x)."""
        layers = [*(layer for stage in self.stages for layer in stage.children()), *self.middle, self.output]
        h = in_sequence(layers, self.input(extended(2 * x - 1, *self.size)), self.gradient_checkpointing)
        q: Distribution = self.posterior(h.movedim(1, -1))
        return q


class SpatialDecoder(Decoder):
    """p(x | z) of a latent (h, w, ...), from residual stages that mirror those of `SpatialEncoder`.

    Between two stages, pixels are repeated twice in both directions and convolved. Rows and columns beyond the size of
    the image, at most f - 1 of each, are cropped.

    Args:
        data_shape: (C, H, W).
        latent_shape: (h, w, ...), with h = ceil(H / f) and w = ceil(W / f).
        channels: of each stage, from z to x.
        blocks: residual blocks per stage; in latent diffusion, one more than in the encoder.
        groups, attention, gradient_checkpointing: see `SpatialEncoder`.
        likelihood: the head.

    Raises:
        ComponentError: x is not an image, or the latent does not have its size divided by f.
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_shape: tuple[int, ...],
        channels: Channels = (128, 64, 32),
        blocks: PositiveInt = 3,
        groups: PositiveInt = 32,
        attention: bool = True,
        gradient_checkpointing: bool = False,
        likelihood: Callable[..., Likelihood] = ComponentFactory("likelihood", "bernoulli"),
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = gradient_checkpointing
        channels_out, self.height, self.width = image_shape(data_shape, "decoder 'spatial'")
        grid = latent_grid(self.height, self.width, len(channels))
        if tuple(latent_shape[:2]) != grid or len(latent_shape) < 3:
            raise ComponentError(
                f"decoder 'spatial' with {len(channels)} stages needs latents of shape ({grid[0]}, {grid[1]}, ...) for "
                f"images of {self.height}x{self.width}; latent_shape is {tuple(latent_shape)}. Use "
                "encoder=spatial with the same number of stages, and a posterior that acts on each position."
            )
        self.likelihood = likelihood(data_shape=data_shape)
        self.latent_dims = len(latent_shape)
        latent_channels = math.prod(latent_shape[2:])
        self.post_quant = nn.Conv2d(latent_channels, latent_channels, 1)
        self.input = nn.Conv2d(latent_channels, channels[0], 3, padding=1)
        self.middle = Middle(channels[0], groups, attention)
        self.stages = nn.ModuleList()
        c_in = channels[0]
        for i, c_out in enumerate(channels):
            stage = [ResidualBlock(c_in if block == 0 else c_out, c_out, groups) for block in range(blocks)]
            self.stages.append(nn.Sequential(*stage, *([Upsample(c_out)] if i + 1 < len(channels) else [])))
            c_in = c_out
        parameters = (self.likelihood.parameters_per_entry, channels_out)
        output = nn.Conv2d(c_in, math.prod(parameters), 3, padding=1)
        self.output = nn.Sequential(group_norm(c_in, groups), nn.SiLU(), output)
        self.unflatten = nn.Unflatten(1, parameters)

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Distribution:
        """Map latents (K..., N, *latent_shape) to p(x | z)."""
        z = z.flatten(z.ndim - self.latent_dims + 2)  # (K..., N, h, w, channels)
        p: Distribution = self.likelihood(merge_leading(self._network, z, 3).movedim(-4, -1))
        return p

    def _network(self, z: Tensor) -> Tensor:
        """Map (N, h, w, channels) to the parameters of the likelihood, (N, parameters_per_entry, C, H, W)."""
        layers = [*self.middle, *(layer for stage in self.stages for layer in stage.children()), self.output]
        h = in_sequence(layers, self.input(self.post_quant(z.movedim(-1, 1))), self.gradient_checkpointing)
        parameters: Tensor = self.unflatten(h[..., : self.height, : self.width])
        return parameters


def latent_grid(height: int, width: int, stages: int) -> tuple[int, int]:
    """The size of the latent of images (C, height, width): the image's size divided by f, rounded up.

    >>> latent_grid(28, 21, stages=3)
    (7, 6)
    """
    factor = factor_of(stages)
    return -(-height // factor), -(-width // factor)


def factor_of(stages: int) -> int:
    """f, by which each side of an image is reduced."""
    return int(2 ** (stages - 1))
