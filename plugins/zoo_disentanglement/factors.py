"""Generative factors that vary in the evaluated images, and the gap between the two best latents."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from zoo import EvaluationContext, NotApplicable


def varying_factors(context: EvaluationContext, images: int | None = None) -> dict[str, Tensor]:
    """Return the factors with more than one value, by name, as value indices int64 (N,).

    Args:
        context: model and images.
        images: use only this many images, the first ones.

    Raises:
        NotApplicable: there is no such factor.
    """
    factors = _varying(context.factor_names, context.factors[:images])
    if not factors:
        raise NotApplicable("no factor takes more than one value in these images")
    return factors


def varying_train_factors(context: EvaluationContext, images: int) -> dict[str, Tensor]:
    """Return the factors that vary in the first `images` training images; empty if there are none."""
    return _varying(context.factor_names, context.train_factors[:images])


def _varying(names: Sequence[str], factors: Tensor) -> dict[str, Tensor]:
    columns = zip(names, factors.unbind(1), strict=True)
    return {name: values for name, values in columns if bool((values != values[0]).any())}


def gap(scores: Tensor) -> Tensor:
    """The difference of the two largest entries of each column, (d, F) to (F,); the entry itself if d = 1."""
    descending = scores.sort(0, descending=True).values
    return descending[0] - descending[1] if len(descending) > 1 else descending[0]
