"""The image files of a folder: which are decoded, which are left out and why, and which split each belongs to."""

from __future__ import annotations

import logging
import os
import stat
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from zoo import DataError, DataUnavailable
from zoo_datasets.own import place

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
"""Endings of image files that are not supported. Such files are counted and reported."""
LARGEST_FILE = 2**31  # bytes
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
}
"""Names of folders that hold a split, in lower case."""


class ImageFile(NamedTuple):
    """An image file.

    Attributes:
        name: path relative to the folder, with slashes.
        bytes: size of the file.
        modified: modification time, in ns.
        split: ``train``, ``test`` or ``validation``, if it belongs to a split.
        label_path: path without the folder of the split; its first folder is the label.
    """

    name: str
    bytes: int
    modified: int
    split: str | None = None
    label_path: str = ""


class Listing(NamedTuple):
    """The image files of a folder.

    Attributes:
        files: the files to decode; those of an official test split come first, then those of an official validation
            split, each in an order that depends on the seed.
        left_out: the files that are not decoded, each with the reason.
        official: the names of the official splits: ``train``, ``validation``, ``test``; empty without them.
    """

    files: list[ImageFile]
    left_out: list[str]
    official: frozenset[str]


def list_images(root: Path, seed: int) -> Listing:
    """List the image files of a folder, in an order that depends on the seed.

    Raises:
        DataUnavailable: there is no such folder.
        DataError: it holds no image, or it is unclear which folders are splits.
    """
    if not root.is_dir():
        raise DataUnavailable(f"{root} {'is not a directory' if root.exists() else 'does not exist'}.")
    files, left_out = _walk(root)
    if not files:
        warn_left_out(root, sorted(left_out), len(left_out))
        hint = f" {len(left_out)} image files have other formats or cannot be read." if left_out else ""
        raise DataError(f"There are no images in {root}. Supported endings: {', '.join(ENDINGS)}.{hint}")
    files = _assign_splits(root, files)
    splits = Counter(file.split for file in files)
    official = splits[None] < len(files)
    if official:
        left_out += [f"{file.name}: is outside the splits" for file in files if file.split is None]
        if not splits["train"]:
            others = " and ".join(sorted({file.name.partition("/")[0] for file in files if file.split}))
            raise DataError(f"{root} has no training split next to {others}. To use all of that folder, pass its path.")
        if not splits["test"]:
            log.info("There is no test split in %s; holding out part of the training split for testing.", root)
        files = [file for file in files if file.split is not None]
    first = {"test": 0, "validation": 1}
    files.sort(key=lambda file: (first.get(file.split or "", 2), place(seed, file.name)))
    return Listing(files, left_out, frozenset(filter(None, splits)))


def _walk(root: Path) -> tuple[list[ImageFile], list[str]]:
    """The image files below a folder, and those that are left out, with the reason."""

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}.")

    files: list[ImageFile] = []
    links: list[tuple[str, str]] = []
    left_out: list[str] = []
    for parent, subfolders, names in os.walk(root, onerror=refuse):
        below = "" if Path(parent) == root else Path(parent).relative_to(root).as_posix() + "/"
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        left_out += [
            f"{below}{name}: is a link to a folder; links to folders are not followed"
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
                _classify(below + name, at, files, left_out)
    _follow_links(root, links, files, left_out)
    return files, left_out


def _classify(name: str, at: str, files: list[ImageFile], left_out: list[str]) -> None:
    """Add a file to `files` or to `left_out`."""
    # Permissions are checked before decoding: granting them later does not change the modification time.
    if not stat.S_ISREG((status := os.stat(at)).st_mode):  # noqa: PTH116
        left_out.append(f"{name}: is not a regular file")
    elif not os.access(at, os.R_OK):
        left_out.append(f"{name}: permission denied")
    elif status.st_size > LARGEST_FILE:
        left_out.append(f"{name}: has {status.st_size / 1e9:.1f} GB; the limit is 2 GB")
    else:
        files.append(ImageFile(name, status.st_size, status.st_mtime_ns))


def _follow_links(root: Path, links: Sequence[tuple[str, str]], files: list[ImageFile], left_out: list[str]) -> None:
    """Classify links to files. A link is followed if its target is inside the folder and not listed already, so that no
    image is in both splits."""
    inside = os.path.realpath(root)
    seen = {os.path.join(inside, *PurePosixPath(file.name).parts) for file in files} if links else set()  # noqa: PTH118
    for name, at in sorted(links):
        target = os.path.realpath(at)
        if not os.path.exists(target):  # noqa: PTH110
            left_out.append(f"{name}: is a broken link")
        elif os.path.commonpath([inside, target]) != inside:
            left_out.append(f"{name}: is a link that points outside the folder")
        elif target in seen:
            left_out.append(f"{name}: is a link to an image that is listed already")
        else:
            seen.add(target)
            _classify(name, at, files, left_out)


def _assign_splits(root: Path, files: Sequence[ImageFile]) -> list[ImageFile]:
    """Assign a split to each file, if the folder has splits.

    Raises:
        DataError: a folder has the name of a split, and there is no training split next to it.
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
        names = sorted({path[0] for path in paths if len(path) > 1 and SPLITS.get(path[0].lower(), "train") != "train"})
        raise DataError(
            f"{root} has a folder {names[0]} next to others. If it is a split, move the others into a folder train; "
            "if it is a label, rename it."
        )
    depths = [
        next((d for d, name in enumerate(path[:-1]) if "/".join(path[:d]) in holders and name.lower() in SPLITS), None)
        for path in paths
    ]
    # Folders around all splits are not labels: an archive may unpack to cifar10/train/cat.
    holding = [path[:depth] for path, depth in zip(paths, depths, strict=True) if depth is not None]
    around = len(list(takewhile(lambda names: len(set(names)) == 1, zip(*holding, strict=False))))
    return [
        file._replace(label_path=file.name)
        if depth is None
        else file._replace(
            split=SPLITS[path[depth].lower()], label_path="/".join([*path[around:depth], *path[depth + 1 :]])
        )
        for file, path, depth in zip(files, paths, depths, strict=True)
    ]


def warn_left_out(root: Path, left_out: Sequence[str], total: int) -> None:
    """Warn that files are left out, with the first reasons."""
    if left_out:
        more = f"; and {len(left_out) - 3} more" if len(left_out) > 3 else ""
        log.warning(
            "Left out %d of %d image files in %s: %s%s.",
            *(len(left_out), total, root, "; ".join(left_out[:3]), more),
        )
