"""Reasons why an image file cannot be decoded, in more detail than Pillow gives."""

from __future__ import annotations

import io
import struct

from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from PIL.TiffTags import TAGS_V2

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # tried whatever the ending; no other format is
SIGNATURES = {
    "BMP": (b"BM",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "PPM": tuple(f"P{i}".encode() for i in range(1, 7)),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "WEBP": (b"RIFF",),
}
KINDS = {1: "unsigned integers", 2: "signed integers", 3: "floating-point numbers", 5: "complex integers", 6: "complex"}
BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, FORMAT = 258, 259, 262, 277, 339  # tags of TIFF


def reason(content: bytes, error: Exception) -> str:
    """Explain why content could not be decoded, as the end of a sentence that starts with the name of the file.

    Args:
        error: the exception that Pillow raised.
    """
    if not content:
        return "is empty"
    if isinstance(error, Image.DecompressionBombError):
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        return f"has more than {limit / 1e6:.0f} million pixels"
    if "truncated" in str(error).lower() or "eof" in str(error).lower() or _is_truncated(content):
        return "is truncated"
    if not isinstance(error, UnidentifiedImageError):
        return " ".join(f"cannot be decoded ({error or type(error).__name__})".split())
    kind = _format(content)
    if kind is None:
        return f"is not an image in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
    return f"cannot be decoded ({_tiff(content) if kind == 'TIFF' else _error_of(kind, content)})"


def _format(content: bytes) -> str | None:
    """The format of a file by its first bytes."""
    for name, signatures in SIGNATURES.items():
        if content.startswith(signatures):
            return None if name == "WEBP" and content[8:12] not in (b"WEBP", b"") else name
    return None


def _is_truncated(content: bytes) -> bool:
    """Whether an image file ends too early, by the end marker or the sizes of its format."""
    size = len(content)
    if any(signature.startswith(content) for signatures in SIGNATURES.values() for signature in signatures):
        return True
    match _format(content):
        case "JPEG":
            return b"\xff\xd9" not in content
        case "PNG":
            return b"IEND" not in content
        case "GIF":
            return not content.rstrip(b"\0").endswith(b";")
        case "BMP":
            return size < 6 or int.from_bytes(content[2:6], "little") > size
        case "WEBP":
            return size < 12 or int.from_bytes(content[4:8], "little") + 8 > size
        case "TIFF":
            return _ends_before_its_directory(content)
    return False


def _ends_before_its_directory(content: bytes) -> bool:
    """Whether a TIFF ends before the tags of its first page, which may be at the end of the file."""
    order = "<" if content.startswith(b"II") else ">"
    try:
        if content[2:4] in (b"+\0", b"\0+"):  # 64 bits
            (start,) = struct.unpack_from(f"{order}Q", content, 8)
            (n,) = struct.unpack_from(f"{order}Q", content, start)
            return bool(start + 8 + 20 * n > len(content))
        (start,) = struct.unpack_from(f"{order}I", content, 4)
        (n,) = struct.unpack_from(f"{order}H", content, start)
        return bool(start + 2 + 12 * n > len(content))
    except (struct.error, OverflowError):
        return True


def _tiff(content: bytes) -> str:
    """Describe the pixels of a TIFF that Pillow does not support."""
    try:
        directory = ImageFileDirectory_v2(content[:8])
        file = io.BytesIO(content)
        file.seek(directory.next)
        directory.load(file)
        samples = int(directory.get(SAMPLES, 1))
        bits = "/".join(map(str, sorted(set(directory.get(BITS, (1,))))))
        kind = KINDS.get(directory.get(FORMAT, (1,))[0], "unknown numbers")
        if directory.get(COMPRESSION, 1) not in TAGS_V2[COMPRESSION].enum.values():
            return f"a TIFF with unknown compression {directory.get(COMPRESSION)}"
    except Exception:
        return _error_of("TIFF", content)
    return f"a TIFF of {samples} channel{'s' * (samples > 1)} of {bits}-bit {kind}, which Pillow does not support"


def _error_of(kind: str, content: bytes) -> str:
    """The error of the reader of one format, which `PIL.Image.open` hides."""
    Image.init()
    try:
        Image.OPEN[kind][0](io.BytesIO(content), "")
    except Exception as error:
        return " ".join(str(error or type(error).__name__).split())
    return f"a {kind} that Pillow does not support"
