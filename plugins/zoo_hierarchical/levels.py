"""What hierarchies share: the joint distribution of their levels, the networks between them, and the decoder."""

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
    """The joint distribution of levels that are drawn one after the other, each given the one before.

    p(a, b, c) = p(a) p(b | a) p(c | b)

    The event is all levels side by side, the lowest first, (d_1 + ... + d_L,), in whichever direction they are drawn.

    Args:
        first: of the level that is drawn first, an event (d,).
        links: for each further level, from the level before to a distribution.
        sizes: d_1, ..., d_L.
        downward: the first is the top level.
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
        """That of the level that is drawn first: all others are Gaussian."""
        return base_measure(self.first)

    @property
    def mean(self) -> Tensor:
        """The mean of each level given that of the level before: exact where the links are linear."""
        return self._walk(lambda level: level.mean)

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Reparameterised draws (K..., N, d_1 + ... + d_L)."""
        shapes = [sample_shape]  # what a link returns has the sample dimensions already
        return self._walk(lambda level: level.rsample(shapes.pop() if shapes else ()))

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draws (K..., N, d_1 + ... + d_L)."""
        shapes = [sample_shape]
        with torch.no_grad():
            return self._walk(lambda level: _draw(level, shapes.pop() if shapes else ()))

    def rsample_and_log_prob(self, sample_shape: _size = ()) -> tuple[Tensor, Tensor]:
        """Draws and their log-densities, every link being followed once."""
        shapes, total = [sample_shape], []

        def draw(level: Distribution) -> Tensor:
            z = _draw(level, shapes.pop() if shapes else ())
            total.append(level.log_prob(z))
            return z

        return self._walk(draw), torch.stack(total).sum(0)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density of all levels together."""
        return self.log_prob_by_level(value).sum(0)

    def log_prob_by_level(self, value: Tensor) -> Tensor:
        """The log-density of each level given the one that is drawn before it, (L, K..., N), the lowest first."""
        parts = self._in_turn(torch.split(value, list(self.sizes), dim=-1))
        found = [self.first.log_prob(parts[0])]
        found += [link(before).log_prob(z) for link, (before, z) in zip(self.links, pairwise(parts), strict=True)]
        return torch.stack(self._in_turn(found))

    def _walk(self, point: Callable[[Distribution], Tensor]) -> Tensor:
        """From the first level to the last, a point chosen in each."""
        points = [point(self.first)]
        for link in self.links:
            points.append(point(link(points[-1])))
        return torch.cat(self._in_turn(points), dim=-1)

    def _in_turn(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """From the order of the event to that of drawing, or back."""
        return list(levels[::-1] if self.downward else levels)


def _draw(level: Distribution, shape: _size) -> Tensor:
    """Draws of a level, reparameterised if it can be; a mixture at the top of a prior cannot."""
    z: Tensor = level.rsample(shape) if level.has_rsample else level.sample(torch.Size(shape))
    return z


class ToGaussian(nn.Module):
    """A network from one level to the mean and the log-variance of a Gaussian of another.

    Args:
        width_in, width_out: of the levels.
        hidden: widths of hidden layers between them; with none it is linear.
    """

    def __init__(self, width_in: int, width_out: int, hidden: Sequence[PositiveInt]) -> None:
        super().__init__()
        self.network = nn.Sequential(*dense([width_in, *hidden]), nn.Linear([width_in, *hidden][-1], 2 * width_out))

    def forward(self, z: Tensor) -> Independent[Gaussian]:
        """(..., width_in) to an event (width_out,)."""
        parameters = at_least_float32(self.network(match_dtype(z, self)))
        mean, log_variance = parameters.chunk(2, dim=-1)
        return Independent(Gaussian(mean, log_variance / 2), 1, validate_args=False)


def gaussian(mean: Tensor, scale: Tensor) -> Independent[Gaussian]:
    """N(mean, diag(scale^2)), an event of one dimension."""
    return Independent(Gaussian(mean, scale.log()), 1, validate_args=False)


def dense(widths: Sequence[int]) -> list[nn.Module]:
    """Dense layers with leaky rectifiers, as in the experiments of arXiv 1602.02282."""
    return [layer for i, o in pairwise(widths) for layer in (nn.Linear(i, o), nn.LeakyReLU())]


class LowestLevel(Decoder):
    """p(x | z_1): a decoder that sees the first ``latent_dim`` coordinates of the latent, which are the lowest level.

    Args:
        data_shape: event shape of x.
        latent_dim: size of the lowest level.
        latent_shape: event shape of all levels side by side.
        classes: number of labels, for a conditional decoder.
        decoder: any, on the lowest level.
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
        if len(latent_shape) != 1 or latent_shape[0] <= latent_dim:
            raise ComponentError(
                f"The decoder 'lowest-level' needs levels above the lowest of {latent_dim}, and the encoder's latent "
                f"has the shape {latent_shape}: take the encoder two-level or ladder."
            )
        self.size = latent_dim
        self.decoder = decoder(
            data_shape=data_shape, latent_dim=latent_dim, latent_shape=(latent_dim,), classes=classes
        )

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Distribution:
        """Latents (K..., N, d_1 + ... + d_L) to p(x | z_1)."""
        p: Distribution = self.decoder(z[..., : self.size], condition)
        return p
