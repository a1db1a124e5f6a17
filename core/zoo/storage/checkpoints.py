"""Checkpoints that survive a kill at any moment: written beside, made durable, then put in place in one move.

A checkpoint is a folder ``step-<n>`` with ``model.safetensors``, ``state.pt`` and ``manifest.json``. The manifest holds
the version of the format, the step, the run and its recipe, the SHA-256 of the other files and its own; a checkpoint is
valid when they agree, and nothing is loaded before they do. Weights are safetensors and the state is read with
``weights_only=True``: no pickle ever runs.
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
    """A checkpoint in its folder.

    Attributes:
        path: the folder.
        step: optimiser steps taken.
        score: of the term that models are selected by, if no earlier checkpoint was as good.
    """

    path: Path
    step: int
    score: float | None = None

    def verify(self, run: str | None = None) -> None:
        """Compare every file, and the step in the folder's name, with the manifest.

        Args:
            run: the id of the run that the checkpoint must belong to.

        Raises:
            RunError: something is missing, altered, or of another version, step or run; the message names it.
        """
        manifest = self.manifest()
        if manifest.get("step") != self.step:
            raise RunError(f"{self.path} holds step {manifest.get('step')}: it was renamed.")
        if run is not None and manifest.get("run") != run:
            raise RunError(f"{self.path} is a checkpoint of another run.")
        verify_files(self.path, manifest["sha256"], (WEIGHTS, STATE))

    def manifest(self) -> dict[str, Any]:
        """The manifest.

        Raises:
            RunError: it is missing, altered, or of another version.
        """
        return read_manifest(self.path)

    def weights(self) -> dict[str, Tensor]:
        """The weights of the model. Call `verify` first.

        Raises:
            RunError: whoever wrote the file, it holds something else.
        """
        return load_weights(self.path / WEIGHTS)

    def state(self) -> dict[str, Any]:
        """The state of the training. Call `verify` first.

        Raises:
            RunError: whoever wrote the file, it holds more than plain values and tensors.
        """
        path = self.path / STATE
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch documents none, and raises whatever a hostile file provokes
            raise RunError(f"{path} cannot be loaded: {str(error).splitlines()[0]}") from error
        return state


class Checkpoints:
    """The checkpoints of a run.

    Args:
        folder: where they lie; made when the first is saved.
        keep: how many of the newest to keep, besides the best one.
        origin: what each manifest says of the training: ``run``, the id of the run, without which a checkpoint is not
            accepted, and ``recipe``.
    """

    def __init__(self, folder: Path, keep: int = 2, origin: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        self.keep = keep
        self.origin = dict(origin or {})

    def save(
        self, step: int, weights: Mapping[str, Tensor], state: Mapping[str, Any], score: float | None = None
    ) -> Checkpoint:
        """Write a checkpoint. Whatever goes wrong, the earlier ones are as they were and nothing half-written stays.

        Args:
            step: optimiser steps taken. If there is a valid checkpoint of that step, it stays, and its score too: to
                replace it would leave a moment without either.
            weights, state: what to save.
            score: given if no earlier checkpoint was as good.

        Raises:
            TrainingError: the disk is full, or the folder cannot be written.
        """
        target = self.folder / f"step-{step}"
        there = Checkpoint(target, step, _score(target))
        if self._valid(there):
            return there
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._clean()
            temporary = self.folder / f"{TEMPORARY}{secrets.token_hex(4)}"
            temporary.mkdir()
            try:
                self._write(temporary, step, weights, state, score)
                if target.exists():
                    shutil.rmtree(target)
                temporary.replace(target)
                sync_folder(self.folder)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
        except (OSError, RuntimeError) as error:
            # torch raises a RuntimeError where the file system is full, the rest an OSError.
            raise TrainingError(
                f"The checkpoint {target} could not be saved: {error}. Earlier checkpoints are intact."
            ) from error
        self._retire()
        return Checkpoint(target, step, score)

    def _write(
        self, folder: Path, step: int, weights: Mapping[str, Tensor], state: Mapping[str, Any], score: float | None
    ) -> None:
        """Write the files of a checkpoint and wait until they are on the disk."""
        with synced(folder / WEIGHTS, "xb") as file:
            file.write(serialized(weights))
        with synced(folder / STATE, "xb") as file:
            torch.save(dict(state), file)
        with synced(folder / MANIFEST, "xb") as file:
            file.write(manifest_of(folder, step, score, self.origin))
        sync_folder(folder)

    def __iter__(self) -> Iterator[Checkpoint]:
        """Every checkpoint, valid or not, the newest first."""
        found = []
        for path in self.folder.glob("step-*"):
            number = path.name.removeprefix("step-")
            if number.isdecimal():
                found.append(Checkpoint(path, int(number), _score(path)))
        yield from sorted(found, key=lambda checkpoint: -checkpoint.step)

    def newest(self) -> Checkpoint | None:
        """The newest valid one. Each that is not is reported as a warning."""
        return self._first(list(self))

    def best(self) -> Checkpoint | None:
        """The valid one with the least score; without scores, the newest."""
        return self._first(_scored(self)) or self.newest()

    def verify(self, checkpoint: Checkpoint) -> None:
        """As `Checkpoint.verify`, of this run."""
        checkpoint.verify(self.origin.get("run"))

    def _valid(self, checkpoint: Checkpoint) -> bool:
        with contextlib.suppress(RunError):
            self.verify(checkpoint)
            return True
        return False

    def _first(self, candidates: list[Checkpoint]) -> Checkpoint | None:
        for checkpoint in candidates:
            try:
                self.verify(checkpoint)
            except RunError as error:
                log.warning("%s It is skipped.", error)
                continue
            return checkpoint
        return None

    def _retire(self) -> None:
        """Remove what is neither new nor best.

        Newer ones that are invalid are passed over and stay. While there are any, one more of the valid ones is kept.
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

    def _clean(self) -> None:
        """Remove what a killed process left behind."""
        for leftover in self.folder.glob(TEMPORARY + "*"):
            shutil.rmtree(leftover, ignore_errors=True)


def manifest_of(folder: Path, step: int, score: float | None, origin: Mapping[str, Any]) -> bytes:
    """The manifest of a checkpoint's files: what they are, and which training they are of."""
    return sealed(folder, (WEIGHTS, STATE), step=step, score=score, **origin)


def save_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write weights as safetensors, atomically. Equal weights give equal bytes.

    Raises:
        TrainingError: one of them is NaN.
        OSError: the disk is full.
    """
    write_bytes(serialized(weights), path)


def serialized(weights: Mapping[str, Tensor]) -> bytes:
    """The safetensors file of weights.

    Raises:
        TrainingError: one of them is NaN.
    """
    from safetensors.torch import save

    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    if (name := _nan_in(tensors)) is not None:
        raise TrainingError(f"The tensor {name!r} of the model holds NaN, which is never saved.")
    return save(tensors, metadata={"format": "pt"})  # a second key would make the order of the two random


def load_weights(path: Path) -> dict[str, Tensor]:
    """The weights in a safetensors file.

    Raises:
        RunError: it cannot be read, is no such file, or holds NaN.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        # `load_file` takes no path that is not UTF-8, and gives the tensors in any order.
        weights = dict(sorted(load(path.read_bytes()).items()))
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} cannot be loaded: {error}") from error
    if (name := _nan_in(weights)) is not None:
        raise RunError(f"{path} cannot be used: its tensor {name!r} holds NaN.")
    return weights


def _nan_in(weights: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that holds NaN."""
    return next((name for name, value in weights.items() if value.isnan().any()), None)


def _scored(checkpoints: Iterable[Checkpoint]) -> list[Checkpoint]:
    """Those with a score, the least first."""
    scored = [(checkpoint.score, checkpoint) for checkpoint in checkpoints if checkpoint.score is not None]
    return [checkpoint for _, checkpoint in sorted(scored, key=lambda pair: pair[0])]


def _score(path: Path) -> float | None:
    try:
        score = read_manifest(path).get("score")
    except RunError:
        return None
    return score if isinstance(score, float) else None
