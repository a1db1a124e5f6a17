"""One training step: each phase's gradient goes into that phase's own parameters, and nowhere else."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.errors import ComponentError
from zoo.loss import Phase, Terms
from zoo.recipes.build import construct
from zoo.recipes.optimizers import optimizer_class
from zoo.recipes.schema import Block
from zoo.vae import VAE, Batch


@dataclass(frozen=True)
class OptimizedPhase:
    """A phase and the optimiser of its parameters."""

    phase: Phase
    optimizer: torch.optim.Optimizer


def make_optimizer(block: Block, parameters: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser that a recipe names, in its fused form where torch has one for the parameters' device."""
    cls = optimizer_class(block.use)
    devices = {parameter.device.type for parameter in parameters}
    if "fused" in inspect.signature(cls).parameters and devices <= {"cpu", "cuda"}:
        block = Block(use=block.use, **{"fused": True, **block.parameters})
    optimizer: torch.optim.Optimizer = construct("optimizer", block, {"params": parameters})
    return optimizer


def training_step(vae: VAE, batch: Batch, phases: Sequence[OptimizedPhase]) -> Terms:
    """Take one step of every phase in turn.

    Returns:
        The terms of all phases, detached. The first phase's keep their names; those of another phase are preceded by
        its name, as in ``discriminator.loss``.
    """
    terms: Terms = {}
    for position, optimized in enumerate(phases):
        phase, optimizer = optimized.phase, optimized.optimizer
        found = phase.objective(vae, batch)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(found["loss"], inputs=phase.parameters)
        optimizer.step()
        prefix = f"{phase.name}." if position else ""
        terms.update({prefix + name: value.detach() for name, value in found.items()})
    return terms


def check_terms(loss: str, terms: object) -> None:
    """Refuse what a loss must not return.

    Raises:
        ComponentError: no mapping, no ``loss``, or a term that is not a scalar tensor.
    """
    if not isinstance(terms, dict) or "loss" not in terms:
        came = f"the terms {sorted(terms)}" if isinstance(terms, dict) else f"a {type(terms).__name__}"
        raise ComponentError(f"loss {loss!r} must return a dict with a term 'loss'; it returned {came}")
    for name, value in terms.items():
        if not isinstance(value, Tensor) or value.ndim != 0:
            shape = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"{value!r}"
            raise ComponentError(f"loss {loss!r}: the term {name!r} must be a scalar tensor, not {shape}")
