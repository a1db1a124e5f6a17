"""The evidence lower bound and the importance-sampled likelihood."""

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
    """ELBO = -(distortion + rate) (arXiv 1312.6114, eq. 3), with distortion E_q[-log p(x | z)] and rate
    KL(q(z | x) || p(z)), from one sample per image.
    """

    def __call__(self, context: EvaluationContext) -> Sequence[Measurement]:
        """Measure `elbo`, `distortion` and `rate` in nats per image, and `bits-per-dimension` of the ELBO."""
        distortions, rates = [], []
        for batch in context.batches():
            trace = context.vae.trace(batch)
            distortions.append(-trace.log_px)
            rates.append(trace.kl)
        distortion, rate = torch.cat(distortions), torch.cat(rates)
        protocol, note = {"draws": 1}, context.no_likelihood
        return [
            Measurement.mean("elbo", -distortion - rate, NATS, protocol, note),
            Measurement.mean("distortion", distortion, NATS, protocol, note),
            Measurement.mean("rate", rate, NATS, protocol),
            bits_per_dimension(context, distortion + rate, protocol),
        ]


class LogLikelihood(Metric):
    """The importance-sampled estimate of log p(x) (arXiv 1509.00519, eq. 8), a lower bound in expectation that
    increases with the number of samples.

    The samples of an image are seeded by its index in the split, so the result depends on batch size, chunk size and
    number of processes only by rounding.

    Args:
        samples: K, importance samples per image.
    """

    by_default = False
    importance_sampled = True

    def __init__(self, samples: PositiveInt = 5000) -> None:
        self.samples = samples

    def __call__(self, context: EvaluationContext) -> Sequence[Measurement]:
        """Measure `log-likelihood` in nats per image, and `log-likelihood-bits` per dimension.

        Raises:
            ComponentError: p(x | z) is not normalised.
        """

        def log_likelihood(image: Batch, seed: int) -> Tensor:
            return context.vae.log_likelihood(image.x, self.samples, image.condition, mask=image.mask, seed=seed)

        protocol, note = {"samples": self.samples}, context.no_likelihood
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "x is outside")  # reported by the note
            log_px = context.each(log_likelihood)
        return [
            Measurement.mean("log-likelihood", log_px, NATS, protocol, note),
            bits_per_dimension(context, -log_px, protocol, "log-likelihood-bits"),
        ]


def bits_per_dimension(
    context: EvaluationContext, nats: Tensor, protocol: Mapping[str, object], name: str = "bits-per-dimension"
) -> Measurement:
    """Convert negative log-likelihoods (N,) in nats to bits per observed entry."""
    mask = context.images.mask
    entries = math.prod(context.dataset.shape) if mask is None else mask.flatten(1).sum(1).double().mean().item()
    note = context.no_likelihood
    if not note and not context.discrete and context.dataset.train.x.dtype == torch.uint8:
        note = "density over [0, 1]; add 8 for pixel values from 0 to 255"
    return Measurement.mean(name, nats / (entries * math.log(2)), "bits/dim", protocol, note)
