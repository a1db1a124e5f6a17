"""The unit sphere: the von Mises-Fisher posterior and the uniform prior (arXiv 1804.00891)."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Beta, Distribution, constraints, register_kl
from torch.nn.functional import normalize, softplus
from torch.types import _size

from zoo import ComponentError, Encoder, Posterior, Prior, at_least_float32
from zoo_manifolds.bessel import log_ive

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

PROPOSALS = 24
"""Proposals per sample. The acceptance rate is above 0.65, so all are rejected for one sample in 10^11."""
NODES = 48
"""Quadrature nodes for the implicit gradient."""


class VonMisesFisherPosterior(Posterior):
    """q(z | x) = vMF(z; direction, concentration) on the sphere S^d in R^(d+1), with d = ``latent_dim``.

    direction = linear / |linear|, concentration = softplus(linear) + floor (arXiv 1804.00891).

    Args:
        features: number of features.
        latent_dim: d, dimension of the sphere; the event shape is (d + 1,).
        floor: smallest concentration. At 0 the distribution is uniform and the direction has no gradient.
    """

    def __init__(self, features: int, latent_dim: int, floor: Positive = 1.0) -> None:
        super().__init__()
        self.linear = nn.Linear(features, latent_dim + 2)
        self.floor = floor

    def forward(self, features: Tensor) -> Distribution:
        """Map features (N, features) to a distribution with event shape (latent_dim + 1,)."""
        parameters = at_least_float32(self.linear(features))
        direction, concentration = parameters[..., :-1], parameters[..., -1]
        return VonMisesFisher(normalize(direction, dim=-1), softplus(concentration) + self.floor)


class UniformSpherePrior(Prior):
    """p(z) = 1 / area, on the unit sphere of the posterior.

    Args:
        latent_shape: (d + 1,).

    Raises:
        ComponentError: the latent is not a vector.
    """

    pole: Tensor

    def __init__(self, latent_shape: tuple[int, ...]) -> None:
        super().__init__()
        if len(latent_shape) != 1:
            raise ComponentError(
                f"The prior 'uniform-sphere' needs a latent of shape (d + 1,); got {tuple(latent_shape)}."
            )
        self.register_buffer("pole", torch.eye(*latent_shape)[0], persistent=False)

    def forward(self, encoder: Encoder, condition: Tensor | None = None) -> Distribution:
        """Return the distribution over z, with batch shape ()."""
        return UniformSphere(self.pole)


class _UnitSphere(constraints.Constraint):
    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        is_unit: Tensor = (value.norm(dim=-1) - 1).abs() < 1e-4
        return is_unit


class VonMisesFisher(Distribution):
    """The von Mises-Fisher distribution on the unit sphere in R^m (arXiv 1804.00891, section 3.1).

    log p(z) = kappa mu . z + log C,  C = kappa^(m/2 - 1) / ((2 pi)^(m/2) I_{m/2 - 1}(kappa))

    The density is with respect to the area of the sphere. Samples follow section 3.3: z = w mu + sqrt(1 - w^2) v, with
    v uniform among the unit vectors orthogonal to mu and w by rejection from a fixed number of proposals. Gradients are
    the exact implicit ones (arXiv 1805.08498), where the paper needs a correction term in the loss: in kappa, a sample
    moves along its meridian at a constant distribution function; in mu, it rotates with the sphere. Only first
    derivatives are correct.

    Args:
        direction: mu, unit vectors (N, m), m >= 2.
        concentration: kappa > 0, (N,).
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "direction": constraints.real_vector,
        "concentration": constraints.positive,
    }
    support = _UnitSphere()
    has_rsample = True

    def __init__(self, direction: Tensor, concentration: Tensor) -> None:
        self.direction = direction
        self.concentration = concentration
        self.size = direction.shape[-1]
        super().__init__(concentration.shape, direction.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The mean direction mu. (The mean in R^m is not on the sphere.)"""
        return self.direction

    @property
    def mode(self) -> Tensor:
        """The direction mu."""
        return self.direction

    @cached_property
    def _bessel(self) -> tuple[Tensor, Tensor]:
        """log(e^-kappa I_{m/2 - 1}(kappa)) and E[mu . z], in float64."""
        return log_ive(self.size / 2 - 1, self.concentration.double())

    @cached_property
    def _log_scaled_constant(self) -> Tensor:
        """log C + kappa, the log-density at mu, in float64."""
        order = self.size / 2 - 1
        return order * self.concentration.double().log() - self.size / 2 * math.log(2 * math.pi) - self._bessel[0]

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density of unit vectors (K..., N, m), (K..., N), in nats.

        It uses 1 - mu . z = |mu - z|^2 / 2, which is accurate for large kappa.
        """
        one_minus_w = (value - self.direction).square().sum(-1) / 2
        return self._log_scaled_constant.to(one_minus_w.dtype) - self.concentration * one_minus_w

    def entropy(self) -> Tensor:
        """The entropy -E[log p(z)], (N,), in nats."""
        kappa = self.concentration.double()
        return (kappa * (1 - self._bessel[1]) - self._log_scaled_constant).to(self.concentration.dtype)

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Draw samples (K..., N, m) with implicit gradients."""
        shape = self._extended_shape(sample_shape)
        with torch.no_grad():
            angle = self._angles(shape[:-1])
            mu = self.direction.detach()
            noise = torch.randn(shape, dtype=mu.dtype, device=mu.device)
            tangent = normalize(noise - (noise * mu).sum(-1, keepdim=True) * mu, dim=-1)
        if torch.is_grad_enabled() and self.concentration.requires_grad:
            slope = _angle_derivative(angle, self.concentration.detach(), self._bessel[1].detach(), self.size)
            angle = angle + slope * (self.concentration - self.concentration.detach())
        angle = angle.unsqueeze(-1)
        if torch.is_grad_enabled() and self.direction.requires_grad:
            tangent = tangent - mu * (self.direction * tangent).sum(-1, keepdim=True)  # adds 0, but has a gradient
        return angle.cos() * self.direction + angle.sin() * tangent

    def _angles(self, shape: torch.Size) -> Tensor:
        """Draw the angle between mu and z by Wood's rejection sampling (arXiv 1804.00891, algorithm 1).

        It computes 1 - w, which is accurate for large kappa.
        """
        kappa, n = self.concentration, self.size - 1
        root = (4 * kappa**2 + n**2).sqrt()
        b = n / (2 * kappa + root)
        a = (n + 2 * kappa + root) / 4
        d = 4 * a * b / (1 + b) - n * math.log(n)
        half = kappa.new_full((), n / 2)
        epsilon = Beta(half, half, validate_args=False).sample((PROPOSALS, *shape))
        t = 2 * a * b / (1 - (1 - b) * epsilon)
        accepted = n * t.log() - t + d >= torch.rand_like(epsilon).log()
        first = accepted.to(torch.uint8).argmax(0, keepdim=True)
        epsilon = epsilon.gather(0, first).squeeze(0)
        one_minus_w = 2 * b * epsilon / (1 - (1 - b) * epsilon)
        return 2 * (one_minus_w / 2).clamp(0, 1).sqrt().asin()


def _angle_derivative(angle: Tensor, kappa: Tensor, mean: Tensor, size: int) -> Tensor:
    """d angle / d kappa at a constant distribution function F: -(dF / dkappa) / (dF / dangle).

    The density of the angle is proportional to e^(kappa cos t) sin(t)^(m - 2), and its derivative in kappa is the
    density times (cos t - E[cos t]). The ratio is an integral from 0 to the angle, computed by Fejer's first rule.

    Args:
        angle: (K..., N).
        kappa: concentration (N,).
        mean: E[cos t], (N,).
        size: m.
    """
    theta = (torch.arange(NODES, dtype=torch.float64, device=angle.device) + 0.5) * (math.pi / NODES)
    k = torch.arange(1, NODES // 2 + 1, dtype=torch.float64, device=angle.device).unsqueeze(-1)
    weights = 2 / NODES * (1 - 2 * ((2 * k * theta).cos() / (4 * k**2 - 1)).sum(0))
    end = angle.double().clamp(1e-12, math.pi - 1e-6).unsqueeze(-1)
    t = end * (1 + theta.cos()) / 2
    density = (kappa.double().unsqueeze(-1) * (t.cos() - end.cos()) + (size - 2) * (t.sin() / end.sin()).log()).exp()
    integral = (density * (t.cos() - mean.unsqueeze(-1)) * weights).sum(-1) * end.squeeze(-1) / 2
    return -integral.to(angle.dtype)


class UniformSphere(Distribution):
    """The uniform distribution on the unit sphere in R^m, with density 1 / area = Gamma(m/2) / (2 pi^(m/2)).

    Args:
        pole: any unit vector (m,), which determines m, dtype and device.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = _UnitSphere()

    def __init__(self, pole: Tensor) -> None:
        self.pole = pole
        self.log_area = math.log(2) + len(pole) / 2 * math.log(math.pi) - math.lgamma(len(pole) / 2)
        super().__init__(event_shape=pole.shape, validate_args=False)

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draw samples (K..., m)."""
        shape = self._extended_shape(sample_shape)
        return normalize(torch.randn(shape, dtype=self.pole.dtype, device=self.pole.device), dim=-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """-log(area) for every unit vector, in nats."""
        return torch.full_like(value[..., 0], -self.log_area)

    def entropy(self) -> Tensor:
        """log(area), in nats."""
        return self.pole.new_tensor(self.log_area)


@register_kl(VonMisesFisher, UniformSphere)  # type: ignore[untyped-decorator,no-untyped-call]
def _kl(q: VonMisesFisher, p: UniformSphere) -> Any:
    """KL(q || p) = log(area) - H(q) (arXiv 1804.00891, section 3.2), (N,)."""
    return p.log_area - q.entropy()
