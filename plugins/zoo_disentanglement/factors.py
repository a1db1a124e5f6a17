"""The factors that a metric can speak of, beside the codes of the same images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from zoo import EvaluationContext, NotApplicable


def varying_factors(subject: EvaluationContext, images: int | None = None) -> dict[str, Tensor]:
    """By name, the number of its value for each image, int64 (N,), of every factor that takes more than one.

    Args:
        images: of the first so many images alone.

    Raises:
        NotApplicable: there is no such factor.
    """
    factors = _varying(subject.factor_names, subject.factors[:images])
    if not factors:
        raise NotApplicable("no factor takes more than one value in these images")
    return factors


def varying_train_factors(subject: EvaluationContext, images: int) -> dict[str, Tensor]:
    """The same of the first so many training images; empty where none varies."""
    return _varying(subject.factor_names, subject.train_factors[:images])


def _varying(names: Sequence[str], factors: Tensor) -> dict[str, Tensor]:
    columns = zip(names, factors.unbind(1), strict=True)
    return {name: values for name, values in columns if bool((values != values[0]).any())}


def gap(scores: Tensor) -> Tensor:
    """The greatest entry of each column less the next: (d, F) to (F,). Where there is one row, less zero."""
    ordered = scores.sort(0, descending=True).values
    return ordered[0] - ordered[1] if len(ordered) > 1 else ordered[0]
