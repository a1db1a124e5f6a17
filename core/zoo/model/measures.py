"""Base measures of distributions, so that densities are compared only if they share one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    MixtureSameFamily,
    TransformedDistribution,
    VonMises,
    constraints,
)

from zoo.errors import ComponentError

MASS = "probability mass"


def base_measure(distribution: Distribution) -> str | None:
    """Describe the base measure and the support of a distribution in words.

    log q - log p is meaningful only if both are densities with respect to the same measure on the same set: a
    probability mass, a density over R^d and a density on a sphere are incompatible. Two distributions are comparable if
    their descriptions are equal.

    A distribution may define an attribute ``base_measure``, either a description or None if it has no density (such as
    a point mass). Otherwise the description follows from its ``support``, regardless of shapes and of whether an
    interval is open or closed.

    Returns:
        The description; None if it is unknown or there is no density, which is compatible with everything.

    >>> from torch.distributions import Bernoulli, Dirichlet, Independent, Normal
    >>> import torch
    >>> base_measure(Independent(Normal(torch.zeros(2), 1.0), 1))
    'density on the real numbers'
    >>> base_measure(Dirichlet(torch.ones(3))), base_measure(Bernoulli(0.5))
    ('density on the simplex', 'probability mass on the integers from 0 to 1')
    """
    if hasattr(distribution, "base_measure"):
        measure: str | None = distribution.base_measure
        return measure
    if isinstance(distribution, Independent):
        return base_measure(distribution.base_dist)
    if isinstance(distribution, MixtureSameFamily):
        return base_measure(distribution.component_distribution)
    if isinstance(distribution, TransformedDistribution) and MASS in (base_measure(distribution.base_dist) or ""):
        return None  # the transforms define its support, and do not know that the base is discrete
    if isinstance(distribution, VonMises):
        return "density on angles"  # its support in torch is the real numbers, over which it does not integrate to 1
    try:
        support = distribution.support
    except (NotImplementedError, AttributeError):
        return None
    return None if support is None else _of(support)


def require_same_measure(
    q: Distribution, p: Distribution, posterior: str = "the posterior", prior: str = "the prior"
) -> None:
    """Check that log q(z | x) - log p(z) is meaningful.

    Args:
        q, p: posterior and prior.
        posterior, prior: their names in the message.

    Raises:
        ComponentError: they are densities with respect to different measures.
    """
    if torch.compiler.is_compiling():  # the eager preflight has checked it
        return
    measures = base_measure(q), base_measure(p)
    if None not in measures and measures[0] != measures[1]:
        raise ComponentError(
            f"{posterior} and {prior} are incompatible: q(z | x) is a {measures[0]}, but p(z) is a {measures[1]}. "
            "Neither the rate nor log p(x) is defined. Choose a prior on the support of the posterior, or another "
            "posterior."
        )


def _of(support: constraints.Constraint) -> str | None:
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    if constraints.is_dependent(support):  # type: ignore[no-untyped-call]
        return None
    space = _space(support)
    return space and f"{MASS if support.is_discrete else 'density'} on {space}"


def _space(support: constraints.Constraint) -> str | None:
    for constraint, name in NAMES.items():
        if type(support) is type(constraint):
            return name
    bounds = [getattr(support, f"{end}_bound", None) for end in ("lower", "upper")]
    if bounds == [None, None]:
        return type(support).__name__.lstrip("_")
    numbers = [_number(bound) for bound in bounds]
    if any(number is None for number, bound in zip(numbers, bounds, strict=True) if bound is not None):
        return None
    words = [f"{word} {number:g}" for word, number in zip(("from", "to"), numbers, strict=True) if number is not None]
    return " ".join(["the integers" if support.is_discrete else "the real numbers", *words])


def _number(bound: Tensor | float | None) -> float | None:
    """An end of an interval; None if it varies within the batch."""
    if not isinstance(bound, Tensor):
        return bound
    return bound.flatten()[0].item() if bound.numel() and bool((bound == bound.flatten()[0]).all()) else None


NAMES = {
    constraints.real: "the real numbers",
    constraints.simplex: "the simplex",
    constraints.one_hot: "one-hot vectors",
    constraints.boolean: "the integers from 0 to 1",
}
"""Descriptions of constraints; others are described by their bounds or their class."""
