"""Multi-scale structural similarity as an image energy."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.distributions import Distribution
from torch.nn.functional import avg_pool2d, conv2d, pad

from zoo import ComponentError, Likelihood, image_shape
from zoo_divergences.energies import Energy, mean_from_logits

EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the scales, the finest first (Wang, Simoncelli and Bovik 2003, section 3.2)."""
C1, C2 = 0.01**2, 0.03**2
"""Constants that stabilise the ratios in flat regions (Wang et al. 2004, section III-B)."""


class MultiScaleSSIM(Likelihood):
    """-log p(x | z) = weight C H W (1 - MS-SSIM(x, mean)), the expected loss of arXiv 1511.06409.

    The factor C H W turns the mean over pixels into a sum, like every other distortion. Each factor of the product over
    scales is mapped from [-1, 1] to [0, 1], because it is raised to a fractional power.

    The paper's 11-pixel window on five scales needs 176 pixels per side. By default the window is a quarter of the
    side, between 7 and 11 pixels (less for images below 7 pixels), and there are as many scales as keep the coarsest
    image at least as large as the window, with exponents normalised to sum to 1: a window of 7 and three scales for
    28x28 pixels, one scale (SSIM) for 8x8. The finest scale has the least weight, which can show as pixel pairs in
    small images; ``scales: 1`` avoids this.

    Args:
        data_shape: (C, H, W).
        window: size of the Gaussian window, odd and at least 3; its standard deviation is 0.3 times its radius (1.5 for
            11, as in the paper).
        scales: number of scales, at most 5; the first is the image itself.
        weight: nats per entry at similarity 0.

    Raises:
        ComponentError: x is not an image, or the image is too small for the window and scales.
    """

    powers: Tensor

    def __init__(
        self,
        data_shape: tuple[int, ...],
        window: Annotated[int, Field(ge=3)] | None = None,
        scales: Annotated[PositiveInt, Field(le=len(EXPONENTS))] | None = None,
        weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0,
    ) -> None:
        super().__init__()
        side = min(image_shape(data_shape, "likelihood 'ms-ssim'")[1:])
        self.window = _odd(min(max(7, side // 4), 11, side)) if window is None else window
        max_scales = max((n for n in range(1, len(EXPONENTS) + 1) if side >= _min_side(self.window, n)), default=0)
        if self.window % 2 == 0 or self.window < 3 or (scales or 1) > max_scales:
            raise ComponentError(_too_small(side, self.window, scales or 1))
        self.scales = max_scales if scales is None else scales
        self.cost = weight * math.prod(data_shape)
        total = sum(EXPONENTS[: self.scales])
        self.exponents = tuple(exponent / total for exponent in EXPONENTS[: self.scales])
        self.register_buffer("powers", torch.tensor(self.exponents), persistent=False)

    def forward(self, parameters: Tensor) -> Distribution:
        """Map logits of the mean (..., C, H, W, 1) to an energy over (C, H, W)."""
        return Energy(mean_from_logits(parameters), self._dissimilarity, event_dims=3)

    def _dissimilarity(self, x: Tensor, mean: Tensor) -> Tensor:
        x = x.to(mean.dtype).expand_as(mean)
        # Variances are differences of squares, too inaccurate in bfloat16.
        with torch.autocast(mean.device.type, enabled=False):
            similarity = self._similarity(mean.reshape(-1, *mean.shape[-3:]), x.reshape(-1, *x.shape[-3:]))
        return self.cost * (1 - similarity.view(mean.shape[:-3]))

    def _similarity(self, a: Tensor, b: Tensor) -> Tensor:
        """MS-SSIM of images (N, C, H, W), (N,) (Wang, Simoncelli and Bovik 2003, eq. 7)."""
        window = gaussian_window(self.window, a)
        factors = []
        for scale in range(1, self.scales + 1):
            luminance_contrast_structure, contrast_structure = ssim(a, b, window)
            factors.append(luminance_contrast_structure if scale == self.scales else contrast_structure)
            a, b = avg_pool2d(a, 2), avg_pool2d(b, 2)
        similarity: Tensor = (((torch.stack(factors) + 1) / 2) ** self.powers.unsqueeze(1)).prod(0)
        return similarity


def gaussian_window(size: int, like: Tensor) -> Tensor:
    """Gaussian weights (size, size) that sum to 1, with a standard deviation of 0.3 times the radius."""
    radius = size // 2
    offset = torch.arange(-radius, radius + 1, dtype=like.dtype, device=like.device)
    weights = torch.exp(-((offset / (0.3 * radius)) ** 2) / 2)
    weights = weights / weights.sum()
    return torch.outer(weights, weights)


def ssim(a: Tensor, b: Tensor, window: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM of images in [0, 1], and its contrast-structure factor (Wang et al. 2004, eq. 12).

    SSIM is averaged over all pixels, with reflection padding; the factor over the pixels that need no padding.

    Args:
        a, b: images (N, C, H, W).
        window: weights (size, size).

    Returns:
        Both (N,).
    """
    channels, size = a.shape[1], len(window)
    radius = size // 2
    a, b = (pad(image, (radius, radius, radius, radius), mode="reflect") for image in (a, b))
    images = torch.cat((a, b, a * a, b * b, a * b))
    means = conv2d(images, window.expand(channels, 1, size, size), groups=channels)
    mean_a, mean_b, mean_aa, mean_bb, mean_ab = torch.split(means, len(a))
    square_a, square_b, product = mean_a.pow(2), mean_b.pow(2), mean_a * mean_b
    # Rounding can make a difference of squares negative.
    variances = (mean_aa - square_a).clamp(min=0) + (mean_bb - square_b).clamp(min=0)
    numerator, denominator = 2 * (mean_ab - product) + C2, variances + C2
    similarity = ((2 * product + C1) * numerator) / ((square_a + square_b + C1) * denominator)
    contrast_structure = (numerator / denominator)[..., radius:-radius, radius:-radius]
    return similarity.flatten(1).mean(1), contrast_structure.flatten(1).mean(1)


def _odd(n: int) -> int:
    """The largest odd number up to n."""
    return n - 1 + n % 2


def _min_side(window: int, scales: int) -> int:
    """The smallest side that holds the window on the coarsest scale, and at least (scales - 1)^2 windows."""
    return window * int(max(2 ** (scales - 1), (scales - 1) ** 2))


def _too_small(side: int, window: int, scales: int) -> str:
    if window % 2 == 0:
        return f"The likelihood 'ms-ssim' needs an odd window; got {window}."
    if side < 3:
        return f"The likelihood 'ms-ssim' needs images with at least 3 pixels per side; got {side}."
    return (
        f"The likelihood 'ms-ssim' needs {_min_side(window, scales)} pixels per side for {scales} scale(s) of a "
        f"{window}-pixel window; the images have {side}. Omit window and scales, or reduce them."
    )
