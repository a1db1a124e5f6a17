"""What the latent holds: dimensions that are in use, and where the rate goes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from zoo import EvaluationContext, Measurement, Metric, NotApplicable


class ActiveUnits(Metric):
    """The number of latents u with Var_x(E_q[u | x]) above a threshold (arXiv 1509.00519, section 5.2).

    Args:
        threshold: on the variance, over the whole split, of the posterior mean.
    """

    def __init__(self, threshold: PositiveFloat = 0.01) -> None:
        self.threshold = threshold

    def __call__(self, subject: EvaluationContext) -> Sequence[Measurement]:
        """Measure `active-units`.

        Raises:
            NotApplicable: the posterior has no mean.
        """
        if subject.codes_are != "posterior means":
            raise NotApplicable("the posterior has no mean")
        variance = subject.codes.double().flatten(1).var(0, correction=0)
        active = int((variance > self.threshold).sum())
        protocol = {"threshold": self.threshold, "codes": subject.codes_are}
        return [Measurement("active-units", active, f"of {len(variance)}", protocol)]


class Information(Metric):
    """The rate in two parts (Hoffman and Johnson, "ELBO surgery", 2016), for q(z) = 1/N sum_n q(z | x_n):

    mean_n KL(q(z | x_n) || p(z)) = I(n; z) + KL(q(z) || p(z))

    Each expectation is taken at one draw for each image, and q(z) is the mixture over all N images, the draw's own
    among them. So the two add up to the `rate-at-draws`, and the information is at most log N.

    Args:
        images: N, the first so many of the split; every pair of them is visited.
    """

    def __init__(self, images: PositiveInt = 2000) -> None:
        self.images = images

    def __call__(self, subject: EvaluationContext) -> Sequence[Measurement]:
        """Measure `mutual-information`, `aggregate-kl` and their sum, `rate-at-draws`.

        Raises:
            NotApplicable: the posterior or the prior has no density.
        """
        n = min(self.images, len(subject))
        vae = subject.vae
        posteriors, draws, log_priors = [], [], []
        for index in torch.split(torch.arange(n), 250):
            batch = subject.images[index]
            q = vae.encode(batch.x, batch.condition)
            z = q.sample()
            try:
                log_priors.append(vae.prior(vae.encoder, batch.condition).log_prob(z))
                q.log_prob(z)
            except NotImplementedError as error:
                raise NotApplicable("the posterior or the prior has no density") from error
            posteriors.append(q)
            draws.append(z)
        given, aggregate = [], []
        # A few draws at a time under all posteriors, so that what each product takes stays in the cache.
        few = torch.split(torch.cat(draws), 25)
        for position, z in enumerate(subject.track(few, len(few))):
            rows = [q.log_prob(z.unsqueeze(1).expand(-1, *q.batch_shape, *q.event_shape)) for q in posteriors]
            log_q: Tensor = torch.cat(rows, dim=1).double()  # (these draws, all images)
            given.append(log_q.diagonal(25 * position))
            aggregate.append(log_q.logsumexp(1) - math.log(n))
        log_given, log_aggregate, log_prior = torch.cat(given), torch.cat(aggregate), torch.cat(log_priors).double()
        protocol = {"pairs of images": n, "at most": round(math.log(n), 2)}
        unit = "nats/image"
        return [
            Measurement("mutual-information", (log_given - log_aggregate).mean().item(), unit, protocol),
            Measurement("aggregate-kl", (log_aggregate - log_prior).mean().item(), unit, {"pairs of images": n}),
            Measurement.mean("rate-at-draws", log_given - log_prior, unit, {"images": n, "draws": 1}),
        ]
