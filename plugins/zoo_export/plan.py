"""The part of a model that is exported, as a function from tensors to tensors, with example inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from zoo import VAE, ExportError, seeded
from zoo_export.codes import parameter, parameters, unwrapped

Part = Literal["encoder", "decoder"]
Tensors = tuple[Tensor, ...]

TRACED = 3
"""Batch size of the traced example. A size of one would be traced as a constant."""
CHECKED = (1, 5)
"""Batch sizes that are compared with the model."""


class Parametrised(nn.Module):
    """An encoder or decoder that returns the parameters of its distribution as tensors.

    Args:
        part: the encoder or the decoder.
        outputs: names of the parameters, in order.
    """

    def __init__(self, part: nn.Module, outputs: Sequence[str]) -> None:
        super().__init__()
        self.part = part
        self.outputs = tuple(outputs)

    def forward(self, *inputs: Tensor) -> Tensors:
        """Map ``x`` or ``z``, and labels for a part that uses them, to the parameters of each example."""
        distribution = self.part(*inputs)
        return tuple(parameter(distribution, name) for name in self.outputs)


@dataclass(frozen=True)
class Plan:
    """One part of an export.

    Attributes:
        part: ``encoder`` or ``decoder``.
        module: the function to export.
        names: names of its inputs.
        inputs: example inputs by batch size.
    """

    part: Part
    module: Parametrised
    names: tuple[str, ...]
    inputs: Mapping[int, Tensors]


def plan_part(vae: VAE, part: Part, data_shape: tuple[int, ...], classes: int) -> Plan:
    """Plan the export of a part.

    Raises:
        ExportError: the part fails, or its distribution has no mean.
    """
    module: nn.Module = vae.encoder if part == "encoder" else vae.decoder
    names: tuple[str, ...] = ("x" if part == "encoder" else "z", "condition")
    try:
        inputs = {n: _inputs(vae, part, data_shape, classes, n) for n in (TRACED, *CHECKED)}
        if not classes or not _uses_labels(module, *inputs[TRACED]):
            names = names[:1]
            inputs = {n: values[:1] for n, values in inputs.items()}
        distribution = module(*inputs[TRACED])
    except Exception as error:
        raise ExportError(f"The {part} fails on random images: {brief(error)}") from error
    outputs = list(parameters(distribution))
    if "mean" not in outputs:
        kind = type(unwrapped(distribution)).__name__
        raise ExportError(f"The {part} cannot be exported: it returns a {kind}, which has no mean in closed form.")
    return Plan(part, Parametrised(module, outputs), names, inputs)


def _inputs(vae: VAE, part: Part, data_shape: tuple[int, ...], classes: int, n: int) -> Tensors:
    """Random images, or draws from their posteriors, which are in the latent space whatever its shape; and labels."""
    with seeded(n):
        x, labels = torch.rand(n, *data_shape), torch.arange(n) % (classes or 1)
        return x if part == "encoder" else vae.encode(x, labels if classes else None).sample(), labels


def _uses_labels(module: nn.Module, value: Tensor, labels: Tensor) -> bool:
    """Whether the output of a part without labels differs, or the part fails."""
    labelled = parameters(module(value, labels))
    try:
        unlabelled = parameters(module(value))
    except Exception:
        return True
    return any(not torch.equal(labelled[name], unlabelled[name]) for name in labelled)


def batched(plan: Plan, size: object) -> tuple[tuple[dict[int, object], ...]]:
    """Mark the first axis of every input as dynamic. Nested, as `Parametrised.forward` has one variadic argument."""
    return (tuple({0: size} for _ in plan.names),)


def brief(error: BaseException) -> str:
    """The type of an error and the first line of its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ": ".join([type(error).__name__, *lines[:1]])
