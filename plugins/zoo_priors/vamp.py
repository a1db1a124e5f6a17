"""The variational mixture of posteriors (arXiv 1705.07120)."""

from __future__ import annotations

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution

from zoo import Encoder, Prior, match_dtype
from zoo_priors.mixture import Mixture


class VampPrior(Prior):
    """p(z) = 1/K sum_k q(z | u_k), with pseudo-inputs u_k trained with the model (arXiv 1705.07120).

    Each call encodes the K pseudo-inputs. The posterior needs a log-density at any z, and the encoder must not need
    labels.

    Args:
        data_shape: event shape of x.
        pseudo_inputs: K.
        init: mean and standard deviation of the normal distribution from which the pseudo-inputs are initialized;
            None initializes them uniformly in [0, 1]. The published code has [0.05, 0.01] for MNIST and [0.5, 0.02] for
            Frey faces.
    """

    logits: Tensor

    def __init__(
        self,
        data_shape: tuple[int, ...],
        pseudo_inputs: PositiveInt = 500,
        init: tuple[float, NonNegativeFloat] | None = None,
    ) -> None:
        super().__init__()
        if init is None:
            drawn = torch.rand(pseudo_inputs, *data_shape)
        else:
            drawn = init[0] + init[1] * torch.randn(pseudo_inputs, *data_shape)
        self.pseudo_inputs = nn.Parameter(drawn)
        self.register_buffer("logits", torch.zeros(pseudo_inputs), persistent=False)

    def forward(self, encoder: Encoder, condition: Tensor | None = None) -> Distribution:
        """Return the mixture over z, with batch shape ()."""
        # Clamped as in the authors' code: a pixel outside [0, 1] has no gradient.
        q: Distribution = encoder(match_dtype(self.pseudo_inputs.clamp(0, 1), encoder))
        return Mixture(Categorical(logits=self.logits, validate_args=False), q)
