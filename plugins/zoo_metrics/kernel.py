"""The kernel distance between features of images and of samples or reconstructions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import PositiveInt
from torch import Tensor

from zoo import EvaluationContext, Measurement
from zoo_metrics.extractor import FeatureDistance, Source


class KernelDistance(FeatureDistance):
    """The squared MMD between features of images and of samples with a cubic kernel (arXiv 1801.01401, section 4).

    k(u, v) = (u . v / d + 1)^3, with d features

    The estimate is unbiased, so its expectation does not depend on the number of images, and it can be negative. As in
    the paper it is the mean over random subsets, with its standard error. It is the KID only with the Inception
    weights. Samples and reconstructions are those of the metric ``frechet``.

    Args:
        extractor: a TorchScript file (``.pt``, ``.ts``), an exported program (``.pt2``), or a run of the zoo, whose
            posterior means are the features. It receives images (N, C, H, W) in [0, 1]. Loading a file can execute
            code: use files from sources you trust only.
        size: resize images to this height and width first.
        rgb: repeat grey images to three channels first.
        inception: the extractor has the Inception weights (2015-12-05), so the metric is named ``kid``.
        of: what to compare with the images: ``samples``, ``reconstructions``, or both.
        subsets: number of subsets.
        subset_size: images in a subset. With no more images than that, there is one subset of all of them.
    """

    def __init__(
        self,
        extractor: str,
        size: PositiveInt | None = None,
        rgb: bool = False,
        inception: bool = False,
        of: Sequence[Source] = ("samples",),
        subsets: PositiveInt = 100,
        subset_size: PositiveInt = 1000,
    ) -> None:
        super().__init__(extractor, size, rgb, inception, of)
        self.subsets = subsets
        self.subset_size = max(2, subset_size)

    def __call__(self, context: EvaluationContext) -> Sequence[Measurement]:
        """Measure `kernel-distance_<extractor>`, or `kid`; of reconstructions with the prefix `reconstruction-`.

        Raises:
            DataError: the extractor cannot be loaded.
            NotApplicable: there are fewer than two images, or the data are not complete images.
        """
        extractor, protocol, images, sources = self.features(context)
        size = min(self.subset_size, len(images))
        subsets = self.subsets if size < len(images) else 1
        protocol = {**protocol, "subsets": subsets, "subset size": size}
        distance = "kid" if self.inception else "kernel-distance"
        measurements = []
        for source, features in sources.items():
            values = [squared_mmd(_subset(images, size), _subset(features, size)) for _ in range(subsets)]
            name = self.name(source, distance, extractor)
            measurements.append(Measurement.mean(name, torch.stack(values), "", protocol))
        return measurements


def squared_mmd(a: Tensor, b: Tensor) -> Tensor:
    """The unbiased estimate of the squared MMD between features (N, D) and (M, D) with the cubic kernel, 0-d.

    Pairs of a feature with itself are left out (arXiv 1801.01401, eq. 4).
    """
    within = [(k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1)) for k in (_kernel(a, a), _kernel(b, b))]
    return within[0] + within[1] - 2 * _kernel(a, b).mean()


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _subset(features: Tensor, size: int) -> Tensor:
    """Random rows; all of them in their order if there are no more."""
    return features if size == len(features) else features[torch.randperm(len(features))[:size]]
