"""The Poincare ball: wrapped normals as posterior and prior (arXiv 1901.06033)."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Distribution, Normal, constraints
from torch.nn.functional import softplus
from torch.types import _size

from zoo import ComponentError, Encoder, Posterior, Prior

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

REACH = 12.0
"""The greatest sqrt(c) |mu|. There the rounding of float32 coordinates moves a point by a few thousandths, and
twice as far out by hundreds."""
TINY = 1e-8
"""The least length that a vector is divided by."""


class Ball:
    """The Poincare ball of curvature -c, whose points are given by their normal coordinates at the origin.

    The coordinates z of a point are its distance from the origin times the direction in which it lies there: z is any
    vector of R^d. Coordinates inside the ball, tanh(sqrt(c) |z| / 2) / sqrt(c) from its centre, run out of float32 at a
    distance of 9, where neighbouring numbers are as far apart as points of the space that differ in density by a tenth
    of a nat in each dimension; normal coordinates do not.

    Tangent vectors at a point have the orthonormal basis that is carried there from the origin along the geodesic: so
    |v| is a length everywhere. Geometry is done in float64, whatever comes in.

    Args:
        curvature: c > 0.

    >>> Ball(1.0).exp(torch.tensor([3.0]), torch.tensor([2.5]))  # in one dimension nothing is curved
    tensor([5.5000], dtype=torch.float64)
    """

    def __init__(self, curvature: float) -> None:
        self.curvature = curvature
        self.root = math.sqrt(curvature)

    def exp(self, at: Tensor, v: Tensor) -> Tensor:
        """Where the geodesic from the point `at` leads that starts with the tangent vector v, in unit time.

        This is the Moebius addition of the two points. By hyperbolic trigonometry, with a and b the lengths of `at` and
        v, m and y their directions, and 2 h the angle between these,

            sinh(R) z / |z| = sinh(b) (m + y) + m (cos(h)^2 (sinh(a + b) - 2 sinh(b)) + sin(h)^2 sinh(a - b))

        where R = |z|. It is written so that nothing cancels on the way back to the origin, and is divided by e^(a + b),
        so that nothing overflows.
        """
        at, v = at.double(), v.double()
        a, b, m, y = self.root * _norm(at), self.root * _norm(v), at / _norm(at), v / _norm(v)
        sinh_b = (-a).exp() * -torch.expm1(-2 * b) / 2
        sinh_sum = -torch.expm1(-2 * (a + b)) / 2
        sinh_difference = torch.where(
            a > b,
            -torch.expm1(-2 * (a - b).clamp_min(0)) * (-2 * b).exp() / 2,
            torch.expm1(-2 * (b - a).clamp_min(0)) * (-2 * a).exp() / 2,
        )
        cos2 = (m + y).square().sum(-1, keepdim=True) / 4
        x = sinh_b * (m + y) + m * (cos2 * (sinh_sum - 2 * sinh_b) + (1 - cos2) * sinh_difference)
        sinh = x.square().sum(-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny).sqrt()
        distance = a + b + (sinh + (sinh.square() + (-2 * (a + b)).exp()).sqrt()).log()
        return distance / self.root * x / sinh

    def log(self, at: Tensor, z: Tensor) -> Tensor:
        """The tangent vector that `exp` takes to z: the translation that takes `at` to the origin takes z to it."""
        return self.exp(-at, z)

    def log_stretch(self, v: Tensor) -> Tensor:
        """log of the volume at exp_o(v) for a unit of volume at v, (d - 1) log(sinh(r) / r) with r = sqrt(c) |v|."""
        r = self.root * _norm(v.double()).squeeze(-1)
        return (v.shape[-1] - 1) * (r + (-torch.expm1(-2 * r) / (2 * r)).log())

    def within_reach(self, v: Tensor) -> Tensor:
        """Vectors of any length as points no farther from the origin than `REACH` / sqrt(c), short ones unchanged."""
        r = self.root * v / REACH
        return v * (1 + r.square().sum(-1, keepdim=True)).rsqrt()

    def project(self, z: Tensor) -> Tensor:
        """The coordinates inside the ball of points, |.| < 1 / sqrt(c), to draw them."""
        r = self.root * _norm(z)
        return z * (r / 2).tanh() / r


def _norm(v: Tensor) -> Tensor:
    """|v|, (..., 1), with a gradient at 0 and no division by it."""
    return v.square().sum(-1, keepdim=True).clamp_min(TINY**2).sqrt()


class WrappedNormalPosterior(Posterior):
    """q(z | x), a wrapped normal around exp_0(linear), its scales the softplus of a linear layer.

    A latent is given by its normal coordinates (see `Ball`): so a decoder that knows nothing of the ball sees log_0(z),
    as in the paper's code. Means come no farther from the origin than 12 / sqrt(c), beyond which float32 coordinates
    tell no points apart.

    Args:
        features: width of the trunk.
        latent_dim: number of latent dimensions.
        curvature: c; the ball has the curvature -c and the radius 1 / sqrt(c). The prior takes it from here.
    """

    def __init__(self, features: int, latent_dim: int, curvature: Positive = 1.0) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 2 * latent_dim)
        self.ball = Ball(curvature)

    def forward(self, features: Tensor) -> Distribution:
        """Features (N, features) to a distribution with event shape (latent_dim,)."""
        parameters = self.linear(features)
        parameters = parameters.to(torch.promote_types(parameters.dtype, torch.float32))
        location, scale = parameters.chunk(2, dim=-1)
        return WrappedNormal(self.ball.within_reach(location), softplus(scale), self.ball)


class WrappedNormalPrior(Prior):
    """p(z), a wrapped normal around the origin, on the ball of the encoder's ``wrapped-normal`` posterior.

    Args:
        latent_shape: (latent_dim,).
        scale: its standard deviation, as a distance.
    """

    origin: Tensor

    def __init__(self, latent_shape: tuple[int], scale: Positive = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.register_buffer("origin", torch.zeros(latent_shape), persistent=False)

    def forward(self, encoder: Encoder, condition: Tensor | None = None) -> Distribution:
        """The distribution over z, batch shape ().

        Raises:
            ComponentError: the encoder has no such posterior.
        """
        balls = [module.ball for module in encoder.modules() if isinstance(module, WrappedNormalPosterior)]
        if not balls:
            raise ComponentError(
                "The prior 'wrapped-normal' lies on the ball of the posterior, and this one is on none: "
                "take encoder.posterior=wrapped-normal."
            )
        return WrappedNormal(self.origin, torch.full_like(self.origin, self.scale), balls[0])


class WrappedNormal(Distribution):
    """A normal on the tangent space of the Poincare ball at mu, wrapped onto the ball (arXiv 1901.06033, section 3).

    z = exp_mu(v),  v ~ N(0, diag(scale^2)), so that |v| is the distance from mu to z

    Points are given by their normal coordinates (see `Ball`), and the density is one by these coordinates, as all of
    torch's are: so it can be compared with that of any other distribution over R^d. At the origin it is the normal
    itself. The paper's is by the volume of the ball; they differ by (sinh r / r)^(d - 1) with r = sqrt(c) |z|, which a
    rate is free of. Draws and densities have the type of `location`, and are worked out in float64.

    Args:
        location: mu, normal coordinates (N, d).
        scale: (N, d), as distances.
        ball: the ball.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "location": constraints.real_vector,
        "scale": constraints.positive,
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, location: Tensor, scale: Tensor, ball: Ball) -> None:
        self.location = location
        self.scale = scale
        self.ball = ball
        super().__init__(location.shape[:-1], location.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The mean on the ball, which is mu: the point of the least expected squared distance."""
        return self.location

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Reparameterised draws (K..., N, d)."""
        return self.rsample_and_log_prob(sample_shape)[0]

    def rsample_and_log_prob(self, sample_shape: _size = ()) -> tuple[Tensor, Tensor]:
        """Draws and their log-densities, from the tangent vectors that they were made of."""
        shape = self._extended_shape(sample_shape)
        v = self.scale.double() * torch.randn(shape, dtype=self.scale.dtype, device=self.scale.device)
        z = self.ball.exp(self.location, v).to(self.location.dtype)
        return z, self._log_density(v, z)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density at points (K..., N, d)."""
        return self._log_density(self.ball.log(self.location, value), value)

    def _log_density(self, v: Tensor, z: Tensor) -> Tensor:
        """log N(v; 0, scale^2), by volumes at mu; from there to the ball's, and on to those of the coordinates of z."""
        normal: Tensor = Normal(0, self.scale.double(), validate_args=False).log_prob(v).sum(-1)  # type: ignore[no-untyped-call]
        return (normal - self.ball.log_stretch(v) + self.ball.log_stretch(z)).to(self.location.dtype)
