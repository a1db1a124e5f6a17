"""Decoding of image files with Pillow: headers, a common size and mode, and the pixels."""

from __future__ import annotations

import io
import logging
import statistics
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.ExifTags import Base as Exif

from zoo import DataError
from zoo_datasets.failures import FORMATS, reason
from zoo_datasets.listing import ImageFile
from zoo_datasets.threads import in_order

log = logging.getLogger("zoo")

GREY = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")
SIDEWAYS = (5, 6, 7, 8)  # the EXIF orientations that swap height and width
SMALL = 64  # pixels; the largest default side for images of several sizes

Mode = Literal["auto", "grey", "rgb"]
Size = tuple[int, int] | None


def decode_images(
    root: Path, files: Sequence[ImageFile], size: Size, mode: Mode
) -> Iterator[tuple[NDArray[np.uint8], int] | str]:
    """Yield each decoded image with its index in `files`, or a string that says why a file cannot be decoded.

    Raises:
        DataError: no image can be decoded, or a file cannot be read.
    """
    log.info("Decoding %d images in %s. This is done once.", len(files), root)
    decoded, reasons = 0, []
    with warnings.catch_warnings():
        # Pillow warns about odd files that it can decode. The others are reported with a reason.
        warnings.simplefilter("ignore")
        if size is None or mode == "auto":
            headers = [header for header in in_order(_header, _places(root, files)) if header is not None]
            if size is None and headers:
                size = _size(headers)
            if mode == "auto":
                mode = "grey" if all(header.grey for header in headers) else "rgb"
                log.info("Converting to %s.", "grey, as all images are grey" if mode == "grey" else "RGB")
            if several := sum(header.several for header in headers):
                log.info("%d images have several frames or pages; using the first.", several)
        for i, pixels in enumerate(in_order(lambda place: _decode(place, size, mode), _places(root, files))):
            if isinstance(pixels, str):
                reasons.append(f"{files[i].name}: {pixels}")
                yield reasons[-1]
            else:
                decoded += 1
                yield pixels, i
    if not decoded:
        raise DataError(f"None of the {len(files)} image files in {root} can be decoded. The first: {min(reasons)}.")


def _places(root: Path, files: Iterable[ImageFile]) -> Iterator[Path]:
    """The paths of files, one at a time: a list of a million paths takes more than 100 MB."""
    return (root / file.name for file in files)


def decode_image(file: Path, mode: Mode) -> NDArray[np.uint8]:
    """Decode one image at its own size, (C, H, W), with the conversions of `folder`.

    Args:
        file: an image file.
        mode: ``grey`` or ``rgb``; ``auto`` is ``rgb``.

    Raises:
        DataError: it cannot be read or decoded.
    """
    pixels = _decode(file, None, mode)
    if isinstance(pixels, str):
        raise DataError(f"{file}: {pixels}.")
    return pixels


class _Header(NamedTuple):
    """The header of an image file.

    Attributes:
        size: (height, width) after applying the EXIF orientation.
        grey: whether it is stored in grey.
        several: whether it has several frames or pages.
    """

    size: tuple[int, int]
    grey: bool
    several: bool


def _header(place: Path) -> _Header | None:
    """Read the header of an image file. None if it is not an image."""
    try:
        with Image.open(place, formats=FORMATS) as image:
            # The method of the base class: the one for PNG reads all pixels to find metadata behind them.
            orientation = Image.Image.getexif(image).get(Exif.Orientation)
            turned = orientation in SIDEWAYS and image.format != "TIFF"  # Pillow rotates TIFFs itself
            return _Header(
                image.size if turned else image.size[::-1],
                image.mode in GREY or (image.mode == "P" and _is_grey(image)),
                getattr(image, "is_animated", False),
            )
    except Exception:
        return None  # `_decode` reports the reason


def _is_grey(image: Image.Image) -> bool:
    palette = image.getpalette("RGB") or []
    return palette[0::3] == palette[1::3] == palette[2::3]


def _size(headers: Sequence[_Header]) -> tuple[int, int]:
    """The common (height, width)."""
    counts = Counter(header.size for header in headers)
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    size, n = most[0]
    if len(counts) > 1:
        if 2 * n <= len(headers) or max(size) > SMALL:
            side = min(SMALL, int(statistics.median(min(header.size) for header in headers)))
            size = side, side
        frequencies = ", ".join(f"{h}x{w} ({n})" for (h, w), n in most[:3]) + (", ..." if len(most) > 3 else "")
        log.info(
            "The images have %d sizes, height x width (number): %s. Scaling and cropping all to %dx%d; "
            "set data.size=[HEIGHT,WIDTH] for another size.",
            *(len(counts), frequencies, *size),
        )
    elif max(size) > 4 * SMALL:
        log.info("All images are %dx%d, which trains slowly. Set data.size=[64,64] to scale them down.", *size)
    return size


def _decode(place: Path, size: Size, mode: Mode) -> NDArray[np.uint8] | str:
    """Decode the pixels, (C, H, W), or return the reason why they cannot be decoded.

    Raises:
        DataError: reading the file fails. The failure may be temporary, so it must not leave a gap in the cache.
    """
    try:
        content = place.read_bytes()
    except OSError as error:
        raise DataError(f"{place} cannot be read: {error.strerror or error}.") from error
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if size is not None:
                image.draft(None, (2 * max(size), 2 * max(size)))  # for JPEG; square, as it may be rotated
            wide = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
            upright = ImageOps.exif_transpose(image)
            eight_bits = _eight_bits(upright) if wide else upright
            converted = _over_black(eight_bits).convert("L" if mode == "grey" else "RGB")
            if size is not None:
                converted = ImageOps.fit(converted, size[::-1], Image.Resampling.BICUBIC)
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises errors of many types on damaged files
        return reason(content, error)
    pixels = np.asarray(converted)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Convert 16-bit grey to 8-bit grey. A level that marks transparency becomes black, as in `_over_black`."""
    levels = np.asarray(image).astype(np.uint32)
    levels[levels == image.info.get("transparency", -1)] = 0
    return Image.fromarray(((levels + 128) // 257).astype(np.uint8))


def _over_black(image: Image.Image) -> Image.Image:
    """Paste an image onto black if it has transparency. Grey stays grey."""
    if image.mode in ("I", "F"):
        raise ValueError("the range of 32-bit pixels is unknown")
    if not image.has_transparency_data:
        return image
    image = image.convert("LA" if image.mode in GREY else "RGBA")
    black = Image.new("L" if image.mode == "LA" else "RGB", image.size)
    black.paste(image.convert(black.mode), mask=image.getchannel("A"))
    return black
