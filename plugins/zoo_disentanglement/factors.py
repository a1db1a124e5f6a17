"""The factors that a metric can speak of, beside the codes of the same images."""

from __future__ import annotations

from torch import Tensor

from zoo import EvaluationContext, NotApplicable


def varying_factors(subject: EvaluationContext) -> dict[str, Tensor]:
    """By name, the number of its value for each image, int64 (N,), of every factor that takes more than one.

    Raises:
        NotApplicable: there is no such factor.
    """
    columns = zip(subject.factor_names, subject.factors.unbind(1), strict=True)
    factors = {name: values for name, values in columns if bool((values != values[0]).any())}
    if not factors:
        raise NotApplicable("no factor takes more than one value in these images")
    return factors


def gap(scores: Tensor) -> Tensor:
    """The greatest entry of each column less the next: (d, F) to (F,). Where there is one row, less zero."""
    ordered = scores.sort(0, descending=True).values
    return ordered[0] - ordered[1] if len(ordered) > 1 else ordered[0]
