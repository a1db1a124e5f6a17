"""Atomic, durable writes; strict JSON; digests and manifests.

A file is written to a temporary file in the same folder, synced and renamed. If the process is killed, the file is
either complete or unchanged.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Literal

from zoo.errors import RunError

FORMAT = 2
MANIFEST = "manifest.json"
TEMPORARY = ".saving-"
"""Prefix of the names of temporary files and folders."""


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file that replaces `path` at the end of the block, unless the block raises.

    Raises:
        OSError: the disk is full, or the folder cannot be written. `path` is unchanged.
    """
    if path.exists() and not path.is_file():  # a device or a pipe is written to, not replaced
        with path.open("wb") as file:
            yield file
        return
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(4)}-{path.name[:100]}")
    try:
        with synced(temporary, "xb") as file:
            yield file
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextlib.contextmanager
def synced(path: Path, mode: Literal["ab", "wb", "xb"]) -> Iterator[IO[bytes]]:
    """Open a file for writing, and sync it to disk at the end of the block.

    Raises:
        OSError: the disk is full, or the file cannot be written.
    """
    with path.open(mode) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def write_bytes(content: bytes, path: Path) -> None:
    """Write a file atomically; see `atomic_write`."""
    with atomic_write(path) as file:
        file.write(content)


def write_text(text: str, path: Path) -> None:
    """Write a UTF-8 file atomically; see `atomic_write`."""
    write_bytes(text.encode("utf-8"), path)


def write_json(value: Any, path: Path) -> None:
    """Write a value as JSON atomically; see `to_json` and `atomic_write`."""
    write_text(to_json(value) + "\n", path)


def remove_leftovers(folder: Path, names: Iterable[str]) -> None:
    """Remove temporary files of `names` that killed processes left behind.

    The caller must hold the lock of the folder, so that no process is writing these files.
    """
    for name in names:
        for leftover in folder.glob(f"{TEMPORARY}*-{name}"):
            with contextlib.suppress(OSError):
                leftover.unlink()


def sync_folder(folder: Path) -> None:
    """Sync the entries of a folder to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- JSON


def to_json(value: Any, indent: int | None = 2) -> str:
    """Serialize plain values as strict JSON: non-finite numbers become strings, see `plain`.

    >>> to_json({"loss": float("nan"), "rate": 1.5}, indent=None)
    '{"loss": "NaN", "rate": 1.5}'
    """
    return json.dumps(plain(value), indent=indent, allow_nan=False)


def plain(value: Any) -> Any:
    """Replace non-finite numbers in nested values by ``"NaN"``, ``"Infinity"`` or ``"-Infinity"``.

    Python's `float` parses these strings.

    >>> plain({"a": (1, float("-inf"))})
    {'a': [1, '-Infinity']}
    """
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return value


# --- digests and manifests


def sha256(path: Path) -> str:
    """Compute the SHA-256 of a file.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sealed(folder: Path, files: Iterable[str], **fields: Any) -> bytes:
    """Serialize a manifest: fields, the SHA-256 of files in a folder, and a self-checksum.

    Raises:
        OSError: a file cannot be read.
    """
    manifest = {"format": FORMAT, **plain(fields), "sha256": {name: sha256(folder / name) for name in files}}
    return to_json({**manifest, "own": _checksum(manifest)}).encode()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a folder.

    Raises:
        RunError: it is missing, altered, or of another version; the message names it.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    if not isinstance(manifest, dict) or "format" not in manifest:
        raise RunError(f"{path} is not a manifest.")
    if manifest["format"] != FORMAT:
        raise RunError(f"{folder} has format {manifest['format']}; this version of vae-zoo reads format {FORMAT}.")
    if manifest.get("own") != _checksum(manifest) or not isinstance(manifest.get("sha256"), dict):
        raise RunError(f"{path} is damaged: its checksum does not match.")
    return manifest


def verify_files(folder: Path, digests: Mapping[str, str], names: Iterable[str], source: str = "the manifest") -> None:
    """Compare files with the digests of a manifest, or of another `source`.

    Raises:
        RunError: a file is missing or altered; the message names it.
    """
    for name in names:
        try:
            digest = sha256(folder / name)
        except OSError as error:
            raise RunError(f"{folder / name} cannot be read: {error.strerror}") from error
        if digest != digests.get(name):
            raise RunError(f"{folder / name} is damaged: its SHA-256 does not match {source}.")


def _checksum(manifest: Mapping[str, Any]) -> str:
    """The SHA-256 of a manifest without its self-checksum."""
    fields = {name: value for name, value in manifest.items() if name != "own"}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
