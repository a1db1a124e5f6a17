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

# Points stay this far inside, in units of the radius: at the rim float32 knows no distances any more.
RIM = 1e-5


class Ball:
    """The Poincare ball of curvature -c: the points of R^d with c |z|^2 < 1 (arXiv 1901.06033, section 2 and appendix).

    Args:
        curvature: c > 0.
    """

    def __init__(self, curvature: float) -> None:
        self.curvature = curvature
        self.root = math.sqrt(curvature)

    def conformal(self, z: Tensor) -> Tensor:
        """lambda(z) = 2 / (1 - c |z|^2), by which lengths at z are greater than they look, (..., 1)."""
        return 2 / (1 - self.curvature * z.square().sum(-1, keepdim=True))

    def add(self, z: Tensor, y: Tensor) -> Tensor:
        """Moebius addition of z and y."""
        c = self.curvature
        zy, zz, yy = ((a * b).sum(-1, keepdim=True) for a, b in ((z, y), (z, z), (y, y)))
        return ((1 + 2 * c * zy + c * yy) * z + (1 - c * zz) * y) / (1 + 2 * c * zy + c**2 * zz * yy)

    def exp(self, at: Tensor, v: Tensor) -> Tensor:
        """Where the geodesic from a point leads that starts with the tangent vector v, in unit time."""
        length = self.root * self.conformal(at) * _norm(v) / 2
        return self.inside(self.add(at, length.tanh() / (self.root * _norm(v)) * v))

    def log(self, at: Tensor, z: Tensor) -> Tensor:
        """The tangent vector that `exp` takes to z."""
        y = self.add(-at, z)
        length = 2 / (self.root * self.conformal(at)) * (self.root * _norm(y)).clamp_max(1 - RIM / 10).atanh()
        return length * y / _norm(y)

    def inside(self, z: Tensor) -> Tensor:
        """Points at the rim or beyond it moved inside."""
        return z * ((1 - RIM) / (self.root * _norm(z))).clamp_max(1)


def _norm(v: Tensor) -> Tensor:
    """|v|, (..., 1), with a gradient at 0 and no division by it."""
    return v.square().sum(-1, keepdim=True).clamp_min(1e-24 if v.dtype == torch.float64 else 1e-14).sqrt()


class WrappedNormalPosterior(Posterior):
    """q(z | x), a wrapped normal around exp_0(linear), its scales the softplus of a linear layer.

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
        tangent, scale = parameters.chunk(2, dim=-1)
        # At the origin lambda is 2: halved, the tangent vector is as long as the way.
        return WrappedNormal(self.ball.exp(torch.zeros_like(tangent), tangent / 2), softplus(scale), self.ball)


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

    z = exp_mu(v / lambda(mu)),  v ~ N(0, diag(scale^2)), so that |v| is the distance from mu to z

    The density is one by the coordinates, as all of torch's are: so it can be compared with any other distribution on
    the same coordinates. The paper's is by the volume of the ball; they differ by lambda(z)^d, which a rate is
    free of.

    Args:
        location: mu, points of the ball (N, d).
        scale: (N, d), as distances.
        ball: the ball.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "location": constraints.real_vector,
        "scale": constraints.positive,
    }
    has_rsample = True

    def __init__(self, location: Tensor, scale: Tensor, ball: Ball) -> None:
        self.location = location
        self.scale = scale
        self.ball = ball
        super().__init__(location.shape[:-1], location.shape[-1:], validate_args=False)

    @property
    def support(self) -> _Inside:
        """The inside of the ball."""
        return _Inside(self.ball)

    @property
    def mean(self) -> Tensor:
        """The mean on the ball, which is mu: the point of the least expected squared distance."""
        return self.location

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Reparameterised draws (K..., N, d)."""
        return self.rsample_and_log_prob(sample_shape)[0]

    def rsample_and_log_prob(self, sample_shape: _size = ()) -> tuple[Tensor, Tensor]:
        """Draws and their log-densities, without the way back through `Ball.log`."""
        shape = self._extended_shape(sample_shape)
        v = self.scale * torch.randn(shape, dtype=self.scale.dtype, device=self.scale.device)
        z = self.ball.exp(self.location, v / self.ball.conformal(self.location))
        return z, self._log_density(v, z)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density at points (K..., N, d); minus infinity outside of the ball."""
        inside: Tensor = self.support.check(value)
        z = self.ball.inside(value)
        log_density = self._log_density(self.ball.conformal(self.location) * self.ball.log(self.location, z), z)
        return torch.where(inside, log_density, -math.inf)

    def _log_density(self, v: Tensor, z: Tensor) -> Tensor:
        """log N(v; 0, scale^2) + (d - 1) log(r / sinh r), r = sqrt(c) |v|; then by coordinates, d log lambda(z)."""
        dim = v.shape[-1]
        normal: Tensor = Normal(0, self.scale, validate_args=False).log_prob(v).sum(-1)  # type: ignore[no-untyped-call]
        r = self.ball.root * _norm(v).squeeze(-1)
        # sinh r = e^r (1 - e^-2r) / 2, which does not overflow
        log_stretch = r.log() - r - (-torch.expm1(-2 * r)).log() + math.log(2)
        return normal + (dim - 1) * log_stretch + dim * self.ball.conformal(z).squeeze(-1).log()


class _Inside(constraints.Constraint):
    event_dim = 1

    def __init__(self, ball: Ball) -> None:
        self.ball = ball

    def check(self, value: Tensor) -> Tensor:
        inside: Tensor = self.ball.curvature * value.square().sum(-1) < 1
        return inside
