"""Phases with their optimizers and learning-rate schedulers."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from zoo.errors import ComponentError, Problem, RecipeError, ZooError, error_summary
from zoo.model.loss import Loss, Phase
from zoo.model.vae import VAE
from zoo.recipes.components import checked, construct
from zoo.recipes.schema import ComponentSpec, TrainConfig
from zoo.recipes.signatures import find

DEVICE_OPTIONS = {"capturable", "foreach", "fused"}
"""Options of an optimizer that depend on the device, and do not change what it computes."""
FUSED_ON_CUDA = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)


class OptimizedPhase:
    """A phase with its optimizer and learning-rate scheduler.

    Args:
        phase: the phase.
        config: how to train.

    Attributes:
        scheduler: the scheduler, or None.
        watches: whether the scheduler needs a score, as `ReduceLROnPlateau` does.
        skip_norm: an update is skipped if the norm of the gradient exceeds this value; None skips none.

    Raises:
        RecipeError: such a scheduler is to be advanced at each step.
    """

    def __init__(self, phase: Phase, config: TrainConfig) -> None:
        self.phase = phase
        self.parameters = [parameter for parameter in phase.parameters if parameter.requires_grad]
        self.optimizer = make_optimizer(config.optimizer, self.parameters)
        self.scheduler: Any = None
        if config.scheduler is not None:
            self.scheduler = construct("scheduler", config.scheduler, {"optimizer": self.optimizer})
        for group in self.optimizer.param_groups:
            if group["params"][0].is_cuda and (group.get("capturable") or group.get("fused")):
                group["lr"] = torch.tensor(group["lr"], device=group["params"][0].device)  # which a graph reads
        self.watches = "metrics" in inspect.signature(self.scheduler.step).parameters if self.scheduler else False
        if self.watches and config.scheduler_unit == "step":
            problem = Problem("train.scheduler_unit", "must be 'epoch', since this scheduler needs a validation score")
            raise RecipeError("The scheduler cannot be used with these options:", [problem])
        self._max_norm = config.max_grad_norm
        self.skip_norm = config.skip_grad_norm
        self._warmup_steps = config.warmup_steps

    def due(self, step: int) -> bool:
        """Whether to run this phase in a step."""
        return step % self.phase.every == 0

    def norm(self) -> Tensor:
        """The norm of the gradient, before it is clipped in place to ``max_grad_norm``."""
        gradients = [parameter.grad.flatten() for parameter in self.parameters if parameter.grad is not None]
        # On the CPU, this takes a third of the time of torch's get_total_norm.
        norm = torch.stack([torch.dot(gradient, gradient) for gradient in gradients]).sum().sqrt()
        if self._max_norm is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self._max_norm, norm)
        return norm

    def tensors(self) -> list[Tensor]:
        """All tensors that the optimizer changes."""
        state = [v for entry in self.optimizer.state.values() for v in entry.values() if isinstance(v, Tensor)]
        return [*self.parameters, *state]

    @contextlib.contextmanager
    def warmed_up(self, step: int) -> Iterator[None]:
        """Scale the learning rate inside the block during the warm-up."""
        if step >= self._warmup_steps:
            yield
            return
        lrs = [group["lr"] for group in self.optimizer.param_groups]
        lrs = [lr.clone() if isinstance(lr, Tensor) else lr for lr in lrs]
        self._set_lrs([lr * (step + 1) / self._warmup_steps for lr in lrs])
        yield
        self._set_lrs(lrs)

    def _set_lrs(self, lrs: Sequence[Any]) -> None:
        """Set the learning rates; tensors are changed in place, since a captured graph reads them."""
        for group, lr in zip(self.optimizer.param_groups, lrs, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = float(lr)

    def options(self) -> list[Any]:
        """The options of the optimizer that a captured graph would not read again: those that are no tensors."""
        return [
            option
            for group in self.optimizer.param_groups
            for name, option in group.items()
            if name != "params" and not isinstance(option, Tensor)
        ]

    def advance(self, score: float | None = None) -> None:
        """Advance the scheduler, if there is one. `score` is passed to a scheduler that needs it."""
        if self.scheduler is not None:
            self.scheduler.step(*([score] if self.watches else []))

    def state_dict(self) -> dict[str, Any]:
        """The state of the optimizer and of the scheduler. Its options do not depend on the device."""
        state = self.optimizer.state_dict()
        groups = [
            {name: option for name, option in group.items() if name not in DEVICE_OPTIONS}
            for group in state["param_groups"]
        ]
        scheduler = None if self.scheduler is None else self.scheduler.state_dict()
        return {"optimizer": {**state, "param_groups": _plain(groups)}, "schedule": _plain(scheduler)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the result of `state_dict`. A learning rate that is a tensor stays the same tensor."""
        own = [dict(group) for group in self.optimizer.param_groups]
        saved = state["optimizer"]
        groups = [
            group | {name: before[name] for name in DEVICE_OPTIONS & before.keys()}
            for group, before in zip(saved["param_groups"], own, strict=True)
        ]
        self.optimizer.load_state_dict({**saved, "param_groups": groups})
        lrs = [group["lr"] for group in self.optimizer.param_groups]
        for group, before in zip(self.optimizer.param_groups, own, strict=True):
            group["lr"] = before["lr"]
        self._set_lrs(lrs)
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["schedule"])


def optimized_phases(loss: Loss, vae: VAE, config: TrainConfig) -> list[OptimizedPhase]:
    """The phases of a loss that have parameters to train, with their optimizers.

    Raises:
        ComponentError: the loss, the optimizer or the scheduler failed.
        RecipeError: every parameter is frozen.
    """
    try:
        phases = list(loss.phases(vae))
    except ZooError:
        raise
    except Exception as error:
        raise ComponentError(f"phases of {type(loss).__name__} fails: {error_summary(error)}") from error
    if config.freeze:
        phases = [phase for phase in phases if any(parameter.requires_grad for parameter in phase.parameters)]
        if not phases:
            raise RecipeError("There is nothing to train:", [Problem("train.freeze", "leaves no parameters")])
    return [OptimizedPhase(phase, config) for phase in phases]


def moving_average(vae: VAE, decay: float) -> AveragedModel:
    """An exponential moving average of the parameters of a model.

    Buffers are copied: a counter, a flag, a schedule or a codebook has no meaningful average.
    """
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(vae, multi_avg_fn=average, use_buffers=False)


def require_no_score(config: TrainConfig, phases: Sequence[OptimizedPhase]) -> None:
    """Refuse options that require a validation score.

    Raises:
        RecipeError: the message names them.
    """
    options = {
        "train.patience": config.patience is not None,
        "train.scheduler": any(phase.watches for phase in phases),
    }
    message = "requires a validation split, and the data have none: set data.validation=0.1"
    problems = [Problem(option, message) for option, is_set in options.items() if is_set]
    if problems:
        raise RecipeError("The test split never influences training:", problems)


def make_optimizer(spec: ComponentSpec, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """Construct an optimizer, fused if torch supports it on the device of the parameters, and capturable on CUDA."""
    devices = {parameter.device.type for parameter in parameters}
    optimizer_class = find("optimizer", spec.use)
    accepted = inspect.signature(optimizer_class).parameters
    defaults: dict[str, Any] = {}
    if "fused" in accepted and (devices == {"cpu"} or (devices == {"cuda"} and optimizer_class in FUSED_ON_CUDA)):
        defaults["fused"] = True
    if "capturable" in accepted and devices == {"cuda"}:
        defaults["capturable"] = True
    spec = checked("optimizer", spec)
    spec = spec.with_arguments({**defaults, **spec.arguments})
    optimizer: torch.optim.Optimizer = construct("optimizer", spec, {"params": parameters})
    return optimizer


def _plain(value: Any) -> Any:
    """The value with numbers in the place of tensors with one element, in dictionaries and lists too."""
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.item()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    return value
