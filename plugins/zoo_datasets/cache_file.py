"""The file format of the image cache: a safetensors file with a header of fixed size, written once and mapped."""

from __future__ import annotations

import contextlib
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

from zoo import DataError, Split

log = logging.getLogger("zoo")

HEADER = 4096  # bytes in front of the pixels, which therefore start on a page

Item = tuple[Tensor | NDArray[np.uint8], int] | str
"""An image (C, H, W) with its label, or a note."""

# Without it, Linux refuses a private mapping larger than memory and swap. Python does not export the flag.
MAP_NORESERVE = 0x4000 if sys.platform == "linux" else 0


@dataclass(frozen=True, eq=False)
class CachedSplit(Split):
    """Images that are memory-mapped from a file.

    Attributes:
        file: the mapped file.
        notes: the notes stored with the images.
    """

    file: Path = Path()
    notes: tuple[str, ...] = ()


class _Header(NamedTuple):
    """The header of a file.

    Attributes:
        shape: (N, C, H, W).
        notes: size of the notes, in bytes.
        sha256: digest of everything after the header.
        modified: modification time (ns) at which the digest was computed.
    """

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
    def decode(cls, content: bytes, size: int) -> _Header:
        """Read the header of a complete file of `size` bytes.

        Raises:
            ValueError: the file is incomplete or altered.
        """
        try:
            tensors = json.loads(content[8:])
            metadata = tensors["__metadata__"]
            header = cls(
                tuple(map(int, tensors["pixels"]["shape"])),
                int(tensors["notes"]["shape"][0]),
                str(metadata["sha256"]),
                int(metadata["modified"]),
            )
        except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            raise ValueError("its header cannot be read") from error
        if len(header.shape) != 4 or content != header.encode():
            raise ValueError("its header has been altered")
        if size != header.size:
            raise ValueError(f"it has {size} bytes, and its header states {header.size}")
        return header


def write_images(out: io.FileIO, images: Iterable[Item], folder: Path) -> None:
    """Write images one by one, then their labels and notes, and the header last, when their number is known.

    Raises:
        DataError: an image has another shape or dtype, there is none, or the disk is full.
    """
    shape: tuple[int, ...] | None = None
    labels, notes, digest = array("q"), [], hashlib.sha256()
    with explain_os_errors(folder):
        out.seek(HEADER)
    for item in images:
        if isinstance(item, str):
            notes.append(item)
            continue
        image, label = item
        pixels = np.ascontiguousarray(image)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.size == 0:
            raise DataError(
                f"Image {len(labels)} has dtype {pixels.dtype} and shape {pixels.shape}; expected uint8 (C, H, W)."
            )
        if shape is None:
            shape = pixels.shape
        if pixels.shape != shape:
            raise DataError(f"Image {len(labels)} has shape {pixels.shape}; the images before it have {shape}.")
        digest.update(pixels.data)
        with explain_os_errors(folder):
            _write_all(out, pixels.data)
        labels.append(label)
    if shape is None:
        raise DataError("There are no images to cache.")
    note_bytes = json.dumps(notes).encode()
    # An even second: some file systems store times with a resolution of two seconds.
    modified = time.time_ns() // 2_000_000_000 * 2_000_000_000
    with explain_os_errors(folder):
        for data in (memoryview(labels), memoryview(note_bytes)):
            digest.update(data)
            _write_all(out, data)
        out.seek(0)
        header = _Header((len(labels), *shape), len(note_bytes), digest.hexdigest(), modified)
        _write_all(out, memoryview(header.encode()))
        os.utime(out.fileno(), ns=(time.time_ns(), modified))


def open_cached(file: Path, warn: bool = False) -> CachedSplit | None:
    """Map a file, or return None if it does not exist or is damaged.

    Args:
        warn: log a warning if it is damaged.
    """
    try:
        with file.open("rb") as stream:
            status = os.fstat(stream.fileno())
            size = status.st_size
            header = _Header.decode(stream.read(HEADER), size)
            n, *shape = header.shape
            if status.st_mtime_ns != header.modified:
                stream.seek(HEADER)
                if hashlib.file_digest(stream, "sha256").hexdigest() != header.sha256:
                    raise ValueError("its content has changed")
            # Record the last use for `clean_cache`. Reading works without it.
            with contextlib.suppress(OSError):
                os.utime(stream.fileno(), ns=(time.time_ns(), header.modified))
            # Private and writable: torch warns about read-only memory, and a stray write to it would be fatal.
            flags, access = mmap.MAP_PRIVATE | MAP_NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE
            mapping = mmap.mmap(stream.fileno(), size, flags=flags, prot=access)
    except FileNotFoundError:
        return None
    except ValueError as error:
        if warn:
            log.warning("%s is damaged (%s); decoding the images again.", file, error)
        return None
    count = n * math.prod(shape)
    pixels = torch.frombuffer(mapping, dtype=torch.uint8, offset=HEADER, count=count)
    labels = torch.frombuffer(mapping, dtype=torch.uint8, offset=HEADER + count, count=8 * n)
    return CachedSplit(
        pixels.view(n, *shape),
        labels.clone().view(torch.int64),  # only a copy is aligned
        header.sha256,
        file=file,
        notes=tuple(json.loads(mapping[size - header.notes :])),
    )


def _write_all(out: io.FileIO, data: memoryview) -> None:
    """Write without a buffer, so that every failure shows here. One call to `write` may write only a part."""
    rest = data.cast("B")
    while rest:
        rest = rest[out.write(rest) :]


@contextlib.contextmanager
def explain_os_errors(folder: Path) -> Iterator[None]:
    """Turn a failure of the file system into a `DataError` that says what to do."""
    try:
        yield
    except OSError as error:
        advice = "Set XDG_CACHE_HOME to a writable folder with enough space."
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(f"The disk is full: cannot cache decoded images in {folder}. {advice}") from error
        raise DataError(f"Cannot cache decoded images in {folder}: {error.strerror or error}. {advice}") from error
