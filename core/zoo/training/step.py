"""One training step. The gradient of a phase goes into the parameters of that phase only."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from zoo.model.batch import Batch
from zoo.model.context import derive_seed, reseed
from zoo.model.loss import Loss, Terms
from zoo.model.vae import VAE
from zoo.recipes.schema import TrainConfig
from zoo.training.capture import CHECKED_STEPS, CapturedUpdate, capture
from zoo.training.distributed import Group
from zoo.training.failures import GRADIENT_NORM, not_finite
from zoo.training.optimization import OptimizedPhase

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
