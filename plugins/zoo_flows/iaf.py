"""The inverse autoregressive flow posterior (arXiv 1606.04934)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.distributions import AffineTransform, Distribution
from zuko.flows import MAF

from zoo import ComponentFactory, KeepsFloat32, Posterior, at_least_float32, match_dtype
from zoo_flows.flow import Flow, require_flat

FORGET_BIAS = 1.5
FAR = 1e6


class InverseAutoregressiveFlow(KeepsFloat32, Posterior):
    """q(z | x): a base posterior transformed by gated autoregressive steps (arXiv 1606.04934, algorithm 1).

    Each step depends on the preceding dimensions and on a context computed from the features. A sample and its density
    take one pass of each network; the density of any other z takes `latent_dim` passes. The order of the dimensions is
    reversed between steps.

    Args:
        features: number of features.
        latent_dim: number of latent dimensions.
        steps: number of transforms.
        hidden: widths of the hidden layers of each masked network.
        context: width of the context, h in the paper.
        base: head for the distribution of z_0.
    """

    def __init__(
        self,
        features: int,
        latent_dim: int,
        steps: PositiveInt = 2,
        hidden: Sequence[PositiveInt] = (200,),
        context: PositiveInt = 40,
        base: Callable[..., Posterior] = ComponentFactory("posterior", "gaussian"),
    ) -> None:
        super().__init__()
        self.base = base(features=features, latent_dim=latent_dim)
        self.context = nn.Linear(features, context)
        # In zuko's MAF these map z to noise; used from noise to z, they are an inverse autoregressive flow.
        self.steps = MAF(
            latent_dim, context, steps, univariate=Gate, shapes=((), ()), hidden_features=tuple(hidden)
        ).transform

    def forward(self, features: Tensor) -> Distribution:
        """Map features (N, features) to a flow with event shape (latent_dim,).

        Raises:
            ComponentError: the features are on a grid.
        """
        require_flat(features, "iaf")
        features = match_dtype(features, self)
        return Flow(self.base(features), [self.steps(self.context(features))])


class Gate(AffineTransform):
    """The transform sigma z + (1 - sigma) m, with sigma = sigmoid(s + `FORGET_BIAS`) (eq. 13 and 14).

    The bias makes each step close to the identity initially. The inverse is clamped to [-`FAR`, `FAR`]: the density
    there is negligible, and an overflow would make it NaN.
    """

    def __init__(self, m: Tensor, s: Tensor) -> None:
        m, s = at_least_float32(m), at_least_float32(s)
        sigma = torch.sigmoid(s + FORGET_BIAS).clamp_min(1 / FAR)
        super().__init__((1 - sigma) * m, sigma)

    def _inverse(self, y: Tensor) -> Tensor:
        z: Tensor = super()._inverse(y)  # type: ignore[no-untyped-call]
        return z.clamp(-FAR, FAR)
