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

MAX_RADIUS = 12.0
"""Bound on sqrt(c) |mu|. At this distance, float32 rounding of the coordinates moves a point by a few thousandths; at
twice the distance, by hundreds."""
MIN_NORM = 1e-8
"""Lower bound on norms that are divided by."""


class Ball:
    """The Poincare ball of curvature -c, with points in normal coordinates at the origin.

    The normal coordinates of a point p are z = log_0(p), a vector in R^d; |z| is its distance from the origin. The
    usual coordinates inside the ball have radius tanh(sqrt(c) |z| / 2) / sqrt(c), and beyond a distance of 9 their
    float32 rounding changes densities by more than a tenth of a nat per dimension. Normal coordinates avoid this.

    Tangent vectors at a point are expressed in the orthonormal basis parallel-transported from the origin, so |v| is a
    length everywhere. Computations are in float64.

    Args:
        curvature: c > 0.

    >>> Ball(1.0).exp(torch.tensor([3.0]), torch.tensor([2.5]))  # one dimension is flat
    tensor([5.5000], dtype=torch.float64)
    """

    def __init__(self, curvature: float) -> None:
        self.curvature = curvature
        self.root = math.sqrt(curvature)

    def exp(self, at: Tensor, v: Tensor) -> Tensor:
        """The exponential map at the point `at`: the end z of the geodesic with initial velocity v, (..., d).

        It equals the Moebius addition of `at` and exp_0(v). With a and b the lengths of `at` and v in units of
        1 / sqrt(c), m and y their directions, 2 h the angle between them and R = sqrt(c) |z|, hyperbolic trigonometry
        gives

            sinh(R) z / |z| = sinh(b) (m + y) + m (cos(h)^2 (sinh(a + b) - 2 sinh(b)) + sin(h)^2 sinh(a - b))

        This form does not cancel near the origin; dividing by e^(a + b) prevents overflow.
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
        """The inverse of `exp` in v: the tangent vector at `at` whose geodesic ends in z, (..., d)."""
        return self.exp(-at, z)

    def log_det_exp(self, v: Tensor) -> Tensor:
        """The log-determinant of the exponential map at v, (d - 1) log(sinh(r) / r) with r = sqrt(c) |v|, (...)."""
        r = self.root * _norm(v.double()).squeeze(-1)
        return (v.shape[-1] - 1) * (r + (-torch.expm1(-2 * r) / (2 * r)).log())

    def shrink(self, v: Tensor) -> Tensor:
        """Map R^d smoothly onto points with sqrt(c) |z| < `MAX_RADIUS`; short vectors hardly change."""
        r = self.root * v / MAX_RADIUS
        return v * (1 + r.square().sum(-1, keepdim=True)).rsqrt()

    def project(self, z: Tensor) -> Tensor:
        """Convert points to coordinates inside the ball, with norm below 1 / sqrt(c)."""
        r = self.root * _norm(z)
        return z * (r / 2).tanh() / r


def _norm(v: Tensor) -> Tensor:
    """|v|, (..., 1), at least `MIN_NORM`, so that the gradient at 0 is finite."""
    return v.square().sum(-1, keepdim=True).clamp_min(MIN_NORM**2).sqrt()


class WrappedNormalPosterior(Posterior):
    """q(z | x): a wrapped normal at mu = exp_0(linear), with scale = softplus(linear) (arXiv 1901.06033).

    Latents are in normal coordinates (see `Ball`), so the decoder receives log_0(z), as in the authors' code. The
    distance of mu from the origin is bounded by 12 / sqrt(c), beyond which float32 coordinates are too coarse.

    Args:
        features: number of features.
        latent_dim: number of latent dimensions.
        curvature: c; the ball has curvature -c and radius 1 / sqrt(c). The prior uses the same ball.
    """

    def __init__(self, features: int, latent_dim: int, curvature: Positive = 1.0) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 2 * latent_dim)
        self.ball = Ball(curvature)

    def forward(self, features: Tensor) -> Distribution:
        """Map features (N, features) to a distribution with event shape (latent_dim,)."""
        parameters = self.linear(features)
        parameters = parameters.to(torch.promote_types(parameters.dtype, torch.float32))
        location, scale = parameters.chunk(2, dim=-1)
        return WrappedNormal(self.ball.shrink(location), softplus(scale), self.ball)


class WrappedNormalPrior(Prior):
    """p(z): a wrapped normal at the origin of the ball of the encoder's ``wrapped-normal`` posterior.

    Args:
        latent_shape: (latent_dim,).
        scale: standard deviation, as a distance.
    """

    origin: Tensor

    def __init__(self, latent_shape: tuple[int], scale: Positive = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.register_buffer("origin", torch.zeros(latent_shape), persistent=False)

    def forward(self, encoder: Encoder, condition: Tensor | None = None) -> Distribution:
        """Return the distribution over z, with batch shape ().

        Raises:
            ComponentError: the encoder has no ``wrapped-normal`` posterior.
        """
        balls = [module.ball for module in encoder.modules() if isinstance(module, WrappedNormalPosterior)]
        if not balls:
            raise ComponentError(
                "The prior 'wrapped-normal' needs a posterior on the Poincare ball: encoder.posterior=wrapped-normal."
            )
        return WrappedNormal(self.origin, torch.full_like(self.origin, self.scale), balls[0])


class WrappedNormal(Distribution):
    """A normal in the tangent space at mu, wrapped onto the Poincare ball (arXiv 1901.06033, section 3).

    z = exp_mu(v),  v ~ N(0, diag(scale^2)), where |v| is the distance from mu to z

    The density is with respect to Lebesgue measure on normal coordinates (see `Ball`), so it compares with any density
    on R^d; at mu = 0 it is the normal. The paper's density is with respect to the volume of the ball. The two differ by
    the factor (sinh r / r)^(d - 1), r = sqrt(c) |z|, which cancels in a rate. Samples and densities are computed in
    float64 and returned in the dtype of `location`.

    Args:
        location: mu, normal coordinates (N, d).
        scale: standard deviations (N, d), as distances.
        ball: the Poincare ball.
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
        """The Frechet mean, which is mu."""
        return self.location

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Draw reparameterised samples (K..., N, d)."""
        return self.rsample_and_log_prob(sample_shape)[0]

    def rsample_and_log_prob(self, sample_shape: _size = ()) -> tuple[Tensor, Tensor]:
        """Draw samples (K..., N, d) with their log-densities (K..., N), computed from the same tangent vectors."""
        shape = self._extended_shape(sample_shape)
        v = self.scale.double() * torch.randn(shape, dtype=self.scale.dtype, device=self.scale.device)
        z = self.ball.exp(self.location, v).to(self.location.dtype)
        return z, self._log_density(v, z)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density of points (K..., N, d), (K..., N), in nats."""
        return self._log_density(self.ball.log(self.location, value), value)

    def _log_density(self, v: Tensor, z: Tensor) -> Tensor:
        """log N(v; 0, scale^2), changed from the tangent space to the ball and from there to normal coordinates."""
        normal: Tensor = Normal(0, self.scale.double(), validate_args=False).log_prob(v).sum(-1)  # type: ignore[no-untyped-call]
        return (normal - self.ball.log_det_exp(v) + self.ball.log_det_exp(z)).to(self.location.dtype)
