"""Diagnose a trained run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

import zoo
from zoo import evaluating, flushed_denormals
from zoo_diagnose.checks import CHECKS, Finding, examine


@dataclass(frozen=True)
class Diagnosis:
    """The findings about a model.

    Attributes:
        findings: one for each check.
        protocol: split, number of examples, binarization and seed.
    """

    findings: tuple[Finding, ...]
    protocol: dict[str, object]

    def __getitem__(self, name: str) -> Finding:
        """The finding of a check."""
        return next(finding for finding in self.findings if finding.name == name)

    @property
    def warnings(self) -> list[Finding]:
        """The findings that are outside their threshold."""
        return [finding for finding in self.findings if finding.verdict == "warn"]

    def to_json(self) -> dict[str, Any]:
        """Convert to plain mappings and lists."""
        return {"protocol": self.protocol, "findings": [asdict(finding) for finding in self.findings]}


def diagnose(
    run: str | Path | zoo.Run,
    *,
    split: Literal["validation", "test", "train"] | None = None,
    limit: int | None = 1000,
    seed: int = 0,
    prior: Literal["fitted", "original"] = "fitted",
    data: object = None,
    data_dir: Path | str | None = None,
    device: str = "auto",
    announce: Callable[[str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Diagnosis:
    """Check the trained model of a run for posterior collapse, a weak encoder, holes in the prior and unused codes.

    Args:
        run: as in `zoo.load`.
        split: split to examine; by default ``validation`` if there is one, else ``test``.
        limit: number of examples, from the first; None for all.
        seed: seed of every draw.
        prior, data, data_dir, device: as in `zoo.evaluate`.
        announce: called with the name of each check before it starts.
        progress: called with the number of examples processed so far, and of all examples.

    Returns:
        A finding for each check. A check that does not apply to the model says why.

    Raises:
        RunError: there is no such run, or the data have changed.
        UsageError: there is no such split.
    """
    context = zoo.evaluation_context(
        run,
        split=split,
        limit=limit,
        seed=seed,
        prior=prior,
        data=data,
        data_dir=data_dir,
        device=device,
        progress=progress,
    )
    findings = []
    with torch.no_grad(), evaluating(context.vae), flushed_denormals():
        for name in CHECKS:
            if announce is not None:
                announce(name)
            findings.append(examine(name, context))
    return Diagnosis(tuple(findings), context.protocol)
