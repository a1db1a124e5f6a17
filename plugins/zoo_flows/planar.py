"""The planar flow posterior (arXiv 1505.05770, section 4.1)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.distributions import Distribution, Transform, constraints
from torch.nn.functional import softplus

from zoo import ComponentFactory, Posterior, at_least_float32
from zoo_flows.flow import Flow, require_flat

BISECTIONS = 64
"""More than the significant bits of a float64."""


class PlanarFlow(Posterior):
    """q(z | x): a base posterior transformed by planar layers with parameters linear in the features.

    The layers are initially the identity.

    Args:
        features: number of features.
        latent_dim: number of latent dimensions.
        layers: number of transforms.
        base: head for the distribution of z_0.
    """

    def __init__(
        self,
        features: int,
        latent_dim: int,
        layers: PositiveInt = 10,
        base: Callable[..., Posterior] = ComponentFactory("posterior", "gaussian"),
    ) -> None:
        super().__init__()
        self.layers = layers
        self.latent_dim = latent_dim
        self.base = base(features=features, latent_dim=latent_dim)
        self.linear = nn.Linear(features, layers * (2 * latent_dim + 1))
        with torch.no_grad():
            u_rows = self.linear.weight.view(layers, 2 * latent_dim + 1, features)[:, :latent_dim]
            u_rows.zero_()
            self.linear.bias.view(layers, -1)[:, :latent_dim].zero_()

    def forward(self, features: Tensor) -> Distribution:
        """Map features (N, features) to a flow with event shape (latent_dim,).

        Raises:
            ComponentError: the features are on a grid.
        """
        require_flat(features, "planar")
        parameters = at_least_float32(self.linear(features))
        layers = parameters.view(*parameters.shape[:-1], self.layers, 2 * self.latent_dim + 1).movedim(-2, 0)
        u, w, b = torch.split(layers, [self.latent_dim, self.latent_dim, 1], dim=-1)
        # w.z is a sum over dimensions; the scaling keeps tanh out of saturation for any number of them.
        return Flow(self.base(features), PlanarTransform(u, w / math.sqrt(self.latent_dim), b).unbind())


class PlanarTransform(Transform):
    """f(z) = z + û tanh(w.z + b), with log |det df/dz| = log(1 + w.û (1 - tanh^2))  (arXiv 1505.05770, eq. 10 to 12).

    It is invertible if w.û > -1, which û = u + (m(w.u) - w.u) w / |w|^2 with w.û = m(w.u) ensures (appendix A.1). Here
    m(x) = softplus(x + log(e - 1)) - 1, the paper's softplus(x) - 1 shifted such that m(0) = 0. Hence u = 0 gives the
    identity, and û stays bounded as w vanishes.

    Args:
        u, w: (*, N, latent_dim).
        b: (*, N, 1).
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, u: Tensor, w: Tensor, b: Tensor) -> None:
        super().__init__()
        wu = _dot(w, u)
        self.slope = softplus(wu + math.log(math.e - 1))  # 1 + w.û
        ww = _dot(w, w).clamp_min(torch.finfo(w.dtype).tiny)
        self.u = u + (self.slope - 1 - wu) * w / ww
        self.w = w
        self.b = b

    def unbind(self) -> list[PlanarTransform]:
        """The transforms along the first dimension of the parameters."""
        fields = ("slope", "u", "w", "b")
        transforms = [copy.copy(self) for _ in self.u]
        for transform, *values in zip(transforms, *(getattr(self, field) for field in fields), strict=True):
            vars(transform).update(zip(fields, values, strict=True))
        return transforms

    def call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return f(z) (..., N, latent_dim) and the log-determinant at z (..., N)."""
        t = torch.tanh(_dot(self.w, z) + self.b)
        return z + self.u * t, self._derivative(t).log().squeeze(-1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the log-determinant at x, (..., N)."""
        return self.call_and_ladj(x)[1]

    def _call(self, x: Tensor) -> Tensor:
        return self.call_and_ladj(x)[0]

    def _inverse(self, y: Tensor) -> Tensor:
        """y - û tanh(a), where a = w.z + b solves a + w.û tanh(a) = w.y + b, whose left side increases with a."""
        target, wu = _dot(self.w, y) + self.b, self.slope - 1
        with torch.no_grad():
            low, high = target - wu.abs(), target + wu.abs()
            for _ in range(BISECTIONS):
                middle = (low + high) / 2
                too_high = middle + wu * torch.tanh(middle) > target
                low, high = torch.where(too_high, low, middle), torch.where(too_high, middle, high)
            t = torch.tanh((low + high) / 2)
            derivative = self._derivative(t)
        # The value from the bisection, the gradient from the implicit function theorem.
        step = (target - wu * t) / derivative
        a = (low + high) / 2 + step - step.detach()
        return y - self.u * torch.tanh(a)

    def _derivative(self, t: Tensor) -> Tensor:
        """1 + w.û (1 - t^2), as a sum of non-negative terms so that rounding cannot make it negative."""
        return t**2 + self.slope * (1 - t**2)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1, keepdim=True)
