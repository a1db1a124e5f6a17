"""A decoder whose first layer measures distances on the Poincare ball (arXiv 1901.06033, section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.distributions import Distribution

from zoo import ComponentError, ComponentFactory, Decoder, Likelihood
from zoo_manifolds.poincare import Positive


class Gyroplanes(nn.Module):
    """The signed distances of points on the Poincare ball from hyperplanes, the units of a layer.

    A hyperplane consists of the geodesics through a point p that are orthogonal to the geodesic from the origin to p.
    With n the unit tangent vector of that geodesic and t the signed distance of p from the origin, a point at the
    distance r from the origin in the direction u has the signed distance

        asinh(sinh(s r) cosh(s t) u . n - cosh(s r) sinh(s t)) / s,   s = sqrt(c)

    This is eq. 5 of the paper (Ganea et al., arXiv 1805.09112, theorem 5), without the norm of the normal vector, in
    normal coordinates. As in the paper's code, n is the direction of a weight w and t = 2 b |w|. Computed in float64.

    Args:
        width_in: dimension of the ball.
        width_out: number of hyperplanes.
        curvature: c; the ball has the curvature -c.
    """

    def __init__(self, width_in: int, width_out: int, curvature: float) -> None:
        super().__init__()
        self.root = math.sqrt(curvature)
        self.weight = nn.Parameter(torch.randn(width_out, width_in) / math.sqrt(3 * width_in))
        self.offset = nn.Parameter(torch.empty(width_out).uniform_(-1, 1) * 4 / math.sqrt(width_in))

    def forward(self, z: Tensor) -> Tensor:
        """Map normal coordinates (..., width_in) to distances (..., width_out)."""
        weight, offset = self.weight.double(), self.offset.double()
        norm = weight.norm(dim=-1).clamp_min(1e-12)
        t = self.root * 2 * offset * norm
        z = self.root * z.double()
        r = z.square().sum(-1, keepdim=True).clamp_min(1e-24).sqrt()
        projection = z @ (weight / norm.unsqueeze(-1)).T
        distance = torch.asinh(r.sinh() / r * projection * t.cosh() - r.cosh() * t.sinh()) / self.root
        return distance.to(self.weight.dtype)


class GyroplaneDecoder(Decoder):
    """p(x | z) from a gyroplane layer, a rectifier and dense layers, for latents on the Poincare ball.

    Args:
        data_shape: event shape of x.
        latent_shape: event shape of the latent, (d,), normal coordinates as those of the posterior ``wrapped-normal``.
        hidden: widths of the hidden layers; the first one is the gyroplane layer.
        curvature: c; the same as that of the posterior.
        likelihood: the head.

    Raises:
        ComponentError: the latent is not a vector, or there is no hidden layer.
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_shape: tuple[int, ...],
        hidden: Sequence[PositiveInt] = (600,),
        curvature: Positive = 1.0,
        likelihood: Callable[..., Likelihood] = ComponentFactory("likelihood", "bernoulli"),
    ) -> None:
        super().__init__()
        if len(latent_shape) != 1 or not hidden:
            raise ComponentError(
                f"The decoder 'gyroplane' needs a latent of shape (d,) and at least one hidden layer; the latent has "
                f"the shape {tuple(latent_shape)}, hidden is {list(hidden)}."
            )
        self.likelihood = likelihood(data_shape=data_shape)
        self.data_dims = len(data_shape)
        parameters_shape = (self.likelihood.parameters_per_entry, *data_shape)
        layers: list[nn.Module] = [Gyroplanes(latent_shape[0], hidden[0], curvature), nn.ReLU()]
        for width_in, width_out in pairwise(hidden):
            layers += [nn.Linear(width_in, width_out), nn.ReLU()]
        self.trunk = nn.Sequential(
            *layers, nn.Linear(hidden[-1], math.prod(parameters_shape)), nn.Unflatten(-1, parameters_shape)
        )

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Distribution:
        """Map latents (K..., N, d) to p(x | z)."""
        p: Distribution = self.likelihood(self.trunk(z).movedim(-1 - self.data_dims, -1))
        return p
