"""Arrays in files of NumPy and PyTorch, stream lazily and checked against their headers. No pickle is ever run."""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray

from zoo import DataError

SAVE = 'Save it with torch.save({"images": images, "labels": labels}, PATH).'
DAMAGE = (OSError, ValueError, EOFError, RuntimeError, KeyError, OverflowError, TypeError, AttributeError, IndexError)
"""What numpy and torch raise on damaged files."""

Array = NDArray[Any]
Loader = Callable[[], Array]


def open_arrays(file: Path) -> dict[str, Loader]:
    """Open a file. Each array is read when its loader is called.

    Raises:
        DataError: the file is damaged, holds no arrays, or holds Python objects.
    """
    with _explain_damage(file):
        if file.suffix.lower() in (".npy", ".npz"):
            return _numpy_file(file)
        archive = zipfile.is_zipfile(file)
        if archive:
            _require_true_sizes(file)
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=archive)
    tensors = _tensors(content)
    if not tensors:
        raise DataError(f"{file} holds no tensors. {SAVE}")
    return {name: partial(_as_array, file, tensor) for name, tensor in tensors.items()}


def _numpy_file(file: Path) -> dict[str, Loader]:
    with file.open("rb") as stream:  # numpy would leave a damaged archive open
        magic = stream.read(6)
        if magic.startswith(b"PK"):
            stream.seek(0)
            return {name: partial(_member, file, name) for name in np.load(stream, allow_pickle=False).files}
        if magic == np.lib.format.MAGIC_PREFIX:
            stream.seek(0)
            size, rest = _stated_size(stream), file.stat().st_size - stream.tell()
            if size is not None and size > rest:
                raise ValueError(f"its header states {size} bytes of data, and {rest} follow")
    mapped = np.load(file, mmap_mode="r", allow_pickle=False)
    return {"images": lambda: mapped}


def _member(file: Path, name: str) -> Array:
    with _explain_damage(file), np.load(file, allow_pickle=False) as archive:
        # numpy allocates as many bytes as the header states before it reads any.
        info = archive.zip.getinfo(name if name in archive.zip.namelist() else f"{name}.npy")
        with archive.zip.open(info) as member:
            size, start = _stated_size(member), member.tell()
        if size is not None and size != info.file_size - start:
            raise ValueError(f"the header of {name} states {size} bytes of data, and {info.file_size - start} follow")
        _require_room(file, name, info.file_size)
        array: Array = archive[name]
        return array


def _stated_size(file: IO[bytes]) -> int | None:
    """The size of an array in bytes as its header states it, or None for Python objects. Moves the file to its data."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return None if dtype.hasobject else math.prod(shape) * dtype.itemsize


def _require_room(file: Path, name: str, size: int) -> None:
    """Require that a compressed array fits into memory.

    Raises:
        DataError: it does not fit.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > memory:
        raise DataError(
            f"{file}: {name} takes {size / 1e9:.1f} GB when it is decompressed, and this machine has "
            f"{memory / 1e9:.1f} GB of memory. Save it with np.save as a .npy file, which is memory-mapped."
        )


def _require_true_sizes(file: Path) -> None:
    """Require that the entries of a PyTorch archive, which are not compressed, are no larger than the file.

    Raises:
        ValueError: they claim to be larger.
    """
    with zipfile.ZipFile(file) as archive:
        claimed = sum(info.file_size for info in archive.infolist())
    if claimed > file.stat().st_size:
        raise ValueError(f"its entries claim {claimed} bytes, more than the file has")


@contextlib.contextmanager
def _explain_damage(file: Path) -> Iterator[None]:
    """Turn an error of numpy or torch into a `DataError` that names the file."""
    try:
        yield
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{file} is damaged, or holds objects other than tensors, which are never unpickled. {SAVE}"
        ) from error
    except MemoryError as error:
        raise DataError(f"{file} states an array that does not fit into memory.") from error
    except (*DAMAGE, zipfile.BadZipFile, zlib.error) as error:
        if "allow_pickle" in str(error) or "Python objects" in str(error):
            raise DataError(
                f"{file} holds Python objects, which are never unpickled. Save an array of numbers, for example "
                "np.stack(list(array)).astype(np.uint8)."
            ) from error
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{file} is damaged or is not a {file.suffix} file: {reason}") from error


def _tensors(content: Any) -> dict[str, torch.Tensor]:
    """The tensors in the content of a ``.pt`` file, by name."""
    if isinstance(content, torch.Tensor):
        return {"images": content}
    if isinstance(content, (tuple, list)) and len(content) == 2:
        content = {"images": content[0], "labels": content[1]}
    if not isinstance(content, Mapping):
        return {}
    return {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}


def _as_array(file: Path, tensor: torch.Tensor) -> Array:
    """Convert a tensor to an array.

    Raises:
        DataError: it is an expanded view, with which a file of a kilobyte can hold a tensor of a terabyte; or numpy has
            no such dtype or layout.
    """
    if tensor.layout == torch.strided and tensor.device.type == "cpu":
        size, real = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
        if size > real:
            raise DataError(
                f"{file}: a tensor of shape {tuple(tensor.shape)} is an expanded view of {real} bytes as {size}. "
                "Save tensor.clone(memory_format=torch.contiguous_format)."
            )
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    try:
        array: Array = tensor.detach().numpy()
    except (TypeError, RuntimeError) as error:
        raise DataError(
            f"{file}: a tensor of {tensor.dtype} with layout {tensor.layout} cannot be used as images."
        ) from error
    return array
