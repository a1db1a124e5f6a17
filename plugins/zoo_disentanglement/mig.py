"""The mutual information gap (arXiv 1802.04942)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from zoo import EvaluationContext, Measurement, Metric
from zoo_disentanglement.factors import gap, varying_factors
from zoo_disentanglement.per_dimension import log_prob_per_dimension


class MutualInformationGap(Metric):
    """The mutual information gap (arXiv 1802.04942, eq. 6).

    MIG = mean_k 1/H(v_k) (I(z_j; v_k) - max_{i != j} I(z_i; v_k)),  j = argmax_i I(z_i; v_k)

    The two estimators of I are not comparable with each other.

    Args:
        estimator: ``histogram`` bins the posterior means (arXiv 1811.12359); ``posterior`` uses samples and the
            densities q(z_i | n) (arXiv 1802.04942), at a cost quadratic in the number of images.
        bins: number of histogram bins, of equal width.
        images: number of images for ``posterior``, the first ones of the split.
    """

    by_default = False

    def __init__(
        self,
        estimator: Literal["histogram", "posterior"] = "histogram",
        bins: PositiveInt = 20,
        images: PositiveInt = 2000,
    ) -> None:
        self.estimator = estimator
        self.bins = bins
        self.images = images

    def __call__(self, context: EvaluationContext) -> Sequence[Measurement]:
        """Measure `mig`.

        Raises:
            NotApplicable: the data have no factors, or none of them varies.
            ComponentError: with ``posterior``, the dimensions of the posterior are not independent.
        """
        if self.estimator == "histogram":
            factors = varying_factors(context)
            z = context.posterior_mean.double().flatten(1)
            information = torch.stack([histogram_information(z, v, self.bins) for v in factors.values()], dim=1)
            protocol: dict[str, object] = {"representation": context.representation, "bins": self.bins}
        else:
            n = min(self.images, len(context))
            factors = varying_factors(context, n)
            information = posterior_information(context, list(factors.values()))
            protocol = {"representation": "posterior draws", "pairs of images": n}
        entropies = torch.stack([entropy(values) for values in factors.values()])
        value = (gap(information) / entropies).mean().item()
        return [Measurement("mig", value, protocol={"factors": list(factors), **protocol})]


def histogram_information(z: Tensor, values: Tensor, bins: int) -> Tensor:
    """I(z_i; v) of each column of z (N, d), cut into bins, and the values (N,) of a factor, (d,), in nats."""
    low, high = z.min(0).values, z.max(0).values
    width = torch.where(high > low, (high - low) / bins, 1.0)
    bin_index = ((z - low) / width).long().clamp(max=bins - 1)
    _, values = torch.unique(values, return_inverse=True)
    pairs = bin_index * (int(values.max()) + 1) + values.unsqueeze(1)
    joint = torch.stack([entropy(column) for column in pairs.unbind(1)])
    return torch.stack([entropy(column) for column in bin_index.unbind(1)]) + entropy(values) - joint


def entropy(values: Tensor) -> Tensor:
    """The entropy of the empirical distribution of integers (N,), in nats."""
    _, counts = torch.unique(values, return_counts=True)
    p: Tensor = counts.double() / len(values)
    return -(p * p.log()).sum()


def posterior_information(context: EvaluationContext, factors: Sequence[Tensor]) -> Tensor:
    """Estimate I(z_i; v_k) = E[log q(z_i | v_k) - log q(z_i)] with one sample of z per image, (d, F), in nats.

    q(z_i | v_k) is the mean of q(z_i | n) over the images n with that value, and q(z_i) that over all images.

    Args:
        context: model and images.
        factors: values of each factor for the first N images, (N,).
    """
    n = len(factors[0])
    chunks = torch.split(torch.arange(n), 100)
    posteriors = []
    for index in chunks:
        batch = context.images[index]
        posteriors.append(context.vae.encode(batch.x, batch.condition, batch.mask))
    total: Tensor | float = 0.0
    for index, q in zip(context.track(chunks, len(chunks)), posteriors, strict=True):
        z = q.sample()
        log_q = torch.cat([log_prob_per_dimension(z, other) for other in posteriors], dim=1).cpu().double()
        log_qz = log_q.logsumexp(1) - math.log(n)
        columns = []
        for values in factors:
            same = values[index].unsqueeze(1) == values
            log_qz_v = log_q.masked_fill(~same.unsqueeze(2), -math.inf).logsumexp(1) - same.sum(1, keepdim=True).log()
            columns.append((log_qz_v - log_qz).sum(0))
        total = total + torch.stack(columns, dim=1)
    assert isinstance(total, Tensor)
    return total / n
