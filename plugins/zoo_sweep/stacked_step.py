"""One training step of a stack of models."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, AdamW

from zoo import Batch, Trainer
from zoo_sweep.stack import Stack, Terms

GRADIENT_NORM = "gradient_norm"


class StackedStep:
    """Takes one step of each of several trainers, with one pass through all models.

    A model whose terms are not finite gets no gradient; its trainer raises the error at the end of the epoch.

    Args:
        trainers: trainers with the same `signature`.
        before: the step of a larger stack that these trainers were part of.

    Raises:
        CannotStack: the models cannot be stacked.
    """

    def __init__(self, trainers: Sequence[Trainer], before: StackedStep | None = None) -> None:
        self.stack = Stack(trainers)
        if before is not None:
            self.stack.keep_checks(before.stack)
        self._optimized = [trainer.phases[0] for trainer in trainers]
        norms = [trainer.config.max_grad_norm or math.inf for trainer in trainers]
        self._clips = min(norms) < math.inf
        self._max_norms = torch.tensor(norms, device=self.stack.device)
        self._adam: StackedAdam | None = None
        if all(_is_plain_adam(optimized.optimizer) for optimized in self._optimized):
            self._adam = StackedAdam(self.stack, [optimized.optimizer for optimized in self._optimized])
        self._warm_up = max(trainer.config.warmup_steps for trainer in trainers)
        self._is_scheduled = any(optimized.scheduler is not None for optimized in self._optimized)

    def __call__(self, step: int, batches: Sequence[Batch]) -> list[Terms]:
        """Take the step with index `step`, and return the terms of each model.

        Raises:
            CannotStack: the models cannot be stacked; nothing has changed.
        """
        terms, gradient = self.stack.gradient(step, batches)
        norms = terms[GRADIENT_NORM] = torch.linalg.vector_norm(gradient, dim=1)
        values = torch.stack(list(terms.values()))
        if self._clips:
            gradient *= (self._max_norms / (norms + 1e-6)).clamp(max=1.0)[:, None]
        finite = values.isfinite().all(0)
        if self.stack.device.type != "cpu" or not finite.all():
            gradient.masked_fill_(~finite[:, None], 0.0)
        with contextlib.ExitStack() as warm_ups:
            for optimized in self._optimized:
                warm_ups.enter_context(optimized.warmed_up(step))
            if self._adam is None:
                self._step_of_each(gradient)
            else:
                if self._is_scheduled or step <= self._warm_up:
                    self._adam.read()
                self._adam(gradient)
                for optimized in self._optimized:
                    if optimized.scheduler is not None:
                        optimized.optimizer.step()  # changes nothing without gradients; the scheduler expects it
        for optimized, trainer in zip(self._optimized, self.stack.trainers, strict=True):
            if trainer.config.scheduler_unit == "step":
                optimized.advance()
        return [dict(zip(terms, row.unbind(), strict=True)) for row in values.unbind(1)]

    def _step_of_each(self, gradient: Tensor) -> None:
        """Let the optimizer of each model update its row."""
        for row, optimized in enumerate(self._optimized):
            for parameter, own in zip(self.stack.parameters(row), self.stack.rows(gradient, row), strict=True):
                parameter.grad = own
            optimized.optimizer.step()


class StackedAdam:
    """Adam or AdamW for a stack: as torch computes it, with the options of each model.

    The state of each model's own optimizer becomes a view of the stacked state, so that checkpoints contain it.

    Args:
        stack: the models.
        optimizers: of the models, with one group of parameters each.
    """

    def __init__(self, stack: Stack, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self._weights = stack.weights
        self._groups = [optimizer.param_groups[0] for optimizer in optimizers]
        self._mean, self._square = torch.zeros_like(stack.weights), torch.zeros_like(stack.weights)
        self._scratch = torch.empty_like(stack.weights)
        self._steps = torch.zeros(len(optimizers), len(stack.trained), dtype=torch.float32, device=stack.device)
        for row, optimizer in enumerate(optimizers):
            views = zip(
                stack.parameters(row),
                stack.rows(self._mean, row),
                stack.rows(self._square, row),
                self._steps[row].unbind(),
                strict=True,
            )
            for parameter, mean, square, steps in views:
                state = optimizer.state[parameter]
                for name, view in (("step", steps), ("exp_avg", mean), ("exp_avg_sq", square)):
                    if name in state:
                        view.copy_(state[name])
                    state[name] = view
        self.read()

    @torch.no_grad()
    def __call__(self, gradient: Tensor) -> None:
        """Update the weights."""
        dtype = self._weights.dtype
        if self._decays:
            gradient = gradient.add_(self._weights * self._decay.to(dtype))
            self._weights.mul_((1 - self._lr * self._decoupled).to(dtype))
        self._steps += 1
        steps = self._steps[:, :1].double()
        size = self._lr / (1 - self._beta1**steps)
        scale = (1 - self._beta2**steps).sqrt()
        self._mean.lerp_(gradient, (1 - self._beta1).to(dtype))
        scratch = torch.mul(gradient, (1 - self._beta2).to(dtype), out=self._scratch)
        self._square.mul_(self._beta2.to(dtype)).addcmul_(scratch, gradient)
        torch.sqrt(self._square, out=scratch).div_(scale.to(dtype)).add_(self._eps.to(dtype))
        self._weights.sub_(torch.div(self._mean, scratch, out=scratch).mul_(size.to(dtype)))

    def read(self) -> None:
        """Read the options of all models, which a scheduler may change; (models, 1)."""
        groups = self._groups
        decays = [group["weight_decay"] for group in groups]
        decoupled = [bool(group.get("decoupled_weight_decay")) for group in groups]
        self._lr, self._eps = self._column(group["lr"] for group in groups), self._column(g["eps"] for g in groups)
        self._beta1, self._beta2 = (self._column(group["betas"][i] for group in groups) for i in (0, 1))
        self._decays = any(decays)
        self._decay = self._column(decay * (not apart) for decay, apart in zip(decays, decoupled, strict=True))
        self._decoupled = self._column(decay * apart for decay, apart in zip(decays, decoupled, strict=True))

    def _column(self, values: Iterable[float]) -> Tensor:
        return torch.tensor([float(v) for v in values], dtype=torch.float64, device=self._weights.device)[:, None]


def _is_plain_adam(optimizer: torch.optim.Optimizer) -> bool:
    """Whether `StackedAdam` computes the same as an optimizer."""
    groups: list[dict[str, Any]] = optimizer.param_groups
    plain = not any(groups[0].get(option) for option in ("amsgrad", "maximize"))
    return type(optimizer) in (Adam, AdamW) and len(groups) == 1 and plain
