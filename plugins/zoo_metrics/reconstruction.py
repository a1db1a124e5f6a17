"""Reconstruction errors."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from zoo import EvaluationContext, Measurement, Metric


class Reconstruction(Metric):
    """Squared error between x and the mean of p(x | z), at the mean of q(z | x) and at a draw from it."""

    def __call__(self, subject: EvaluationContext) -> Sequence[Measurement]:
        """Measure `squared-error-...`, summed over the observed entries, and `mse-...`, their mean, `at-mean` and
        `at-draw`.

        A posterior without a mean is measured at the draw alone.
        """
        errors: dict[str, list[torch.Tensor]] = {"mean": [], "draw": []}
        counts = []
        for batch in subject.batches():
            observed = torch.ones_like(batch.x, dtype=torch.bool) if batch.mask is None else batch.mask
            counts.append(observed.flatten(1).sum(1).cpu())
            q = subject.vae.encode(batch.x, batch.condition)
            points = {"mean": q.mean} if subject.representation == "posterior means" else {}
            for at, z in {**points, "draw": q.sample()}.items():
                reconstructed = subject.vae.decode(z, batch.condition).mean
                error = (batch.x - reconstructed).square().where(observed, 0.0)
                errors[at].append(error.flatten(1).cpu().double())
        measurements = []
        for at, parts in errors.items():
            if parts:
                squared = torch.cat(parts).sum(1)
                mean = squared / torch.cat(counts).clamp_min(1)
                measurements += [
                    Measurement.mean(f"squared-error-at-{at}", squared, "per image"),
                    Measurement.mean(f"mse-at-{at}", mean, "per pixel"),
                ]
        return measurements
