"""The checks of a trained model. Each has a number, a threshold, a verdict and what to try."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import zoo
from zoo import Batch, EvaluationContext, Measurement, NotApplicable, UsageError, seeded
from zoo_figures.latents import rates
from zoo_score.methods import draws
from zoo_score.posteriors import optimize, posterior

ACTIVE_RATE = 0.01
"""Rate in nats below which a latent dimension counts as collapsed."""
GAP_OF_RATE, SMALL_GAP = 0.1, 0.1
"""Largest amortization gap: a fraction of the rate, but at least a number of nats."""
EFFECTIVE = 0.05
"""Smallest effective sample size, as a fraction of the samples."""
SEPARABLE = 0.62
"""Largest AUC of a classifier between the aggregate posterior and the prior, besides two standard errors."""
USED = 0.25
"""Smallest perplexity of the codes, as a fraction of the codebook."""
SAMPLES, WEIGHTED = 100, 200
"""Importance samples, and the largest number of examples to draw them for."""
OPTIMIZED, STEPS, DRAWS = 64, 100, 4
"""Examples whose posterior is optimized, steps, and draws per example and step."""
CHUNK = 32
"""Examples that are optimized or weighted at once."""
FOLDS = 5


@dataclass(frozen=True)
class Finding:
    """The result of a check.

    Attributes:
        name: name of the check.
        verdict: ``ok``, ``warn``, or ``not applicable``.
        value: the number; None if the check does not apply.
        unit: its unit.
        threshold: the largest value that is ok, or the smallest, as `good` says; None if the check does not apply.
        good: whether values ``above`` or ``below`` the threshold are ok.
        meaning: what the number says; the reason if the check does not apply.
        advice: what to try if the verdict is ``warn``.
        details: settings and further numbers.
    """

    name: str
    verdict: Literal["ok", "warn", "not applicable"]
    value: float | None
    unit: str
    threshold: float | None
    good: Literal["above", "below"]
    meaning: str
    advice: str
    details: Mapping[str, Any] = field(default_factory=dict)


def active_units(context: EvaluationContext) -> tuple[float, float, dict[str, Any]]:
    """The metric `active-units` (arXiv 1509.00519, section 5.2). At least half of the dimensions should be active."""
    measurement = _measure("active-units", context)[0]
    dimensions = int(measurement.unit.split()[-1])
    return measurement.value, dimensions / 2, {"dimensions": dimensions, **measurement.protocol}


def collapsed_dimensions(context: EvaluationContext) -> tuple[float, float, dict[str, Any]]:
    """The number of dimensions with a rate KL(q(z_d | x) || p(z_d)) below 0.01 nats. At most half should be."""
    try:
        information = rates(context.vae, _gathered(context))
    except UsageError as error:
        raise NotApplicable(str(error).rstrip(".")) from error
    values = information.values
    collapsed = int((values < ACTIVE_RATE).sum())
    details = {"dimensions": len(values), "collapsed below": ACTIVE_RATE, "rates": values.tolist()}
    return collapsed, len(values) / 2, details


def amortization_gap(context: EvaluationContext) -> tuple[float, float, dict[str, Any]]:
    """The ELBO that is gained by optimizing the posterior of each example (arXiv 1801.03558, section 3), in nats.

    It should be at most 10% of the rate, or 0.1 nats if that is more.
    """
    before, after, rate = [], [], []
    for batch in _first(context, OPTIMIZED):
        q = posterior(context.vae, batch)
        optimum = optimize(context.vae, batch, q, steps=STEPS, samples=DRAWS, seed=context.seed)
        initial, final = (draws(context.vae, batch, each, SAMPLES, context.seed) for each in (q, optimum))
        before.append(initial.log_weight.mean(0))
        after.append(final.log_weight.mean(0))
        rate.append((initial.log_qz - initial.log_pz).mean(0))
    gain = torch.cat(after) - torch.cat(before)
    mean_rate = torch.cat(rate).mean().item()
    gap = Measurement.mean("gap", gain)
    details = {"examples": len(gain), "steps": STEPS, "standard error": gap.error, "rate": mean_rate}
    return gap.value, max(SMALL_GAP, GAP_OF_RATE * mean_rate), details


def sample_size(context: EvaluationContext) -> tuple[float, float, dict[str, Any]]:
    """The median `effective_sample_size` of 100 importance samples. It should be at least 5."""
    sizes = []
    for batch in _first(context, WEIGHTED):
        q = posterior(context.vae, batch)
        sizes.append(effective_sample_size(draws(context.vae, batch, q, SAMPLES, context.seed).log_weight))
    median = torch.cat(sizes).median().item()
    return median, EFFECTIVE * SAMPLES, {"examples": min(WEIGHTED, len(context)), "samples": SAMPLES}


def effective_sample_size(log_weight: Tensor) -> Tensor:
    """(sum_k w_k)^2 / sum_k w_k^2, from 1 to K (Kong 1992).

    Args:
        log_weight: log importance weights (K, N).

    Returns:
        (N,).

    >>> effective_sample_size(torch.tensor([[0.0, 0.0], [0.0, -100.0]]))
    tensor([2., 1.])
    """
    return (2 * log_weight.logsumexp(0) - (2 * log_weight).logsumexp(0)).exp()


def prior_holes(context: EvaluationContext) -> tuple[float, float, dict[str, Any]]:
    """The cross-validated AUC of a classifier between draws from the aggregate posterior and from the prior.

    A classifier two-sample test (arXiv 1610.06545): 0.5 if the prior equals the aggregate posterior, 1 if samples of
    the prior are recognizable. There is one draw of each per example. It should be at most 0.62 plus two
    standard errors of equal distributions, 2 (6 N)^(-1/2) for N draws.
    """
    latents, prior_latents = [], []
    for batch in context.batches():
        q = posterior(context.vae, batch)
        p = context.vae.prior(context.vae.encoder, batch.condition)
        latents.append(q.sample().flatten(1))
        prior_latents.append((p.sample() if p.batch_shape else p.sample(torch.Size([len(batch.x)]))).flatten(1))
    auc = two_sample_auc(torch.cat(latents), torch.cat(prior_latents), context.seed)
    threshold = SEPARABLE + 2 / math.sqrt(6 * len(context))
    return auc, threshold, {"draws": len(context), "classifier": "gradient boosting", "folds": FOLDS}


def two_sample_auc(a: Tensor, b: Tensor, seed: int = 0) -> float:
    """The cross-validated AUC of gradient-boosted trees between rows (N, D) and (M, D).

    Raises:
        NotApplicable: there are fewer rows than folds.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    if min(len(a), len(b)) < FOLDS:
        raise NotApplicable(f"the classifier needs at least {FOLDS} examples")
    rows: NDArray[Any] = torch.cat([a, b]).cpu().double().numpy()
    origin = np.repeat([1, 0], [len(a), len(b)])
    classifier = HistGradientBoostingClassifier(max_iter=50, early_stopping=False, random_state=seed % 2**32)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed % 2**32)
    scores = cross_val_predict(classifier, rows, origin, cv=folds, method="decision_function")
    return float(roc_auc_score(origin, scores))


def codebook_use(context: EvaluationContext) -> tuple[float, float, dict[str, Any]]:
    """The metric `codebook-perplexity`. It should be at least a quarter of the codebook."""
    perplexity, used = _measure("codebook", context)
    return perplexity.value, USED * int(str(perplexity.protocol["K"])), {**perplexity.protocol, "used": used.value}


@dataclass(frozen=True)
class Check:
    """A check: what it measures, and what to say about the number."""

    measure: Callable[[EvaluationContext], tuple[float, float, dict[str, Any]]]
    unit: str
    good: Literal["above", "below"]
    meaning: str
    advice: str


CHECKS: Mapping[str, Check] = {
    "active-units": Check(
        active_units,
        "dimensions",
        "above",
        "latent dimensions whose posterior mean varies over examples",
        "The other dimensions carry nothing: fewer dimensions (latent_dim), a warm-up of the rate "
        "(loss.warmup_epochs), a smaller loss.beta, or a likelihood with a learned scale.",
    ),
    "collapsed-dimensions": Check(
        collapsed_dimensions,
        "dimensions",
        "below",
        f"latent dimensions with a rate below {ACTIVE_RATE} nats",
        "The posterior of these dimensions equals the prior: fewer dimensions (latent_dim), a warm-up of the rate "
        "(loss.warmup_epochs), a smaller loss.beta, or a likelihood with a learned scale.",
    ),
    "amortization-gap": Check(
        amortization_gap,
        "nats",
        "below",
        "ELBO gained by optimizing the posterior of each example, at most 10% of the rate",
        "The encoder is far from the best posterior of its family: a larger encoder, more epochs, or a learning rate "
        "that decays. A loss other than the ELBO, such as beta-VAE or IWAE, trains it for another optimum.",
    ),
    "effective-sample-size": Check(
        sample_size,
        f"of {SAMPLES} samples",
        "above",
        "median number of importance samples that count",
        "Importance-weighted estimates depend on a few samples: use more of them (--samples), a richer posterior "
        "(encoder.posterior=full-covariance, iaf), or loss=iwae.",
    ),
    "prior-holes": Check(
        prior_holes,
        "AUC",
        "below",
        "how well a classifier tells draws of the aggregate posterior from draws of the prior; 0.5 is ideal",
        "Samples come from regions that the decoder has not seen: fit a prior to the trained model "
        "(zoo fit-prior RUN gaussian-mixture), or train with a learned one (prior=vamp, prior=flow).",
    ),
    "codebook-use": Check(
        codebook_use,
        "codes",
        "above",
        "perplexity of the codes, at least a quarter of the codebook",
        "Most codes are rarely used: a smaller codebook (encoder.posterior.codebook_size), more frequent revival "
        "(encoder.posterior.revive_below), or encoder.posterior=finite-scalar.",
    ),
}
"""The checks by name, in the order of the report."""


def examine(name: str, context: EvaluationContext) -> Finding:
    """The result of one check."""
    check = CHECKS[name]
    try:
        with seeded(context.seed, context.device):
            value, threshold, details = check.measure(context)
    except NotApplicable as error:
        return Finding(name, "not applicable", None, check.unit, None, check.good, str(error), "")
    good = value >= threshold if check.good == "above" else value <= threshold
    verdict: Literal["ok", "warn"] = "ok" if good else "warn"
    return Finding(name, verdict, value, check.unit, threshold, check.good, check.meaning, check.advice, details)


def _measure(metric: str, context: EvaluationContext) -> list[Measurement]:
    return list(zoo.get("metric", metric)()(context))


def _first(context: EvaluationContext, n: int) -> Iterator[Batch]:
    """Batches of the first `n` examples."""
    indices = torch.split(torch.arange(min(n, len(context))), CHUNK)
    for index in context.track(indices, len(indices)):
        yield context.images[index]


def _gathered(context: EvaluationContext) -> Batch:
    return context.images[torch.arange(len(context))]
