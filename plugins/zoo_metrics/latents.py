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
        if subject.representation != "posterior means":
            raise NotApplicable("the posterior has no mean")
        variance = subject.posterior_mean.double().flatten(1).var(0, correction=0)
        active = int((variance > self.threshold).sum())
        protocol = {"threshold": self.threshold, "representation": subject.representation}
        return [Measurement("active-units", active, f"of {len(variance)}", protocol)]


class Information(Metric):
    """The rate in two parts (Hoffman and Johnson, "ELBO surgery", 2016), for q(z) = 1/N sum_n q(z | x_n):

    mean_n KL(q(z | x_n) || p(z)) = I(n; z) + KL(q(z) || p(z))

    Each expectation is taken at one draw for each image, and q(z) is the mixture over all N images, the draw's own
    among them. So the two add up to the `rate-at-draws`, and the information is at most log N.

    Where the prior depends on the label y, so do both parts: q(z | y) is the mixture over the images of that label, and

    mean_n KL(q(z | x_n, y_n) || p(z | y_n)) = I(n; z | y) + mean_n KL(q(z | y_n) || p(z | y_n))

    with an information of at most log N less the entropy of the labels.

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
        posteriors, draws, log_priors, labels, by_label = [], [], [], [], False
        for index in torch.split(torch.arange(n), 250):
            batch = subject.images[index]
            q = vae.encode(batch.x, batch.condition)
            z = q.sample()
            try:
                prior = vae.prior(vae.encoder, batch.condition)
                log_priors.append(prior.log_prob(z))
                q.log_prob(z)
            except NotImplementedError as error:
                raise NotApplicable("the posterior or the prior has no density") from error
            posteriors.append(q)
            draws.append(z)
            by_label = bool(prior.batch_shape)
            label = batch.condition if by_label else None
            labels.append(torch.zeros(len(z), dtype=torch.int64, device=z.device) if label is None else label)
        every = torch.cat(labels)
        one_prior = (every.unsqueeze(1) == every).cpu()  # (all images, all images)
        given, aggregate = [], []
        # A few draws at a time under all posteriors, so that what each product takes stays in the cache.
        few = torch.split(torch.cat(draws), 25)
        for position, z in enumerate(subject.track(few, len(few))):
            rows = [q.log_prob(z.unsqueeze(1).expand(-1, *q.batch_shape, *q.event_shape)) for q in posteriors]
            log_q: Tensor = torch.cat(rows, dim=1).cpu().double()  # (these draws, all images)
            given.append(log_q.diagonal(25 * position))
            mixed = one_prior[25 * position : 25 * position + len(z)]
            aggregate.append(log_q.masked_fill(~mixed, -math.inf).logsumexp(1) - mixed.sum(1).double().log())
        log_prior = torch.cat(log_priors).cpu().double()
        log_given, log_aggregate = torch.cat(given), torch.cat(aggregate)
        unit = "nats/image"
        protocol: dict[str, object] = {"pairs of images": n}
        if by_label:
            protocol["given"] = "the label"
        at_most = round(one_prior.sum(1).double().log().mean().item(), 2)
        information = (log_given - log_aggregate).mean().item()
        return [
            Measurement("mutual-information", information, unit, {**protocol, "at most": at_most}),
            Measurement("aggregate-kl", (log_aggregate - log_prior).mean().item(), unit, protocol),
            Measurement.mean("rate-at-draws", log_given - log_prior, unit, {"images": n, "draws": 1}),
        ]
