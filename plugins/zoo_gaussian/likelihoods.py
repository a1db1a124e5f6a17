"""Likelihoods of independent entries: bits, numbers in [0, 1], real numbers."""

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

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
CENTER_CLIP = 1e-3


class BernoulliLikelihood(Likelihood):
    """Independent bits (arXiv 1312.6114, eq. 11). For binary data only.

    With values between 0 and 1, log p is the cross entropy that tutorials use, which is not a density over [0, 1]:
    binarise the data, or use the continuous Bernoulli.

    Args:
        data_shape: event shape of x.
        centered: add the logits of the training mean, clipped to [0.001, 0.999], to those of the decoder. This equals
            a last layer whose bias is initialized to them, as in the published code of arXiv 1509.00519.
    """

    def __init__(self, data_shape: tuple[int, ...], centered: bool = False) -> None:
        super().__init__()
        self.event_dims = len(data_shape)
        self.center = MeanLogits(data_shape) if centered else None

    def forward(self, parameters: Tensor) -> Distribution:
        """Map logits (..., *data_shape, 1) to a distribution over data_shape."""
        logits = at_least_float32(parameters).squeeze(-1)
        if self.center is not None:
            logits = logits + at_least_float32(self.center.logits)
        return IndependentBits(Bernoulli(logits=logits, validate_args=False), self.event_dims, validate_args=False)


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


class IndependentBits(Independent):  # type: ignore[type-arg]  # generic in newer versions of torch alone
    """Independent bits as one event, whose log-density takes the fewest passes over the entries.

    Likelihoods with thousands of samples spend most of their time here, apart from the matrix products.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """sum_i x_i logit_i - log(1 + e^logit_i)."""
        dims = self.reinterpreted_batch_ndims
        logits: Tensor = self.base_dist.logits.flatten(-dims)
        value = value.to(logits.dtype).flatten(-dims)
        if torch.is_grad_enabled():
            return (value * logits).sum(-1) - softplus(logits).sum(-1)
        # The same without softplus, whose kernel is slow on a CPU, and without a second large temporary.
        clamped = logits.clamp_max(80)  # e^88 is infinite
        beyond = logits.sum(-1) - clamped.sum(-1)
        return torch.einsum("...i,...i->...", value, logits) - clamped.exp_().add_(1).log_().sum(-1) - beyond


class ContinuousBernoulliLikelihood(Likelihood):
    """The Bernoulli made a density on [0, 1] by its normalising constant (arXiv 1907.06845, section 3).

    Args:
        data_shape: event shape of x.
    """

    def __init__(self, data_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.event_dims = len(data_shape)

    def forward(self, parameters: Tensor) -> Distribution:
        """Map logits (..., *data_shape, 1) to a distribution over data_shape."""
        entries = ContinuousBernoulli(at_least_float32(parameters).squeeze(-1))
        return Independent(entries, self.event_dims, validate_args=False)


class GaussianLikelihood(Likelihood):
    """N(x; mean, scale^2) for each entry of x.

    Args:
        data_shape: event shape of x.
        scale: a fixed standard deviation in units of x; ``shared`` learns one for all entries (arXiv 2006.13202);
            ``pixelwise`` lets the decoder put out one for each entry.
        min_scale: added to a learned scale: without a floor, an entry that never changes drives the likelihood to
            infinity, and a clamp would leave no gradient below it (the soft clip of arXiv 2006.13202).
    """

    photographs: ClassVar[Mapping[str, object] | None] = {"scale": "shared"}

    def __init__(
        self,
        data_shape: tuple[int, ...],
        scale: Positive | Literal["shared", "pixelwise"] = 1.0,
        min_scale: Positive = 1e-3,
    ) -> None:
        super().__init__()
        self.event_dims = len(data_shape)
        self.min_scale = min_scale
        self.parameters_per_entry = 2 if scale == "pixelwise" else 1
        if isinstance(scale, float | int):
            self.register_buffer("log_scale", torch.tensor(math.log(scale)))
        else:
            self.log_scale = nn.Parameter(torch.zeros(())) if scale == "shared" else None

    def forward(self, parameters: Tensor) -> Distribution:
        """Map means, and log-scales where they are pixelwise, (..., *data_shape, 1 or 2) to a distribution over
        data_shape."""
        parameters = at_least_float32(parameters)
        mean = parameters[..., 0]
        if self.log_scale is None:
            log_scale = self._with_floor(parameters[..., 1])
        elif isinstance(self.log_scale, nn.Parameter):
            log_scale = self._with_floor(at_least_float32(self.log_scale))
        else:
            log_scale = at_least_float32(self.log_scale)
        return Independent(Gaussian(mean, log_scale), self.event_dims, validate_args=False)

    def _with_floor(self, log_scale: Tensor) -> Tensor:
        """log(min_scale + e^log_scale)."""
        floor = math.log(self.min_scale)
        return floor + softplus(log_scale - floor)


class ContinuousBernoulli(Distribution):
    """p(x) = C e^(logit x) on [0, 1], worked out from the logit and exact for every one.

    torch's own goes through a clamped probability: in float32 it integrates to 0.4 at a logit of 40, and near 0 its
    gradient is that of another mean.

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
        small, near, far = self._split()
        series = near / 12 - near**3 / 720 + near**5 / 30240
        return 0.5 + torch.where(small, series, self.logits.sign() * (-1 / torch.expm1(-far) - 1 / far - 0.5))

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density: the Bernoulli's, and log C = log(logit / tanh(logit / 2))."""
        small, near, far = self._split()
        series = math.log(2) + near**2 / 12 - 7 * near**4 / 1440 + 31 * near**6 / 90720
        log_constant = torch.where(small, series, (far / torch.tanh(far / 2)).log())
        return value * self.logits - softplus(self.logits) + log_constant

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Reparameterised draws, by the inverse of the distribution function."""
        size = self.logits.abs().clamp_min(1e-6)
        u = torch.rand(self._extended_shape(sample_shape), dtype=size.dtype, device=size.device)
        from_end = torch.log1p(u * torch.expm1(-size)) / -size
        return torch.where(self.logits > 0, 1 - from_end, from_end)

    def _split(self) -> tuple[Tensor, Tensor, Tensor]:
        """Where a series about 0 is better, the logits there (else 0), and the sizes of the others (else 1)."""
        small = self.logits.abs() < 0.1
        return small, torch.where(small, self.logits, 0.0), torch.where(small, 1.0, self.logits.abs())
