"""Checkpoints that survive a kill at any moment: written to a temporary folder, synced, then renamed.

A checkpoint is a folder ``step-<n>`` with ``model.safetensors``, ``state.pt`` and ``manifest.json``. The manifest
contains the format version, the step, the run, its recipe, the SHA-256 of the other files and a self-checksum. They are
verified before anything is loaded. The state is loaded with ``weights_only=True``, so no pickle ever runs.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.errors import RunError, TrainingError
from zoo.storage.files import (
    MANIFEST,
    TEMPORARY,
    read_manifest,
    sealed,
    sync_folder,
    synced,
    verify_files,
    write_bytes,
)
from zoo.storage.locate import WEIGHTS

log = logging.getLogger("zoo")

STATE = "state.pt"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk.

    Attributes:
        path: folder of the checkpoint.
        step: number of optimizer steps.
    """

    path: Path
    step: int

    @property
    def score(self) -> float | None:
        """The value of the monitored term, if it was the best so far and the manifest is valid."""
        with contextlib.suppress(RunError):
            score = self.manifest().get("score")
            return score if isinstance(score, float) else None
        return None

    def verify(self, run: str | None = None) -> None:
        """Compare the files and the step in the folder's name with the manifest.

        Args:
            run: expected run id.

        Raises:
            RunError: a file is missing or altered, or the version, step or run differs; the message names it.
        """
        manifest = self.manifest()
        if manifest.get("step") != self.step:
            raise RunError(f"{self.path} was renamed: it contains step {manifest.get('step')}.")
        if run is not None and manifest.get("run") != run:
            raise RunError(f"{self.path} is a checkpoint of another run.")
        verify_files(self.path, manifest["sha256"], (WEIGHTS, STATE))

    def manifest(self) -> dict[str, Any]:
        """Read the manifest.

        Raises:
            RunError: it is missing, altered, or of another version.
        """
        return read_manifest(self.path)

    def weights(self) -> dict[str, Tensor]:
        """Load the weights of the model. Call `verify` first.

        Raises:
            RunError: the file does not contain valid weights.
        """
        return load_weights(self.path / WEIGHTS)

    def state(self) -> dict[str, Any]:
        """Load the training state. Call `verify` first.

        Raises:
            RunError: the file contains anything but plain values and tensors.
        """
        path = self.path / STATE
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # undocumented: depends on the file
            raise RunError(f"{path} cannot be loaded: {str(error).splitlines()[0]}") from error
        return state


class Checkpoints:
    """The checkpoints of a run.

    Args:
        folder: their folder, created by the first save.
        keep: number of newest checkpoints to keep, besides the best one.
        origin: fields of each manifest that identify the training: ``run``, the run id that a checkpoint must match,
            and ``recipe``.
    """

    def __init__(self, folder: Path, keep: int = 2, origin: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        self.keep = keep
        self.origin = dict(origin or {})

    def save(
        self, step: int, weights: Mapping[str, Tensor], state: Mapping[str, Any], score: float | None = None
    ) -> Checkpoint:
        """Write a checkpoint. If this fails, earlier checkpoints are intact and no temporary file remains.

        Args:
            step: number of optimizer steps. An existing valid checkpoint of this step is kept with its score, because
                replacing it would leave a moment without either.
            weights, state: content.
            score: value of the monitored term, if it is the best so far.

        Raises:
            TrainingError: the disk is full, or the folder cannot be written.
        """
        target = self.folder / f"step-{step}"
        checkpoint = Checkpoint(target, step)
        if self._valid(checkpoint):
            return checkpoint
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for leftover in self.folder.glob(TEMPORARY + "*"):  # of a killed process
                shutil.rmtree(leftover, ignore_errors=True)
            temporary = self.folder / f"{TEMPORARY}{secrets.token_hex(4)}"
            temporary.mkdir()
            try:
                with synced(temporary / WEIGHTS, "xb") as file:
                    file.write(serialized(weights))
                with synced(temporary / STATE, "xb") as file:
                    torch.save(dict(state), file)
                with synced(temporary / MANIFEST, "xb") as file:
                    file.write(sealed(temporary, (WEIGHTS, STATE), step=step, score=score, **self.origin))
                sync_folder(temporary)
                if target.exists():
                    shutil.rmtree(target)
                temporary.replace(target)
                sync_folder(self.folder)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
        except (OSError, RuntimeError) as error:
            # On a full disk, torch raises a RuntimeError.
            raise TrainingError(
                f"The checkpoint {target} could not be saved: {error}. Earlier checkpoints are intact."
            ) from error
        self._retire()
        return checkpoint

    def __iter__(self) -> Iterator[Checkpoint]:
        """All checkpoints, valid or not, the newest first."""
        paths = {path.name.removeprefix("step-"): path for path in self.folder.glob("step-*")}
        checkpoints = [Checkpoint(path, int(step)) for step, path in paths.items() if step.isdecimal()]
        yield from sorted(checkpoints, key=lambda checkpoint: -checkpoint.step)

    def newest(self) -> Checkpoint | None:
        """The newest valid checkpoint, or None. Invalid ones cause a warning."""
        return next((checkpoint for checkpoint in self if self._valid(checkpoint, report=True)), None)

    def best(self) -> Checkpoint | None:
        """The valid checkpoint with the lowest score; without scores, the newest."""
        return next((c for c in _scored(self) if self._valid(c, report=True)), None) or self.newest()

    def _valid(self, checkpoint: Checkpoint, report: bool = False) -> bool:
        try:
            checkpoint.verify(self.origin.get("run"))
        except RunError as error:
            if report:
                log.warning("%s It is skipped.", error)
            return False
        return True

    def _retire(self) -> None:
        """Remove checkpoints that are neither among the newest nor the best.

        Invalid ones that are newer than the newest valid one are left alone, and one more valid one is kept.
        """
        newest_first = list(self)
        checkpoints = list(itertools.dropwhile(lambda checkpoint: not self._valid(checkpoint), newest_first))
        spare = len(checkpoints) < len(newest_first)
        old = checkpoints[self.keep + spare :]
        if old:
            best = next(filter(self._valid, _scored(checkpoints)), None)
            for checkpoint in old:
                if checkpoint != best:
                    shutil.rmtree(checkpoint.path, ignore_errors=True)


def save_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write weights as safetensors, atomically. Equal weights give equal bytes.

    Raises:
        TrainingError: a weight is NaN.
        OSError: the disk is full.
    """
    write_bytes(serialized(weights), path)


def serialized(weights: Mapping[str, Tensor]) -> bytes:
    """Serialize weights as safetensors.

    Raises:
        TrainingError: a weight is NaN.
    """
    from safetensors.torch import save

    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    if (name := _nan_in(tensors)) is not None:
        raise TrainingError(f"The tensor {name!r} of the model contains NaN and is not saved.")
    return save(tensors, metadata={"format": "pt"})  # with two keys, their order is random


def load_weights(path: Path) -> dict[str, Tensor]:
    """Load weights from a safetensors file.

    Raises:
        RunError: the file cannot be read, is not valid, or contains NaN.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        # `load_file` refuses paths that are not UTF-8, and returns the tensors in arbitrary order.
        weights = dict(sorted(load(path.read_bytes()).items()))
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} cannot be loaded: {error}") from error
    if (name := _nan_in(weights)) is not None:
        raise RunError(f"{path} cannot be used: its tensor {name!r} contains NaN.")
    return weights


def _nan_in(weights: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that contains NaN."""
    return next((name for name, value in weights.items() if value.isnan().any()), None)


def _scored(checkpoints: Iterable[Checkpoint]) -> list[Checkpoint]:
    """The checkpoints that have a score, the lowest first."""
    scores = [(checkpoint.score, checkpoint) for checkpoint in checkpoints]
    scored = [(score, checkpoint) for score, checkpoint in scores if score is not None]
    return [checkpoint for _, checkpoint in sorted(scored, key=lambda pair: pair[0])]
