"""Likelihoods with independent entries: binary, in [0, 1], and real-valued."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent, constraints
from torch.nn.functional import softplus
from torch.types import _size

from zoo import DataDependent, Gaussian, Likelihood, at_least_float32
from zoo_gaussian.optimal import OptimalGaussian, OptimalVariance

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
CENTER_CLIP = 1e-3


class IndependentEntries(Likelihood):
    """A likelihood that factorises over the entries of x.

    Args:
        data_shape: event shape of x.
    """

    def __init__(self, data_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.event_dims = len(data_shape)


class BernoulliLikelihood(IndependentEntries):
    """Independent Bernoulli entries (arXiv 1312.6114, eq. 11), for binary data.

    For values strictly between 0 and 1, ``log_prob`` is the negative cross-entropy of many tutorials, which is not a
    density on [0, 1]. Binarise such data, or use `ContinuousBernoulliLikelihood`.

    Args:
        data_shape: event shape of x.
        centered: add the logits of the training mean, clipped to [0.001, 0.999], to those of the decoder. This equals
            a last layer whose bias is initialized to them, as in the published code of arXiv 1509.00519.
    """

    def __init__(self, data_shape: tuple[int, ...], centered: bool = False) -> None:
        super().__init__(data_shape)
        self.center = MeanLogits(data_shape) if centered else None

    def forward(self, parameters: Tensor) -> Distribution:
        """Map logits (..., *data_shape, 1) to a distribution over data_shape."""
        logits = at_least_float32(parameters).squeeze(-1)
        if self.center is not None:
            logits = logits + at_least_float32(self.center.logits)
        bernoulli = Bernoulli(logits=logits, validate_args=False)
        return IndependentBernoulli(bernoulli, self.event_dims, validate_args=False)


class MeanLogits(nn.Module, DataDependent):
    """The logits of the mean of the training data, clipped to [0.001, 0.999]; 0 until they are initialized.

    Args:
        data_shape: event shape of x.
    """

    logits: Tensor

    def __init__(self, data_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("logits", torch.zeros(data_shape))

    def initialize(self, mean: Tensor) -> None:
        """Set the logits."""
        self.logits.copy_(mean.clamp(CENTER_CLIP, 1 - CENTER_CLIP).logit())


class IndependentBernoulli(Independent):  # type: ignore[type-arg]  # generic only in recent versions of torch
    """Independent Bernoulli variables with a fast log-density.

    Importance sampling with thousands of draws spends most of its time here and in matrix products.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """sum_i x_i logit_i - log(1 + e^logit_i), in nats."""
        dims = self.reinterpreted_batch_ndims
        logits: Tensor = self.base_dist.logits.flatten(-dims)
        value = value.to(logits.dtype).flatten(-dims)
        if torch.is_grad_enabled():
            return (value * logits).sum(-1) - softplus(logits).sum(-1)
        # The same without softplus, which is slow on a CPU, and without a second large temporary.
        clamped = logits.clamp_max(80)  # e^89 overflows float32
        excess = logits.sum(-1) - clamped.sum(-1)
        return torch.einsum("...i,...i->...", value, logits) - clamped.exp_().add_(1).log_().sum(-1) - excess


class ContinuousBernoulliLikelihood(IndependentEntries):
    """Independent continuous Bernoulli entries (arXiv 1907.06845, section 3), for values in [0, 1].

    Args:
        data_shape: event shape of x.
    """

    def forward(self, parameters: Tensor) -> Distribution:
        """Map logits (..., *data_shape, 1) to a distribution over data_shape."""
        entries = ContinuousBernoulli(at_least_float32(parameters).squeeze(-1))
        return Independent(entries, self.event_dims, validate_args=False)


class GaussianLikelihood(IndependentEntries):
    """Independent Gaussian entries, N(x; mean, scale^2).

    Args:
        data_shape: event shape of x.
        scale: a fixed standard deviation in units of x; ``shared`` learns one for all entries (arXiv 2006.13202);
            ``pixelwise`` has the decoder predict one per entry; ``optimal`` is the one that maximizes the likelihood of
            a training batch, its root mean squared error (section 4.2 there). In evaluation mode ``optimal`` is the
            moving average over training batches: the density of an example is normalized, and does not depend on the
            other examples.
        min_scale: soft lower bound on a learned scale (arXiv 2006.13202), and hard lower bound on the optimal scale.
            Without it, an entry that is constant in the data drives the likelihood to infinity; a hard clamp of a
            learned scale would have no gradient below the bound.
    """

    photographs: ClassVar[Mapping[str, object] | None] = {"scale": "optimal"}

    def __init__(
        self,
        data_shape: tuple[int, ...],
        scale: Positive | Literal["shared", "pixelwise", "optimal"] = 1.0,
        min_scale: Positive = 1e-3,
    ) -> None:
        super().__init__(data_shape)
        self.min_scale = min_scale
        self.parameters_per_entry = 2 if scale == "pixelwise" else 1
        self.optimal = OptimalVariance(min_scale) if scale == "optimal" else None
        if isinstance(scale, float | int):
            self.register_buffer("log_scale", torch.tensor(math.log(scale)))
        else:
            self.log_scale = nn.Parameter(torch.zeros(())) if scale == "shared" else None

    def forward(self, parameters: Tensor) -> Distribution:
        """Map means, followed by log-scales if ``pixelwise``, (..., *data_shape, 1 or 2) to a distribution over
        data_shape.
        """
        parameters = at_least_float32(parameters)
        mean = parameters[..., 0]
        if self.optimal is not None and self.training and torch.is_grad_enabled():
            return Independent(OptimalGaussian(mean, self.optimal), self.event_dims, validate_args=False)
        if self.optimal is not None:
            log_scale = at_least_float32(self.optimal.average).log() / 2
        elif self.log_scale is None:
            log_scale = self._soft_clip(parameters[..., 1])
        elif isinstance(self.log_scale, nn.Parameter):
            log_scale = self._soft_clip(at_least_float32(self.log_scale))
        else:
            log_scale = at_least_float32(self.log_scale)
        return Independent(Gaussian(mean, log_scale), self.event_dims, validate_args=False)

    def _soft_clip(self, log_scale: Tensor) -> Tensor:
        """log(min_scale + e^log_scale)."""
        floor = math.log(self.min_scale)
        return floor + softplus(log_scale - floor)


class ContinuousBernoulli(Distribution):
    """p(x) = C e^(logit x) on [0, 1], computed from the logit and accurate for all of them.

    `torch.distributions.ContinuousBernoulli` clamps a probability: in float32 its density integrates to 0.4 at a logit
    of 40, and its gradient near a logit of 0 is wrong.

    Args:
        logits: of any shape.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {"logits": constraints.real}
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """1 / (1 - e^-logit) - 1 / logit."""
        is_small, small, large = self._split()
        series = small / 12 - small**3 / 720 + small**5 / 30240
        return 0.5 + torch.where(is_small, series, self.logits.sign() * (-1 / torch.expm1(-large) - 1 / large - 0.5))

    def log_prob(self, value: Tensor) -> Tensor:
        """The Bernoulli's log-probability plus log(logit / tanh(logit / 2)), in nats."""
        is_small, small, large = self._split()
        series = math.log(2) + small**2 / 12 - 7 * small**4 / 1440 + 31 * small**6 / 90720
        log_constant = torch.where(is_small, series, (large / torch.tanh(large / 2)).log())
        return value * self.logits - softplus(self.logits) + log_constant

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Draw reparameterised samples by inverting the distribution function."""
        magnitude = self.logits.abs().clamp_min(1e-6)
        u = torch.rand(self._extended_shape(sample_shape), dtype=magnitude.dtype, device=magnitude.device)
        x = torch.log1p(u * torch.expm1(-magnitude)) / -magnitude
        return torch.where(self.logits > 0, 1 - x, x)

    def _split(self) -> tuple[Tensor, Tensor, Tensor]:
        """Where a Taylor series about 0 is used, the logits there (else 0), and |logit| elsewhere (else 1)."""
        is_small = self.logits.abs() < 0.1
        return is_small, torch.where(is_small, self.logits, 0.0), torch.where(is_small, 1.0, self.logits.abs())
