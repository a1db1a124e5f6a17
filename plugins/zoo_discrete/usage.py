"""How much of a codebook a model uses."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from zoo import EvaluationContext, Measurement, Metric, NotApplicable
from zoo_discrete.quantizer import Quantized


class CodebookUsage(Metric):
    """Perplexity and use of the codebook over a split.

    The perplexity is the exponential of the entropy of the index frequencies, from 1 to K; the use is the proportion of
    the K vectors that occur. With several quantizers, both are averaged over them.
    """

    by_default = False

    def __call__(self, context: EvaluationContext) -> Sequence[Measurement]:
        """Measure `codebook-perplexity` and `codebook-use`.

        Raises:
            NotApplicable: the posterior is not quantized.
        """
        counts: torch.Tensor | None = None
        size = 0
        for batch in context.batches():
            q = context.vae.encode(batch.x, batch.condition)
            if not isinstance(q, Quantized):
                raise NotApplicable("the posterior has no codebook")
            indices, size = q.indices.flatten(0, -2).cpu(), q.codebook_size
            batch_counts = torch.stack([torch.bincount(index, minlength=size) for index in indices.unbind(-1)])
            counts = batch_counts if counts is None else counts + batch_counts
        if counts is None:
            raise NotApplicable("there are no images")
        frequencies = counts.double() / counts.sum(1, keepdim=True)
        perplexity = torch.special.entr(frequencies).sum(1).exp().mean().item()
        use = (counts > 0).double().mean().item()
        protocol = {"codes": int(counts[0].sum())}
        return [
            Measurement("codebook-perplexity", perplexity, f"of {size}", protocol),
            Measurement("codebook-use", use, f"of {size}", protocol),
        ]
