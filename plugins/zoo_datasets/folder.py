"""A folder of images: decoded once into the cache, and mapped into memory from then on."""

from __future__ import annotations

import io
import logging
import os
import stat
import statistics
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.ExifTags import Base as Exif
from pydantic import PositiveInt

from zoo import DataError, Dataset, DataUnavailable, Split
from zoo_datasets.cache import cached_images
from zoo_datasets.failures import FORMATS, reason
from zoo_datasets.own import Fraction, Place, Seed, absolute, digest, place, split
from zoo_datasets.threads import in_order

log = logging.getLogger("zoo")

ENDINGS = (
    *(".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm"),
    *(".tif", ".tiff", ".webp"),
)
OTHER_ENDINGS = (
    *(".arw", ".avif", ".cr2", ".cr3", ".dcm", ".dds", ".dng", ".emf", ".eps", ".exr", ".hdr", ".heic", ".heif"),
    *(".icns", ".ico", ".j2k", ".jp2", ".jpx", ".jxl", ".nef", ".orf", ".pcx", ".pfm", ".psd", ".qoi", ".raf"),
    *(".raw", ".rw2", ".sgi", ".svg", ".tga", ".xbm", ".xcf", ".xpm"),
)
"""Of image files that are not read. They are counted, so that nobody takes them for part of the data."""
LARGEST_FILE = 2**31  # bytes
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
}
"""What folders are called that hold a split, in lower case."""
GREY = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")
SIDEWAYS = (5, 6, 7, 8)  # the EXIF orientations that swap height and width
SMALL = 64  # pixels; the greatest side that images of several sizes are given
VERSION = 3  # of the decoding; another one makes every folder be decoded again

Mode = Literal["auto", "grey", "rgb"]
Size = tuple[int, int] | None


def folder(
    path: Place,
    size: tuple[PositiveInt, PositiveInt] | None = None,
    mode: Literal["auto", "grey", "rgb"] = "auto",
    test_fraction: Fraction = 0.1,
    split_seed: Seed = 0,
    data_shape: tuple[int, int, int] | None = None,
) -> Dataset:
    """The images in a folder and in the folders below it: BMP, GIF, JPEG, PNG, PBM, PGM, PPM, TIFF and WebP.

    If every image lies in a subfolder, the subfolders of `path` are the labels, numbered by name. Images are decoded
    when they are first used, and again when a file is added, removed or changed (by its size and time of modification)
    or another size or mode is chosen; otherwise they come from the cache.

    Folders called ``train`` and ``test`` (or ``training``, ``testing``, in upper or lower case) that lie side by side
    are splits, not labels: test images are never trained on, and ``test_fraction`` has no effect. The labels are then
    the folders below the splits, or those that hold the splits (``cat/train``, ``cat/test``). Images in a folder
    ``val``, ``valid`` or ``validation`` beside them are neither trained nor tested on so far, and images outside the
    splits are left out. A folder ``test`` beside other folders than these is refused: it may be a split or a label.

    What becomes of an image, in this order:

    - Of several frames or pages, the first counts. A rotation written in its EXIF data is applied.
    - 16 bits become 8: grey ones as value / 257, rounded; of colours Pillow keeps the high byte.
    - Palettes are expanded, CMYK and others become RGB. Transparent pixels are laid over black.
    - Colour becomes grey by the luma of ITU-R 601; grey becomes RGB with three equal channels.
    - With a size, it is scaled (bicubic, antialiased) until it just covers the size, and cropped around its centre.
      Large JPEGs are first decoded at a half, a quarter or an eighth, still twice the size at least.

    Left out are files that cannot be decoded; image files of other formats, such as HEIC; pixels of 32 bits or more,
    whose range is unknown; images of more than 178 million pixels; links to folders, links that point outside `path`
    and links to an image that is read anyway. That is a warning each time, with their number, the first of them and the
    reasons; ``zoo data`` lists all. Hidden files and files that are no images are not looked at.

    Args:
        path: the folder; ``~`` is your home.
        size: [height, width] of every image; by default their own, if all have the same. If not, it is the size of more
            than half of them, if no side of it exceeds 64; otherwise a square, as large as the median of their shorter
            sides, 64 at most. The sizes and the choice are logged.
        mode: ``grey``, ``rgb``, or ``auto``: grey if all are stored in grey, else rgb. Grey of 16 bits with an alpha
            channel passes for RGB with Pillow, and so it does here.
        test_fraction: the fraction of test images, rounded; at least one image on either side.
        split_seed: which ones those are. An image's place depends on this and its path below the folder alone, so
            that few change sides when images are added, and none when the folder moves.
        data_shape: (C, H, W) of the images that a trained model takes: what `size` and `mode` are by default then.

    Raises:
        DataUnavailable: there is no such folder.
        DataError: there is no image in it, or only one, or none that can be decoded; a split lacks images, or it is
            unclear which folders are splits; the cache cannot be written.
    """
    root = Path(absolute(path))
    if data_shape is not None:
        size = data_shape[1:] if size is None else size
        mode = {1: "grey", 3: "rgb"}.get(data_shape[0], mode) if mode == "auto" else mode  # type: ignore[assignment]
    listing = _list(root, split_seed)
    files = listing.files
    kept = cached_images(_key(root, files, size, mode), _decoded(root, files, size, mode))
    assert kept.labels is not None  # of each image, its place among the files
    decoded = [files[i] for i in kept.labels.tolist()]
    left_out = sorted([*listing.left_out, *kept.notes])
    _warn(root, left_out, len(files) + len(listing.left_out))
    labels, names = _labels([file.labelled for file in decoded])
    images = Split(kept.x, labels, kept.digest, paths=tuple(file.name for file in decoded))
    if listing.validation:
        log.warning(
            "%d images of a validation split in %s are neither trained nor tested on: validation splits are not "
            "supported yet.",
            *(listing.validation, root),
        )
    n = sum(file.split == "test" for file in decoded)
    if listing.tested:
        if not 0 < n < len(decoded):
            raise DataError(f"No {'training' if n else 'test'} image in {root} can be decoded. See the files left out.")
        train, test = images.part(n, len(images)), images.part(0, n)
    elif len(decoded) < 2:
        raise DataError(f"{root} holds one image, {decoded[0].name}: there must be one to train on and one to test on.")
    else:
        train, test = split(images, test_fraction)
    return Dataset(train, test, label_names=names, left_out=tuple(left_out), cache=(kept.file,))


class _File(NamedTuple):
    """An image file.

    Attributes:
        name: its path below the folder, with slashes.
        bytes, modified: what tells that it has changed.
        split: ``train``, ``test`` or ``validation``, where it lies in a split.
        labelled: its path without the folder of the split.
    """

    name: str
    bytes: int
    modified: int
    split: str | None = None
    labelled: str = ""


class _Listing(NamedTuple):
    """What a folder holds.

    Attributes:
        files: those to decode, in the order of the split, the test images of official splits first.
        left_out: those that are not read, each with the reason.
        tested: whether there is an official test split.
        validation: how many images of a validation split there are.
    """

    files: list[_File]
    left_out: list[str]
    tested: bool
    validation: int


def _list(root: Path, seed: int) -> _Listing:
    """The image files of a folder."""
    if not root.is_dir():
        raise DataUnavailable(f"{root} is {'no folder' if root.exists() else 'not there'}.")
    files, left_out = _walk(root)
    if not files:
        _warn(root, sorted(left_out), len(left_out))
        more = f" {len(left_out)} image files are of other formats or cannot be read." if left_out else ""
        raise DataError(f"There is no image in {root}. Looked for files that end in {', '.join(ENDINGS)}.{more}")
    files = _assigned(root, files)
    splits = Counter(file.split for file in files)
    official = splits[None] < len(files)
    if official:
        left_out += [f"{file.name}: lies in no split" for file in files if file.split is None]
        if not splits["train"]:
            others = " and ".join(sorted({file.name.partition("/")[0] for file in files if file.split}))
            raise DataError(
                f"{root} holds no training split beside {others}. Name that folder itself to take all of it."
            )
        if not splits["test"]:
            log.info("There is no test split in %s: a part of the training split is held out for testing.", root)
        files = [file for file in files if file.split in ("train", "test")]
    files.sort(key=lambda file: (file.split != "test", place(seed, file.name)))
    return _Listing(files, left_out, splits["test"] > 0, splits["validation"])


def _walk(root: Path) -> tuple[list[_File], list[str]]:
    """The image files below a folder, and what is not read, with the reason."""

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}.")

    files: list[_File] = []
    links: list[tuple[str, str]] = []
    left_out: list[str] = []
    for parent, subfolders, names in os.walk(root, onerror=refuse):
        below = "" if Path(parent) == root else Path(parent).relative_to(root).as_posix() + "/"
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        left_out += [
            f"{below}{name}: is a link to a folder, which is not followed"
            for name in subfolders
            if os.path.islink(os.path.join(parent, name))  # noqa: PTH114, PTH118
        ]
        for name in names:
            ending = os.path.splitext(name)[1].lower()  # noqa: PTH122
            if name.startswith(".") or ending not in (*ENDINGS, *OTHER_ENDINGS):
                continue
            at = os.path.join(parent, name)  # noqa: PTH118 (a Path for each of a million files takes seconds)
            if ending in OTHER_ENDINGS:
                left_out.append(f"{below}{name}: {ending} files are not read, convert it to PNG or JPEG")
            elif os.path.islink(at):  # noqa: PTH114
                links.append((below + name, at))
            else:
                _look(below + name, at, files, left_out)
    _follow(root, links, files, left_out)
    return files, left_out


def _look(name: str, at: str, files: list[_File], left_out: list[str]) -> None:
    """Add a file to those that are decoded or to those that are left out."""
    # Rights are not left to the decoding: one that is granted later changes no time of modification.
    if not stat.S_ISREG((status := os.stat(at)).st_mode):  # noqa: PTH116
        left_out.append(f"{name}: is no regular file")
    elif not os.access(at, os.R_OK):
        left_out.append(f"{name}: may not be read")
    elif status.st_size > LARGEST_FILE:
        left_out.append(f"{name}: has {status.st_size / 1e9:.1f} GB, more than the 2 GB that are read")
    else:
        files.append(_File(name, status.st_size, status.st_mtime_ns))


def _follow(root: Path, links: Sequence[tuple[str, str]], files: list[_File], left_out: list[str]) -> None:
    """Look at links to files. One is followed if its target lies inside the folder and is not read anyway: the same
    image must not be trained and tested on."""
    inside = os.path.realpath(root)
    seen = {os.path.join(inside, *PurePosixPath(file.name).parts) for file in files} if links else set()  # noqa: PTH118
    for name, at in sorted(links):
        target = os.path.realpath(at)
        if not os.path.exists(target):  # noqa: PTH110
            left_out.append(f"{name}: is a link to nothing")
        elif os.path.commonpath([inside, target]) != inside:
            left_out.append(f"{name}: is a link that points outside the folder, which is not followed")
        elif target in seen:
            left_out.append(f"{name}: is a link to an image that is read already")
        else:
            seen.add(target)
            _look(name, at, files, left_out)


def _assigned(root: Path, files: Sequence[_File]) -> list[_File]:
    """The files with the split that each lies in, if there are any.

    Raises:
        DataError: a folder is called like a split and has no training split beside it.
    """
    paths = [file.name.split("/") for file in files]
    splits_in = defaultdict(set)
    for path in paths:
        for depth, name in enumerate(path[:-1]):
            splits_in["/".join(path[:depth])].add(SPLITS.get(name.lower()))
        if len(path) == 1:
            splits_in[""].add(None)
    holders = {folder for folder, splits in splits_in.items() if "train" in splits and len(splits - {"train", None})}
    top = splits_in[""]
    if None not in top:
        holders.add("")
    elif not holders and top - {"train", None}:
        called = sorted(
            {path[0] for path in paths if len(path) > 1 and SPLITS.get(path[0].lower(), "train") != "train"}
        )
        raise DataError(
            f"{root} holds a folder {called[0]} beside others: if it is a split, put the others into a folder train; "
            "if it is a label, rename it."
        )
    depths = [
        next((d for d, name in enumerate(path[:-1]) if "/".join(path[:d]) in holders and name.lower() in SPLITS), None)
        for path in paths
    ]
    # What lies around all splits is no label: an archive may unpack to cifar10/train/cat.
    holding = [path[:depth] for path, depth in zip(paths, depths, strict=True) if depth is not None]
    around = len(list(takewhile(lambda names: len(set(names)) == 1, zip(*holding, strict=False))))
    return [
        file._replace(labelled=file.name)
        if depth is None
        else file._replace(
            split=SPLITS[path[depth].lower()], labelled="/".join([*path[around:depth], *path[depth + 1 :]])
        )
        for file, path, depth in zip(files, paths, depths, strict=True)
    ]


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
    decoded, reasons = 0, []
    with warnings.catch_warnings():
        # Of Pillow's, about files that are odd and can be read. What cannot be read is left out with its reason.
        warnings.simplefilter("ignore")
        if size is None or mode == "auto":
            headers = [header for header in in_order(_header, places) if header is not None]
            if size is None and headers:
                size = _size(headers)
            if mode == "auto":
                mode = "grey" if all(header.grey for header in headers) else "rgb"
                log.info("They are taken as %s.", "grey, since all are" if mode == "grey" else "colour images")
            if several := sum(header.several for header in headers):
                log.info("%d of them have several frames or pages, of which the first counts.", several)
        for i, pixels in enumerate(in_order(lambda place: _decode(place, size, mode), places)):
            if isinstance(pixels, str):
                reasons.append(f"{files[i].name}: {pixels}")
                yield reasons[-1]
            else:
                decoded += 1
                yield pixels, i
    if not decoded:
        raise DataError(f"None of the {len(files)} image files in {root} can be decoded. {min(reasons)}, for one.")


class _Header(NamedTuple):
    size: tuple[int, int]
    grey: bool
    several: bool


def _header(place: Path) -> _Header | None:
    """(height, width) as it will be seen, whether it is stored in grey, and whether it has several frames. None if it
    is no image."""
    try:
        with Image.open(place, formats=FORMATS) as image:
            # The method of the base: that of PNG reads all the pixels to look behind them.
            orientation = Image.Image.getexif(image).get(Exif.Orientation)
            turned = orientation in SIDEWAYS and image.format != "TIFF"  # Pillow turns that one itself
            return _Header(
                image.size if turned else image.size[::-1],
                image.mode in GREY or (image.mode == "P" and _is_grey(image)),
                getattr(image, "is_animated", False),
            )
    except Exception:
        return None  # `_decode` says why


def _is_grey(image: Image.Image) -> bool:
    palette = image.getpalette("RGB") or []
    return palette[0::3] == palette[1::3] == palette[2::3]


def _size(headers: Sequence[_Header]) -> tuple[int, int]:
    """The size for all, as far as the headers can be read."""
    counts = Counter(header.size for header in headers)
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    size, n = most[0]
    if len(counts) > 1:
        if 2 * n <= len(headers) or max(size) > SMALL:
            side = min(SMALL, int(statistics.median(min(header.size) for header in headers)))
            size = side, side
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
        return reason(content, error)
    pixels = np.asarray(seen)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


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
