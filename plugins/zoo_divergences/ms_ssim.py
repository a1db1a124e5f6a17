"""Multi-scale structural similarity as a cost between images."""

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
"""Of the scales, the finest first (Wang, Simoncelli and Bovik 2003, section 3.2)."""
C1, C2 = 0.01**2, 0.03**2
"""What keeps the factors finite where an image is flat (Wang et al. 2004, section III-B)."""


class MultiScaleSSIM(Likelihood):
    """-log p(x | z) = weight * pixels * (1 - MS-SSIM(x, mean)), the expected loss of arXiv 1511.06409.

    Similarity is a mean over pixels, here multiplied by their number (C H W): so the cost is a sum over pixels, as
    every other distortion, and means the same for every image size. Each factor of the product over scales, in
    [-1, 1], is mapped to [0, 1] first, since it is raised to a fraction.

    The paper's window of 11 pixels on five scales needs 176 pixels a side. For smaller images the window is a quarter
    of the side, between 7 and 11 pixels, or what an image below 7 pixels holds; and there are as many scales as leave
    the last one, halved each time, no smaller than the window, their exponents scaled to sum to 1. So 28x28 pixels
    have a window of 7 and three scales, 8x8 one of 7 and one scale, which is SSIM. The finest scale counts least, by
    far: in small images its pixels may show as pairs, which ``scales: 1`` mends.

    Args:
        data_shape: (C, H, W).
        window: pixels on a side of the Gaussian window, odd, at least 3; its standard deviation is 0.3 of its radius
            (1.5 for 11, as in the paper).
        scales: number of scales, the first the image itself, at most 5.
        weight: nats for each pixel that has nothing in common with the other.

    Raises:
        ComponentError: data that are not images, or a window or a number of scales that the image is too small for.
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
        fitting = [n for n in range(1, len(EXPONENTS) + 1) if side >= _least_side(self.window, n)]
        if self.window % 2 == 0 or self.window < 3 or not fitting or (scales or 1) > max(fitting):
            raise ComponentError(_too_small(side, self.window, scales or 1))
        self.scales = max(fitting) if scales is None else scales
        self.cost = weight * math.prod(data_shape)
        total = sum(EXPONENTS[: self.scales])
        self.exponents = tuple(exponent / total for exponent in EXPONENTS[: self.scales])
        self.register_buffer("powers", torch.tensor(self.exponents), persistent=False)

    def forward(self, parameters: Tensor) -> Distribution:
        """Map logits of the mean image (..., C, H, W, 1) to an energy over (C, H, W)."""
        return Energy(mean_from_logits(parameters), self._dissimilarity, event_dims=3)

    def _dissimilarity(self, x: Tensor, mean: Tensor) -> Tensor:
        x = x.to(mean.dtype).expand_as(mean)
        # A variance is a difference of squares here: not to be taken in bfloat16.
        with torch.autocast(mean.device.type, enabled=False):
            similarity = self._similarity(mean.reshape(-1, *mean.shape[-3:]), x.reshape(-1, *x.shape[-3:]))
        return self.cost * (1 - similarity.view(mean.shape[:-3]))

    def _similarity(self, one: Tensor, other: Tensor) -> Tensor:
        """MS-SSIM of images (N, C, H, W), (N,): the second factor of each scale, both of the last (eq. 7 of Wang et
        al.), each mapped to [0, 1] and raised to its exponent.
        """
        weights = gaussian_window(self.window, one)
        factors = []
        for scale in range(1, self.scales + 1):
            both, contrast_and_structure = compare(one, other, weights)
            factors.append(both if scale == self.scales else contrast_and_structure)
            one, other = avg_pool2d(one, 2), avg_pool2d(other, 2)
        similarity: Tensor = (((torch.stack(factors) + 1) / 2) ** self.powers.unsqueeze(1)).prod(0)
        return similarity


def gaussian_window(size: int, like: Tensor) -> Tensor:
    """Weights (size, size) that add up to 1, of a standard deviation of 0.3 of the radius."""
    radius = size // 2
    offset = torch.arange(-radius, radius + 1, dtype=like.dtype, device=like.device)
    weights = torch.exp(-((offset / (0.3 * radius)) ** 2) / 2)
    weights = weights / weights.sum()
    return torch.outer(weights, weights)


def compare(one: Tensor, other: Tensor, window: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM of images (N, C, H, W) in [0, 1], and its factor for contrast and structure (Wang et al. 2004, eq. 12).

    The first is the mean over all pixels, the images reflected at their borders; the second over those at which the
    window lies inside.

    Args:
        window: weights (size, size).

    Returns:
        (N,) both.
    """
    channels, size = one.shape[1], len(window)
    radius = size // 2
    one, other = (pad(image, (radius, radius, radius, radius), mode="reflect") for image in (one, other))
    images = torch.cat((one, other, one * one, other * other, one * other))
    means = conv2d(images, window.expand(channels, 1, size, size), groups=channels)
    m, n, mm, nn, mn = torch.split(means, len(one))
    m_squared, n_squared, product = m.pow(2), n.pow(2), m * n
    # A variance is a difference of squares, which may round to less than 0.
    variances = (mm - m_squared).clamp(min=0) + (nn - n_squared).clamp(min=0)
    upper, lower = 2 * (mn - product) + C2, variances + C2
    similarity = ((2 * product + C1) * upper) / ((m_squared + n_squared + C1) * lower)
    contrast_and_structure = (upper / lower)[..., radius:-radius, radius:-radius]
    return similarity.flatten(1).mean(1), contrast_and_structure.flatten(1).mean(1)


def _odd(n: int) -> int:
    """The greatest odd number that is no greater."""
    return n - 1 + n % 2


def _least_side(window: int, scales: int) -> int:
    """The pixels of a side: the window on the last scale, and at least (scales - 1)^2 times it on the first."""
    return window * int(max(2 ** (scales - 1), (scales - 1) ** 2))


def _too_small(side: int, window: int, scales: int) -> str:
    if window % 2 == 0:
        return f"likelihood 'ms-ssim': the window has a middle pixel, so it must be odd; got {window}."
    if side < 3:
        return f"likelihood 'ms-ssim': an image with a side of {side} has no structure. It needs 3 pixels."
    return (
        f"likelihood 'ms-ssim': {scales} scale(s) of a {window}-pixel window need {_least_side(window, scales)} pixels "
        f"a side, and the images have {side}. Leave out window and scales, or make them smaller."
    )
