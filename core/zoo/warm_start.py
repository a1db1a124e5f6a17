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
SHOWN = 10
"""Tensors that a message lists."""


@dataclass(frozen=True)
class WarmStart:
    """Where the initial weights come from.

    Args:
        run: a finished run.
        parts: which parts of its model: ``encoder``, ``decoder``, ``prior``.
        partial: leave tensors that are absent there, or have another shape, as they are initialized.

    Raises:
        UsageError: there is no such part, or the run is not finished.
    """

    run: Run
    parts: Sequence[str] = PARTS
    partial: bool = False

    @classmethod
    def of(cls, run: str | Path | Run, parts: Sequence[str] = (), partial: bool = False) -> WarmStart:
        """Open the run; no parts stand for all."""
        return cls(run if isinstance(run, Run) else Run.open(run), tuple(parts) or PARTS, partial)

    def __post_init__(self) -> None:
        for part in self.parts:
            if part not in PARTS:
                raise UsageError(
                    f"There is no part {part!r}.{did_you_mean(part, PARTS)} There are: {', '.join(PARTS)}."
                )
        if not self.run.finished:
            raise UsageError(f"{self.run.path} is not finished, so it has no weights to start from.")

    @torch.no_grad()
    def apply(self, vae: VAE) -> dict[str, Any]:
        """Copy the weights into a model.

        Returns:
            The record for ``environment.json``: the run, the SHA-256 of its weights, the parts, and the tensors that
            were left as they are.

        Raises:
            RunError: the run is damaged.
            UsageError: a tensor is absent there or has another shape, and `partial` is not set.
        """
        weights = self.run.load(prior="original").state_dict()
        state = {name: value for name, value in vae.state_dict().items() if name.split(".")[0] in self.parts}
        if not state:
            raise UsageError(f"{', '.join(self.parts)} of this model has no weights to initialize.")
        different = [_difference(name, value, weights.get(name)) for name, value in state.items()]
        mismatches = [difference for difference in different if difference]
        if mismatches and not self.partial:
            more = [f"and {len(mismatches) - SHOWN} more"] if len(mismatches) > SHOWN else []
            raise UsageError(
                "\n".join(
                    [
                        f"The model cannot start from {self.run.path}, whose tensors differ:",
                        *(f"  {line}" for line in (*mismatches[:SHOWN], *more)),
                        "Choose other parts with --init-part, or keep the new values of these with --init-partial.",
                    ]
                )
            )
        kept = [name for name, difference in zip(state, different, strict=True) if difference]
        if len(kept) == len(state):
            raise UsageError(f"No tensor of {', '.join(self.parts)} has the same name and shape in {self.run.path}.")
        for name, value in state.items():
            if name not in kept:
                value.copy_(weights[name])
        return {
            "run": str(self.run.path),
            "sha256": sha256(self.run.path / WEIGHTS),
            "parts": list(self.parts),
            "not_initialized": kept,
        }


def _difference(name: str, value: torch.Tensor, other: torch.Tensor | None) -> str:
    """Why a tensor cannot be copied; empty if it can."""
    shape = "x".join(map(str, value.shape)) or "a scalar"
    if other is None:
        return f"{name}: {shape} here, absent there"
    there = "x".join(map(str, other.shape)) or "a scalar"
    return "" if value.shape == other.shape else f"{name}: {shape} here, {there} there"
