"""A metric of the use of codebooks and categories."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, OneHotCategorical

from zoo import EvaluationContext, Measurement, Metric, NotApplicable
from zoo_discrete.quantizer import Quantized


class CodebookUse(Metric):
    """The perplexity of the codes of a split, the exponential of the entropy of their frequencies (arXiv 1711.00937).

    It ranges from 1, if all examples have one code, to K, if all codes are equally frequent. Frequencies are those of
    each quantizer over all positions; for categorical variables, the posterior probabilities of each variable, averaged
    over examples.
    """

    by_default = False

    def __call__(self, context: EvaluationContext) -> Sequence[Measurement]:
        """Measure `codebook-perplexity`, averaged over quantizers or variables, and `codebook-use`, a fraction of K.

        Raises:
            NotApplicable: the latent is not discrete.
        """
        total, n = torch.zeros(()), 0
        for batch in context.batches():
            counts = _counts(context.vae.encode(batch.x, batch.condition))
            total, n = total + counts.cpu().double(), n + len(batch.x)
        frequencies = total / total.sum(-1, keepdim=True)  # (codebooks, K)
        size = frequencies.shape[-1]
        perplexity = torch.special.entr(frequencies).sum(-1).exp().mean().item()
        used = (total > 0.5).double().mean().item()
        protocol = {"codebooks": len(frequencies), "K": size}
        return [
            Measurement("codebook-perplexity", perplexity, f"of {size}", protocol),
            Measurement("codebook-use", used, f"of {size}", protocol),
        ]


def _counts(q: Distribution) -> Tensor:
    """How often each code occurs in a batch, (codebooks, K); an expectation for categorical variables."""
    if isinstance(q, Quantized):
        indices = q.indices.movedim(-1, 0).flatten(1)  # (quantizers, N * latent_dim)
        counts = torch.zeros(len(indices), q.codebook_size, device=indices.device)
        return counts.scatter_add_(1, indices, torch.ones_like(indices, dtype=counts.dtype))
    base = q
    while isinstance(base, Independent):
        base = base.base_dist
    if isinstance(base, OneHotCategorical):
        return base.probs.flatten(1, -2).sum(0)
    raise NotApplicable("the latent has no codes")
