"""One training step: each phase's gradient goes into that phase's own parameters, and nowhere else."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ComponentError, Problem, RecipeError, TrainingError, ZooError, error_summary
from zoo.model.batch import Batch
from zoo.model.context import derive_seed, reseed
from zoo.model.loss import Loss, Phase, Terms
from zoo.model.vae import VAE
from zoo.recipes.components import checked, construct
from zoo.recipes.schema import ComponentSpec, TrainConfig
from zoo.recipes.signatures import find
from zoo.training.capture import CHECKED_STEPS, CapturedUpdate, capture
from zoo.training.distributed import Group

# The streams of random numbers that a step draws from. 1 is the order of the data.
PIXELS, NOISE = 2, 3
GRADIENT = "gradient_norm"
ADVICE = "Try a smaller train.optimizer.lr, train.max_grad_norm=1, train.warmup_steps=500 or another likelihood."


@dataclass(frozen=True)
class Part:
    """A share of a batch.

    Attributes:
        number: among the parts of all processes; its draws are seeded by it, and by nothing that depends on how many
            processes there are.
        batch: the images.
        weight: its share of the images of the whole batch, so that the parts' gradients add up to that of the batch.
    """

    number: int
    batch: Batch
    weight: float


class OptimizedPhase:
    """A phase with its optimiser and its learning-rate schedule.

    Args:
        phase: the phase.
        settings: the recipe's.
    """

    def __init__(self, phase: Phase, settings: TrainConfig) -> None:
        self.phase = phase
        self.parameters = [parameter for parameter in phase.parameters if parameter.requires_grad]
        self.optimizer = make_optimizer(settings.optimizer, self.parameters)
        self.schedule: Any = None
        if settings.scheduler is not None:
            self.schedule = construct("scheduler", settings.scheduler, {"optimizer": self.optimizer})
        self.watches = "metrics" in inspect.signature(self.schedule.step).parameters if self.schedule else False
        if self.watches and settings.scheduler_unit == "step":
            problem = Problem("train.scheduler_unit", "this schedule watches a score, which only an 'epoch' has")
            raise RecipeError("The schedule cannot be used so:", [problem])
        self._clip = settings.max_grad_norm
        self._each_step = settings.scheduler_unit == "step"
        self._warmup = settings.warmup_steps

    def due(self, step: int) -> bool:
        """Whether this phase takes part in a step."""
        return step % self.phase.every == 0

    def norm(self) -> Tensor:
        """The norm of the gradient, clipped in place if the recipe says so."""
        gradients = [parameter.grad.flatten() for parameter in self.parameters if parameter.grad is not None]
        # On the CPU a third of the time of torch's get_total_norm: this is done in every step.
        norm = torch.stack([torch.dot(gradient, gradient) for gradient in gradients]).sum().sqrt()
        if self._clip is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self._clip, norm)
        return norm

    def tensors(self) -> list[Tensor]:
        """Everything that the optimiser changes."""
        state = [v for entry in self.optimizer.state.values() for v in entry.values() if isinstance(v, Tensor)]
        return [*self.parameters, *state]

    def count(self) -> None:
        """Move a schedule on that counts steps."""
        if self._each_step:
            self.advance(None)

    @contextlib.contextmanager
    def warmed(self, step: int) -> Iterator[None]:
        """During the warm-up, a part of the learning rate inside the block."""
        if step >= self._warmup:
            yield
            return
        rates = [_copy(group["lr"]) for group in self.optimizer.param_groups]
        self._set_rates([rate * (step + 1) / self._warmup for rate in rates])
        yield
        self._set_rates(rates)

    def _set_rates(self, rates: Sequence[Any]) -> None:
        """In place where the rate is a tensor, as a captured graph needs it."""
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].copy_(rate)
            else:
                group["lr"] = rate

    def advance(self, score: float | None) -> None:
        """Move the schedule on by one unit; `score` is for the one that watches it."""
        if self.schedule is None:
            return
        self.schedule.step(*([score] if self.watches else []))

    def state_dict(self) -> dict[str, Any]:
        """The state of the optimiser and of the schedule."""
        schedule = None if self.schedule is None else self.schedule.state_dict()
        return {"optimizer": self.optimizer.state_dict(), "schedule": schedule}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.optimizer.load_state_dict(state["optimizer"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])


def optimized_phases(loss: Loss, vae: VAE, settings: TrainConfig) -> list[OptimizedPhase]:
    """The phases of a loss, each with its optimiser.

    Raises:
        ComponentError: the loss, the optimiser or the schedule refused.
    """
    try:
        phases = list(loss.phases(vae))
    except ZooError:
        raise
    except Exception as error:
        raise ComponentError(f"phases of {type(loss).__name__} fails: {error_summary(error)}") from error
    if settings.freeze:
        phases = [phase for phase in phases if any(parameter.requires_grad for parameter in phase.parameters)]
        if not phases:
            raise RecipeError("There is nothing to train:", [Problem("train.freeze", "leaves no parameters")])
    return [OptimizedPhase(phase, settings) for phase in phases]


def _copy(rate: Any) -> Any:
    return rate.clone() if isinstance(rate, Tensor) else rate


class TrainingStep:
    """One step of every phase that is due, over the parts of a batch that fall to this process.

    On CUDA the update of a phase is captured as a graph, once its optimiser has a state: see `capture`.

    Args:
        vae, loss: what is trained.
        phases: of the loss, in order.
        settings: the recipe's.
        group: the processes that share the batch.
        device: of everything.
        compiled: whether `torch.compile` works on the objectives.
    """

    def __init__(
        self,
        vae: VAE,
        loss: Loss,
        phases: Sequence[OptimizedPhase],
        settings: TrainConfig,
        group: Group,
        device: torch.device,
        compiled: bool = False,
    ) -> None:
        self.vae = vae
        self.loss = loss
        self.phases = phases
        self.group = group
        self.device = device
        self._seed = settings.seed
        self._mixed = settings.precision == "bfloat16"
        self._objectives = [torch.compile(p.phase.objective) if compiled else p.phase.objective for p in phases]
        # By phase: a graph, or None where there can be none. A phase that is absent has not been tried.
        self._captured: dict[int, CapturedUpdate | None] = {}
        if device.type != "cuda" or compiled or group.size > 1 or settings.microbatches > 1:
            self._captured = dict.fromkeys(range(len(phases)))

    def __call__(self, step: int, parts: Sequence[Part]) -> Terms:
        """Take the step numbered `step`.

        Returns:
            The terms of the phases, weighted by the parts of this process, and the norm of each gradient. The first
            phase's keep their names; those of another are preceded by its name, as in ``critic.loss``.

        Raises:
            TrainingError: a term or a gradient is NaN or infinite; its phase has not touched its parameters. (On CUDA
                nothing is raised here: the gradient is set to zero instead, and the record tells.)
        """
        terms: Terms = {}
        for position, optimized in enumerate(self.phases):
            if not optimized.due(step):
                continue
            with optimized.warmed(step):
                found = self._update(optimized, step, position, parts)
            optimized.count()
            prefix = f"{optimized.phase.name}." if position else ""
            terms.update({prefix + name: value for name, value in found.items()})
        return terms

    def _update(self, optimized: OptimizedPhase, step: int, position: int, parts: Sequence[Part]) -> Terms:
        """Move the parameters of one phase, by a replayed graph where there is one."""
        if position not in self._captured and optimized.optimizer.state:
            self._captured[position] = self._capture(optimized, position, parts[0].batch)
        captured = self._captured.get(position)
        if captured is not None and captured.fits(parts[0].batch):
            self._reseed(step, position, parts[0].number)
            return captured(parts[0].batch)
        return self._eager(optimized, position, parts, lambda part: self._reseed(step, position, part.number))

    def _eager(
        self, optimized: OptimizedPhase, position: int, parts: Sequence[Part], seed: Callable[[Part], None]
    ) -> Terms:
        terms = self._gradient(optimized, position, parts, seed)
        terms[GRADIENT] = optimized.norm() / self.group.size
        self._guard(optimized, terms)
        optimized.optimizer.step()
        return terms

    def _capture(self, optimized: OptimizedPhase, position: int, batch: Batch) -> CapturedUpdate | None:
        def update(batch: Batch) -> Terms:
            return self._eager(optimized, position, [Part(0, batch, 1.0)], lambda part: None)

        held = [t for module in (self.vae, self.loss) for t in module.state_dict(keep_vars=True).values()]
        changed = {id(tensor): tensor for tensor in (*optimized.tensors(), *held)}
        return capture(
            update, [batch] * CHECKED_STEPS, changed.values(), lambda number: self._reseed(number, position, 0)
        )

    def _reseed(self, step: int, position: int, part: int) -> None:
        reseed(derive_seed(self._seed, NOISE, position, part, step), self.device)

    def _gradient(
        self, optimized: OptimizedPhase, position: int, parts: Sequence[Part], seed: Callable[[Part], None]
    ) -> Terms:
        """Leave the gradient of the whole batch in the parameters of one phase, and return this process's terms."""
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
        """Keep a NaN out of the parameters. On the CPU a look is free; on CUDA it would make the host wait."""
        if self.device.type == "cpu":
            for name, value in terms.items():
                if not math.isfinite(value.item()):
                    raise not_finite(name, value.item())
        else:
            finite = torch.isfinite(torch.stack(list(terms.values()))).all()
            for parameter in optimized.parameters:
                if parameter.grad is not None:
                    parameter.grad.masked_fill_(~finite, 0.0)


def not_finite(name: str, value: float) -> TrainingError:
    """What to say of a NaN."""
    what = "The norm of the gradient" if name.endswith(GRADIENT) else f"The term {name!r}"
    return TrainingError(f"{what} became {value}. {ADVICE}")


def make_optimizer(block: ComponentSpec, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser that a recipe names, in its fused form where torch has one for the parameters' device.

    On CUDA it can be captured: its rate is a tensor there, so that a graph sees it change.
    """
    devices = {parameter.device.type for parameter in parameters}
    known = inspect.signature(find("optimizer", block.use)).parameters
    defaults: dict[str, Any] = {}
    if "fused" in known and devices <= {"cpu", "cuda"}:
        defaults["fused"] = True
    if "capturable" in known and devices == {"cuda"}:
        defaults["capturable"] = True
    block = checked("optimizer", block)
    chosen = block.with_arguments({**defaults, **block.arguments})
    optimizer: torch.optim.Optimizer = construct("optimizer", chosen, {"params": parameters})
    if chosen.arguments.get("capturable"):
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(group["lr"], device=parameters[0].device)
    return optimizer
