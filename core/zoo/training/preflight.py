"""A step on copies before training starts, which finds components that violate their contract."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from zoo.errors import ComponentError, Problem, RecipeError, ZooError, did_you_mean
from zoo.model.batch import Batch
from zoo.model.context import seeded
from zoo.model.loss import Loss, Terms
from zoo.model.parts import Scheduled
from zoo.model.vae import VAE
from zoo.recipes.schema import TrainConfig
from zoo.training.optimization import OptimizedPhase, optimized_phases

T = TypeVar("T")

MAX_SCHEDULER_STEPS = 10_000
"""Maximum number of times to advance a scheduler."""


def preflight(
    config: TrainConfig,
    vae: VAE,
    loss: Loss,
    batch: Batch,
    names: Mapping[str, str] | None = None,
    scheduler_steps: int = 1,
) -> None:
    """Take one step of every phase on copies, and advance the schedulers to the end. torch's generators are unchanged.

    Args:
        config: how to train.
        vae: the model.
        loss: the objective.
        batch: a few training examples.
        names: names of ``encoder``, ``decoder``, ``prior`` and ``loss`` in messages; by default their classes.
        scheduler_steps: number of times that the training will advance a scheduler.

    Raises:
        ComponentError: a part raised an error, a distribution has the wrong shape, or the loss is missing, not finite
            or detached from its parameters; or the optimizer or a scheduler failed. The message names the part.
        RecipeError: the loss has no term ``train.monitor``.
    """
    parts = {"encoder": vae.encoder, "decoder": vae.decoder, "prior": vae.prior, "loss": loss}
    titles = {kind: f"{kind} {type(part).__name__}" for kind, part in parts.items()} | dict(names or {})
    encoder, decoder, prior, objective = (titles[kind] for kind in parts)
    with seeded(config.seed, batch.x.device):
        vae, loss = copy.deepcopy((vae, loss))
        n = len(batch.x)

        q = _call(encoder, vae.encoder, batch.x, batch.condition)
        _expect_distribution(encoder, q, batch=(n,))
        z = _call(f"the posterior of {encoder}", lambda: vae.trace(batch).z)
        pz = _call(prior, vae.prior, vae.encoder, batch.condition)
        _expect_distribution(prior, pz, event=tuple(q.event_shape), whose="the latents of " + encoder)
        px = _call(f"{decoder} on latents of shape {tuple(z.shape)}", vae.decoder, z, batch.condition)
        _expect_distribution(decoder, px, batch=(n,), event=tuple(batch.x.shape[1:]), whose="the examples")

        for module in (*vae.modules(), *loss.modules()):
            if isinstance(module, Scheduled):
                _call(f"schedule of {type(module).__name__}", module.schedule, 0, 0.0)
        terms = check_terms(objective, _call(objective, loss, vae, batch))
        if config.monitor not in terms:
            hint = did_you_mean(config.monitor, terms)
            message = f"{objective} has no term {config.monitor!r}.{hint} There are: {', '.join(terms)}."
            raise RecipeError("The model cannot be trained with these options:", [Problem("train.monitor", message)])
        mixed = config.precision == "bfloat16"
        for optimized in optimized_phases(loss, vae, config):
            phase = optimized.phase
            name = f"{objective} (phase {phase.name!r})"
            with torch.autocast(batch.x.device.type, torch.bfloat16, enabled=mixed):
                terms = check_terms(name, _call(name, phase.objective, vae, batch))
            for term, value in terms.items():
                if not torch.isfinite(value):
                    raise ComponentError(f"{name}: the term {term!r} is {value.item()} on the first batch")
            if terms["loss"].dtype == torch.bfloat16:
                raise ComponentError(
                    f"{name}: the loss is in bfloat16. A head must convert its parameters to float32 first."
                )
            if not terms["loss"].requires_grad:
                raise ComponentError(
                    f"{name}: the term 'loss' is detached from the parameters, so nothing would be learned"
                )
            _call(f"the gradient of {name}", torch.autograd.backward, terms["loss"], inputs=optimized.parameters)
            gradients = [p.grad for p in optimized.parameters if p.grad is not None]
            if not gradients:
                raise ComponentError(f"{name}: its loss depends on none of its parameters, so nothing would be learned")
            if not all(torch.isfinite(gradient).all() for gradient in gradients):
                raise ComponentError(f"{name}: a gradient is not finite on the first batch")
            _call(f"optimizer {config.optimizer.use!r}", optimized.optimizer.step)
            _check_scheduler(config, optimized, scheduler_steps)


def _check_scheduler(config: TrainConfig, optimized: OptimizedPhase, steps: int) -> None:
    """Advance a scheduler as often as the training will, and check the learning rate."""
    if config.scheduler is None:
        return
    name = f"scheduler {config.scheduler.use!r}"
    if config.scheduler_unit == "step":
        steps = -(-steps // optimized.phase.every)
    for step in range(1, min(steps, MAX_SCHEDULER_STEPS) + 1):
        after = f"after {step} {config.scheduler_unit}{'' if step == 1 else 's'}"
        _call(f"{name}, {after} of {steps},", optimized.advance, 0.0)
        for group in optimized.optimizer.param_groups:
            if isinstance(group["lr"], complex) or not 0 <= group["lr"] < math.inf:
                raise ComponentError(f"{name}: the learning rate is {group['lr']} {after}")


def check_terms(title: str, terms: object) -> Terms:
    """Check and return the terms of a loss.

    Args:
        title: name of the loss in messages.
        terms: what it returned.

    Raises:
        ComponentError: it is not a mapping, has no ``loss``, or has a term that is not a scalar tensor.
    """
    if not isinstance(terms, dict) or "loss" not in terms:
        actual = f"the terms {sorted(terms)}" if isinstance(terms, dict) else f"a {type(terms).__name__}"
        raise ComponentError(f"{title} must return a dict with a term 'loss'; it returned {actual}")
    for name, value in terms.items():
        if not isinstance(value, Tensor) or value.ndim != 0:
            actual = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"{value!r}"
            raise ComponentError(f"{title}: the term {name!r} must be a scalar tensor, not {actual}")
    return terms


def _call(title: str, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    try:
        return function(*args, **kwargs)
    except ZooError:
        raise
    except Exception as error:
        raise ComponentError(f"{title} fails: {type(error).__name__}: {error}") from error


def _expect_distribution(
    title: str,
    value: object,
    batch: tuple[int, ...] | None = None,
    event: tuple[int, ...] | None = None,
    whose: str = "",
) -> None:
    if not isinstance(value, Distribution):
        raise ComponentError(f"{title} must return a torch.distributions.Distribution, not a {type(value).__name__}")
    if event is not None and tuple(value.event_shape) != event:
        raise ComponentError(
            f"{title} is a distribution over {tuple(value.event_shape)}, but {whose} have the shape {event}"
        )
    if batch is not None and tuple(value.batch_shape) != batch:
        raise ComponentError(
            f"{title} returned the batch shape {tuple(value.batch_shape)} for {batch[0]} examples; expected {batch}. "
            "Are the event dimensions declared (torch.distributions.Independent)?"
        )
