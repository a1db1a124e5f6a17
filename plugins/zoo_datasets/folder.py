"""A folder of images: decoded once into the cache, and mapped into memory from then on."""

from __future__ import annotations

import io
import logging
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ExifTags import Base as Exif
from pydantic import PositiveInt

from zoo import DataError, Dataset, DataUnavailable, Split, cached_images
from zoo_datasets.own import Fraction, Place, Seed, absolute, digest, place, split
from zoo_datasets.threads import in_order

log = logging.getLogger("zoo")

ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")  # whatever the ending says; nothing else is ever tried
GREY = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")
SIDEWAYS = (5, 6, 7, 8)  # the EXIF orientations that swap height and width
SMALL = 64  # pixels; images of several sizes, most of them larger, become squares of this side
VERSION = 2  # of the decoding; another one makes every folder be decoded again

Mode = Literal["auto", "grey", "rgb"]
Size = tuple[int, int] | None


def folder(
    path: Place,
    size: tuple[PositiveInt, PositiveInt] | None = None,
    mode: Literal["auto", "grey", "rgb"] = "auto",
    test_fraction: Fraction = 0.1,
    split_seed: Seed = 0,
) -> Dataset:
    """The images in a folder and in the folders below it: BMP, GIF, JPEG, PNG, TIFF and WebP.

    Hidden files and links to folders are passed over. If every image lies in a subfolder, the subfolders of `path` are
    the labels, numbered by name. They are decoded when they are first used, and again when a file is added, removed or
    changed (by its size and time of modification) or when they are wanted in another way; else the cache has them.

    What becomes of an image, in this order:

    - Of several frames or pages, the first counts. A rotation written in its EXIF data is applied.
    - 16 bits become 8: grey ones as value / 257, rounded; of colours Pillow keeps the high byte.
    - Palettes are expanded, CMYK and others become RGB. Transparent pixels are laid over black.
    - Colour becomes grey by the luma of ITU-R 601; grey becomes RGB with three equal channels.
    - With a size, it is scaled (bicubic, antialiased) until it just covers the size, and cropped around its centre.
      Large JPEGs are first decoded at a half, a quarter or an eighth, still twice the size at least.

    Files that cannot be decoded, and pixels of 32 bits, whose range nobody knows, are left out. That is a warning each
    time, with their number, the first of them and the reasons; ``zoo data`` lists all.

    Args:
        path: the folder; ``~`` is your home.
        size: [height, width] of every image; by default their own, if all have the same. If not, it is the one that
            most of them have; or [64, 64], where that one is larger. What was found is logged.
        mode: ``grey``, ``rgb``, or ``auto``: grey if all are stored in grey, else rgb. Grey of 16 bits with an alpha
            channel passes for RGB with Pillow, and so it does here.
        test_fraction: the fraction of test images, rounded; at least one image on either side.
        split_seed: which ones those are. An image's place depends on this and its path below the folder alone, so
            that few change sides when images are added, and none when the folder moves.

    Raises:
        DataUnavailable: there is no such folder.
        DataError: there is no image in it, or only one, or none that can be decoded; the cache cannot be written.
    """
    root = Path(absolute(path))
    files, unreadable = _list(root, split_seed)
    kept = cached_images(_key(root, files, size, mode), _decoded(root, files, size, mode))
    assert kept.labels is not None  # of each image, its place among the files
    decoded = [files[i].name for i in kept.labels.tolist()]
    left_out = sorted([*unreadable, *kept.notes])
    _warn(root, left_out, len(files) + len(unreadable))
    if len(decoded) < 2:
        raise DataError(f"{root} holds one image, {decoded[0]}: there must be one to train on and one to test on.")
    labels, names = _labels(decoded)
    train, test = split(Split(kept.x, labels, kept.digest), test_fraction)
    return Dataset(train, test, label_names=names, left_out=tuple(left_out), cache=(kept.file,))


class _File(NamedTuple):
    """An image file: its path below the folder, with slashes, and what tells that it has changed."""

    name: str
    bytes: int
    modified: int


def _list(root: Path, seed: int) -> tuple[list[_File], list[str]]:
    """The image files in the order of the split, and those that cannot be read at all, with the reason."""
    if not root.is_dir():
        raise DataUnavailable(f"{root} is {'no folder' if root.exists() else 'not there'}.")

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}.")

    files, unreadable = [], []
    for parent, subfolders, names in os.walk(root, onerror=refuse):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        below = "" if Path(parent) == root else Path(parent).relative_to(root).as_posix() + "/"
        for name in names:
            if name.startswith(".") or not name.lower().endswith(ENDINGS):
                continue
            at = os.path.join(parent, name)  # noqa: PTH118 (a Path for each of a million files takes seconds)
            # Rights are not left to the decoding: one that is granted later changes no time of modification.
            if not os.path.exists(at):  # noqa: PTH110
                unreadable.append(f"{below}{name}: is a link to nothing")
            elif not stat.S_ISREG((status := os.stat(at)).st_mode):  # noqa: PTH116
                unreadable.append(f"{below}{name}: is no regular file")
            elif not os.access(at, os.R_OK):
                unreadable.append(f"{below}{name}: may not be read")
            else:
                files.append(_File(below + name, status.st_size, status.st_mtime_ns))
    if not files:
        _warn(root, sorted(unreadable), len(unreadable))
        raise DataError(f"There is no image in {root}. Looked for files that end in {', '.join(ENDINGS)}.")
    return sorted(files, key=lambda file: place(seed, file.name)), unreadable


def _key(root: Path, files: Iterable[_File], size: Size, mode: Mode) -> str:
    """What determines the pixels and their order, short of reading the files."""
    parts = (f"{file.name}\0{file.bytes}\0{file.modified}" for file in files)
    # The path too: archives unpacked with one time for all can hold different images of the same names and sizes.
    return f"folder {VERSION} {size} {mode} {digest(str(root.resolve()), *parts).hex()}"


def _labels(names: Sequence[str]) -> tuple[torch.Tensor | None, tuple[str, ...]]:
    """The label of each image, if all have one, and what the labels are called."""
    if not all("/" in name for name in names):
        return None, ()
    tops = [name.partition("/")[0] for name in names]
    called = sorted(set(tops))
    number = {top: i for i, top in enumerate(called)}
    return torch.tensor([number[top] for top in tops], dtype=torch.int64), tuple(called)


def _warn(root: Path, left_out: Sequence[str], total: int) -> None:
    if left_out:
        more = f"; and {len(left_out) - 3} more" if len(left_out) > 3 else ""
        log.warning(
            "%d of %d image files in %s cannot be used and are left out. %s%s.",
            *(len(left_out), total, root, "; ".join(left_out[:3]), more),
        )


# --- decoding


def _decoded(
    root: Path, files: Sequence[_File], size: Size, mode: Mode
) -> Iterator[tuple[NDArray[np.uint8], int] | str]:
    """Every image that can be decoded, with its place among the files; a note of every other."""
    log.info("Decoding %d images in %s, this once.", len(files), root)
    places = [root / file.name for file in files]
    if size is None or mode == "auto":
        headers = [header for header in in_order(_header, places) if header is not None]
        if size is None and headers:
            size = _size(root, headers)
        if mode == "auto":
            mode = "grey" if all(header.grey for header in headers) else "rgb"
            log.info("They are taken as %s.", "grey, since all are" if mode == "grey" else "colour images")
    found, reasons = 0, []
    for i, pixels in enumerate(in_order(lambda place: _decode(place, size, mode), places)):
        if isinstance(pixels, str):
            reasons.append(f"{files[i].name}: {pixels}")
            yield reasons[-1]
        else:
            found += 1
            yield pixels, i
    if not found:
        raise DataError(f"None of the {len(files)} image files in {root} can be decoded. {min(reasons)}, for one.")


class _Header(NamedTuple):
    size: tuple[int, int]
    grey: bool


def _header(place: Path) -> _Header | None:
    """(height, width) as it will be seen, and whether it is stored in grey. None if it is no image."""
    try:
        with Image.open(place, formats=FORMATS) as image:
            # The method of the base: that of PNG reads all the pixels to look behind them.
            orientation = Image.Image.getexif(image).get(Exif.Orientation)
            turned = orientation in SIDEWAYS and image.format != "TIFF"  # Pillow turns that one itself
            return _Header(
                image.size if turned else image.size[::-1],
                image.mode in GREY or (image.mode == "P" and _is_grey(image)),
            )
    except Exception:
        return None  # `_decode` says why


def _is_grey(image: Image.Image) -> bool:
    palette = image.getpalette("RGB") or []
    return palette[0::3] == palette[1::3] == palette[2::3]


def _size(root: Path, headers: Iterable[_Header]) -> tuple[int, int]:
    """The size for all, as far as the headers can be read."""
    counts = Counter(header.size for header in headers)
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    size = most[0][0]
    if len(counts) > 1:
        size = size if max(size) <= SMALL else (SMALL, SMALL)
        listed = ", ".join(f"{h}x{w} ({n})" for (h, w), n in most[:3]) + (", ..." if len(most) > 3 else "")
        log.info(
            "They are of %d sizes, height x width (how many): %s. All are scaled and cropped to %dx%d; "
            "for another size add data.size=[HEIGHT,WIDTH].",
            *(len(counts), listed, *size),
        )
    elif max(size) > 4 * SMALL:
        log.info("All are of %dx%d, which takes its time; data.size=[64,64] makes them smaller.", *size)
    return size


def _decode(place: Path, size: Size, mode: Mode) -> NDArray[np.uint8] | str:
    """The pixels, (C, H, W), or the reason why there are none.

    Raises:
        DataError: the disk does not give the file. That may pass, and what is left out stays out of the cache.
    """
    try:
        content = place.read_bytes()
    except OSError as error:
        raise DataError(f"{place} cannot be read: {error.strerror or error}.") from error
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if size is not None:
                image.draft(None, (2 * max(size), 2 * max(size)))  # for JPEG; square, since it may lie on its side
            wide = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
            upright = ImageOps.exif_transpose(image)
            bytewise = _eight_bits(upright) if wide else upright
            seen = _over_black(bytewise).convert("L" if mode == "grey" else "RGB")
            if size is not None:
                seen = ImageOps.fit(seen, size[::-1], Image.Resampling.BICUBIC)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise whatever a damaged file makes them stumble over
        return _reason(content, error)
    pixels = np.asarray(seen)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _reason(content: bytes, error: Exception) -> str:
    """In words, why a file cannot be decoded."""
    if not content:
        return "is empty"
    if isinstance(error, UnidentifiedImageError):
        return f"is no image in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
    if "truncated" in str(error).lower():
        return "is cut off"
    return " ".join(f"cannot be decoded ({error or type(error).__name__})".split())


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey as 8-bit grey. A level that stands for transparency becomes black, as `_over_black` would have it."""
    levels = np.asarray(image).astype(np.uint32)
    levels[levels == image.info.get("transparency", -1)] = 0
    return Image.fromarray(((levels + 128) // 257).astype(np.uint8))


def _over_black(image: Image.Image) -> Image.Image:
    """Without transparency, grey if it was grey."""
    if image.mode in ("I", "F"):
        raise ValueError("pixels of 32 bits have no known range")
    if not image.has_transparency_data:
        return image
    image = image.convert("LA" if image.mode in GREY else "RGBA")
    black = Image.new("L" if image.mode == "LA" else "RGB", image.size)
    black.paste(image.convert(black.mode), mask=image.getchannel("A"))
    return black
