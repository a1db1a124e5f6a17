"""The joint distribution of the levels of a hierarchy, the networks between levels, and the decoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
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


class JointLevels(Distribution, ABC):
    """The joint distribution of the levels of a hierarchy, a product of conditionals in sampling order.

    The event is the concatenation of the levels, (d_1 + ... + d_L,).

    Args:
        batch_shape: (N,) for a posterior, () for a prior.
        sizes: d_1, ..., d_L, in the order of the event.
        downward: whether the levels are sampled from the last to the first.

    Attributes:
        names: names of the levels in logs, in the order of the event.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, batch_shape: torch.Size, sizes: Sequence[int], *, downward: bool = False) -> None:
        self.sizes = tuple(sizes)
        self.downward = downward
        self.names = tuple(str(level) for level in range(1, len(self.sizes) + 1))
        super().__init__(batch_shape, torch.Size([sum(sizes)]), validate_args=False)

    @abstractmethod
    def _walk(self, choose: Callable[[Distribution], Tensor]) -> list[Tensor]:
        """Choose a point (K..., N, d_i) from the conditional of each level, in sampling order."""

    @property
    def mean(self) -> Tensor:
        """The mean of each level given the means of the previous ones; exact for linear networks."""
        return self._joint(self._walk(lambda level: level.mean))

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Draw reparameterised samples (K..., N, d_1 + ... + d_L)."""
        shapes = [sample_shape]  # the following levels keep the sample dimensions of the first one
        return self._joint(self._walk(lambda level: level.rsample(shapes.pop() if shapes else ())))

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draw samples (K..., N, d_1 + ... + d_L)."""
        shapes = [sample_shape]
        with torch.no_grad():
            return self._joint(self._walk(lambda level: _draw(level, shapes.pop() if shapes else ())))

    def rsample_and_log_prob(self, sample_shape: _size = ()) -> tuple[Tensor, Tensor]:
        """Draw samples (K..., N, d_1 + ... + d_L) with their log-densities (K..., N), in one pass."""
        shapes, log_probs = [sample_shape], []

        def draw(level: Distribution) -> Tensor:
            z = _draw(level, shapes.pop() if shapes else ())
            log_probs.append(level.log_prob(z))
            return z

        return self._joint(self._walk(draw)), torch.stack(log_probs).sum(0)

    def log_prob(self, value: Tensor) -> Tensor:
        """The joint log-density of all levels, (K..., N), in nats."""
        return self.log_prob_by_level(value).sum(0)

    def log_prob_by_level(self, value: Tensor) -> Tensor:
        """The log-density of each level given those before it in sampling order, (L, K..., N), in nats."""
        points, log_probs = iter(self._split(value)), []

        def evaluate(level: Distribution) -> Tensor:
            z = next(points)
            log_probs.append(level.log_prob(z))
            return z

        self._walk(evaluate)
        return torch.stack(self._reorder(log_probs))

    def rates(self, value: Tensor, prior: JointLevels) -> Tensor:
        """The rate of each level at draws (K..., N, d_1 + ... + d_L) from this posterior, (L, K..., N), in nats.

        Their sum is an unbiased estimate of the KL divergence from the prior.
        """
        return self.log_prob_by_level(value) - prior.log_prob_by_level(value)

    def _split(self, value: Tensor) -> list[Tensor]:
        """The levels of an event, in sampling order."""
        return self._reorder(torch.split(value, list(self.sizes), dim=-1))

    def _joint(self, points: Sequence[Tensor]) -> Tensor:
        """The event of points in sampling order."""
        return torch.cat(self._reorder(points), dim=-1)

    def _reorder(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Change between the order of the event and the sampling order."""
        return list(levels[::-1] if self.downward else levels)


class Levels(JointLevels):
    """A Markov chain of latent levels, p(z_1) p(z_2 | z_1) ... or, downward, p(z_L) p(z_{L-1} | z_L) ...

    The event is the concatenation of z_1, ..., z_L, (d_1 + ... + d_L,), in either direction.

    Args:
        first: distribution of z_1 or, downward, z_L.
        links: maps from a sample of each level to the distribution of the next, in sampling order.
        sizes: d_1, ..., d_L.
        downward: sample from z_L down to z_1.
    """

    def __init__(self, first: Distribution, links: Sequence[Link], sizes: Sequence[int], *, downward: bool) -> None:
        self.first = first
        self.links = links
        self.has_rsample = first.has_rsample
        super().__init__(first.batch_shape, sizes, downward=downward)

    @property
    def base_measure(self) -> str | None:
        """The base measure of the first level; all others are Gaussian."""
        return base_measure(self.first)

    def _walk(self, choose: Callable[[Distribution], Tensor]) -> list[Tensor]:
        points = [choose(self.first)]
        for link in self.links:
            points.append(choose(link(points[-1])))
        return points


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
