"""Checkpoints that survive a kill at any moment: written beside, made durable, then put in place in one move.

A checkpoint is a folder ``step-<n>`` with ``model.safetensors``, ``state.pt`` and ``manifest.json``. The manifest holds
the version of the format, the SHA-256 of the other files and its own; a checkpoint is valid when they agree, and
nothing is loaded before they do. Weights are safetensors and the state is read with ``weights_only=True``: no pickle
ever runs.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.errors import RunError, TrainingError
from zoo.locate import WEIGHTS

log = logging.getLogger("zoo")

FORMAT = 1
STATE, MANIFEST = "state.pt", "manifest.json"
TEMPORARY = ".saving-"


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

    def verify(self) -> None:
        """Compare every file with the manifest.

        Raises:
            RunError: something is missing, altered, or of another version; the message names it.
        """
        verify_files(self.path, read_manifest(self.path)["sha256"], (WEIGHTS, STATE))

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
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep

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
        if _valid(there):
            return there
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._clean()
            temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=self.folder))
            try:
                _write(temporary, step, weights, state, score)
                if target.exists():
                    shutil.rmtree(target)
                temporary.replace(target)
                _sync(self.folder)
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

    def _first(self, candidates: list[Checkpoint]) -> Checkpoint | None:
        for checkpoint in candidates:
            try:
                checkpoint.verify()
            except RunError as error:
                log.warning("%s It is passed over.", error)
                continue
            return checkpoint
        return None

    def _retire(self) -> None:
        """Remove what is neither new nor best. What is kept is verified first: the last valid one is never removed."""
        checkpoints = list(self)
        old = checkpoints[self.keep :]
        if old and _valid(checkpoints[0]):
            best = next(filter(_valid, _scored(checkpoints)), None)
            for checkpoint in old:
                if checkpoint != best:
                    shutil.rmtree(checkpoint.path, ignore_errors=True)

    def _clean(self) -> None:
        """Remove what a killed process left behind."""
        for leftover in self.folder.glob(TEMPORARY + "*"):
            shutil.rmtree(leftover, ignore_errors=True)


def _write(
    folder: Path, step: int, weights: Mapping[str, Tensor], state: Mapping[str, Any], score: float | None
) -> None:
    """Write the files of a checkpoint and wait until they are on the disk."""
    save_weights(weights, folder / WEIGHTS)
    _durably(folder / STATE, lambda file: torch.save(dict(state), file))
    write_manifest(folder, step, score)
    _sync(folder)


def write_manifest(folder: Path, step: int, score: float | None) -> None:
    """Write down what the files of a checkpoint are."""
    _durably(folder / MANIFEST, lambda file: file.write(sealed(folder, (WEIGHTS, STATE), step=step, score=score)))


def sealed(folder: Path, files: Iterable[str], **said: Any) -> bytes:
    """A manifest: what is said, the SHA-256 of files in a folder, and its own. `read_manifest` reads it."""
    manifest = {"format": FORMAT, **said, "sha256": {name: sha256(folder / name) for name in files}}
    manifest["own"] = _own(manifest)
    return json.dumps(manifest, indent=2).encode()


def read_manifest(folder: Path) -> dict[str, Any]:
    """What the manifest of a folder says.

    Raises:
        RunError: it is missing, altered, or of another version; the message names it.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    if not isinstance(manifest, dict) or "format" not in manifest:
        raise RunError(f"{path} is no manifest.")
    if manifest["format"] != FORMAT:
        raise RunError(f"{folder} has the format {manifest['format']}, this version reads {FORMAT}.")
    if manifest.get("own") != _own(manifest) or not isinstance(manifest.get("sha256"), dict):
        raise RunError(f"{path} is damaged: its SHA-256 is not the one that it states.")
    return manifest


def verify_files(folder: Path, digests: Mapping[str, str], names: Iterable[str]) -> None:
    """Compare files with the digests of a manifest.

    Raises:
        RunError: one is missing or altered; the message names it.
    """
    for name in names:
        try:
            found = sha256(folder / name)
        except OSError as error:
            raise RunError(f"{folder / name} cannot be read: {error.strerror}") from error
        if found != digests.get(name):
            raise RunError(f"{folder / name} is damaged: its SHA-256 is not that of the manifest.")


def save_weights(weights: Mapping[str, Tensor], path: Path, **metadata: str) -> None:
    """Write weights as safetensors: beside, durably, then put in place in one move."""
    from safetensors.torch import save

    plain = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    put(save(plain, metadata={"format": "pt", **metadata}), path)


def put(content: bytes, path: Path) -> None:
    """Write a file: beside, durably, then put in place in one move."""
    temporary = path.with_name(TEMPORARY + path.name)
    try:
        _durably(temporary, lambda file: file.write(content))
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def load_weights(path: Path) -> dict[str, Tensor]:
    """The weights in a safetensors file.

    Raises:
        RunError: it cannot be read, or is no such file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} cannot be loaded: {error}") from error


def _durably(path: Path, write: Callable[[Any], object]) -> None:
    with path.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """The digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _own(manifest: Mapping[str, Any]) -> str:
    """The SHA-256 of what a manifest says besides it."""
    said = {name: value for name, value in manifest.items() if name != "own"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


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


def _valid(checkpoint: Checkpoint) -> bool:
    try:
        checkpoint.verify()
    except RunError:
        return False
    return True
