"""Recipes with a hostile value in one place: every parameter of every component, optimizer, scheduler and section."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import zoo
from zoo.plugins.hookspecs import KINDS
from zoo.recipes.optimizers import optimizers, schedulers
from zoo.recipes.schema import Checkpointing, Recipe, TrainConfig
from zoo.recipes.signatures import read_signature

VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 3, 10**9, 2**31, 2**62, 2**63, 2**64, 10**30),
    *(-0.5, 0.0, 0.5, 1.0, 1e-320, 1e308, float("inf"), float("-inf"), float("nan")),
    *("", "x", "010", "mlp", "../../x", "\0", "x" * 10_000, "\ud800", "~nobody-here/x"),
    *([], [0], [-1], [10**9], [2**40, 2**40], [1e308], [float("nan")], [None], ["x"], [[]], [3, 3, 3], [1] * 100),
    *({}, {"use": "x"}, {"use": 3}, {"use": None}, {"x": {"y": [1]}}, {"": 1}),
)
REQUIRED: dict[str, dict[str, Any]] = {
    "StepLR": {"step_size": 1},
    "MultiStepLR": {"milestones": [1]},
    "ExponentialLR": {"gamma": 0.5},
    "CosineAnnealingLR": {"T_max": 4},
    "CosineAnnealingWarmRestarts": {"T_0": 3},
    "CyclicLR": {"base_lr": 0.0001, "max_lr": 0.01, "cycle_momentum": False},
    "OneCycleLR": {"max_lr": 0.01, "total_steps": 20},
    "PiecewiseConstantLR": {"milestones": [1, 3], "factors": [0.5, 0.1]},
}
"""Required arguments of schedulers."""


def places() -> Iterator[tuple[str, tuple[str, ...], dict[str, Any]]]:
    """Every place that a value may stand in: a model, the keys that lead there, and what else its recipe changes."""
    for field in Recipe.model_fields:
        yield "mlp-vae", (field,), {}
    for field in TrainConfig.model_fields:
        yield "mlp-vae", ("train", field), {}
    for field in Checkpointing.model_fields:
        yield "mlp-vae", ("train", "checkpoint", field), {}
    for name in optimizers():
        for parameter in read_signature("optimizer", name).parameters.model_fields:
            yield "mlp-vae", ("train", "optimizer", parameter), {"train": {"optimizer": {"use": name}}}
    for name in schedulers():
        for unit in ("step", "epoch"):
            block = {"use": name, **REQUIRED.get(name, {})}
            for parameter in read_signature("scheduler", name).parameters.model_fields:
                yield (
                    "mlp-vae",
                    ("train", "scheduler", parameter),
                    {"train": {"scheduler": block, "scheduler_unit": unit}},
                )
    hosts = _hosts()
    for kind in KINDS:
        for name in zoo.list_components(kind):
            if kind not in ("metric", "dataset"):
                model, where, change = hosts.get((kind, name)) or _swapped(kind, name)
                signature = read_signature(kind, name)
                for parameter in (*signature.parameters.model_fields, *signature.nested):
                    yield model, (*where, parameter), change


def _hosts() -> dict[tuple[str, str], tuple[str, tuple[str, ...], dict[str, Any]]]:
    """For each component that a registered recipe uses: a model, and where it stands in its recipe."""
    hosts: dict[tuple[str, str], tuple[str, tuple[str, ...], dict[str, Any]]] = {}
    for model in zoo.list_models():
        recipe = zoo.recipe(model)
        for kind in ("encoder", "decoder", "prior", "loss"):
            block = getattr(recipe, kind)
            hosts.setdefault((kind, block.use), (model, (kind,), {}))
            for parameter, inner in read_signature(kind, block.use).nested.items():
                value = block.parameters.get(parameter)
                used = value.get("use") if isinstance(value, dict) else value
                if isinstance(used, str):
                    hosts.setdefault((inner, used), (model, (kind, parameter), {}))
    return hosts


def _swapped(kind: str, name: str) -> tuple[str, tuple[str, ...], dict[str, Any]]:
    """The same for one that none uses: it takes the place of mlp-vae's own."""
    where = {"posterior": ("encoder", "posterior"), "likelihood": ("decoder", "likelihood")}.get(kind, (kind,))
    return "mlp-vae", where, change_at(where, {"use": name})


def change_at(where: tuple[str, ...], value: Any) -> dict[str, Any]:
    """The change of a recipe that sets one value."""
    for key in reversed(where):
        value = {key: value}
    return value
