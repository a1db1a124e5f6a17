"""One step on copies before training starts: a component that misbehaves is named while nothing is lost."""

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
from zoo.training.step import OptimizedPhase, optimized_phases

T = TypeVar("T")


REHEARSED = 10_000
"""Units of a schedule that are tried at most."""


def preflight(
    config: TrainConfig,
    vae: VAE,
    loss: Loss,
    batch: Batch,
    names: Mapping[str, str] | None = None,
    schedule_units: int = 1,
) -> None:
    """Take one step with every part, on copies and with draws that leave no trace, and move the schedule to its end.

    Args:
        config: how the model is trained.
        vae: the model.
        loss: the objective.
        batch: a few training examples.
        names: what messages call ``encoder``, ``decoder``, ``prior`` and ``loss``; by default their classes.
        schedule_units: how often the schedule will be advanced.

    Raises:
        ComponentError: a part raised, returned a distribution of the wrong shape or over the wrong space, or a loss
            without ``loss``, detached from its parameters, or not finite; or the optimiser or the schedule cannot do
            what it is told. The message names the part.
    """
    parts = {"encoder": vae.encoder, "decoder": vae.decoder, "prior": vae.prior, "loss": loss}
    called = {kind: f"{kind} {type(part).__name__}" for kind, part in parts.items()} | dict(names or {})
    with seeded(config.seed, batch.x.device):
        vae, loss = copy.deepcopy((vae, loss))
        n = len(batch.x)
        encoder, decoder, prior, objective = (called[kind] for kind in ("encoder", "decoder", "prior", "loss"))

        q = _call(encoder, vae.encoder, batch.x, batch.condition)
        _expect_distribution(encoder, q, batch=(n,))
        z = _call(f"the posterior of {encoder}", lambda: vae.trace(batch).z)
        pz = _call(prior, vae.prior, vae.encoder, batch.condition)
        _expect_distribution(prior, pz, event=tuple(q.event_shape), whose="the latents of " + encoder)
        px = _call(f"{decoder} on latents of shape {tuple(z.shape)}", vae.decoder, z, batch.condition)
        _expect_distribution(decoder, px, batch=(n,), event=tuple(batch.x.shape[1:]), whose="the images")

        for module in (*vae.modules(), *loss.modules()):
            if isinstance(module, Scheduled):
                _call(f"schedule of {type(module).__name__}", module.schedule, 0, 0.0)
        terms = check_terms(objective, _call(objective, loss, vae, batch))
        if config.monitor not in terms:
            hint = did_you_mean(config.monitor, terms)
            message = f"{objective} has no term {config.monitor!r}.{hint} There are: {', '.join(terms)}."
            raise RecipeError("The model cannot be trained like this:", [Problem("train.monitor", message)])
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
                    f"{name}: the loss is in bfloat16. A head must take its parameters to float32 before anything else."
                )
            if not terms["loss"].requires_grad:
                raise ComponentError(
                    f"{name}: the term 'loss' is detached from the parameters, so nothing would be learnt"
                )
            _call(f"the gradient of {name}", torch.autograd.backward, terms["loss"], inputs=optimized.parameters)
            gradients = [p.grad for p in optimized.parameters if p.grad is not None]
            if not gradients:
                raise ComponentError(f"{name}: its loss depends on none of its parameters, so nothing would be learnt")
            if not all(torch.isfinite(gradient).all() for gradient in gradients):
                raise ComponentError(f"{name}: a gradient is not finite on the first batch")
            _call(f"optimizer {config.optimizer.use!r}", optimized.optimizer.step)
            _rehearse(config, optimized, schedule_units)


def _rehearse(config: TrainConfig, optimized: OptimizedPhase, units: int) -> None:
    """Move a schedule through the training."""
    if config.scheduler is None:
        return
    name = f"schedule {config.scheduler.use!r}"
    if config.scheduler_unit == "step":
        units = -(-units // optimized.phase.every)
    for unit in range(1, min(units, REHEARSED) + 1):
        after = f"after {unit} {config.scheduler_unit}{'' if unit == 1 else 's'}"
        _call(f"{name}, {after} of {units},", optimized.advance, 0.0)
        for group in optimized.optimizer.param_groups:
            if isinstance(group["lr"], complex) or not 0 <= group["lr"] < math.inf:
                raise ComponentError(f"{name}: the learning rate is {group['lr']} {after}")


def check_terms(who: str, terms: object) -> Terms:
    """The terms, if they are what a loss may return.

    Raises:
        ComponentError: no mapping, no ``loss``, or a term that is not a scalar tensor.
    """
    if not isinstance(terms, dict) or "loss" not in terms:
        came = f"the terms {sorted(terms)}" if isinstance(terms, dict) else f"a {type(terms).__name__}"
        raise ComponentError(f"{who} must return a dict with a term 'loss'; it returned {came}")
    for name, value in terms.items():
        if not isinstance(value, Tensor) or value.ndim != 0:
            shape = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"{value!r}"
            raise ComponentError(f"{who}: the term {name!r} must be a scalar tensor, not {shape}")
    return terms


def _call(who: str, function: Callable[..., T], *arguments: Any, **keywords: Any) -> T:
    try:
        return function(*arguments, **keywords)
    except ZooError:
        raise
    except Exception as error:
        raise ComponentError(f"{who} fails: {type(error).__name__}: {error}") from error


def _expect_distribution(
    who: str,
    value: object,
    batch: tuple[int, ...] | None = None,
    event: tuple[int, ...] | None = None,
    whose: str = "",
) -> None:
    if not isinstance(value, Distribution):
        raise ComponentError(f"{who} must return a torch.distributions.Distribution, not a {type(value).__name__}")
    if event is not None and tuple(value.event_shape) != event:
        raise ComponentError(
            f"{who} is a distribution over {tuple(value.event_shape)}, but {whose} have the shape {event}"
        )
    if batch is not None and tuple(value.batch_shape) != batch:
        raise ComponentError(
            f"{who} returned the batch shape {tuple(value.batch_shape)} for {batch[0]} images; expected {batch}. "
            "Are the event dimensions declared (torch.distributions.Independent)?"
        )
