"""The FactorVAE score (arXiv 1802.05983)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from zoo import EvaluationContext, Measurement, Metric
from zoo_disentanglement.factors import varying_factors


class FactorScore(Metric):
    """The accuracy of predicting a fixed factor from the latent of least variance (arXiv 1802.05983, section 4).

    Each vote fixes a random factor to a random value, draws images with that value, and pairs the factor with the
    latent whose variance over them, relative to that over all images, is smallest. A majority-vote classifier from
    latent to factor is fitted to one set of votes and evaluated on another.

    Args:
        votes: number of votes in each set.
        images_per_vote: images per vote, drawn with replacement.
        threshold: latents whose posterior means have a smaller standard deviation are ignored.
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

    def __call__(self, context: EvaluationContext) -> Sequence[Measurement]:
        """Measure `factor-vae-score`, which is 0 if all latents are ignored.

        Raises:
            NotApplicable: the data have no factors, or none of them varies.
        """
        factors = varying_factors(context)
        z = context.posterior_mean.double().flatten(1)
        scale = z.std(0, correction=0)
        active = scale > self.threshold
        protocol = {
            "factors": list(factors),
            "representation": context.representation,
            "votes": self.votes,
            "images per vote": self.images_per_vote,
            "latents": f"{int(active.sum())} of {len(active)}",
        }
        if not active.any():
            return [Measurement("factor-vae-score", 0.0, "accuracy", protocol, note="no latent varies")]
        z = z[:, active] / scale[active]
        rows = [
            [(values == value).nonzero().flatten() for value in torch.unique(values)] for values in factors.values()
        ]
        train_votes, test_votes = self._votes(z, rows), self._votes(z, rows)
        prediction = train_votes.argmax(1).unsqueeze(1)
        accuracy = test_votes[prediction == torch.arange(len(rows))].sum().item() / self.votes
        error = (accuracy * (1 - accuracy) / self.votes) ** 0.5
        return [Measurement("factor-vae-score", accuracy, "accuracy", protocol, error)]

    def _votes(self, z: Tensor, rows: Sequence[Sequence[Tensor]]) -> Tensor:
        """Count how often each latent has the least variance while each factor is fixed, int64 (d, F).

        Args:
            z: scaled posterior means (N, d).
            rows: for each factor and each of its values, the indices of the images with that value.
        """
        counts = torch.zeros(z.shape[1], len(rows), dtype=torch.int64)
        for factor in torch.randint(len(rows), (self.votes,)).tolist():
            candidates = rows[factor][int(torch.randint(len(rows[factor]), ()))]
            sample = candidates[torch.randint(len(candidates), (self.images_per_vote,))]
            counts[z[sample].var(0).argmin(), factor] += 1
        return counts
