"""The joint distribution of the levels of a hierarchy, the networks between levels, and the decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, constraints
from torch.types import _size

from zoo import ComponentError, ComponentFactory, Decoder, Gaussian, at_least_float32, base_measure, match_dtype

Link = Callable[[Tensor], Distribution]


class Levels(Distribution):
    """A Markov chain of latent levels, p(z_1) p(z_2 | z_1) ... or, downward, p(z_L) p(z_{L-1} | z_L) ...

    The event is the concatenation of z_1, ..., z_L, (d_1 + ... + d_L,), in either direction.

    Args:
        first: distribution of z_1 or, downward, z_L.
        links: maps from a sample of each level to the distribution of the next, in sampling order.
        sizes: d_1, ..., d_L.
        downward: sample from z_L down to z_1.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, first: Distribution, links: Sequence[Link], sizes: Sequence[int], *, downward: bool) -> None:
        self.first = first
        self.links = links
        self.sizes = tuple(sizes)
        self.downward = downward
        self.has_rsample = first.has_rsample
        super().__init__(first.batch_shape, torch.Size([sum(sizes)]), validate_args=False)

    @property
    def base_measure(self) -> str | None:
        """The base measure of the first level; all others are Gaussian."""
        return base_measure(self.first)

    @property
    def mean(self) -> Tensor:
        """The mean of each level given the mean of the previous one; exact for linear links."""
        return self._chain(lambda level: level.mean)

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Draw reparameterised samples (K..., N, d_1 + ... + d_L)."""
        shapes = [sample_shape]  # links keep the sample dimensions of the first level
        return self._chain(lambda level: level.rsample(shapes.pop() if shapes else ()))

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draw samples (K..., N, d_1 + ... + d_L)."""
        shapes = [sample_shape]
        with torch.no_grad():
            return self._chain(lambda level: _draw(level, shapes.pop() if shapes else ()))

    def rsample_and_log_prob(self, sample_shape: _size = ()) -> tuple[Tensor, Tensor]:
        """Draw samples (K..., N, d_1 + ... + d_L) with their log-densities (K..., N), evaluating each link once."""
        shapes, log_probs = [sample_shape], []

        def draw(level: Distribution) -> Tensor:
            z = _draw(level, shapes.pop() if shapes else ())
            log_probs.append(level.log_prob(z))
            return z

        return self._chain(draw), torch.stack(log_probs).sum(0)

    def log_prob(self, value: Tensor) -> Tensor:
        """The joint log-density of all levels, (K..., N), in nats."""
        return self.log_prob_by_level(value).sum(0)

    def log_prob_by_level(self, value: Tensor) -> Tensor:
        """The log-densities of z_1, ..., z_L, each given its predecessor in sampling order, (L, K..., N), in nats."""
        levels = self._reorder(torch.split(value, list(self.sizes), dim=-1))
        log_probs = [self.first.log_prob(levels[0])]
        for link, (previous, z) in zip(self.links, pairwise(levels), strict=True):
            log_probs.append(link(previous).log_prob(z))
        return torch.stack(self._reorder(log_probs))

    def _chain(self, choose: Callable[[Distribution], Tensor]) -> Tensor:
        """Choose a point at each level in sampling order, and concatenate the points."""
        points = [choose(self.first)]
        for link in self.links:
            points.append(choose(link(points[-1])))
        return torch.cat(self._reorder(points), dim=-1)

    def _reorder(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Change between the order of the event and the sampling order."""
        return list(levels[::-1] if self.downward else levels)


def _draw(level: Distribution, shape: _size) -> Tensor:
    """Draw from a level, with reparameterisation where it exists: a mixture at the top of a prior has none."""
    z: Tensor = level.rsample(shape) if level.has_rsample else level.sample(torch.Size(shape))
    return z


class ToGaussian(nn.Module):
    """A multilayer perceptron that predicts the mean and log-variance of a diagonal Gaussian.

    Args:
        width_in: number of input features.
        width_out: number of dimensions of the Gaussian.
        hidden: widths of the hidden layers.
    """

    def __init__(self, width_in: int, width_out: int, hidden: Sequence[PositiveInt]) -> None:
        super().__init__()
        self.network = nn.Sequential(*dense([width_in, *hidden]), nn.Linear([width_in, *hidden][-1], 2 * width_out))

    def forward(self, z: Tensor) -> Independent[Gaussian]:
        """Map (..., width_in) to a Gaussian with event shape (width_out,)."""
        parameters = at_least_float32(self.network(match_dtype(z, self)))
        mean, log_variance = parameters.chunk(2, dim=-1)
        return Independent(Gaussian(mean, log_variance / 2), 1, validate_args=False)


def gaussian(mean: Tensor, scale: Tensor) -> Independent[Gaussian]:
    """N(mean, diag(scale^2)) over the last axis."""
    return Independent(Gaussian(mean, scale.log()), 1, validate_args=False)


def dense(widths: Sequence[int]) -> list[nn.Module]:
    """Linear layers, each followed by a leaky ReLU, as in arXiv 1602.02282."""
    return [layer for i, o in pairwise(widths) for layer in (nn.Linear(i, o), nn.LeakyReLU())]


def upper_size(component: str, latent_shape: tuple[int, ...], latent_dim: int, encoders: str) -> int:
    """The size of the levels above the lowest one, which has `latent_dim` dimensions.

    Args:
        component: what the message calls the component.
        latent_shape: event shape of all levels together.
        latent_dim: size of z_1.
        encoders: the encoders that the component goes with, for the message.

    Raises:
        ComponentError: there are no further levels.
    """
    if len(latent_shape) != 1 or latent_shape[0] <= latent_dim:
        raise ComponentError(
            f"The {component} needs a latent with more than latent_dim = {latent_dim} dimensions; got shape "
            f"{tuple(latent_shape)}. Use the encoder {encoders}."
        )
    return latent_shape[0] - latent_dim


class LowestLevel(Decoder):
    """p(x | z_1): a decoder applied to the first ``latent_dim`` coordinates of the latent, which are z_1.

    Args:
        data_shape: event shape of x.
        latent_dim: size of z_1.
        latent_shape: event shape of all levels together.
        classes: number of labels, for a conditional decoder.
        decoder: any decoder, for z_1.

    Raises:
        ComponentError: the latent has no further levels.
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_dim: int,
        latent_shape: tuple[int, ...],
        classes: int,
        decoder: Callable[..., Decoder] = ComponentFactory("decoder", "mlp"),
    ) -> None:
        super().__init__()
        upper_size("decoder 'lowest-level'", latent_shape, latent_dim, "two-level or ladder")
        self.size = latent_dim
        self.decoder = decoder(
            data_shape=data_shape, latent_dim=latent_dim, latent_shape=(latent_dim,), classes=classes
        )

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Distribution:
        """Map latents (K..., N, d_1 + ... + d_L) to p(x | z_1)."""
        p: Distribution = self.decoder(z[..., : self.size], condition)
        return p
