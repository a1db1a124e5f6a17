"""What a model says of the probability of images: the evidence bound, and the likelihood itself."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence

import torch
from pydantic import PositiveInt
from torch import Tensor

from zoo import Batch, EvaluationContext, Measurement, Metric

NATS = "nats/image"


class EvidenceBound(Metric):
    """Distortion E_q[-log p(x | z)], rate KL(q(z | x) || p(z)), and their negative sum, the bound (arXiv 1312.6114,
    eq. 3), with one draw for each image. Also in bits per dimension.
    """

    def __call__(self, subject: EvaluationContext) -> Sequence[Measurement]:
        """Measure `elbo`, `distortion`, `rate` and `bits-per-dimension`."""
        distortions, rates = [], []
        for batch in subject.batches():
            trace = subject.vae.trace(batch)
            distortions.append(-trace.log_px)
            rates.append(trace.kl)
        distortion, rate = torch.cat(distortions), torch.cat(rates)
        protocol, note = {"draws": 1}, subject.no_likelihood
        return [
            Measurement.mean("elbo", -distortion - rate, NATS, protocol, note),
            Measurement.mean("distortion", distortion, NATS, protocol, note),
            Measurement.mean("rate", rate, NATS, protocol),
            bits_per_dimension(subject, distortion + rate, protocol),
        ]


class LogLikelihood(Metric):
    """log p(x), estimated from `samples` draws of q(z | x) for each image (arXiv 1509.00519, eq. 8).

    A lower bound in expectation, that rises with the number of samples. Each image has draws of its own, seeded by its
    place in the split: neither batches, nor chunks, nor the number of processes change anything but the rounding.

    Args:
        samples: K, importance samples for each image.
    """

    by_default = False
    importance_sampled = True

    def __init__(self, samples: PositiveInt = 5000) -> None:
        self.samples = samples

    def __call__(self, subject: EvaluationContext) -> Sequence[Measurement]:
        """Measure `log-likelihood` and `log-likelihood-bits`.

        Raises:
            ComponentError: p(x | z) is not normalised.
        """

        def log_likelihood(image: Batch, seed: int) -> Tensor:
            return subject.vae.log_likelihood(image.x, self.samples, image.condition, mask=image.mask, seed=seed)

        protocol, note = {"samples": self.samples}, subject.no_likelihood
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "x is outside")  # the note says it
            found = subject.each(log_likelihood)
        return [
            Measurement.mean("log-likelihood", found, NATS, protocol, note),
            bits_per_dimension(subject, -found, protocol, "log-likelihood-bits"),
        ]


def bits_per_dimension(
    subject: EvaluationContext, nats: Tensor, protocol: Mapping[str, object], name: str = "bits-per-dimension"
) -> Measurement:
    """Nats per example as bits per observed entry."""
    mask = subject.images.mask
    entries = math.prod(subject.dataset.shape) if mask is None else mask.flatten(1).sum(1).double().mean().item()
    note = subject.no_likelihood
    if not note and not subject.discrete and subject.dataset.train.x.dtype == torch.uint8:
        note = "of a density over [0, 1]; 8 more for pixels that count from 0 to 255"
    return Measurement.mean(name, nats / (entries * math.log(2)), "bits/dim", protocol, note)
