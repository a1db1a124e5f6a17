"""Metrics of the latent: active units, and the decomposition of the rate."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from zoo import EvaluationContext, Measurement, Metric, NotApplicable

CHUNK = 25
"""Draws that are evaluated at once under all posteriors."""


class ActiveUnits(Metric):
    """The number of latent dimensions u with Var_x(E_q[u | x]) above a threshold (arXiv 1509.00519, section 5.2).

    Args:
        threshold: threshold on the variance of the posterior mean over the split.
    """

    def __init__(self, threshold: PositiveFloat = 0.01) -> None:
        self.threshold = threshold

    def __call__(self, context: EvaluationContext) -> Sequence[Measurement]:
        """Measure `active-units`.

        Raises:
            NotApplicable: the posterior has no mean.
        """
        if context.representation != "posterior means":
            raise NotApplicable("the posterior has no mean")
        variance = context.posterior_mean.double().flatten(1).var(0, correction=0)
        active = int((variance > self.threshold).sum())
        protocol = {"threshold": self.threshold, "representation": context.representation}
        return [Measurement("active-units", active, f"of {len(variance)}", protocol)]


class Information(Metric):
    """The rate as mutual information plus KL of the aggregate posterior (Hoffman and Johnson 2016, "ELBO surgery").

    mean_n KL(q(z | x_n) || p(z)) = I(n; z) + KL(q(z) || p(z)),  q(z) = 1/N sum_n q(z | x_n)

    Expectations are estimated from one sample per image, and q(z) is the mixture over all N images, so the two parts
    add up to `rate-at-draws` and the information is at most log N.

    If the prior is conditional on the label y, so are both parts, with q(z | y) the mixture over the images of a label:

    mean_n KL(q(z | x_n, y_n) || p(z | y_n)) = I(n; z | y) + mean_n KL(q(z | y_n) || p(z | y_n))

    Then the information is at most log N minus the entropy of the labels.

    Args:
        images: N, the first images of the split; the cost is quadratic in N.
    """

    def __init__(self, images: PositiveInt = 2000) -> None:
        self.images = images

    def __call__(self, context: EvaluationContext) -> Sequence[Measurement]:
        """Measure `mutual-information`, `aggregate-kl` and their sum, `rate-at-draws`.

        Raises:
            NotApplicable: the posterior or the prior has no density.
        """
        n = min(self.images, len(context))
        vae = context.vae
        posteriors, draws, log_priors, labels, conditional = [], [], [], [], False
        for index in torch.split(torch.arange(n), 250):
            batch = context.images[index]
            q = vae.encode(batch.x, batch.condition, batch.mask)
            z = q.sample()
            try:
                prior = vae.prior(vae.encoder, batch.condition)
                log_priors.append(prior.log_prob(z))
                q.log_prob(z)
            except NotImplementedError as error:
                raise NotApplicable("the posterior or the prior has no density") from error
            posteriors.append(q)
            draws.append(z)
            conditional = bool(prior.batch_shape)
            label = batch.condition if conditional else None
            labels.append(torch.zeros(len(z), dtype=torch.int64, device=z.device) if label is None else label)
        y = torch.cat(labels)
        same_label = (y.unsqueeze(1) == y).cpu()  # (N, N)
        own_terms, aggregate_terms = [], []
        # Small chunks of draws, so that the intermediate results under all posteriors fit into the cache.
        chunks = torch.split(torch.cat(draws), CHUNK)
        for position, z in enumerate(context.track(chunks, len(chunks))):
            columns = [q.log_prob(z.unsqueeze(1).expand(-1, *q.batch_shape, *q.event_shape)) for q in posteriors]
            log_q: Tensor = torch.cat(columns, dim=1).cpu().double()  # (chunk, N)
            own_terms.append(log_q.diagonal(CHUNK * position))
            mask = same_label[CHUNK * position : CHUNK * position + len(z)]
            aggregate_terms.append(log_q.masked_fill(~mask, -math.inf).logsumexp(1) - mask.sum(1).double().log())
        log_pz = torch.cat(log_priors).cpu().double()
        log_qz_x, log_qz = torch.cat(own_terms), torch.cat(aggregate_terms)
        unit = "nats/image"
        protocol: dict[str, object] = {"pairs of images": n}
        if conditional:
            protocol["given"] = "the label"
        at_most = round(same_label.sum(1).double().log().mean().item(), 2)
        information = (log_qz_x - log_qz).mean().item()
        return [
            Measurement("mutual-information", information, unit, {**protocol, "at most": at_most}),
            Measurement("aggregate-kl", (log_qz - log_pz).mean().item(), unit, protocol),
            Measurement.mean("rate-at-draws", log_qz_x - log_pz, unit, {"images": n, "draws": 1}),
        ]
