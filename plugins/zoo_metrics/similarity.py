"""Peak signal-to-noise ratio and structural similarity of reconstructions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from zoo import EvaluationContext, Measurement, Metric, NotApplicable

WINDOW, SIGMA = 11, 1.5
"""Pixels of the Gaussian window of SSIM, and its standard deviation (Wang et al. 2004, section III-C)."""
C1, C2 = 0.01**2, 0.03**2
"""Constants that stabilise SSIM in flat regions."""
MAX_PSNR = 100.0


class ImageSimilarity(Metric):
    """PSNR and SSIM (Wang et al. 2004, eq. 13) between an image and its reconstruction at the posterior mean.

    PSNR = -10 log10 of the mean squared error of pixels in [0, 1]; it is averaged over images, and at most 100 dB.
    SSIM is averaged over channels and over the positions at which the window of 11 pixels is inside the image, as in
    scikit-image; torchmetrics also averages over positions at the border, with reflected pixels.
    """

    by_default = False

    def __call__(self, context: EvaluationContext) -> Sequence[Measurement]:
        """Measure `psnr` in dB, and `ssim` if the images have at least 11 pixels per side.

        Raises:
            NotApplicable: the data are not complete images.
        """
        if len(context.dataset.shape) != 3 or context.dataset.train.mask is not None:
            raise NotApplicable("PSNR and SSIM need images (C, H, W) without missing entries")
        ratios, similarities = [], []
        large = min(context.dataset.shape[1:]) >= WINDOW
        for batch in context.batches():
            reconstruction = context.vae.reconstruct(batch.x, batch.condition)
            ratios.append(psnr(reconstruction, batch.x).cpu())
            if large:
                similarities.append(ssim(reconstruction, batch.x).cpu())
        measurements = [Measurement.mean("psnr", torch.cat(ratios), "dB")]
        return [*measurements, Measurement.mean("ssim", torch.cat(similarities))] if large else measurements


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """The peak signal-to-noise ratio between images (N, C, H, W) in [0, 1], in dB, (N,).

    >>> psnr(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.1))
    tensor([20.])
    """
    ratio: Tensor = -10 * (a - b).square().flatten(1).mean(1).log10()
    return ratio.clamp(max=MAX_PSNR)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """The structural similarity between images (N, C, H, W) in [0, 1], (N,).

    The moments are computed in float64, since variances are differences of squares.
    """
    offsets = torch.arange(WINDOW, dtype=torch.float64, device=a.device) - WINDOW // 2
    weights = torch.exp(-((offsets / SIGMA) ** 2) / 2)
    window = torch.outer(weights, weights) / weights.sum() ** 2
    a, b = a.double(), b.double()
    images = torch.cat((a, b, a * a, b * b, a * b)).flatten(0, 1).unsqueeze(1)
    means = conv2d(images, window.expand(1, 1, -1, -1))
    mean_a, mean_b, mean_aa, mean_bb, mean_ab = means.reshape(5, *a.shape[:2], *means.shape[2:])
    variances = mean_aa - mean_a.square() + mean_bb - mean_b.square()
    covariance = mean_ab - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + C1) / (mean_a.square() + mean_b.square() + C1)
    similarity: Tensor = luminance * (2 * covariance + C2) / (variances + C2)
    return similarity.flatten(1).mean(1)
