"""Adam on gradients of unit norm, which torch has no class for."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Adam, Optimizer

EPSILON = 1e-7


class NormalizedAdam(Adam):
    """Adam on the gradient of each parameter tensor divided by its Euclidean norm.

    The optimizer of arXiv 1705.07120, whose published code adds 1e-7 to each norm. The gradients are normalized in
    place, after `max_grad_norm` has been applied.

    Args:
        params: the parameters.
        lr, betas, eps, weight_decay, fused, capturable: as in `torch.optim.Adam`.

    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> optimizer = NormalizedAdam([weight], lr=0.1)
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> optimizer.step()
    >>> weight.grad
    tensor([0.6000, 0.8000])
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        fused: bool | None = None,
        capturable: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, fused=fused, capturable=capturable)
        self.register_step_pre_hook(_normalize)


@torch.no_grad()
def _normalize(optimizer: Optimizer, args: object, kwargs: object) -> None:
    """Divide the gradient of each parameter tensor by its norm."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad.div_(torch.linalg.vector_norm(parameter.grad) + EPSILON)
