"""Bits per character of token models."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from zoo import EvaluationContext, Measurement, Metric, NotApplicable
from zoo_sequences.autoregressive import Autoregressive, counted


class BitsPerCharacter(Metric):
    """The negative ELBO of a text in bits, divided by its number of characters.

    Characters up to and including the end of each line count; padding has probability 1 and does not. The quotient is
    that of the sums over all lines. Unlike `bits-per-dimension`, it does not depend on the padding.
    """

    by_default = False

    def __call__(self, context: EvaluationContext) -> Sequence[Measurement]:
        """Measure `bits-per-character`.

        Raises:
            NotApplicable: the decoder does not generate tokens.
        """
        nats = characters = 0.0
        for batch in context.batches():
            trace = context.vae.trace(batch)
            if not isinstance(trace.p, Autoregressive):
                raise NotApplicable("the decoder does not generate tokens")
            nats += (trace.kl - trace.log_px).double().sum().item()
            codes = trace.x.flatten(1)
            mask = torch.ones_like(codes) if trace.p.end is None else counted(codes, trace.p.end)
            characters += mask.sum().item()
        value = nats / characters / math.log(2)
        return [Measurement("bits-per-character", value, "bits/character", {"draws": 1, "characters": int(characters)})]
