"""The likelihood of the observed entries of x."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from zoo.errors import ComponentError
from zoo.model.distributions import draw


def in_support(p: Distribution, x: Tensor, mask: Tensor | None = None) -> bool:
    """Whether all values of `x` are in the support of `p`. True if the distribution does not define its support.

    Args:
        p: the distribution.
        x: the values.
        mask: bool, like `x`, true for the entries to check; None for all.
    """
    try:
        support = p.support if mask is None else _entries(p).support
    except NotImplementedError:
        return True
    if support is None:
        return True
    inside: Tensor = support.check(x)  # type: ignore[no-untyped-call]
    return bool((inside if mask is None else inside | ~mask).all())


def observed_log_prob(p: Distribution, x: Tensor, mask: Tensor | None) -> Tensor:
    """The log-density of the observed entries of x under p(x | z), (K..., N), in nats.

    If a distribution factorizes over entries, the missing ones integrate to 1. Their values affect neither the density
    nor its gradient.

    Args:
        p: batch shape (K..., N), event shape data_shape.
        x: (N, *data_shape).
        mask: bool, like `x`, true where an entry is observed; None if all are.

    Raises:
        ComponentError: there is a mask, and `p` is not a `torch.distributions.Independent` over entries.

    >>> from torch.distributions import Independent, Normal
    >>> p = Independent(Normal(torch.zeros(1, 2), 1.0), 1)
    >>> x, mask = torch.tensor([[0.0, 7.0]]), torch.tensor([[True, False]])
    >>> observed_log_prob(p, x, mask)
    tensor([-0.9189])
    """
    if mask is None:
        return p.log_prob(x)
    entries = _entries(p)
    with torch.no_grad():
        # A value in the support keeps the gradient at a missing entry finite.
        filled = torch.where(mask, x, draw(entries).to(x.dtype))
    log_px = torch.where(mask, entries.log_prob(filled), 0.0)
    return log_px.sum(tuple(range(-len(p.event_shape), 0)))


def observed_entries(x: Tensor, mask: Tensor | None) -> Tensor:
    """Where the entries of x are observed, bool, like `x`: the mask, or everywhere if there is none."""
    return torch.ones_like(x, dtype=torch.bool) if mask is None else mask


def zero_filled(x: Tensor, mask: Tensor | None) -> Tensor:
    """Set missing entries to 0."""
    return x if mask is None else x.masked_fill(~mask, 0.0)


def _entries(p: Distribution) -> Distribution:
    """The distribution of the individual entries of x, if p factorizes over them."""
    entries = p
    while isinstance(entries, Independent):
        entries = entries.base_dist
    if entries.event_shape:
        raise ComponentError(
            "With missing entries, the likelihood must factorize over entries, like an Independent of "
            f"torch.distributions; a {type(p).__name__} does not. Choose another likelihood, or data without a mask."
        )
    return entries
