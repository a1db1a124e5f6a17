"""How near images come back."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from zoo import EvaluationContext, Measurement, Metric


class Reconstruction(Metric):
    """Squared error between an image and the mean of p(x | z), at the mean of q(z | x) and at a draw from it."""

    def __call__(self, subject: EvaluationContext) -> Sequence[Measurement]:
        """Measure `squared-error-...`, summed over the pixels, and `mse-...`, their mean, `at-mean` and `at-draw`.

        A posterior without a mean is measured at the draw alone.
        """
        errors: dict[str, list[torch.Tensor]] = {"mean": [], "draw": []}
        for batch in subject.batches():
            q = subject.vae.encode(batch.x, batch.condition)
            points = {"mean": q.mean} if subject.codes_are == "posterior means" else {}
            for at, z in {**points, "draw": q.sample()}.items():
                image = subject.vae.decode(z, batch.condition).mean
                errors[at].append((batch.x - image).square().flatten(1).cpu().double())
        measurements = []
        for at, parts in errors.items():
            if parts:
                per_pixel = torch.cat(parts)
                measurements += [
                    Measurement.mean(f"squared-error-at-{at}", per_pixel.sum(1), "per image"),
                    Measurement.mean(f"mse-at-{at}", per_pixel.mean(1), "per pixel"),
                ]
        return measurements
