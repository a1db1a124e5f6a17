"""Strided convolutional networks for series of any length and number of channels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from pydantic import PositiveInt
from torch import Tensor, nn
from torch.distributions import Distribution

from zoo import ComponentError, ComponentFactory, Decoder, Encoder, Likelihood, Posterior, merge_leading
from zoo_sequences.layout import as_parameters, sequence_shape


class Conv1dEncoder(Encoder):
    """q(z | x) from convolutions over time with stride 2, each of which maps n steps to ceil(n / 2).

    Args:
        data_shape: (C, L), or (L,) for one channel.
        latent_dim: number of latent dimensions.
        channels: output channels of each layer, from x to z.
        kernel: odd number of steps that a convolution sees.
        posterior: the head.

    Raises:
        ComponentError: the kernel is even.
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_dim: int,
        channels: Sequence[PositiveInt] = (32, 64, 64),
        kernel: PositiveInt = 5,
        posterior: Callable[..., Posterior] = ComponentFactory("posterior", "gaussian"),
    ) -> None:
        super().__init__()
        self.shape = sequence_shape(data_shape, "encoder 'conv1d'")
        _require_odd(kernel, "encoder 'conv1d'")
        widths = [self.shape[0], *channels]
        self.trunk = nn.Sequential(
            *(
                layer
                for c_in, c_out in pairwise(widths)
                for layer in (nn.Conv1d(c_in, c_out, kernel, stride=2, padding=kernel // 2), nn.ReLU())
            ),
            nn.Flatten(),
        )
        self.posterior = posterior(
            features=widths[-1] * halvings(self.shape[1], len(channels))[-1], latent_dim=latent_dim
        )

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Distribution:
        """Map series (N, *data_shape) to q(z | x)."""
        q: Distribution = self.posterior(self.trunk(x.reshape(-1, *self.shape)))
        return q


class Conv1dDecoder(Decoder):
    """p(x | z) from transposed convolutions with stride 2; the lengths of the layers mirror `Conv1dEncoder`.

    Args:
        data_shape: (C, L), or (L,) for one channel.
        latent_shape: event shape of the latent.
        channels: input channels of each layer, from z to x.
        kernel: odd number of steps that a convolution writes.
        likelihood: the head.

    Raises:
        ComponentError: the kernel is even.
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_shape: tuple[int, ...],
        channels: Sequence[PositiveInt] = (64, 64, 32),
        kernel: PositiveInt = 5,
        likelihood: Callable[..., Likelihood] = ComponentFactory("likelihood", "gaussian"),
    ) -> None:
        super().__init__()
        channels_out, length = sequence_shape(data_shape, "decoder 'conv1d'")
        _require_odd(kernel, "decoder 'conv1d'")
        self.data_shape = data_shape
        self.latent_dims = len(latent_shape)
        self.likelihood = likelihood(data_shape=data_shape)
        widths = [*channels, channels_out * self.likelihood.parameters_per_entry]
        lengths = halvings(length, len(channels))[::-1]
        layers: list[nn.Module] = [nn.Flatten(), nn.Linear(math.prod(latent_shape), widths[0] * lengths[0])]
        layers.append(nn.Unflatten(-1, (widths[0], lengths[0])))
        for (c_in, c_out), (n, target) in zip(pairwise(widths), pairwise(lengths), strict=True):
            # Without output padding, n steps become 2n - 1; an even length needs one more.
            extra = target - (2 * n - 1)
            convolution = nn.ConvTranspose1d(c_in, c_out, kernel, 2, padding=kernel // 2, output_padding=extra)
            layers += [nn.ReLU(), convolution]
        self.trunk = nn.Sequential(*layers)

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Distribution:
        """Map latents (K..., N, *latent_shape) to p(x | z)."""
        maps = merge_leading(self.trunk, z, self.latent_dims)
        leading = z.shape[: z.ndim - self.latent_dims]
        count = self.likelihood.parameters_per_entry
        parameters = as_parameters(maps.flatten(0, len(leading) - 1), count, self.data_shape)
        p: Distribution = self.likelihood(parameters.reshape(*leading, *parameters.shape[1:]))
        return p


def halvings(length: int, times: int) -> list[int]:
    """Return a length before and after each halving, which maps n to ceil(n / 2).

    >>> halvings(21, 3)
    [21, 11, 6, 3]
    """
    lengths = [length]
    for _ in range(times):
        lengths.append(-(-lengths[-1] // 2))
    return lengths


def _require_odd(kernel: int, component: str) -> None:
    if kernel % 2 == 0:
        raise ComponentError(f"{component} needs an odd kernel, not {kernel}: use {kernel + 1}.")
