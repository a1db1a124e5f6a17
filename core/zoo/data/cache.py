"""Decoded images on disk: written once, complete or not at all, and mapped into memory from then on."""

from __future__ import annotations

import contextlib
import contextvars
import errno
import hashlib
import io
import json
import logging
import math
import mmap
import os
import sys
import time
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.data.dataset import Split
from zoo.errors import DataError
from zoo.storage.files import sync_folder

log = logging.getLogger("zoo")

HEADER = 4096  # bytes in front of the pixels, which therefore start on a page
PATIENCE = 1800.0  # seconds that another process may hold an unfinished file without writing to it
POLL = 0.1  # seconds

Item = tuple[Tensor | NDArray[np.uint8], int] | str

# Without it, Linux refuses a private mapping larger than memory and swap. Python has no name for it.
MAP_NORESERVE = 0x4000 if sys.platform == "linux" else 0


@dataclass(frozen=True, eq=False)
class CachedSplit(Split):
    """Images that are mapped from a file.

    Attributes:
        file: the file.
        notes: what was noted when they were made.
    """

    file: Path = Path()
    notes: tuple[str, ...] = ()


class NotCached(DataError):
    """Images are not in the cache, and were not to be made."""


def cached_images(key: str, images: Iterable[Item], folder: Path | None = None) -> CachedSplit:
    """The images under `key`, mapped from a file; made from `images` only where there is no complete file yet.

    The pixels are read from disk page by page as they are used, so they may be larger than the memory. Writing to
    them changes a private copy of the page, never the file.

    The file is a safetensors file named for the key, with tensors ``pixels`` and ``labels``. It is written under
    another name and renamed when complete, so whatever has the right name is whole; its size is compared with its
    header all the same, and one that was cut or altered is made again. Any of these files may be deleted at any time.
    The digest lies in the header, so that nobody has to read all the pixels for it; it is compared with them only where
    the file's time of modification is not the one that its header tells.

    The unfinished file is locked while it is written, which settles the rest: a second process that wants the same
    images waits and then maps what the first has made, instead of decoding it all again and needing the space twice;
    and since the system drops the lock of a process that dies, however it dies, an unfinished file without a lock is
    an orphan, and whoever builds next in this folder removes it.

    Args:
        key: whatever tells these images from all others: where they come from, and how they are decoded.
        images: each a uint8 (C, H, W), all of one shape, with an integer that comes back as its label. A generator
            does no work if the file is there. Consumed one by one, and never held in memory together. A string among
            them is a note, to be kept with them.
        folder: where the files lie; by default ``vae-zoo/cache`` in the user's cache folder.

    Returns:
        Split whose ``pixels`` are mapped; the ``labels`` lie in memory. With them the ``file`` and the ``notes``.

    Raises:
        DataError: an image of another shape or dtype, or none at all; the disk is full or the folder cannot be
            written (nothing unfinished is left there); another process has the file and makes no progress.
    """
    folder = user_cache() / "cache" if folder is None else folder
    file = folder / f"{hashlib.sha256(key.encode()).hexdigest()}.safetensors"
    with _explained(folder):
        found = _open(file)
    if found is None:
        if _only_looking.get():
            raise NotCached(f"There is no {file}.")
        return _build(file, images)
    log.info("%d images are in the cache: nothing is decoded.", len(found))
    return found


_only_looking = contextvars.ContextVar("_only_looking", default=False)


@contextlib.contextmanager
def making_nothing() -> Iterator[None]:
    """Within it, `cached_images` raises `NotCached` for images that it would have to make."""
    token = _only_looking.set(True)
    try:
        yield
    finally:
        _only_looking.reset(token)


def clean_cache(days: float, folder: Path | None = None) -> list[tuple[Path, int]]:
    """Delete the images that nobody has asked for in so many days, and what dead processes have left unfinished.

    Processes that have them mapped keep them until they end; one that wants them later makes them again.

    Returns:
        The files of images that were deleted, with their sizes in bytes.

    Raises:
        DataError: a file cannot be deleted.
    """
    folder = user_cache() / "cache" if folder is None else folder
    _remove_orphans(folder)
    deleted = []
    for file in sorted(folder.glob("*.safetensors")):
        with _explained(folder), contextlib.suppress(FileNotFoundError):  # another process may be cleaning up too
            status = file.stat()
            if time.time() - status.st_atime >= 86400 * days:
                file.unlink()
                deleted.append((file, status.st_size))
    return deleted


def user_cache() -> Path:
    """The zoo's folder in the user's cache: ``vae-zoo`` in ``XDG_CACHE_HOME``, or else in ``~/.cache``."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "vae-zoo"


def _build(file: Path, images: Iterable[Item]) -> CachedSplit:
    partial = file.with_suffix(".partial")
    with _explained(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        _remove_orphans(file.parent)
        out = _claim(partial)
    with out:
        try:
            with _explained(file.parent):
                found = _open(file, warn=True)  # the process that this one waited for may have made it
            if found is not None:
                partial.unlink()
                return found
            _write(out, images, file.parent)
            with _explained(file.parent):
                os.fsync(out.fileno())
                partial.replace(file)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        with _explained(file.parent):
            sync_folder(file.parent)
            made = _open(file)
    if made is None:
        raise DataError(f"{file} was written and has vanished, or is damaged already.")
    return made


# --- the file


class _Header(NamedTuple):
    """What the header of a file tells: (N, C, H, W), the bytes of the notes, and the digest of all that follows it,
    which holds for as long as the file has this time of modification."""

    shape: tuple[int, ...]
    notes: int
    sha256: str
    modified: int

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return HEADER + math.prod(self.shape) + 8 * self.shape[0] + self.notes

    def encode(self) -> bytes:
        """The header of a safetensors file, padded with spaces."""
        pixels = math.prod(self.shape)
        labels = pixels + 8 * self.shape[0]
        tensors = {
            "__metadata__": {"format": "pt", "sha256": self.sha256, "modified": str(self.modified)},
            "pixels": {"dtype": "U8", "shape": self.shape, "data_offsets": [0, pixels]},
            "labels": {"dtype": "I64", "shape": self.shape[:1], "data_offsets": [pixels, labels]},
            "notes": {"dtype": "U8", "shape": [self.notes], "data_offsets": [labels, labels + self.notes]},
        }
        length = HEADER - 8
        return length.to_bytes(8, "little") + json.dumps(tensors).encode().ljust(length)

    @classmethod
    def decode(cls, header: bytes, size: int) -> _Header:
        """The header of a whole file of `size` bytes.

        Raises:
            ValueError: the file is not whole.
        """
        try:
            tensors = json.loads(header[8:])
            metadata = tensors["__metadata__"]
            found = cls(
                tuple(map(int, tensors["pixels"]["shape"])),
                int(tensors["notes"]["shape"][0]),
                str(metadata["sha256"]),
                int(metadata["modified"]),
            )
        except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            raise ValueError("its header cannot be read") from error
        if len(found.shape) != 4 or header != found.encode():
            raise ValueError("its header is not the one that was written")
        if size != found.size:
            raise ValueError(f"it has {size} bytes where its header announces {found.size}")
        return found


def _write(out: io.FileIO, images: Iterable[Item], folder: Path) -> None:
    """Everything, one image after another. The header comes last, when their number is known."""
    first: tuple[int, ...] | None = None
    labels, notes, digest = array("q"), [], hashlib.sha256()
    with _explained(folder):
        out.seek(HEADER)
    for item in images:
        if isinstance(item, str):
            notes.append(item)
            continue
        image, label = item
        pixels = np.ascontiguousarray(image)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.size == 0:
            raise DataError(
                f"Image {len(labels)} must be uint8 of shape (C, H, W), not {pixels.dtype} of shape {pixels.shape}."
            )
        if first is None:
            first = pixels.shape
        if pixels.shape != first:
            raise DataError(f"Image {len(labels)} is of shape {pixels.shape}, those before it of {first}.")
        digest.update(pixels.data)
        with _explained(folder):
            _write_all(out, pixels.data)
        labels.append(label)
    if first is None:
        raise DataError("There is no image to keep.")
    noted = json.dumps(notes).encode()
    # An even second: file systems that keep time no better than to two of them exist.
    modified = time.time_ns() // 2_000_000_000 * 2_000_000_000
    with _explained(folder):
        for data in (memoryview(labels), memoryview(noted)):
            digest.update(data)
            _write_all(out, data)
        out.seek(0)
        header = _Header((len(labels), *first), len(noted), digest.hexdigest(), modified)
        _write_all(out, memoryview(header.encode()))
        os.utime(out.fileno(), ns=(time.time_ns(), modified))


def _open(file: Path, warn: bool = False) -> CachedSplit | None:
    """Map a file. None if it does not exist, or is not whole."""
    try:
        with file.open("rb") as opened:
            status = os.fstat(opened.fileno())
            size = status.st_size
            header = _Header.decode(opened.read(HEADER), size)
            n, *shape = header.shape
            if status.st_mtime_ns != header.modified:
                opened.seek(HEADER)
                if hashlib.file_digest(opened, "sha256").hexdigest() != header.sha256:
                    raise ValueError("it has been changed")
            # When it was last asked for, for `clean_cache`; whether it may be noted matters to nobody else.
            with contextlib.suppress(OSError):
                os.utime(opened.fileno(), ns=(time.time_ns(), header.modified))
            # Private and writable: torch warns of memory that it may not write to, and a stray write would be fatal.
            flags, access = mmap.MAP_PRIVATE | MAP_NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE
            mapping = mmap.mmap(opened.fileno(), size, flags=flags, prot=access)
    except FileNotFoundError:
        return None
    except ValueError as error:
        if warn:
            log.warning("%s is damaged (%s) and is made again.", file, error)
        return None
    count = n * math.prod(shape)
    pixels = torch.frombuffer(mapping, dtype=torch.uint8, offset=HEADER, count=count)
    labels = torch.frombuffer(mapping, dtype=torch.uint8, offset=HEADER + count, count=8 * n)
    return CachedSplit(
        pixels.view(n, *shape),
        labels.clone().view(torch.int64),  # they lie wherever the pixels end: only a copy is aligned
        header.sha256,
        file=file,
        notes=tuple(json.loads(mapping[size - header.notes :])),
    )


def _write_all(out: io.FileIO, data: memoryview) -> None:
    """Unbuffered, so that every failure shows here and none when the file is closed. One call may write a part only."""
    rest = data.cast("B")
    while rest:
        rest = rest[out.write(rest) :]


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Say what a failure of the file system means here."""
    try:
        yield
    except OSError as error:
        advice = "Set XDG_CACHE_HOME to a folder with more room, or one that can be written."
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(f"The disk is full: decoded images are kept in {folder}. {advice}") from error
        raise DataError(f"Decoded images cannot be kept in {folder}: {error.strerror or error}. {advice}") from error


# --- whose it is


def _claim(partial: Path) -> io.FileIO:
    """The unfinished file, empty and locked until it is closed or this process ends.

    Raises:
        DataError: another process has it and has not written to it for `PATIENCE` seconds.
    """
    while True:
        with contextlib.ExitStack() as closing:
            out = closing.enter_context(io.FileIO(os.open(partial, os.O_RDWR | os.O_CREAT, 0o666), "r+"))
            _lock(out, partial)
            # Between the opening and the locking, its owner may have renamed it, or somebody taken it for an orphan.
            if _is_at(out, partial):
                out.truncate(0)
                closing.pop_all()
                return out


def _lock(out: io.FileIO, partial: Path) -> None:
    size, since, told = -1, 0.0, False
    while not _try_lock(out):
        now = os.fstat(out.fileno()).st_size
        if now != size:
            size, since = now, time.monotonic()
        elif time.monotonic() - since > PATIENCE:
            raise DataError(
                f"Another process has {partial} locked and has not written to it for {PATIENCE:.0f} seconds. End it."
            )
        if not told:
            log.info("Another process is decoding the same images into %s; waiting for it.", partial)
            told = True
        time.sleep(POLL)


def _remove_orphans(folder: Path) -> None:
    """Remove the unfinished files of processes that are no more."""
    for partial in folder.glob("*.partial"):
        # Whatever goes wrong, it is somebody else's file and no reason to stop.
        with contextlib.suppress(OSError), partial.open("r+b", buffering=0) as left:
            if _try_lock(left) and _is_at(left, partial):
                partial.unlink()


def _try_lock(file: io.FileIO) -> bool:
    import fcntl  # Windows has none, and need not fail before this is called

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(file: io.FileIO, path: Path) -> bool:
    """Whether an open file still is the one at `path`."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
