"""Single and multiple imputation by importance sampling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.nn.functional import one_hot

from zoo import VAE, Batch, ComponentError, UsageError, at_least_float32, derive_seed, evaluating, seeded
from zoo_missing.missingness import missingness_of

IMPUTE = 31  # random stream
ROWS = 64
"""Examples that are imputed together."""
ENTRIES = 2**21
"""Entries of x that are decoded at once."""


@dataclass(frozen=True)
class Imputation:
    """Completed examples. Observed entries are exactly those of the input.

    Attributes:
        single: the conditional mean of the missing entries, or their mode for categories, (N, *data_shape).
        multiple: M draws of the missing entries from p(x_mis | x_obs), (M, N, *data_shape).
        effective_samples: of the importance sampling, (sum w)^2 / sum w^2, float64 (N,); NaN for complete examples.
            Values near 1 mean that the imputation is unreliable: increase the number of samples.
    """

    single: Tensor
    multiple: Tensor
    effective_samples: Tensor


@torch.no_grad()
def impute(
    vae: VAE,
    x: Tensor,
    mask: Tensor | None = None,
    samples: int = 1000,
    draws: int = 0,
    *,
    condition: Tensor | None = None,
    categories: Sequence[int] = (),
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Imputation:
    """Fill in missing entries given the observed ones.

    E[x_mis | x_obs] is estimated by sum_k w_k E[x_mis | z_k], with z_k from q(z | x_obs) and self-normalized weights
    w_k of p(x_obs | z_k) p(z_k) / q(z_k | x_obs) (arXiv 1812.02633). Multiple imputations are drawn from
    p(x_mis | z_k) and resampled by weight. If the decoder is ``missing-not-at-random``, the weights have a factor
    p(s | x_obs, x_k), with x_k from p(x_mis | z_k), and the mean is that of x_k (arXiv 2006.12871).

    The result is a function of the arguments and the seed. The memory does not depend on N or `samples`, apart from
    that of the result.

    Args:
        vae: a trained model.
        x: examples (N, *data_shape), float.
        mask: bool, like `x`, true where an entry is observed; by default where x is not NaN.
        samples: K, importance samples per example.
        draws: M, number of multiple imputations.
        condition: labels (N,), for conditional models.
        categories: for entries that are codes of categories, their number, and 0 for others; one for each entry of the
            data shape (D,). The single imputation of a code is the most probable one.
        seed: of all draws.
        progress: called with the number of examples that are finished, and of those that have missing entries.

    Raises:
        ComponentError: the model has no importance weights: its likelihood is not normalized or does not factorize over
            entries, posterior and prior have different measures, or the likelihood cannot be sampled where that is
            needed.
        UsageError: the mask has another shape, or an observed entry has no finite likelihood.
        ValueError: `samples` is not positive, or `draws` is negative.
    """
    if samples < 1 or draws < 0:
        raise ValueError(f"samples must be positive and draws not negative; got {samples} and {draws}.")
    mask = ~x.isnan() if mask is None else mask
    if mask.shape != x.shape or mask.dtype != torch.bool:
        raise UsageError(
            f"The mask must be a bool tensor of shape {tuple(x.shape)}, not {mask.dtype} of shape {tuple(mask.shape)}."
        )
    single, multiple = x.clone(), x.expand(draws, *x.shape).clone()
    effective = torch.full((len(x),), torch.nan, dtype=torch.float64)
    device = next((parameter.device for parameter in vae.parameters()), x.device)
    incomplete = (~mask).flatten(1).any(1).nonzero().squeeze(1)
    entries = max(1, math.prod(x.shape[1:]))
    batches = torch.split(incomplete, max(1, min(ROWS, ENTRIES // entries))) if len(incomplete) else ()
    finished = 0
    for index, rows in enumerate(batches):
        labels = None if condition is None else condition[rows]
        batch = Batch(at_least_float32(x[rows]).masked_fill(~mask[rows], 0.0), labels, mask[rows]).map(
            lambda t: t.to(device)
        )
        at_once = max(1, ENTRIES // (len(rows) * entries))
        with evaluating(vae), seeded(derive_seed(seed, IMPUTE, index), device):
            sampler = _Sampler(vae, batch, draws, categories)
            for start in range(0, samples, at_once):
                sampler.add(min(at_once, samples - start))
        effective[rows] = sampler.effective_samples.cpu().double()
        if not effective[rows].isfinite().all():
            row = int(rows[~effective[rows].isfinite()][0])
            raise UsageError(f"Example {row} has no finite likelihood under the model. Check its observed entries.")
        single[rows] = torch.where(mask[rows], x[rows], sampler.single.to(x))
        multiple[:, rows] = torch.where(mask[rows], x[rows], sampler.multiple.to(x))
        finished += len(rows)
        if progress is not None:
            progress(finished, len(incomplete))
    return Imputation(single, multiple, effective)


class _Sampler:
    """The weighted sums of a batch over all samples so far. Weights are relative to the largest one."""

    def __init__(self, vae: VAE, batch: Batch, draws: int, categories: Sequence[int]) -> None:
        self._vae, self._batch, self._draws = vae, batch, draws
        self._missingness = missingness_of(vae)
        n = len(batch.x)
        self._largest = batch.x.new_full((n,), -torch.inf)
        self._total, self._squares = torch.zeros_like(self._largest), torch.zeros_like(self._largest)
        self._sum = torch.zeros_like(batch.x)
        self._votes = {entry: batch.x.new_zeros(n, size) for entry, size in enumerate(categories) if size}
        self.multiple = batch.x.new_zeros((draws, *batch.x.shape))

    def add(self, samples: int) -> None:
        """Draw more samples of z."""
        trace = self._vae.trace(self._batch, samples)
        if not getattr(trace.p, "normalized", True):
            raise ComponentError("The likelihood is not a normalized density, so missing values cannot be imputed.")
        log_weight = trace.log_weight
        x = _sample(trace.p) if self._missingness is not None or self._draws or self._votes else None
        if self._missingness is None:
            values = trace.p.mean
        else:
            assert self._batch.mask is not None
            assert x is not None
            complete = torch.where(self._batch.mask, trace.x, x)
            log_weight = log_weight + self._missingness.log_prob(complete, self._batch.mask)
            values = x
        weight = self._rescaled(log_weight)
        self._total += weight.sum(0)
        self._squares += weight.square().sum(0)
        self._sum += torch.einsum("kn,kn...->n...", weight, values.to(weight))
        if x is None:
            return
        for entry, votes in self._votes.items():
            codes = one_hot(x[..., entry].long().clamp(0, votes.shape[1] - 1), votes.shape[1])
            votes += torch.einsum("kn,knc->nc", weight, codes.to(weight))
        if self._draws:
            self._resample(weight, x)

    def _rescaled(self, log_weight: Tensor) -> Tensor:
        """The weights (K, N) relative to the new largest one; sums of former weights become relative to it too."""
        largest = torch.maximum(self._largest, log_weight.amax(0))
        shrink = (self._largest - largest).exp()
        self._largest = largest
        self._total *= shrink
        self._squares *= shrink.square()
        self._sum *= _per_example(shrink, self._sum)
        for votes in self._votes.values():
            votes *= _per_example(shrink, votes)
        return (log_weight - largest).exp()

    def _resample(self, weight: Tensor, x: Tensor) -> None:
        """Replace each imputation by one of the new samples, with their share of the total weight as probability.

        The result is distributed as resampling from all samples at the end, which would need them all in memory.
        """
        total = weight.sum(0)
        picks = torch.multinomial(torch.where(total > 0, weight, 1.0).T, self._draws, replacement=True).T
        new = x[picks, torch.arange(len(total), device=total.device)]
        replace = torch.rand_like(picks, dtype=weight.dtype) < total / self._total
        self.multiple = torch.where(replace.reshape(*replace.shape, *[1] * (new.ndim - 2)), new, self.multiple)

    @property
    def single(self) -> Tensor:
        """The conditional mean, or the mode for codes."""
        mean = self._sum / _per_example(self._total, self._sum)
        for entry, votes in self._votes.items():
            mean[..., entry] = votes.argmax(-1).to(mean)
        return mean

    @property
    def effective_samples(self) -> Tensor:
        """(sum w)^2 / sum w^2."""
        return self._total.square() / self._squares


def _sample(p: Distribution) -> Tensor:
    try:
        return p.sample()
    except NotImplementedError as error:
        raise ComponentError(f"The likelihood, a {type(p).__name__}, cannot be sampled.") from error


def _per_example(values: Tensor, like: Tensor) -> Tensor:
    """Values (N,) with the number of dimensions of `like`, (N, *event)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))
