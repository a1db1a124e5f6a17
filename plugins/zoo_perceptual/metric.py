"""LPIPS of reconstructions."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from zoo import EvaluationContext, Measurement, Metric, NotApplicable
from zoo_perceptual.lpips import LPIPS, too_small
from zoo_perceptual.weights import LINEAR_SHA256, VGG_SHA256, linear_file, vgg_file


class PerceptualDistance(Metric):
    """LPIPS with VGG16 (arXiv 1801.03924, eq. 1) between an image and its reconstruction at the posterior mean.

    Args:
        vgg: file with the weights of torchvision's VGG16 (``.pth``, ``.safetensors``). By default, that in
            torchvision's cache.
        linear: file with the linear weights of LPIPS. By default, that in the package torchmetrics or lpips.
        vgg_sha256, linear_sha256: digests of the files; by default, those of the published weights. With others the
            measurement is not named ``lpips``.
    """

    by_default = False

    def __init__(
        self,
        vgg: str | None = None,
        linear: str | None = None,
        vgg_sha256: str = VGG_SHA256,
        linear_sha256: str = LINEAR_SHA256,
    ) -> None:
        self.vgg, self.vgg_sha256 = vgg, vgg_sha256
        self.linear, self.linear_sha256 = linear, linear_sha256

    def __call__(self, context: EvaluationContext) -> Sequence[Measurement]:
        """Measure `lpips`, or `lpips_<name of the file of VGG>` with other weights than the published ones.

        Raises:
            DataUnavailable: a file does not exist.
            DataError: the digest of a file differs.
            NotApplicable: the data are not complete images with 1 or 3 channels and 16 pixels per side.
        """
        shape = context.dataset.shape
        if len(shape) != 3 or context.dataset.train.mask is not None:
            raise NotApplicable("LPIPS needs images (C, H, W) without missing entries")
        channels, height, width = shape
        problem = too_small((channels, height, width))
        if problem:
            raise NotApplicable(problem)
        vgg, linear = vgg_file(self.vgg, self.vgg_sha256), linear_file(self.linear, self.linear_sha256)
        distance = LPIPS(vgg.load(), linear.load()).to(context.device)
        distances = [
            distance(context.vae.reconstruct(batch.x, batch.condition), batch.x).cpu() for batch in context.batches()
        ]
        published = (vgg.sha256, linear.sha256) == (VGG_SHA256, LINEAR_SHA256)
        name = "lpips" if published else f"lpips_{vgg.path.stem}"
        protocol = {"vgg sha256": vgg.sha256, "linear sha256": linear.sha256}
        return [Measurement.mean(name, torch.cat(distances), "", protocol)]
