"""One training step. The gradient of a phase goes into the parameters of that phase only."""

from __future__ import annotations

import contextlib
import inspect
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from zoo.errors import ComponentError, Problem, RecipeError, ZooError, error_summary
from zoo.model.batch import Batch
from zoo.model.context import derive_seed, reseed
from zoo.model.loss import Loss, Phase, Terms
from zoo.model.vae import VAE
from zoo.recipes.components import checked, construct
from zoo.recipes.schema import ComponentSpec, TrainConfig
from zoo.recipes.signatures import find
from zoo.training.capture import CHECKED_STEPS, CapturedUpdate, capture
from zoo.training.distributed import Group
from zoo.training.failures import GRADIENT_NORM, not_finite

log = logging.getLogger("zoo")

# The streams of random numbers that a step draws from: binarization and noise. Stream 1 is the order of the data.
PIXELS, NOISE = 2, 3
SKIPPED = "skipped"
"""The term that is 1 in a step whose update was skipped and 0 in others, if ``train.skip_grad_norm`` is set."""


@dataclass(frozen=True)
class Part:
    """A share of a batch.

    Attributes:
        number: its index among the parts of all processes. It seeds the draws, which therefore do not depend on the
            number of processes.
        batch: the examples.
        weight: its share of the examples, so that the gradients of the parts add up to that of the batch.
    """

    number: int
    batch: Batch
    weight: float


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


class TrainingStep:
    """One step of every phase that is due, over this process's parts of a batch.

    On CUDA, the update of a phase is captured as a graph once its optimizer has a state; see `capture`.

    Args:
        vae, loss: the model and the objective.
        phases: the phases of the loss, in order.
        config: how to train.
        group: the processes that share the batch.
        device: device of the model and the batches.
        compiled: whether to apply `torch.compile` to the objectives.
    """

    def __init__(
        self,
        vae: VAE,
        loss: Loss,
        phases: Sequence[OptimizedPhase],
        config: TrainConfig,
        group: Group,
        device: torch.device,
        compiled: bool = False,
    ) -> None:
        self.vae = vae
        self.loss = loss
        self.phases = phases
        self.group = group
        self.device = device
        self._seed = config.seed
        self._mixed = config.precision == "bfloat16"
        self._advances = config.scheduler_unit == "step"
        self._warned = False
        self._objectives = [torch.compile(p.phase.objective) if compiled else p.phase.objective for p in phases]
        # The graph of each phase, or None if it cannot be captured. Phases that are missing have not been tried yet.
        self._captured: dict[int, CapturedUpdate | None] = {}
        self._captured_options: dict[int, list[Any]] = {}
        splits = group.size > 1 or config.microbatches > 1
        if device.type != "cuda" or compiled or splits or config.skip_grad_norm is not None:
            self._captured = dict.fromkeys(range(len(phases)))

    def __call__(self, step: int, parts: Sequence[Part]) -> Terms:
        """Take the step with index `step`.

        Returns:
            The terms of the phases, weighted by the parts of this process, the norm of each gradient and, if
            ``skip_grad_norm`` is set, whether the update was skipped. Terms of the first phase have their own names,
            those of other phases are prefixed, as in ``critic.loss``.

        Raises:
            TrainingError: a term or a gradient is NaN or infinite; the phase has not changed its parameters. (On CUDA,
                the gradient is set to zero instead, and `Record.curve` raises the error.)
        """
        terms: Terms = {}
        for position, optimized in enumerate(self.phases):
            if not optimized.due(step):
                continue
            with optimized.warmed_up(step):
                phase_terms = self._update(optimized, step, position, parts)
            if self._advances:
                optimized.advance()
            prefix = f"{optimized.phase.name}." if position else ""
            terms.update({prefix + name: value for name, value in phase_terms.items()})
        return terms

    def _update(self, optimized: OptimizedPhase, step: int, position: int, parts: Sequence[Part]) -> Terms:
        """Update the parameters of one phase, by replaying its graph if there is one."""
        if position not in self._captured and optimized.optimizer.state:
            self._captured[position] = self._capture(optimized, position, parts[0].batch)
            self._captured_options[position] = optimized.options()
        captured = self._captured.get(position)
        if (
            captured is not None
            and captured.fits(parts[0].batch)
            and optimized.options() == self._captured_options[position]
        ):
            self.seed_draws(step, position, parts[0].number)
            return captured(parts[0].batch)
        return self._eager(optimized, position, parts, lambda part: self.seed_draws(step, position, part.number))

    def _eager(
        self, optimized: OptimizedPhase, position: int, parts: Sequence[Part], seed: Callable[[Part], None]
    ) -> Terms:
        terms = self._gradient(optimized, position, parts, seed)
        norm = optimized.norm()  # of the gradient over all parts and processes, so that all of them decide alike
        terms[GRADIENT_NORM] = norm / self.group.size
        if optimized.skip_norm is not None:
            terms[SKIPPED] = (norm > optimized.skip_norm) / self.group.size
        self._guard(optimized, terms)
        if optimized.skip_norm is None or not norm > optimized.skip_norm:
            optimized.optimizer.step()
        elif not optimized.optimizer.state and self.group.is_rank_zero:
            self._warn_of_skip(norm.item(), optimized.skip_norm)
        return terms

    def _warn_of_skip(self, norm: float, threshold: float) -> None:
        """Warn once if an update is skipped before any was taken: a threshold below the usual norm stops learning."""
        if not self._warned:
            self._warned = True
            log.warning(
                "An update is skipped: the norm of its gradient is %.4g, above train.skip_grad_norm=%g. If this is the "
                "usual norm, the model does not learn: set a larger value.",
                *(norm, threshold),
            )

    def _capture(self, optimized: OptimizedPhase, position: int, batch: Batch) -> CapturedUpdate | None:
        def update(batch: Batch) -> Terms:
            return self._eager(optimized, position, [Part(0, batch, 1.0)], lambda part: None)

        state = [t for module in (self.vae, self.loss) for t in module.state_dict(keep_vars=True).values()]
        tensors = {id(tensor): tensor for tensor in (*optimized.tensors(), *state)}
        return capture(
            update,
            [batch] * CHECKED_STEPS,
            tensors.values(),
            lambda step: self.seed_draws(step, position, 0),
            [*self.vae.modules(), *self.loss.modules()],
        )

    def seed_draws(self, step: int, position: int = 0, part: int = 0) -> None:
        """Seed torch's generator for the draws of a phase, given its position, in a part of a step."""
        reseed(derive_seed(self._seed, NOISE, position, part, step), self.device)

    def _gradient(
        self, optimized: OptimizedPhase, position: int, parts: Sequence[Part], seed: Callable[[Part], None]
    ) -> Terms:
        """Set the gradient of the whole batch in the parameters of one phase, and return this process's terms."""
        for parameter in optimized.parameters:
            parameter.grad = None
        total: Terms = {}
        for part in parts:
            seed(part)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self._mixed):
                terms = self._objectives[position](self.vae, part.batch)
            if part.weight != 1.0:
                terms = {name: value * part.weight for name, value in terms.items()}
            torch.autograd.backward(terms["loss"], inputs=optimized.parameters)
            for name, value in terms.items():
                total[name] = total[name] + value.detach() if name in total else value.detach()
        if self.group.size > 1:
            for parameter in optimized.parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            self.group.all_reduce_sum(
                [parameter.grad for parameter in optimized.parameters if parameter.grad is not None]
            )
        return total

    def _guard(self, optimized: OptimizedPhase, terms: Terms) -> None:
        """Protect the parameters from NaN: raise an error on the CPU; elsewhere, where reading a value would make the
        host wait, set the gradient to zero."""
        if self.device.type == "cpu":
            for name, value in terms.items():
                if not math.isfinite(value.item()):
                    raise not_finite(name, value.item())
        else:
            finite = torch.isfinite(torch.stack(list(terms.values()))).all()
            for parameter in optimized.parameters:
                if parameter.grad is not None:
                    parameter.grad.masked_fill_(~finite, 0.0)


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
