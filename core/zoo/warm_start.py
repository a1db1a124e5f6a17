"""Warm starts: the weights of a trained model as the initial weights of another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from zoo.errors import UsageError, did_you_mean
from zoo.model.vae import VAE
from zoo.run import Run
from zoo.storage.files import sha256
from zoo.storage.locate import WEIGHTS

PARTS = ("encoder", "decoder", "prior")
MAX_LISTED = 10
"""Number of tensors that a message lists."""


@dataclass(frozen=True)
class WarmStart:
    """The source of initial weights.

    Args:
        run: a finished run.
        parts: the parts of the model to initialize: ``encoder``, ``decoder``, ``prior``.
        partial: skip tensors that the run does not have, or that have another shape there.

    Raises:
        UsageError: there is no such part, or the run is not finished.
    """

    run: Run
    parts: Sequence[str] = PARTS
    partial: bool = False

    @classmethod
    def of(cls, run: str | Path | Run, parts: Sequence[str] = (), partial: bool = False) -> WarmStart:
        """Open the run; no parts stand for all parts."""
        return cls(run if isinstance(run, Run) else Run.open(run), tuple(parts) or PARTS, partial)

    def __post_init__(self) -> None:
        for part in self.parts:
            if part not in PARTS:
                raise UsageError(
                    f"There is no part {part!r}.{did_you_mean(part, PARTS)} Available: {', '.join(PARTS)}."
                )
        if not self.run.finished:
            raise UsageError(f"{self.run} is not finished, so it has no weights to start from.")

    @torch.no_grad()
    def apply(self, vae: VAE) -> dict[str, Any]:
        """Copy the weights into a model.

        Returns:
            The record for ``environment.json``: the run, the SHA-256 of its weights, the parts and the skipped tensors.

        Raises:
            RunError: the run is damaged.
            UsageError: a tensor is missing in the run or has another shape there, and `partial` is not set; or every
                tensor would be skipped.
        """
        weights = self.run.load(prior="original").state_dict()
        state = {name: value for name, value in vae.state_dict().items() if name.split(".")[0] in self.parts}
        if not state:
            raise UsageError(f"{', '.join(self.parts)} of this model has no weights to initialize.")
        mismatches = {
            name: f"  {name}: {_shape(value)} in the model, {_shape(weights.get(name))} in the run"
            for name, value in state.items()
            if name not in weights or weights[name].shape != value.shape
        }
        if mismatches and not self.partial:
            lines = list(mismatches.values())
            more = [f"  and {len(lines) - MAX_LISTED} more"] if len(lines) > MAX_LISTED else []
            title = f"The model cannot start from {self.run.path}, whose tensors differ:"
            advice = "Choose other parts with --init-part, or skip these tensors with --init-partial."
            raise UsageError("\n".join([title, *lines[:MAX_LISTED], *more, advice]))
        if len(mismatches) == len(state):
            raise UsageError(f"No tensor of {', '.join(self.parts)} has the same name and shape in {self.run.path}.")
        for name in state.keys() - mismatches.keys():
            state[name].copy_(weights[name])
        return {
            "run": str(self.run),
            "sha256": sha256(self.run.path / WEIGHTS),
            "parts": list(self.parts),
            "not_initialized": list(mismatches),
        }


def _shape(tensor: torch.Tensor | None) -> str:
    return "missing" if tensor is None else "x".join(map(str, tensor.shape)) or "a scalar"
