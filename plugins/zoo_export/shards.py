"""Latents of a whole data set as safetensors files of equal size, written one by one; an interrupted call is continued.

A shard is ``latents-00001-of-00012.safetensors``. It has the arrays of `zoo_export.codes.codes`, and in the entry
``zoo`` of its metadata the settings of the whole as JSON, the splits and the paths of its examples.
``latents.index.json`` is written last. A shard depends on the settings and its number alone, so an interrupted and
continued call writes the same bytes as an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

import zoo
from zoo import VAE, Loader, Split, UsageError, ZooError, derive_seed, resolve_device
from zoo_export.codes import codes, images_of
from zoo_export.standardization import Standardization, standardization, weights_sha256

log = logging.getLogger("zoo")

INDEX = "latents.index.json"
PATTERN = "latents-*-of-*.safetensors"
ENTRY = "zoo"
"""The only entry of the metadata, since the order of several is random."""
SIZE = 10_000
BATCH = 32
"""Activations of few images stay in the caches of a processor."""
SHARD = 5
"""The random stream of a shard."""


@dataclass(frozen=True)
class Piece:
    """Consecutive examples of one split."""

    name: str
    split: Split


@dataclass(frozen=True)
class Job:
    """What is encoded, and how.

    Attributes:
        vae: the model, on `device`.
        pieces: the splits, in the order of the examples.
        settings: what the shards depend on; each has them in its metadata.
        standardization: applied to the latents, or None.
    """

    vae: VAE
    pieces: Sequence[Piece]
    settings: Mapping[str, Any]
    standardization: Standardization | None
    device: torch.device

    @property
    def names(self) -> list[str]:
        """The names of the shards."""
        count = -(-self.settings["examples"] // self.settings["shard_size"])
        return [f"latents-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]

    def shard(self, number: int) -> bytes:
        """Encode the shard at an index, as the content of its file."""
        size, seed = self.settings["shard_size"], self.settings["seed"]
        pieces = list(_between(self.pieces, number * size, (number + 1) * size))
        encoded = []
        for i, piece in enumerate(pieces):
            images = Loader.for_evaluation(piece.split, BATCH, self.settings["binarize"], self.device)
            arrays = codes(self.vae, images, samples=self.settings["samples"], seed=derive_seed(seed, SHARD, number, i))
            assert piece.split.index is not None
            encoded.append(arrays | {"index": piece.split.index.numpy()})
        merged = {
            name: np.concatenate([arrays[name] for arrays in encoded], axis=1 if name == "samples" else 0)
            for name in encoded[0]
            if all(name in arrays for arrays in encoded)
        }
        if self.standardization is not None:
            merged = self.standardization.apply_to(merged)
        details = {
            **self.settings,
            "splits": [[piece.name, len(piece.split)] for piece in pieces],
            "paths": [path for piece in pieces for path in piece.split.paths],
        }
        return save(
            {name: np.ascontiguousarray(array) for name, array in merged.items()},
            metadata={ENTRY: zoo.to_json(details, indent=None)},
        )


def encode_shards(
    run: str | Path | zoo.Run,
    data: object = None,
    folder: Path | str | None = None,
    *,
    shard_size: int = SIZE,
    split: str | None = None,
    samples: int = 0,
    scaled: bool = False,
    seed: int | None = None,
    data_dir: Path | str | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Write the posteriors of a whole data set as shards, as ``zoo encode --format safetensors`` does.

    Finished shards of an earlier call with the same model, data and settings are skipped. The memory needed does not
    depend on the number of examples.

    Args:
        run, data, split, samples, scaled, seed, data_dir, device: as in `zoo_export.codes.encode`.
        folder: by default ``latents`` in the run.
        shard_size: number of examples in a shard; the last one may have fewer.
        progress: called with the number of finished shards and the number of all.

    Returns:
        The folder. Its ``latents.index.json`` has the recipe's name, the SHA-256 of weights and data, the shift and the
        scale of the latents (None if they are discrete, or the training data are not available), the other settings,
        dtype and shape of each array, and name, size and SHA-256 of each shard.

        Examples are in the order of the splits: training, validation, test. An array ``samples`` has the shape
        (K, N, *latent_shape), every other one (N, ...).

    Raises:
        RunError, DataError: as in `encode`.
        UsageError: as in `encode`; or the folder cannot be written, has shards of other settings, or is being written
            by another process.
    """
    run = run if isinstance(run, zoo.Run) else zoo.Run.open(run)
    folder = run.output / "latents" if folder is None else Path(folder)
    job = _job(run, data, shard_size, split, samples, scaled, seed, data_dir, device)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock", timeout=0):
            for leftover in folder.glob(f".saving-*-{PATTERN}"):  # of a killed process
                leftover.unlink()
            finished = {path.name for path in sorted(folder.glob(PATTERN)) if _belongs(path, job)}
            for i, name in enumerate(job.names):
                progress(i, len(job.names))
                if name not in finished:
                    with zoo.atomic_write(folder / name) as file:
                        file.write(job.shard(i))
            progress(len(job.names), len(job.names))
            with zoo.atomic_write(folder / INDEX) as file:
                file.write(zoo.to_json(_index(folder, job)).encode() + b"\n")
    except Timeout as error:
        raise UsageError(f"{folder} is being written by another process.") from error
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror or error}") from error
    return folder


def _job(
    run: zoo.Run,
    data: object,
    shard_size: int,
    split: str | None,
    samples: int,
    scaled: bool,
    seed: int | None,
    data_dir: Path | str | None,
    device: str,
) -> Job:
    split, dataset, name = images_of(run, data, split, data_dir)
    target, vae = resolve_device(device), run.load(prior="original")
    weights, factors = weights_sha256(vae), None
    try:
        factors = standardization(run, data_dir=data_dir, device=device)
    except ZooError as error:
        if scaled:
            raise
        log.warning("The shift and the scale of the latents were not measured. %s", error)
    pieces = [Piece(part, _once(images)) for part, images in dataset.splits.items() if split in (part, "all")]
    settings = {
        "recipe": run.recipe.name,
        "weights_sha256": weights,
        "data": name,
        "data_sha256": dataset.sha256(),
        "split": split,
        "examples": sum(len(piece.split) for piece in pieces),
        "shard_size": shard_size,
        "samples": samples,
        "seed": run.recipe.train.seed if seed is None else seed,
        "binarize": run.recipe.binarize,
        "scaled": scaled,
        **(dict.fromkeys(("shift_factor", "scaling_factor")) if factors is None else asdict(factors)),
        "label_names": list(dataset.label_names),
    }
    return Job(vae.to(target), pieces, settings, factors if scaled else None, target)


def _once(split: Split) -> Split:
    """The split with each example once, if its examples are repeated within an epoch."""
    if split.index is None or len(unique := np.unique(split.index.numpy(), return_index=True)[1]) == len(split):
        return split
    return split.take(torch.from_numpy(np.sort(unique)))


def _between(pieces: Sequence[Piece], start: int, stop: int) -> Iterator[Piece]:
    """The examples from `start` up to `stop` of all pieces."""
    offset = 0
    for piece in pieces:
        first, last = max(start - offset, 0), min(stop - offset, len(piece.split))
        if first < last:
            part = piece.split.part(first, last)
            if part.index is None:
                part = replace(part, index=torch.arange(first, last))
            yield Piece(piece.name, part)
        offset += len(piece.split)


def _belongs(path: Path, job: Job) -> bool:
    """Whether a shard is one of a job.

    Raises:
        UsageError: it is not; the message gives the differences.
    """
    advice = "Choose another folder with -o, or delete it."
    settings = _settings(path)
    if settings is None:
        raise UsageError(f"{path} is not a shard of latents. {advice}")
    changes = [
        f"{key} is {value!r}, was {settings.get(key)!r}"
        for key, value in job.settings.items()
        if settings.get(key) != value
    ]
    if changes or path.name not in job.names:
        raise UsageError(f"{path} was written with other settings: {'; '.join(changes)}. {advice}")
    return True


def _settings(path: Path) -> dict[str, Any] | None:
    with contextlib.suppress(OSError, SafetensorError, ValueError, TypeError, KeyError):
        with safe_open(path, "np") as file:
            settings: dict[str, Any] = json.loads(file.metadata()[ENTRY])
        return settings
    return None


def _index(folder: Path, job: Job) -> dict[str, Any]:
    """The content of the index of finished shards."""
    arrays: dict[str, dict[str, Any]] = {}
    shards = []
    for name in job.names:
        with safe_open(folder / name, "np") as file:
            for array in sorted(file.keys()):
                values, axis = file.get_slice(array), 1 if array == "samples" else 0
                shape = values.get_shape()
                if array in arrays:
                    arrays[array]["shape"][axis] += shape[axis]
                else:
                    arrays[array] = {"dtype": values.get_dtype(), "shape": shape}
            examples = file.get_slice("index").get_shape()[0]
        with (folder / name).open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        shards.append({"file": name, "examples": examples, "sha256": digest})
    return {**job.settings, "arrays": arrays, "shards": shards}
