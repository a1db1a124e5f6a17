"""A normalising flow as the prior, implemented with zuko."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import zuko
from pydantic import PositiveFloat, PositiveInt
from torch.distributions import Distribution

from zoo_priors.fitting import FittedByGradient

Architecture = Literal["masked-autoregressive", "coupling"]

FLOWS = {"masked-autoregressive": zuko.flows.MAF, "coupling": zuko.flows.RealNVP}


class Flow(FittedByGradient):
    """log p(z) = log N(f(z); 0, I) + log |det df/dz|, where f is a chain of affine transforms.

    It can be trained with the model or fitted after training.

    Args:
        latent_shape: event shape of the latent.
        architecture: ``masked-autoregressive`` (arXiv 1705.07057) computes a density in one pass and a sample in one
            pass per dimension; ``coupling`` (arXiv 1605.08803, eq. 7-8) needs one pass for each but is less flexible.
        transforms: number of transforms.
        hidden: widths of the hidden layers of each network.
        steps, batch_size, lr: see `fit`.
    """

    def __init__(
        self,
        latent_shape: tuple[int, ...],
        architecture: Architecture = "masked-autoregressive",
        transforms: PositiveInt = 3,
        hidden: Sequence[PositiveInt] = (128, 128),
        steps: PositiveInt = 5000,
        batch_size: PositiveInt = 256,
        lr: PositiveFloat = 1e-3,
    ) -> None:
        super().__init__(latent_shape, steps, batch_size, lr)
        self.flow = FLOWS[architecture](self.size, transforms=transforms, hidden_features=tuple(hidden))

    def standard_prior(self) -> Distribution:
        """Return the flow, with event shape (size,)."""
        distribution: Distribution = self.flow()
        return distribution
