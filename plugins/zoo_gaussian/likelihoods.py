"""Likelihoods of pixels in [0, 1]."""

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

from zoo import Gaussian, Likelihood, at_least_float32

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class BernoulliPixels(Likelihood):
    """Independent bits (arXiv 1312.6114, eq. 11). A likelihood for binary pixels only.

    With real-valued pixels log p is the cross entropy that tutorials use, which is no density over [0, 1]: binarise
    the data, or take the continuous Bernoulli.
    """

    def forward(self, parameters: Tensor) -> Distribution:
        """Logits (..., 1, C, H, W) to a distribution over (C, H, W)."""
        return BinaryImage(
            Bernoulli(logits=at_least_float32(parameters).squeeze(-4), validate_args=False), 3, validate_args=False
        )


class BinaryImage(Independent):  # type: ignore[type-arg]  # generic in newer versions of torch alone
    """Independent bits as one event, whose log-density is worked out with the fewest passes over the pixels.

    Likelihoods with thousands of samples spend most of what the matrix products leave on it.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """sum_i x_i logit_i - log(1 + e^logit_i)."""
        logits: Tensor = self.base_dist.logits.flatten(-3)
        value = value.to(logits.dtype).flatten(-3)
        if torch.is_grad_enabled():
            return (value * logits).sum(-1) - softplus(logits).sum(-1)
        # The same without softplus, whose kernel is slow on a CPU, and without a second large temporary.
        clamped = logits.clamp_max(80)  # e^88 is infinite
        beyond = logits.sum(-1) - clamped.sum(-1)
        return torch.einsum("...i,...i->...", value, logits) - clamped.exp_().add_(1).log_().sum(-1) - beyond


class ContinuousBernoulliPixels(Likelihood):
    """The Bernoulli made a density on [0, 1] by its normalising constant (arXiv 1907.06845, section 3)."""

    def forward(self, parameters: Tensor) -> Distribution:
        """Logits (..., 1, C, H, W) to a distribution over (C, H, W)."""
        return _over_pixels(ContinuousBernoulli(at_least_float32(parameters).squeeze(-4)))


class GaussianPixels(Likelihood):
    """N(x; mean, scale^2) for each pixel.

    Args:
        data_shape: (C, H, W).
        scale: a fixed standard deviation in units of the pixel's range; ``shared`` learns one for all pixels
            (arXiv 2006.13202); ``pixelwise`` lets the decoder put out one for each pixel.
        min_scale: added to a learned scale: without a floor, a pixel that never changes drives the likelihood to
            infinity, and one that clamps would leave no gradient below it (the soft clip of arXiv 2006.13202).
    """

    photographs: ClassVar[Mapping[str, object] | None] = {"scale": "shared"}

    def __init__(
        self,
        data_shape: tuple[int, int, int],
        scale: Positive | Literal["shared", "pixelwise"] = 1.0,
        min_scale: Positive = 1e-3,
    ) -> None:
        super().__init__()
        self.min_scale = min_scale
        self.parameters_per_entry = 2 if scale == "pixelwise" else 1
        if isinstance(scale, float | int):
            self.register_buffer("log_scale", torch.tensor(math.log(scale)))
        else:
            self.log_scale = nn.Parameter(torch.zeros(())) if scale == "shared" else None

    def forward(self, parameters: Tensor) -> Distribution:
        """Means, and log-scales where they are pixelwise, (..., 1 or 2, C, H, W) to a distribution over (C, H, W)."""
        parameters = at_least_float32(parameters)
        mean = parameters.select(-4, 0)
        if self.log_scale is None:
            log_scale = self._with_floor(parameters.select(-4, 1))
        elif isinstance(self.log_scale, nn.Parameter):
            log_scale = self._with_floor(at_least_float32(self.log_scale))
        else:
            log_scale = at_least_float32(self.log_scale)
        return _over_pixels(Gaussian(mean, log_scale))

    def _with_floor(self, log_scale: Tensor) -> Tensor:
        """log(min_scale + e^log_scale)."""
        floor = math.log(self.min_scale)
        return floor + softplus(log_scale - floor)


def _over_pixels(pixels: Distribution) -> Distribution:
    """One event over channels, rows and columns: log-densities are summed over them."""
    return Independent(pixels, 3, validate_args=False)


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
