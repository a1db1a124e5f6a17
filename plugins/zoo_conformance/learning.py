"""Checks of training: gradients, seeds, and what a few steps lead to."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import torch
from torch import Tensor

import zoo
from zoo import Trainer, evaluating, seeded
from zoo_conformance.candidate import Candidate, few_digits
from zoo_conformance.check import check, require
from zoo_conformance.state import stirred_generators

MODULES = ("encoder", "posterior", "decoder", "likelihood", "prior", "loss")
ENOUGH = 64
"""Images in whose gradient no parameter is zero by chance."""
FEW = 4
STEPS = 1000
RATE = 3e-3


@check(*MODULES, "model")
def gradients(candidate: Candidate) -> None:
    """Every parameter is moved by a phase of the loss, and gets from it a gradient that is finite and not all zero."""
    vae, loss = candidate.build()
    batch = candidate.batch(ENOUGH)
    names = {id(p): name for module in (vae, loss) for name, p in module.named_parameters()}
    mine = {id(p) for part in candidate.parts(vae, loss) for p in part.parameters() if p.requires_grad}
    phases = loss.phases(vae)
    owned = {id(parameter) for phase in phases for parameter in phase.parameters}
    for idle in mine - owned:
        require(False, f"no phase moves {names[idle]}: it never learns")
    for phase in phases:
        for module in (vae, loss):
            module.zero_grad()
        torch.autograd.backward(phase.objective(vae, batch)["loss"], inputs=list(phase.parameters))
        for parameter in phase.parameters:
            if id(parameter) not in mine:
                continue
            name, gradient = names[id(parameter)], parameter.grad
            require(gradient is not None, f"{name} gets no gradient from phase {phase.name!r}")
            assert gradient is not None
            require(bool(torch.isfinite(gradient).all()), f"the gradient of {name} is not finite")
            require(bool((gradient != 0).any()), f"the gradient of {name} from phase {phase.name!r} is zero")


@check("loss", "model")
def seeded_loss(candidate: Candidate) -> None:
    """One seed gives the same weights and the same loss, bit for bit, whatever Python's and NumPy's generators are."""
    found = []
    for _ in range(2):
        stirred_generators()
        vae, loss = candidate.build(seed=3)
        with seeded(4):
            terms = loss(vae, candidate.batch(8))
        found.append({**vae.state_dict(), **loss.state_dict(), **terms})
    for name, value in found[0].items():
        require(torch.equal(value, found[1][name]), f"{name} differs between two runs from one seed")


@check("model")
def overfits(candidate: Candidate) -> None:
    """Trained on four images, it reconstructs them better than their mean image would: it can tell them apart."""
    vae, loss = candidate.build()
    batch = candidate.batch(FEW)
    goal = _error(batch.x.mean(0), batch.x)
    phases = [(phase, torch.optim.Adam(phase.parameters, lr=RATE)) for phase in loss.phases(vae)]
    error = float("inf")
    for step in range(1, STEPS + 1):
        for phase, optimizer in phases:
            if step % phase.every == 0:
                optimizer.zero_grad()
                torch.autograd.backward(phase.objective(vae, batch)["loss"], inputs=list(phase.parameters))
                optimizer.step()
        if step % 10 == 0:
            with torch.no_grad(), evaluating(vae):
                error = _error(vae.reconstruct(batch.x, batch.condition), batch.x)
            if error < goal:
                return
    require(
        False, f"after {STEPS} steps the squared error is {error:.2f} an image, that of their mean image {goal:.2f}"
    )


def _error(found: Tensor, x: Tensor) -> float:
    return (found - x).square().sum((1, 2, 3)).mean().item()


@check("model")
def resume(candidate: Candidate) -> None:
    """Stopped in the middle of an epoch and resumed from its checkpoint, a training ends in the same bits.

    What decides the loss must lie in buffers or parameters: a count kept in Python begins anew.
    """
    few, recipe = few_digits(train=40, test=8), candidate.recipe
    short = {"epochs": 2, "steps": None, "batch_size": 16, "patience": None}
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update=short)})
    checkpoint = io.BytesIO()

    class Save(zoo.Callback):
        every_n_steps = 4

        def on_step_end(self, trainer: zoo.Training) -> None:
            if trainer.step == 4:
                torch.save((straight.model.state_dict(), straight.state_dict()), checkpoint)

    def trainer(*callbacks: zoo.Callback) -> Trainer:
        stirred_generators()
        with seeded(recipe.train.seed):
            model = zoo.build(recipe, few.shape, few.classes)
            return Trainer(*model, few, recipe.train, binarize=recipe.binarize, callbacks=callbacks)

    straight = trainer(Save())
    with seeded(recipe.train.seed):
        straight.fit()
    checkpoint.seek(0)
    resumed = trainer()
    resumed.load_state_dict(*torch.load(checkpoint, weights_only=True))
    with seeded(recipe.train.seed + 1):
        resumed.fit()
    _require_same(_state(straight), _state(resumed), "")


def _state(trainer: Trainer) -> dict[str, Any]:
    history = [{**dataclasses.asdict(epoch), "seconds": 0.0} for epoch in trainer.history]
    state = {name: value for name, value in trainer.state_dict().items() if name != "record"}
    return {**state, "history": history, "weights": trainer.model.state_dict()}


def _require_same(one: Any, other: Any, place: str) -> None:
    if isinstance(one, Tensor):
        require(torch.equal(one, other), f"{place} is another after a resume")
    elif isinstance(one, dict):
        require(list(one) == list(other), f"{place} has other entries after a resume")
        for key in one:
            _require_same(one[key], other[key], f"{place}.{key}".lstrip("."))
    elif isinstance(one, list | tuple):
        require(len(one) == len(other), f"{place} is longer or shorter after a resume")
        for index, (first, second) in enumerate(zip(one, other, strict=True)):
            _require_same(first, second, f"{place}[{index}]")
    else:
        require(one == other, f"{place} is another after a resume")
