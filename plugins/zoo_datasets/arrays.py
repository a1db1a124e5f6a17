"""Images as arrays in a file: checked and converted once into the cache, and mapped into memory from then on."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import pickle
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from zoo import DataError, Dataset, DataUnavailable, Split
from zoo_datasets.cache import cached_images
from zoo_datasets.own import Fraction, Place, Seed, absolute, digest, place, split

log = logging.getLogger("zoo")

VERSION = 1  # of the conversion; another one makes every file be read again
CHANNELS = (1, 3)  # what an axis of channels is known by
SAVE = 'Save it with torch.save({"images": images, "labels": labels}, PATH).'
CHUNK = 2**24  # numbers looked at together
NO_LABEL = -1
DAMAGE = (OSError, ValueError, EOFError, RuntimeError, KeyError, OverflowError, TypeError, AttributeError, IndexError)
"""What numpy and torch raise on damaged files."""
SLACK = 1e-5  # what rounding may have added to a number in [0, 1]

Layout = Literal["auto", "nhw", "nhwc", "nchw"]
Array = NDArray[Any]

IMAGES = ("images", "x", "data", "pixels", "train_images", "x_train", "images_train", "train")
TEST_IMAGES = ("test_images", "x_test", "images_test", "test")
LABELS = ("labels", "y", "targets", "train_labels", "y_train", "labels_train")
TEST_LABELS = ("test_labels", "y_test", "labels_test")


def arrays(
    path: Place,
    images: str | None = None,
    labels: str | None = None,
    test_images: str | None = None,
    test_labels: str | None = None,
    layout: Literal["auto", "nhw", "nhwc", "nchw"] = "auto",
    test_fraction: Fraction = 0.1,
    split_seed: Seed = 0,
) -> Dataset:
    """Images in a file of NumPy (``.npy``, ``.npz``) or of PyTorch (``.pt``, ``.pth``). No pickle in one is ever run.

    Several arrays in one file have names; ``.pt`` files hold a tensor, a dictionary of tensors, or a pair of images and
    labels. By default the images are the one called ``images``, ``x``, ``data``, ``pixels``, ``train_images``,
    ``x_train``, ``images_train`` or ``train``, or the only array there is; test images ``test_images``, ``x_test``,
    ``images_test`` or ``test``; labels ``labels``, ``y``, ``targets``, or the like of ``train_images``. Capitals do not
    matter.

    Pixels are uint8, or bool, or floats in [0, 1], which are rounded to the nearest of the 256 levels i/255. Anything
    else is refused, with the first image that is wrong. The shape is (N, H, W), (N, H, W, C) or (N, C, H, W). With four
    axes, that of the channels is the second or the last, whichever alone has 1 or 3 entries; a shape that leaves a
    doubt is refused, and the layout must be given.

    Args:
        path: the file; ``~`` is your home.
        images, labels, test_images, test_labels: what the arrays are called in it.
        layout: of the axes.
        test_fraction: the fraction of test images where the file has none of its own; as in `folder`.
        split_seed: which ones those are. It depends on this and on an image's index alone.

    Raises:
        DataUnavailable: there is no such file.
        DataError: it is damaged, or what is in it cannot be taken for images and labels; the message says why, and what
            to write.
    """
    file = Path(absolute(path))
    if not file.is_file():
        raise DataUnavailable(f"{file} is {'no file' if file.exists() else 'not there'}.")
    found = _open(file)
    trained = _find(file, found, "images", images, IMAGES)
    tested = _find(file, found, "test_images", test_images, TEST_IMAGES)
    if trained is None:
        raise DataError(f"{file} holds {_names(found)}. Say which are the images: data.images=NAME.")
    train_labels = _find(file, found, "labels", labels, LABELS)
    of_tests = _find(file, found, "test_labels", test_labels, TEST_LABELS) if tested is not None else None
    status = file.stat()
    state = digest(str(file.resolve()), str(status.st_size), str(status.st_mtime_ns)).hex()

    def kept(name: str, named: str | None, seed: int | None) -> tuple[Split, Path]:
        key = f"arrays {VERSION} {name!r} {named!r} {layout} {seed} {state}"
        source = _Source(file, name, found[name], None if named is None else (named, found[named]))
        cached = cached_images(key, _converted(source, layout, seed))
        assert cached.labels is not None
        unlabelled = bool((cached.labels == NO_LABEL).all())
        return Split(cached.x, None if unlabelled else cached.labels, cached.digest), cached.file

    if tested is not None:
        (train, first), (test, second) = kept(trained, train_labels, None), kept(tested, of_tests, None)
        return Dataset(train, test, cache=(first, second))
    every, at = kept(trained, train_labels, split_seed)
    if len(every) < 2:
        raise DataError(f"{file} holds one image: there must be one to train on and one to test on.")
    every = replace(every, index=torch.tensor(_shuffled(len(every), split_seed)))
    train, test = split(every, test_fraction)
    return Dataset(train, test, cache=(at,))


def converted(name: str, pixels: Array, labels: Array | None, layout: Layout) -> Split:
    """Images of an array in memory, by the rules of a file; `pixels` is not kept.

    Raises:
        DataError: they cannot be taken for images and labels; the message says why.
    """
    source = _Source(Path("data"), name, lambda: pixels, None if labels is None else ("labels", lambda: labels))
    images = _as_nchw(source, pixels, layout)
    checked = _checked_labels(source, len(images))
    _check_range(source, images)
    levels = np.empty(images.shape, np.uint8)
    for level, image in zip(levels, images, strict=True):
        level[...] = _bytes(image)
    return Split(torch.from_numpy(levels), None if checked is None else torch.from_numpy(checked.astype(np.int64)))


# --- what is in the file


Loader = Callable[[], Array]


def _open(file: Path) -> dict[str, Loader]:
    """The arrays in a file, by name; each is read when it is called."""
    with _explained(file):
        if file.suffix.lower() in (".npy", ".npz"):
            return _numpy_file(file)
        archive = zipfile.is_zipfile(file)
        if archive:
            _require_real(file)
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=archive)
    tensors = _tensors(content)
    if not tensors:
        raise DataError(f"{file} holds no tensor. {SAVE}")
    return {name: partial(_as_array, file, tensor) for name, tensor in tensors.items()}


def _numpy_file(file: Path) -> dict[str, Loader]:
    with file.open("rb") as opened:  # numpy leaves a damaged archive open
        magic = opened.read(6)
        if magic.startswith(b"PK"):
            opened.seek(0)
            return {name: partial(_member, file, name) for name in np.load(opened, allow_pickle=False).files}
        if magic == np.lib.format.MAGIC_PREFIX:
            opened.seek(0)
            size, rest = _declared(opened), file.stat().st_size - opened.tell()
            if size is not None and size > rest:
                raise ValueError(f"it should have {size} bytes and has {rest}")
    mapped = np.load(file, mmap_mode="r", allow_pickle=False)
    return {"images": lambda: mapped}


def _member(file: Path, name: str) -> Array:
    with _explained(file), np.load(file, allow_pickle=False) as archive:
        # numpy takes memory for as many bytes as a header declares before it reads the first of them.
        info = archive.zip.getinfo(name if name in archive.zip.namelist() else f"{name}.npy")
        with archive.zip.open(info) as member:
            size, start = _declared(member), member.tell()
        if size is not None and size != info.file_size - start:
            raise ValueError(f"{name} should have {size} bytes and has {info.file_size - start}")
        _require_room(file, name, info.file_size)
        array: Array = archive[name]
        return array


def _declared(file: IO[bytes]) -> int | None:
    """The bytes of an array by its own header, or None for Python objects. The file is left where they begin."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return None if dtype.hasobject else math.prod(shape) * dtype.itemsize


def _require_room(file: Path, name: str, size: int) -> None:
    """Of a compressed array, that it fits into memory.

    Raises:
        DataError: it does not.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > memory:
        raise DataError(
            f"{file}: {name} takes {size / 1e9:.1f} GB of memory when it is decompressed, of {memory / 1e9:.1f} GB "
            "here. Save it alone with np.save as a .npy file, which is read in parts."
        )


def _require_real(file: Path) -> None:
    """Of an archive of PyTorch's, that it holds no more than the file has bytes: it is never compressed.

    Raises:
        ValueError: it claims to.
    """
    with zipfile.ZipFile(file) as archive:
        claimed = sum(info.file_size for info in archive.infolist())
    if claimed > file.stat().st_size:
        raise ValueError(f"its entries claim {claimed} bytes, more than the file has")


@contextlib.contextmanager
def _explained(file: Path) -> Iterator[None]:
    """Say what is wrong with a file that cannot be read."""
    try:
        yield
    except pickle.UnpicklingError as error:
        raise DataError(f"{file} is damaged, or holds more than tensors, which is never run. {SAVE}") from error
    except MemoryError as error:
        raise DataError(f"{file} claims to hold an array that does not fit into memory.") from error
    except (*DAMAGE, zipfile.BadZipFile, zlib.error) as error:
        if "allow_pickle" in str(error) or "Python objects" in str(error):
            raise DataError(
                f"{file} holds Python objects, which are never unpickled. Save an array of numbers, such as "
                "np.stack(list(array)).astype(np.uint8)."
            ) from error
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{file} is damaged, or no {file.suffix} file: {reason}") from error


def _tensors(content: Any) -> dict[str, torch.Tensor]:
    """The tensors in what a ``.pt`` file holds."""
    if isinstance(content, torch.Tensor):
        return {"images": content}
    if isinstance(content, (tuple, list)) and len(content) == 2:
        content = {"images": content[0], "labels": content[1]}
    if not isinstance(content, Mapping):
        return {}
    return {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}


def _as_array(file: Path, tensor: torch.Tensor) -> Array:
    """A tensor as an array.

    Raises:
        DataError: it has no numbers of its own, or shows those it has many times over: a file of a kilobyte can hold a
            tensor of a terabyte.
    """
    if tensor.layout == torch.strided and tensor.device.type == "cpu":
        size, real = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
        if size > real:
            raise DataError(
                f"{file}: a tensor of shape {tuple(tensor.shape)} would take {size} bytes and has {real}: it is an "
                "expanded view. Save tensor.clone(memory_format=torch.contiguous_format)."
            )
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    try:
        array: Array = tensor.detach().numpy()
    except (TypeError, RuntimeError) as error:
        raise DataError(f"{file}: a tensor of {tensor.dtype}, {tensor.layout}, cannot be taken for images.") from error
    return array


def _find(file: Path, found: Mapping[str, Loader], role: str, name: str | None, usual: Sequence[str]) -> str | None:
    """The name of the array that plays a role: the given one, or one of the usual."""
    if name is not None:
        if name not in found:
            raise DataError(f"{file} has no {name!r}: it holds {_names(found)}. Write data.{role}=NAME.")
        return name
    candidates = [name for name in found if name.lower() in usual]
    if len(candidates) > 1:
        raise DataError(f"{file} holds {' and '.join(candidates)}. Say which it is: data.{role}=NAME.")
    if not candidates and role == "images" and len(found) == 1:
        return next(iter(found))
    return candidates[0] if candidates else None


def _names(found: Mapping[str, Loader]) -> str:
    return ", ".join(found) or "nothing"


# --- what becomes of it


class _Source(NamedTuple):
    """Where images come from: a file, the name of the array and the array, and those of its labels."""

    file: Path
    name: str
    pixels: Loader
    labels: tuple[str, Loader] | None

    @property
    def place(self) -> str:
        return f"{self.file}: {self.name}"


def _converted(source: _Source, layout: Layout, seed: int | None) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """Every image with its label, in the order of the split, or in their own if there is no seed."""
    pixels = _as_nchw(source, source.pixels(), layout)
    labels = _checked_labels(source, len(pixels))
    log.info("Reading %d images in %s, this once.", len(pixels), source.place)
    _check_range(source, pixels)
    for i in range(len(pixels)) if seed is None else _shuffled(len(pixels), seed):
        yield _bytes(pixels[i]), NO_LABEL if labels is None else int(labels[i])


def _shuffled(n: int, seed: int) -> list[int]:
    """The images in the order of the split."""
    return sorted(range(n), key=lambda i: place(seed, str(i)))


def _as_nchw(source: _Source, pixels: Array, layout: Layout) -> Array:
    """The array with axes (N, C, H, W)."""
    shape = pixels.shape
    if pixels.dtype != np.uint8 and pixels.dtype != np.bool_ and pixels.dtype.kind != "f":
        hint = (
            " If they are levels from 0 to 255, convert them with .astype(np.uint8)."
            if pixels.dtype.kind in "iu"
            else ""
        )
        raise DataError(
            f"{source.place} is an array of {pixels.dtype}; images are uint8, bool, or floats in [0, 1].{hint}"
        )
    if 0 in shape:
        raise DataError(f"{source.place} is of shape {shape}: there is no image in it.")
    axes = {"nhw": 3, "nhwc": 4, "nchw": 4}
    if layout == "auto":
        layout = _guess(source, shape)
    elif axes[layout] != len(shape):
        raise DataError(f"{source.place} is of shape {shape}, which is not {layout}: that has {axes[layout]} axes.")
    if layout == "nhw":
        return pixels[:, None]
    return pixels.transpose(0, 3, 1, 2) if layout == "nhwc" else pixels


def _guess(source: _Source, shape: tuple[int, ...]) -> Layout:
    if len(shape) == 3 and shape[-1] not in (*CHANNELS, 4):
        return "nhw"
    if len(shape) == 3:
        raise DataError(
            f"{source.place} is of shape {shape}: a single image, or {shape[0]} that are {shape[2]} pixels wide? "
            "If the latter, write data.layout=nhw."
        )
    if len(shape) == 4:
        first, last = shape[1] in CHANNELS, shape[3] in CHANNELS
        if first != last:
            return "nchw" if first else "nhwc"
        raise DataError(
            f"{source.place} is of shape {shape}, in which {'either' if first else 'neither'} the second "
            f"{'or' if first else 'nor'} the last axis can be that of 1 or 3 channels. "
            "Write data.layout=nhwc, or data.layout=nchw."
        )
    raise DataError(
        f"{source.place} is of shape {shape}; images are (N, H, W), (N, H, W, C) or (N, C, H, W). "
        "Save it with .reshape(-1, HEIGHT, WIDTH)."
    )


def _check_range(source: _Source, pixels: Array) -> None:
    """Floats must be numbers in [0, 1].

    Raises:
        DataError: they are not; with the first image and the first of its pixels that is wrong.
    """
    if pixels.dtype.kind != "f":
        return
    step = max(1, CHUNK // pixels[0].size)
    for start in range(0, len(pixels), step):
        chunk = pixels[start : start + step]
        wrong = ~((chunk >= -SLACK) & (chunk <= 1 + SLACK))  # this way round, NaN is wrong
        if wrong.any():
            i, *where = (int(index[0]) for index in np.nonzero(wrong))
            value = float(chunk[(i, *where)])
            finite = chunk[np.isfinite(chunk)]
            least, greatest = float(finite.min(initial=0)), float(finite.max(initial=0))
            hint = " Are they levels up to 255? Divide by 255, or make them uint8." if 1 < greatest <= 255 else ""
            hint = " Are they in [-1, 1]? Save (x + 1) / 2." if -1 <= least < 0 else hint
            raise DataError(
                f"{source.place}: image {start + i} has the value {value:g} at channel, row and column {where}; "
                f"floats must lie in [0, 1].{hint}"
            )


def _bytes(image: Array) -> NDArray[np.uint8]:
    """(C, H, W) as levels from 0 to 255."""
    if image.dtype == np.uint8:
        return image
    if image.dtype == np.bool_:
        return image.astype(np.uint8) * np.uint8(255)
    return np.rint(np.clip(image.astype(np.float32), 0, 1) * 255).astype(np.uint8)


def _checked_labels(source: _Source, n: int) -> Array | None:
    if source.labels is None:
        return None
    name, load = source.labels
    labels = load()
    if labels.shape == (n, 1):
        labels = labels[:, 0]
    if labels.dtype.kind not in "iu" or labels.shape != (n,):
        raise DataError(
            f"{source.file}: {name} is an array of {labels.dtype} of shape {labels.shape}; the labels of {n} images "
            f"are whole numbers from 0 of shape ({n},)."
        )
    if (wrong := np.nonzero(labels < 0)[0]).size:
        raise DataError(f"{source.file}: {name} has the label {labels[wrong[0]]} at {wrong[0]}; they count from 0.")
    return labels
