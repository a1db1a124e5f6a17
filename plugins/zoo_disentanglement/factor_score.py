"""The score of FactorVAE (arXiv 1802.05983)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from zoo import EvaluationContext, Measurement, Metric
from zoo_disentanglement.factors import varying_factors


class FactorScore(Metric):
    """How well the latent that varies least tells which factor was held (arXiv 1802.05983, section 4).

    For a vote, images are drawn that agree in one factor, chosen at random, and the latent is found whose variance over
    them is the least part of its variance over all images. The factor that most often goes with a latent is what that
    latent stands for; the score is the accuracy of that on as many votes of their own.

    Args:
        votes: to learn from, and as many again to measure.
        images_per_vote: drawn with replacement from those that are measured.
        threshold: a latent whose posterior means have a standard deviation below this takes no part.
    """

    by_default = False

    def __init__(
        self,
        votes: PositiveInt = 800,
        images_per_vote: Annotated[int, Field(ge=2)] = 100,
        threshold: NonNegativeFloat = 0.05,
    ) -> None:
        self.votes = votes
        self.images_per_vote = images_per_vote
        self.threshold = threshold

    def __call__(self, subject: EvaluationContext) -> Sequence[Measurement]:
        """Measure `factor-vae-score`; 0 where no latent takes part.

        Raises:
            NotApplicable: the factors are not known, or none varies.
        """
        factors = varying_factors(subject)
        codes = subject.posterior_mean.double().flatten(1)
        deviations = codes.std(0, correction=0)
        active = deviations > self.threshold
        protocol = {
            "factors": list(factors),
            "representation": subject.representation,
            "votes": self.votes,
            "images per vote": self.images_per_vote,
            "latents": f"{int(active.sum())} of {len(active)}",
        }
        if not active.any():
            return [Measurement("factor-vae-score", 0.0, "accuracy", protocol, note="no latent varies")]
        codes = codes[:, active] / deviations[active]
        held = [
            [(values == value).nonzero().flatten() for value in torch.unique(values)] for values in factors.values()
        ]
        fitted, measured = (self._votes(codes, held) for _ in range(2))
        right = (fitted.argmax(1).unsqueeze(1) == torch.arange(len(held))) * measured
        accuracy = right.sum().item() / self.votes
        error = (accuracy * (1 - accuracy) / self.votes) ** 0.5
        return [Measurement("factor-vae-score", accuracy, "accuracy", protocol, error)]

    def _votes(self, codes: Tensor, held: Sequence[Sequence[Tensor]]) -> Tensor:
        """How often a latent varied least while a factor was held: int64 (d, F).

        Args:
            held: for each factor and each of its values, the images that have it.
        """
        counts = torch.zeros(codes.shape[1], len(held), dtype=torch.int64)
        for factor in torch.randint(len(held), (self.votes,)).tolist():
            images = held[factor][int(torch.randint(len(held[factor]), ()))]
            drawn = images[torch.randint(len(images), (self.images_per_vote,))]
            counts[codes[drawn].var(0).argmin(), factor] += 1
        return counts
