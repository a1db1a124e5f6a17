"""What a distribution is a density of, so that two of them are not compared that cannot be."""

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


def base_measure(distribution: Distribution) -> str | None:
    """The base measure of a distribution and the set that it lives on, in words.

    log q - log p is a number about two distributions only if both are densities with respect to one measure, on one
    set: a probability mass, a density over R^d and a density on a sphere cannot be subtracted from each other. Two
    distributions can be compared if their words are equal.

    A distribution may say it itself, by an attribute ``base_measure``: where its ``support`` does not, or where it is
    None, since it has no density (all probability on one point, say). Otherwise the words follow from its ``support``:
    "density" or "probability mass", and the set. Shapes do not count, nor whether the ends of an interval belong to it.

    Returns:
        None where it is not known or there is no density: then any other distribution is taken to agree.

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
    if isinstance(distribution, TransformedDistribution) and _is_mass(distribution.base_dist):
        return None  # its support is that of the transforms, which say nothing of the points that they are applied to
    if isinstance(distribution, VonMises):
        return "density on angles"  # torch has all real numbers as its support, over which it does not integrate to 1
    try:
        support = distribution.support
    except (NotImplementedError, AttributeError):
        return None
    return None if support is None else _of(support)


def require_same_measure(
    q: Distribution, p: Distribution, posterior: str = "the posterior", prior: str = "the prior"
) -> None:
    """See that log q(z | x) - log p(z) means something.

    Args:
        q, p: posterior and prior.
        posterior, prior: what the message calls them.

    Raises:
        ComponentError: they are densities with respect to different measures.
    """
    if torch.compiler.is_compiling():  # the first batch of a training has been checked before it is compiled
        return
    one, other = base_measure(q), base_measure(p)
    if one is not None and other is not None and one != other:
        raise ComponentError(
            f"{posterior} and {prior} do not go together: q(z | x) is a {one}, and p(z) is a {other}. The difference "
            "of their logarithms is not a rate, and no log p(x) follows from it. Choose a prior over what the "
            "posterior is over, or another posterior."
        )


def _is_mass(distribution: Distribution) -> bool:
    measure = base_measure(distribution)
    return measure is not None and measure.startswith("probability mass")


def _of(support: constraints.Constraint) -> str | None:
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    if constraints.is_dependent(support):  # type: ignore[no-untyped-call]
        return None
    space = _space(support)
    return space and f"{'probability mass' if support.is_discrete else 'density'} on {space}"


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
    """One end of an interval; None where it is another for each element of a batch."""
    if not isinstance(bound, Tensor):
        return bound
    return bound.flatten()[0].item() if bound.numel() and bool((bound == bound.flatten()[0]).all()) else None


NAMES = {
    constraints.real: "the real numbers",
    constraints.simplex: "the simplex",
    constraints.one_hot: "one-hot vectors",
    constraints.boolean: "the integers from 0 to 1",
}
"""Constraints that are called otherwise than by their class."""
