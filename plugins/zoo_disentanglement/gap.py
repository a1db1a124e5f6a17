"""The mutual information gap (arXiv 1802.04942)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from zoo import EvaluationContext, Measurement, Metric
from zoo_disentanglement.factorised import log_density_of_dimensions
from zoo_disentanglement.factors import gap, varying_factors


class MutualInformationGap(Metric):
    """The lead of the latent that knows most of a factor over the next (arXiv 1802.04942, eq. 6):

    MIG = mean_k 1/H(v_k) (I(z_j; v_k) - max_{i != j} I(z_i; v_k)),   j the latent that knows most of factor k

    The numbers of the two estimators of I are not to be compared.

    Args:
        estimator: ``histogram``: of the posterior means, in bins of equal width from the least to the greatest (arXiv
            1811.12359). ``posterior``: of draws, from the densities q(z_i | n) themselves (arXiv 1802.04942); every
            pair of images is visited.
        bins: of the histogram.
        images: for the posterior, the first so many of the split.
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

    def __call__(self, subject: EvaluationContext) -> Sequence[Measurement]:
        """Measure `mig`.

        Raises:
            NotApplicable: the factors are not known, or none varies.
            ComponentError: with ``posterior``, its dimensions depend on each other.
        """
        if self.estimator == "histogram":
            factors = varying_factors(subject)
            codes = subject.posterior_mean.double().flatten(1)
            information = torch.stack([histogram_information(codes, v, self.bins) for v in factors.values()], dim=1)
            protocol: dict[str, object] = {"representation": subject.representation, "bins": self.bins}
        else:
            n = min(self.images, len(subject))
            factors = varying_factors(subject, n)
            information = posterior_information(subject, list(factors.values()))
            protocol = {"representation": "posterior draws", "pairs of images": n}
        entropies = torch.stack([entropy(values) for values in factors.values()])
        value = (gap(information) / entropies).mean().item()
        return [Measurement("mig", value, protocol={"factors": list(factors), **protocol})]


def histogram_information(codes: Tensor, values: Tensor, bins: int) -> Tensor:
    """I(z_i; v) in nats of each column of the codes (N, d), cut into bins, and the values of a factor: (d,)."""
    low, high = codes.min(0).values, codes.max(0).values
    width = torch.where(high > low, (high - low) / bins, 1.0)
    binned = ((codes - low) / width).long().clamp(max=bins - 1)
    _, values = torch.unique(values, return_inverse=True)
    pairs = binned * (int(values.max()) + 1) + values.unsqueeze(1)
    joint = torch.stack([entropy(column) for column in pairs.unbind(1)])
    return torch.stack([entropy(column) for column in binned.unbind(1)]) + entropy(values) - joint


def entropy(values: Tensor) -> Tensor:
    """Of the empirical distribution of integers (N,), in nats."""
    _, counts = torch.unique(values, return_counts=True)
    p: Tensor = counts.double() / len(values)
    return -(p * p.log()).sum()


def posterior_information(subject: EvaluationContext, factors: Sequence[Tensor]) -> Tensor:
    """I(z_i; v_k) in nats, (d, F), at one draw z for the image of each row of the factors, each (N,):

    E[log q(z_i | v_k) - log q(z_i)], where q(z_i | v_k) is the mean of q(z_i | n) over the images n of that value.
    """
    n = len(factors[0])
    chunks = torch.split(torch.arange(n), 100)
    posteriors = []
    for index in chunks:
        batch = subject.images[index]
        posteriors.append(subject.vae.encode(batch.x, batch.condition))
    total: Tensor | float = 0.0
    for index, q in zip(subject.track(chunks, len(chunks)), posteriors, strict=True):
        z = q.sample()
        log_q = torch.cat([log_density_of_dimensions(z, other) for other in posteriors], dim=1).cpu().double()
        log_aggregate = log_q.logsumexp(1) - math.log(n)
        rows = []
        for values in factors:
            same = values[index].unsqueeze(1) == values
            log_given = log_q.masked_fill(~same.unsqueeze(2), -math.inf).logsumexp(1) - same.sum(1, keepdim=True).log()
            rows.append((log_given - log_aggregate).sum(0))
        total = total + torch.stack(rows, dim=1)
    assert isinstance(total, Tensor)
    return total / n
