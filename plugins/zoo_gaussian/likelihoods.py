"""Likelihoods of pixels in [0, 1]."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Bernoulli, ContinuousBernoulli, Distribution, Independent, Normal

from zoo import Likelihood


class BernoulliPixels(Likelihood):
    """Independent bits (arXiv 1312.6114, eq. 11). A likelihood for binary pixels only.

    With real-valued pixels log p is the cross entropy that tutorials use, which is no density over [0, 1]: binarise
    the data, or take the continuous Bernoulli.
    """

    def forward(self, parameters: Tensor) -> Distribution:
        """Logits (..., 1, C, H, W) to a distribution over (C, H, W)."""
        return _over_pixels(Bernoulli(logits=parameters.squeeze(-4), validate_args=False))


class ContinuousBernoulliPixels(Likelihood):
    """The Bernoulli made a density on [0, 1] by its normalising constant (arXiv 1907.06845, eq. 6)."""

    def forward(self, parameters: Tensor) -> Distribution:
        """Logits (..., 1, C, H, W) to a distribution over (C, H, W)."""
        return _over_pixels(ContinuousBernoulli(logits=parameters.squeeze(-4), validate_args=False))


class GaussianPixels(Likelihood):
    """N(x; mean, scale^2) for each pixel.

    Args:
        data_shape: (C, H, W).
        scale: a fixed standard deviation in units of the pixel's range; ``shared`` learns one for all pixels
            (arXiv 2006.13202, eq. 5); ``pixelwise`` lets the decoder put out one for each pixel.
        min_scale: a floor under a learned scale: without one, a pixel that never changes drives the likelihood to
            infinity.
    """

    def __init__(
        self,
        data_shape: tuple[int, int, int],
        scale: Annotated[float, Field(gt=0)] | Literal["shared", "pixelwise"] = 1.0,
        min_scale: Annotated[float, Field(gt=0)] = 1e-3,
    ) -> None:
        super().__init__()
        self.min_scale = min_scale
        self.parameters_per_pixel = 2 if scale == "pixelwise" else 1
        if isinstance(scale, float | int):
            self.register_buffer("log_scale", torch.tensor(math.log(scale)))
        else:
            self.log_scale = nn.Parameter(torch.zeros(())) if scale == "shared" else None

    def forward(self, parameters: Tensor) -> Distribution:
        """Means, and log-scales where they are pixelwise, (..., 1 or 2, C, H, W) to a distribution over (C, H, W)."""
        mean = parameters.select(-4, 0)
        if self.log_scale is None:
            scale = parameters.select(-4, 1).exp().clamp_min(self.min_scale)
        elif isinstance(self.log_scale, nn.Parameter):
            scale = self.log_scale.exp().clamp_min(self.min_scale).expand_as(mean)
        else:
            scale = self.log_scale.exp().expand_as(mean)
        return _over_pixels(Normal(mean, scale, validate_args=False))


def _over_pixels(pixels: Distribution) -> Distribution:
    """One event over channels, rows and columns: log-densities are summed over them."""
    return Independent(pixels, 3, validate_args=False)
