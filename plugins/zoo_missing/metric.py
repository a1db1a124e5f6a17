"""The error of imputed values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field, PositiveInt

from zoo import EvaluationContext, Measurement, Metric, NotApplicable, derive_seed, observed_entries
from zoo_missing.imputation import impute


class ImputationError(Metric):
    """The mean squared error of single imputations on hidden entries, divided by the variance of an entry over the
    split, averaged over the entries of x (arXiv 1812.02633). Imputing the mean gives about 1.

    Args:
        samples: K, importance samples per example.
        hide: fraction of the observed entries to hide at random, in addition to those that are missing. With 0, the
            hidden entries are those that the data set itself hides and whose true values it keeps, such as
            ``breast-cancer``.
    """

    by_default = False

    def __init__(self, samples: PositiveInt = 1000, hide: Annotated[float, Field(ge=0, lt=1)] = 0.5) -> None:
        self.samples = samples
        self.hide = hide

    def __call__(self, context: EvaluationContext) -> Sequence[Measurement]:
        """Measure `imputation-error`.

        Raises:
            NotApplicable: with ``hide=0``, no entries are hidden, or their true values are unknown.
        """
        split = context.dataset.splits[context.split].part(0, len(context.images.x))
        hidden_by_data = None if split.mask is None else ~split.mask
        if not self.hide and (hidden_by_data is None or not split.x[hidden_by_data].any()):
            raise NotApplicable("the data set hides no entries whose values it keeps; set hide to a fraction")
        unit = 1 if split.x.is_floating_point() else 255
        errors, moments, start = [], torch.zeros(3, *split.shape, dtype=torch.float64), 0
        for index, batch in enumerate(context.batches()):
            rows = slice(start, start := start + len(batch.x))
            observed = observed_entries(batch.x, batch.mask).cpu()
            if self.hide:
                x, hidden = batch.x.cpu(), observed & (torch.rand(observed.shape) < self.hide)
            else:
                x, hidden = split.x[rows] / unit, ~observed
            labels = batch.condition.cpu() if context.vae.classes and batch.condition is not None else None
            imputation = impute(
                context.vae,
                x.float(),
                observed & ~hidden,
                self.samples,
                condition=labels,
                seed=derive_seed(context.seed, index),
            )
            errors.append((imputation.single.double() - x)[hidden].square())
            values = x.double() * (observed | hidden)
            moments += torch.stack([(observed | hidden).double().sum(0), values.sum(0), values.square().sum(0)])
        count, total, squares = moments
        variance = (squares / count - (total / count).square())[count > 0].mean()
        error = Measurement.mean("", torch.cat(errors) / variance)
        protocol = {"samples": self.samples, "hide": self.hide, "hidden": sum(map(len, errors))}
        return [Measurement("imputation-error", error.value, "", protocol, error.error)]
