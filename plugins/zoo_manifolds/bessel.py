"""The modified Bessel function of the first kind, on any device and differentiable."""

from __future__ import annotations

import math

from torch import Tensor

HIGH = 40
"""The lowest order for the asymptotic series; with five terms its error is 1e-10."""


def log_ive(order: float, x: Tensor) -> tuple[Tensor, Tensor]:
    """log(e^-x I_order(x)) and the ratio I_{order+1}(x) / I_order(x).

    Both are computed at a high order by Debye's uniform expansion (DLMF 10.41.3), then carried down to the given order
    by the recurrence (DLMF 10.29.1), which is stable in this direction. In float64 the error is about 1e-9 for every
    x > 0.

    Args:
        order: non-negative.
        x: positive, of any shape.

    Returns:
        Both of the shape of x.

    >>> import torch
    >>> log_ive(0.5, torch.tensor(2.0).double())[0].exp()  # e^-x sqrt(2 / (pi x)) sinh(x)
    tensor(0.2769, dtype=torch.float64)
    """
    steps = max(0, math.ceil(HIGH - order))
    value = _log_ive_high(order + steps, x)
    ratio = (_log_ive_high(order + steps + 1, x) - value).exp()
    for k in range(steps, 0, -1):
        ratio = 1 / (2 * (order + k) / x + ratio)
        value = value - ratio.log()
    return value, ratio


def _log_ive_high(order: float, x: Tensor) -> Tensor:
    root = (order**2 + x**2).sqrt()
    t = order / root
    # eta - x, in a form that does not cancel if x is much larger than the order.
    exponent = order**2 / (root + x) + order * (x / (order + root)).log()
    t2 = t * t
    series = 1 + (t / order) * (
        (3 - 5 * t2) / 24
        + (t / order)
        * (
            (81 - 462 * t2 + 385 * t2**2) / 1152
            + (t / order)
            * (
                (30375 - 369603 * t2 + 765765 * t2**2 - 425425 * t2**3) / 414720
                + (t / order)
                * (4465125 - 94121676 * t2 + 349922430 * t2**2 - 446185740 * t2**3 + 185910725 * t2**4)
                / 39813120
            )
        )
    )
    return exponent - 0.5 * (2 * math.pi * root).log() + series.log()
