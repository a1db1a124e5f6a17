"""Reconstruction errors."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from zoo import EvaluationContext, Measurement, Metric, observed_entries


class Reconstruction(Metric):
    """The squared error between x and the mean of p(x | z), with z the mean of q(z | x) or a sample of it."""

    def __call__(self, context: EvaluationContext) -> Sequence[Measurement]:
        """Measure `squared-error-at-mean` and `squared-error-at-draw`, summed over observed entries, and `mse-at-mean`
        and `mse-at-draw`, averaged over them.

        A posterior without a mean has only the values at a draw.
        """
        errors: dict[str, list[torch.Tensor]] = {"mean": [], "draw": []}
        counts = []
        for batch in context.batches():
            observed = observed_entries(batch.x, batch.mask)
            counts.append(observed.flatten(1).sum(1).cpu())
            q = context.vae.encode(batch.x, batch.condition, batch.mask)
            points = {"mean": q.mean} if context.representation == "posterior means" else {}
            for at, z in {**points, "draw": q.sample()}.items():
                reconstruction = context.vae.decode(z, batch.condition).mean
                error = (batch.x - reconstruction).square().where(observed, 0.0)
                errors[at].append(error.flatten(1).cpu().double())
        measurements = []
        for at, chunks in errors.items():
            if chunks:
                total = torch.cat(chunks).sum(1)
                mean = total / torch.cat(counts).clamp_min(1)
                measurements += [
                    Measurement.mean(f"squared-error-at-{at}", total, "per image"),
                    Measurement.mean(f"mse-at-{at}", mean, "per pixel"),
                ]
        return measurements
