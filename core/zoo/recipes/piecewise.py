"""A learning-rate schedule given as a list of values, which torch has no class for."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class PiecewiseConstantLR(LRScheduler):
    """Multiplies the initial learning rate by a factor that changes at milestones.

    ``MultiStepLR`` has one factor for all milestones. Published schedules that list their learning rates, such as the
    eight stages of arXiv 1509.00519, need one for each.

    Args:
        optimizer: the optimizer.
        milestones: units of the schedule (epochs or steps) after which the factor changes, in increasing order.
        factors: of the initial learning rate, one for each milestone; before the first milestone it is 1.

    Raises:
        ValueError: there is not one factor for each milestone, or the milestones do not increase.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    >>> schedule = PiecewiseConstantLR(optimizer, milestones=[1, 3], factors=[0.5, 0.2])
    >>> rates = []
    >>> for _ in range(5):
    ...     rates.append(round(optimizer.param_groups[0]["lr"], 6))
    ...     optimizer.step()
    ...     schedule.step()
    >>> rates
    [0.1, 0.05, 0.05, 0.02, 0.02]
    """

    def __init__(
        self, optimizer: Optimizer, milestones: Sequence[int], factors: Sequence[float], last_epoch: int = -1
    ) -> None:
        if len(milestones) != len(factors):
            raise ValueError(f"expected one factor for each milestone, got {len(factors)} for {len(milestones)}")
        if any(later <= earlier for earlier, later in pairwise([0, *milestones])):
            raise ValueError(f"expected milestones from 1 on in increasing order, got {list(milestones)}")
        self.milestones = list(milestones)
        self.factors = [1.0, *factors]
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """The learning rate of each parameter group."""
        factor = self.factors[bisect_right(self.milestones, self.last_epoch)]
        return [initial * factor for initial in self.base_lrs]
