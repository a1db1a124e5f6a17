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

from zoo import Encoder, Posterior, Prior, at_least_float32
from zoo_manifolds.bessel import log_ive

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

PROPOSALS = 24
"""Proposals for each draw. More than 0.65 of them are accepted, so that none is in one draw of 10^11."""
NODES = 48
"""Points at which the integral of the implicit gradient is evaluated."""


class VonMisesFisherPosterior(Posterior):
    """q(z | x) = vMF(z; direction, concentration) on the sphere S^d of R^(d+1), d being ``latent_dim``.

    The event shape is therefore (latent_dim + 1,). The direction is linear in the features and made a unit vector; the
    concentration is ``softplus + floor``.

    Args:
        features: width of the trunk.
        latent_dim: d, the dimension of the sphere.
        floor: the least concentration: near 0 all directions are alike, and their gradient vanishes.
    """

    def __init__(self, features: int, latent_dim: int, floor: Positive = 1.0) -> None:
        super().__init__()
        self.linear = nn.Linear(features, latent_dim + 2)
        self.floor = floor

    def forward(self, features: Tensor) -> Distribution:
        """Features (N, features) to a distribution with event shape (latent_dim + 1,)."""
        parameters = at_least_float32(self.linear(features))
        direction, concentration = parameters[..., :-1], parameters[..., -1]
        return VonMisesFisher(normalize(direction, dim=-1), softplus(concentration) + self.floor)


class UniformSpherePrior(Prior):
    """p(z) = 1 / area, on the unit sphere of as many coordinates as the posterior has.

    Args:
        latent_shape: (d + 1,).
    """

    pole: Tensor

    def __init__(self, latent_shape: tuple[int]) -> None:
        super().__init__()
        self.register_buffer("pole", torch.eye(*latent_shape)[0], persistent=False)

    def forward(self, encoder: Encoder, condition: Tensor | None = None) -> Distribution:
        """The distribution over z, batch shape ()."""
        return UniformSphere(self.pole)


class _UnitSphere(constraints.Constraint):
    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        on_it: Tensor = (value.norm(dim=-1) - 1).abs() < 1e-4
        return on_it


class VonMisesFisher(Distribution):
    """exp(kappa mu . z) normalised on the unit sphere of R^m, a density by its area (arXiv 1804.00891, section 3.1).

    log p(z) = kappa mu . z + log C,  C = kappa^(m/2 - 1) / ((2 pi)^(m/2) I_{m/2 - 1}(kappa))

    Draws follow section 3.3 of the paper: z = w mu + sqrt(1 - w^2) v, v uniform among the unit vectors across mu and w
    by rejection, from `PROPOSALS` proposals each, so that no shape depends on chance. Their gradient is another one
    than the paper's, which needs a term of its own in every loss: here it is the exact implicit one (arXiv 1805.08498).
    By kappa, a draw moves along its meridian so that the distribution function stays; by mu, it is turned with the
    sphere. It holds for first derivatives.

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
        """The mean on the sphere, which is the direction. (The mean in R^m lies inside of it, where no latent is.)"""
        return self.direction

    @property
    def mode(self) -> Tensor:
        """The direction."""
        return self.direction

    @cached_property
    def _bessel(self) -> tuple[Tensor, Tensor]:
        """log(e^-kappa I_{m/2 - 1}(kappa)), and E[mu . z], in float64."""
        return log_ive(self.size / 2 - 1, self.concentration.double())

    @cached_property
    def _log_scaled_constant(self) -> Tensor:
        """log C + kappa, the log-density at the direction, in float64."""
        order = self.size / 2 - 1
        return order * self.concentration.double().log() - self.size / 2 * math.log(2 * math.pi) - self._bessel[0]

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density at unit vectors (K..., N, m). From |mu - z|^2 = 2 - 2 mu . z, exact where kappa is high."""
        apart = (value - self.direction).square().sum(-1) / 2
        return self._log_scaled_constant.to(apart.dtype) - self.concentration * apart

    def entropy(self) -> Tensor:
        """-E[log p(z)], (N,), in nats."""
        kappa = self.concentration.double()
        return (kappa * (1 - self._bessel[1]) - self._log_scaled_constant).to(self.concentration.dtype)

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Draws (K..., N, m) with the implicit gradient."""
        shape = self._extended_shape(sample_shape)
        with torch.no_grad():
            angle = self._angles(shape[:-1])
            mu = self.direction.detach()
            noise = torch.randn(shape, dtype=mu.dtype, device=mu.device)
            across = normalize(noise - (noise * mu).sum(-1, keepdim=True) * mu, dim=-1)
        if torch.is_grad_enabled() and self.concentration.requires_grad:
            slope = _angle_by_concentration(angle, self.concentration.detach(), self._bessel[1].detach(), self.size)
            angle = angle + slope * (self.concentration - self.concentration.detach())
        angle = angle.unsqueeze(-1)
        if torch.is_grad_enabled() and self.direction.requires_grad:
            across = across - mu * (self.direction * across).sum(-1, keepdim=True)  # zero, but for its gradient
        return angle.cos() * self.direction + angle.sin() * across

    def _angles(self, shape: torch.Size) -> Tensor:
        """Draws of the angle between mu and z, by Wood's rejection (arXiv 1804.00891, algorithm 1).

        In terms of 1 - w, which keeps its digits where kappa is high.
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
        apart = 2 * b * epsilon / (1 - (1 - b) * epsilon)
        return 2 * (apart / 2).clamp(0, 1).sqrt().asin()


def _angle_by_concentration(angle: Tensor, kappa: Tensor, mean: Tensor, size: int) -> Tensor:
    """d angle / d kappa at a constant distribution function F: -(dF / dkappa) / (dF / dangle).

    The density of the angle is e^(kappa cos t) sin(t)^(m - 2) over its integral, and its derivative by kappa is itself
    times (cos t - E[cos t]): the ratio is an integral from 0 to the angle, by Fejer's first rule.
    """
    place = (torch.arange(NODES, dtype=torch.float64, device=angle.device) + 0.5) * (math.pi / NODES)
    k = torch.arange(1, NODES // 2 + 1, dtype=torch.float64, device=angle.device).unsqueeze(-1)
    weights = 2 / NODES * (1 - 2 * ((2 * k * place).cos() / (4 * k**2 - 1)).sum(0))
    end = angle.double().clamp(1e-12, math.pi - 1e-6).unsqueeze(-1)
    t = end * (1 + place.cos()) / 2
    density = (kappa.double().unsqueeze(-1) * (t.cos() - end.cos()) + (size - 2) * (t.sin() / end.sin()).log()).exp()
    integral = (density * (t.cos() - mean.unsqueeze(-1)) * weights).sum(-1) * end.squeeze(-1) / 2
    return -integral.to(angle.dtype)


class UniformSphere(Distribution):
    """The uniform distribution on the unit sphere of R^m; its density is 1 / area, 2 pi^(m/2) / Gamma(m/2).

    Args:
        pole: any unit vector (m,), for its size, type and device.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = _UnitSphere()

    def __init__(self, pole: Tensor) -> None:
        self.pole = pole
        self.log_area = math.log(2) + len(pole) / 2 * math.log(math.pi) - math.lgamma(len(pole) / 2)
        super().__init__(event_shape=pole.shape, validate_args=False)

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draws (K..., m)."""
        shape = self._extended_shape(sample_shape)
        return normalize(torch.randn(shape, dtype=self.pole.dtype, device=self.pole.device), dim=-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """-log(area), whatever the unit vector."""
        return torch.full_like(value[..., 0], -self.log_area)

    def entropy(self) -> Tensor:
        """log(area)."""
        return self.pole.new_tensor(self.log_area)


@register_kl(VonMisesFisher, UniformSphere)  # type: ignore[untyped-decorator,no-untyped-call]
def _kl(q: VonMisesFisher, p: UniformSphere) -> Any:
    """KL(q || p) = log(area) - entropy of q (arXiv 1804.00891, section 3.2), (N,)."""
    return p.log_area - q.entropy()
