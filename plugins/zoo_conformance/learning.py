"""Checks of training: gradients, seeds, overfitting and resuming."""

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
from zoo_conformance.state import reseed_generators

MODULES = ("encoder", "posterior", "decoder", "likelihood", "prior", "loss")
GRADIENT_IMAGES = 64
"""Batch size at which no gradient is zero by chance."""
OVERFIT_IMAGES = 4
STEPS = 1000
LR = 3e-3


@check(*MODULES, "model")
def gradients(candidate: Candidate) -> None:
    """Every parameter belongs to a phase of the loss and gets a finite, nonzero gradient from it."""
    vae, loss = candidate.build()
    batch = candidate.batch(GRADIENT_IMAGES)
    names = {id(p): name for module in (vae, loss) for name, p in module.named_parameters()}
    own = {id(p) for part in candidate.parts(vae, loss) for p in part.parameters() if p.requires_grad}
    phases = loss.phases(vae)
    trainable = {id(parameter) for phase in phases for parameter in phase.parameters}
    for idle in own - trainable:
        require(False, f"no phase trains {names[idle]}")
    for phase in phases:
        for module in (vae, loss):
            module.zero_grad()
        torch.autograd.backward(phase.objective(vae, batch)["loss"], inputs=list(phase.parameters))
        for parameter in phase.parameters:
            if id(parameter) not in own:
                continue
            name, gradient = names[id(parameter)], parameter.grad
            require(gradient is not None, f"{name} gets no gradient from phase {phase.name!r}")
            assert gradient is not None
            require(bool(torch.isfinite(gradient).all()), f"the gradient of {name} is not finite")
            require(bool((gradient != 0).any()), f"the gradient of {name} from phase {phase.name!r} is zero")


@check("loss", "model")
def seeded_loss(candidate: Candidate) -> None:
    """The same seed gives bit-identical weights and losses, whatever the generators of Python and NumPy."""
    results = []
    for _ in range(2):
        reseed_generators()
        vae, loss = candidate.build(seed=3)
        with seeded(4):
            terms = loss(vae, candidate.batch(8))
        results.append({**vae.state_dict(), **loss.state_dict(), **terms})
    for name, value in results[0].items():
        require(torch.equal(value, results[1][name]), f"{name} differs between two runs with the same seed")


@check("model")
def overfits(candidate: Candidate) -> None:
    """Trained on four images, it reconstructs them better than their mean image does."""
    vae, loss = candidate.build()
    batch = candidate.batch(OVERFIT_IMAGES)
    goal = _error(batch.x.mean(0), batch.x)
    phases = [(phase, torch.optim.Adam(phase.parameters, lr=LR)) for phase in loss.phases(vae)]
    error = float("inf")
    for step in range(1, STEPS + 1):
        for phase, optimizer in phases:
            if step % phase.every == 0:
                optimizer.zero_grad()
                torch.autograd.backward(phase.objective(vae, batch)["loss"], inputs=list(phase.parameters))
                optimizer.step()
        if step % (10 if step <= 100 else 100) == 0:  # a reconstruction can take longer than a step
            with torch.no_grad(), evaluating(vae):
                error = _error(vae.reconstruct(batch.x, batch.condition), batch.x)
            if error < goal:
                return
    require(
        False, f"after {STEPS} steps, the squared error per image is {error:.2f}; that of the mean image is {goal:.2f}"
    )


def _error(reconstruction: Tensor, x: Tensor) -> float:
    return (reconstruction - x).square().sum((1, 2, 3)).mean().item()


@check("model")
def resume(candidate: Candidate) -> None:
    """A training that is resumed in mid-epoch is bit-identical to an uninterrupted one.

    All state of the loss must be in buffers or parameters; a counter in Python is lost.
    """
    few, recipe = few_digits(train=40, test=8), candidate.recipe
    short = {"epochs": 2, "steps": None, "batch_size": 16, "patience": None}
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update=short)})
    checkpoint = io.BytesIO()

    class Save(zoo.Callback):
        every_n_steps = 4

        def on_step_end(self, trainer: zoo.Training) -> None:
            if trainer.step == 4:
                torch.save((uninterrupted.model.state_dict(), uninterrupted.state_dict()), checkpoint)

    def trainer(*callbacks: zoo.Callback) -> Trainer:
        reseed_generators()
        with seeded(recipe.train.seed):
            model = zoo.build(recipe, few.shape, few.classes)
            return Trainer(*model, few, recipe.train, binarize=recipe.binarize, callbacks=callbacks)

    uninterrupted = trainer(Save())
    with seeded(recipe.train.seed):
        uninterrupted.fit()
    checkpoint.seek(0)
    resumed = trainer()
    resumed.load_state_dict(*torch.load(checkpoint, weights_only=True))
    with seeded(recipe.train.seed + 1):
        resumed.fit()
    _require_same(_state(uninterrupted), _state(resumed), "")


def _state(trainer: Trainer) -> dict[str, Any]:
    history = [{**dataclasses.asdict(epoch), "seconds": 0.0} for epoch in trainer.history]
    state = {name: value for name, value in trainer.state_dict().items() if name != "record"}
    return {**state, "history": history, "weights": trainer.model.state_dict()}


def _require_same(one: Any, other: Any, place: str) -> None:
    if isinstance(one, Tensor):
        require(torch.equal(one, other), f"{place} differs after resuming")
    elif isinstance(one, dict):
        require(list(one) == list(other), f"{place} has other entries after resuming")
        for key in one:
            _require_same(one[key], other[key], f"{place}.{key}".lstrip("."))
    elif isinstance(one, list | tuple):
        require(len(one) == len(other), f"{place} has another length after resuming")
        for index, (first, second) in enumerate(zip(one, other, strict=True)):
            _require_same(first, second, f"{place}[{index}]")
    else:
        require(one == other, f"{place} differs after resuming")
