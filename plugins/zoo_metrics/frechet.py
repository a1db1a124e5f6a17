"""The Frechet distance between features of images and of samples or reconstructions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zoo import EvaluationContext, Measurement
from zoo_metrics.extractor import FeatureDistance


class FrechetDistance(FeatureDistance):
    """The Frechet distance between Gaussians fitted to features of images and of samples (arXiv 1706.08500, eq. 6).

    d = |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2))

    There are as many samples as images; a sample is the mean of p(x | z) at a sample of the prior. A reconstruction is
    the mean of p(x | z) at the posterior mean. The value depends on the extractor, after which it is named, and on the
    number of images. It is the FID only with the Inception weights.

    Args:
        extractor: a TorchScript file (``.pt``, ``.ts``), an exported program (``.pt2``), or a run of the zoo, whose
            posterior means are the features. It receives images (N, C, H, W) in [0, 1]. Loading a file can execute
            code: use files from sources you trust only.
        size: resize images to this height and width first.
        rgb: repeat grey images to three channels first.
        inception: the extractor has the Inception weights (2015-12-05), so the metric is named ``fid``.
        of: what to compare with the images: ``samples``, ``reconstructions``, or both.
    """

    def __call__(self, context: EvaluationContext) -> Sequence[Measurement]:
        """Measure `frechet_<extractor>`, or `fid`; of reconstructions, `reconstruction-frechet_<extractor>`, or
        `reconstruction-fid`.

        Raises:
            DataError: the extractor cannot be loaded.
            NotApplicable: there are fewer than two images, or the data are not complete images.
        """
        extractor, protocol, images, sources = self.features(context)
        singular = images.shape[1] >= len(images)
        note = "fewer images than features: the covariances are singular" if singular else ""
        distance = "fid" if self.inception else "frechet"
        return [
            Measurement(self.name(source, distance, extractor), frechet(images, features), "", protocol, note=note)
            for source, features in sources.items()
        ]


def frechet(a: Tensor, b: Tensor) -> float:
    """The squared Frechet distance between Gaussians fitted to features (N, D) and (M, D), in float64.

    tr (C C')^(1/2) is computed as tr (C^(1/2) C' C^(1/2))^(1/2), whose argument is symmetric.
    """
    a, b = a.double(), b.double()
    mean = (a.mean(0) - b.mean(0)).square().sum()
    c, d = torch.cov(a.T).reshape(a.shape[1], -1), torch.cov(b.T).reshape(b.shape[1], -1)
    values, vectors = torch.linalg.eigh(c)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ d @ root).clamp_min(0).sqrt().sum()
    return float((mean + c.trace() + d.trace() - 2 * cross).item())
