from __future__ import annotations

import errno
import io
import logging
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.recipes.datasets import load_data
from zoo.recipes.schema import ComponentSpec
from zoo_datasets import threads
from zoo_datasets.folder import folder

ORIENTATION = 0x0112


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg" / "vae-zoo" / "cache"


@pytest.fixture
def pics(tmp_path: Path) -> Path:
    root = tmp_path / "pics"
    root.mkdir()
    return root


def draw(seed: int, height: int = 4, width: int = 6, channels: int | None = None) -> np.ndarray:
    shape = (height, width) if channels is None else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(array: np.ndarray, file: Path, **options: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(file, **options)


def save_some(pics: Path, n: int = 20, **shape: int) -> list[np.ndarray]:
    arrays = [draw(i, **shape) for i in range(n)]
    for i, array in enumerate(arrays):
        save(array, pics / f"{i:03}.png")
    return arrays


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def save_png16(array: np.ndarray, file: Path, colour: int, transparent: tuple[int, ...] = ()) -> None:
    """Write a 16-bit PNG, which Pillow cannot: colour type 0 is grey, 2 RGB, 4 grey and alpha."""
    height, width = array.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    trns = chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)) if transparent else b""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + header + trns + body)


def one(file: Path, **options: object) -> np.ndarray:
    """Convert one image, with a copy of it since a data set needs two. (C, H, W)."""
    shutil.copy(file, file.with_name(f"copy-{file.name}"))
    dataset = folder(str(file.parent), test_fraction=0.5, **options)  # type: ignore[arg-type]
    assert (len(dataset.train), len(dataset.test)) == (1, 1)
    assert torch.equal(dataset.train.x, dataset.test.x)
    return dataset.train.x[0].numpy()


def everything(dataset: zoo.Dataset) -> list[bytes]:
    return sorted(image.numpy().tobytes() for split in (dataset.train, dataset.test) for image in split.x)


# --- conversion


@pytest.mark.parametrize("ending", ["png", "bmp", "gif", "tif", "tiff", "webp", "PNG"])
def test_lossless_grey(ending, pics):
    array = draw(0)
    save(array, pics / f"a.{ending}", **({"lossless": True} if ending == "webp" else {}))
    # WebP has no grey.
    assert np.array_equal(one(pics / f"a.{ending}", mode="grey" if ending == "webp" else "auto"), array[None])


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "webp"])
def test_lossless_colour(ending, pics):
    array = draw(0, channels=3)
    save(array, pics / f"a.{ending}", **({"lossless": True} if ending == "webp" else {}))
    assert np.array_equal(one(pics / f"a.{ending}"), array.transpose(2, 0, 1))


def test_jpeg(pics):
    array = np.kron(draw(0, 2, 3, 3), np.ones((16, 16, 1), dtype=np.uint8))
    save(array, pics / "a.jpg", quality=100, subsampling=0)
    assert np.abs(one(pics / "a.jpg").astype(int) - array.transpose(2, 0, 1)).max() <= 3


def test_one_bit(pics):
    array = draw(0) > 127
    Image.fromarray(array).save(pics / "a.png")
    assert np.array_equal(one(pics / "a.png"), 255 * array[None])


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bits_are_scaled(ending, pics):
    """257 v and the 128 levels on either side become v; the largest is 65535 = 257 * 255."""
    levels = np.array([[0, 128, 129, 257, 385, 386], [12345, 32767, 32768, 65406, 65407, 65535]], dtype=np.uint16)
    save(levels, pics / f"a.{ending}")
    assert one(pics / f"a.{ending}").tolist() == [[[0, 0, 1, 1, 1, 2], [48, 127, 128, 254, 255, 255]]]


def test_16_bits_of_colour_and_with_alpha_keep_the_high_byte(pics):
    levels = np.random.default_rng(0).integers(0, 65536, (4, 6, 3))
    save_png16(levels, pics / "a.png", colour=2)
    assert np.array_equal(one(pics / "a.png"), levels.transpose(2, 0, 1) >> 8)


def test_16_bits_with_alpha_are_composited_over_black(pics):
    levels = np.stack([np.full((4, 6), 0xC880), np.full((4, 6), 0x8000)], axis=-1)
    save_png16(levels, pics / "a.png", colour=4)
    assert np.array_equal(one(pics / "a.png", mode="grey"), np.full((1, 4, 6), round(0xC8 * 0x80 / 255)))


def test_a_transparent_level_of_16_bits_is_black(pics):
    levels = np.array([[5000, 60000], [5001, 65535]])
    save_png16(levels, pics / "a.png", colour=0, transparent=(60000,))
    assert one(pics / "a.png").tolist() == [[[19, 0], [19, 255]]]


def palette_image(colours: np.ndarray) -> tuple[Image.Image, np.ndarray]:
    image = Image.new("P", (6, 4))
    index = np.random.default_rng(1).integers(0, len(colours), (4, 6), dtype=np.uint8)
    image.putdata(index.flatten().tolist())
    image.putpalette(colours.astype(np.uint8).tobytes())
    return image, index


@pytest.mark.parametrize("ending", ["png", "gif", "bmp", "tif"])
def test_palettes_are_expanded(ending, pics):
    colours = draw(2, 1, 7, 3)[0]
    image, index = palette_image(colours)
    image.save(pics / f"a.{ending}")
    assert np.array_equal(one(pics / f"a.{ending}"), colours[index].transpose(2, 0, 1))


def test_a_palette_of_greys_is_grey(pics):
    colours = draw(2, 1, 7)[0][:, None].repeat(3, axis=1)
    image, index = palette_image(colours)
    image.save(pics / "a.png")
    assert np.array_equal(one(pics / "a.png"), colours[index][None, :, :, 0])


def test_transparent_entries_of_a_palette_are_composited_over_black(pics):
    colours, alphas = draw(2, 1, 7, 3)[0], np.array([255, 0, 128, 255, 3, 254, 60])
    image, index = palette_image(colours)
    image.save(pics / "a.png", transparency=bytes(alphas.tolist()))
    expected = np.rint(colours * (alphas[:, None] / 255))[index]
    assert np.array_equal(one(pics / "a.png"), expected.transpose(2, 0, 1))


def test_the_transparent_entry_of_a_gif_is_black(pics):
    colours = draw(2, 1, 7, 3)[0]
    image, index = palette_image(colours)
    image.save(pics / "a.gif", transparency=2)
    colours[2] = 0
    assert np.array_equal(one(pics / "a.gif"), colours[index].transpose(2, 0, 1))


@pytest.mark.parametrize("channels", [1, 3])
def test_alpha_is_composited_over_black(channels, pics):
    array = draw(0, channels=channels + 1)
    save(array, pics / "a.png")
    expected = np.rint(array[:, :, :-1] * (array[:, :, -1:] / 255.0))
    assert np.array_equal(one(pics / "a.png"), expected.transpose(2, 0, 1))


def test_a_transparent_colour_is_black(pics):
    array = draw(0, channels=3)
    save(array, pics / "a.png", transparency=tuple(array[1, 2].tolist()))
    array[1, 2] = 0
    assert np.array_equal(one(pics / "a.png"), array.transpose(2, 0, 1))


def test_a_transparent_grey_is_black_and_stays_grey(pics):
    array = draw(0)
    level = int(array[1, 2])
    save(array, pics / "a.png", transparency=level)
    assert np.array_equal(one(pics / "a.png"), np.where(array == level, 0, array)[None])


def test_cmyk_becomes_rgb(pics):
    image = Image.fromarray(draw(0, channels=3)).convert("CMYK")
    image.save(pics / "a.tif")
    assert np.array_equal(one(pics / "a.tif"), np.asarray(image.convert("RGB")).transpose(2, 0, 1))


@pytest.mark.parametrize("ending", ["png", "webp", "tif", "jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation, ending, pics):
    """The eight orientations of EXIF: where the first row and column of the stored image are displayed."""
    stored = np.kron(draw(0, 2, 3, 3), np.ones((16, 16, 1), dtype=np.uint8))
    seen = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: stored.transpose(1, 0, 2)[:, ::-1],
        7: stored.transpose(1, 0, 2)[::-1, ::-1],
        8: stored.transpose(1, 0, 2)[::-1],
    }[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}.get(ending, {})
    save(stored, pics / f"a.{ending}", exif=exif, **options)
    decoded = one(pics / f"a.{ending}").transpose(1, 2, 0)
    assert decoded.shape == seen.shape
    assert np.abs(decoded.astype(int) - seen).max() <= (3 if ending == "jpg" else 0)


@pytest.mark.parametrize("ending", ["gif", "tif", "webp", "png"])
def test_the_first_of_several_frames_is_used(ending, pics):
    frames = [Image.fromarray(np.full((4, 6), level, dtype=np.uint8)) for level in (0, 255)]
    frames[0].save(pics / f"a.{ending}", save_all=True, append_images=frames[1:])
    assert not one(pics / f"a.{ending}").any()


def test_the_format_is_detected_by_content(pics):
    array = draw(0)
    Image.fromarray(array).save(pics / "a.jpg", format="PNG")
    assert np.array_equal(one(pics / "a.jpg"), array[None])


# --- colour


def test_one_colour_image_among_grey_ones_makes_all_rgb(pics):
    grey, colour = draw(0), draw(1, channels=3)
    save(grey, pics / "a.png")
    assert np.array_equal(one(pics / "a.png"), grey[None])
    save(colour, pics / "b.png")
    dataset = folder(str(pics))
    assert dataset.shape == (3, 4, 6)
    expected = [np.stack([grey] * 3).tobytes()] * 2 + [colour.transpose(2, 0, 1).tobytes()]
    assert everything(dataset) == sorted(expected)


def test_mode_grey(pics):
    """The luma of ITU-R 601, in 16 bits and rounded, as documented by Pillow."""
    array = draw(0, channels=3)
    save(array, pics / "a.png")
    luma = (array.astype(int) @ np.array([19595, 38470, 7471]) + 0x8000) >> 16
    assert np.array_equal(one(pics / "a.png", mode="grey"), luma[None])


def test_mode_rgb(pics):
    array = draw(0)
    save(array, pics / "a.png")
    assert np.array_equal(one(pics / "a.png", mode="rgb"), np.stack([array] * 3))


# --- size


@pytest.mark.parametrize(("height", "width"), [(40, 100), (100, 40), (30, 30), (8, 12)])
def test_a_size_is_covered_and_the_rest_cropped_around_the_centre(height, width, pics):
    """Equal to torchvision's resizing and cropping, except for rounding."""
    from torchvision.transforms import v2

    smooth = np.kron(draw(0, height // 2, width // 2, 3), np.ones((2, 2, 1), dtype=np.uint8))
    save(smooth, pics / "a.png")
    decoded = one(pics / "a.png", size=(16, 16))
    assert decoded.shape == (3, 16, 16)
    steps = v2.Compose([v2.Resize(16, v2.InterpolationMode.BICUBIC, antialias=True), v2.CenterCrop(16)])
    expected = steps(torch.from_numpy(smooth).permute(2, 0, 1)).numpy()
    assert np.abs(decoded.astype(int) - expected).max() <= 5


def test_the_crop_is_centred(pics):
    array = np.zeros((10, 30), dtype=np.uint8)
    array[:, 10:20] = draw(0, 10, 10)
    save(array, pics / "a.png")
    assert np.array_equal(one(pics / "a.png", size=(10, 10)), array[None, :, 10:20])
    assert np.array_equal(folder(str(pics), size=(10, 20)).train.x[0, 0], array[:, 5:25])


def test_height_comes_first(pics):
    save_some(pics, 3, height=9, width=7)
    assert folder(str(pics)).shape == (1, 9, 7)
    assert folder(str(pics), size=(5, 3)).shape == (1, 5, 3)


def test_an_image_of_the_size_is_not_changed(pics):
    arrays = save_some(pics)
    assert everything(folder(str(pics), size=(4, 6))) == sorted(array.tobytes() for array in arrays)


def test_a_large_rotated_jpeg_is_decoded_at_a_small_size(pics):
    stored = np.kron(draw(0, 4, 6, 3), np.ones((100, 100, 1), dtype=np.uint8))
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    save(stored, pics / "a.jpg", exif=exif, quality=95)
    decoded = one(pics / "a.jpg", size=(48, 32))
    seen = Image.fromarray(np.ascontiguousarray(stored.transpose(1, 0, 2)[:, ::-1]))
    expected = np.asarray(seen.resize((32, 48), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert np.abs(decoded.astype(int) - expected).mean() < 3


def test_the_most_frequent_size_is_used_and_logged(pics, caplog):
    arrays = save_some(pics, 5)
    save(draw(0, 9, 9), pics / "square.png")
    with caplog.at_level(logging.INFO, "zoo"):
        dataset = folder(str(pics))
    assert dataset.shape == (1, 4, 6)
    assert {array.tobytes() for array in arrays} < set(everything(dataset)), "images of that size are not changed"
    assert (
        "The images have 2 sizes, height x width (number): 4x6 (5), 9x9 (1). Scaling and cropping all to 4x6; "
        "set data.size=[HEIGHT,WIDTH] for another size." in caplog.messages
    )
    assert folder(str(pics), size=(8, 8)).shape == (1, 8, 8)


def test_many_sizes_are_abbreviated_and_large_images_scaled_down(pics, caplog):
    for i in range(65, 73):
        save(draw(0, i, i), pics / f"{i}.png")
    with caplog.at_level(logging.INFO, "zoo"):
        assert folder(str(pics)).shape == (1, 64, 64)
    assert "have 8 sizes, height x width (number): 65x65 (1), 66x66 (1), 67x67 (1), .... Scaling" in caplog.text
    assert "Converting to grey, as all images are grey." in caplog.text


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        # Two icons do not determine the size of photographs.
        ([(100 + i, 150 + i) for i in range(30)] + [(16, 16)] * 2, (64, 64)),
        ([(8, 8)] * 3 + [(20, 30)] * 3, (14, 14)),  # half is not a majority
        ([(8, 12)] * 4 + [(20, 30)] * 3, (8, 12)),
        ([(80, 90)] * 4 + [(20, 30)] * 3, (64, 64)),
        ([(20, 30), (21, 30), (22, 30)], (21, 21)),
    ],
)
def test_only_a_majority_determines_the_size(sizes, expected, pics):
    for i, (height, width) in enumerate(sizes):
        save(draw(i, height, width), pics / f"{i}.png")
    assert folder(str(pics)).shape[1:] == expected


def test_the_shape_of_a_model_takes_precedence(pics):
    save_some(pics, 3)
    assert folder(str(pics), data_shape=(3, 8, 9)).shape == (3, 8, 9)
    assert folder(str(pics), data_shape=(1, 8, 9), size=(2, 2), mode="rgb").shape == (3, 2, 2)


def test_images_of_one_size_keep_it(pics, caplog):
    save(draw(0, 300, 20), pics / "a.png")
    save(draw(1, 300, 20), pics / "b.png")
    with caplog.at_level(logging.INFO, "zoo"):
        assert folder(str(pics)).shape == (1, 300, 20)
    assert "All images are 300x20, which trains slowly. Set data.size=[64,64]" in caplog.text


def test_a_rotated_image_has_its_displayed_size(pics):
    save(draw(0, 4, 6), pics / "a.png")
    exif = Image.Exif()
    exif[ORIENTATION] = 8
    for ending in ("png", "tif"):
        save(draw(1, 6, 4), pics / f"b.{ending}", exif=exif)
    assert folder(str(pics)).shape == (1, 4, 6)


# --- files that cannot be decoded


def break_some(pics: Path) -> list[str]:
    """Write every kind of file that cannot be decoded, and return their sorted names."""
    save(draw(0, 100, 100), pics / "whole.png")
    whole = (pics / "whole.png").read_bytes()
    (pics / "whole.png").unlink()
    (pics / "a-cut.png").write_bytes(whole[: len(whole) // 2])
    (pics / "b-empty.jpg").write_bytes(b"")
    (pics / "c-text.gif").write_text("no image")
    (pics / "d-postscript.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 4\n%%EndComments\n")
    (pics / "e-dangling.png").symlink_to(pics / "nowhere.png")
    Image.fromarray(np.zeros((4, 6), dtype=np.float32)).save(pics / "f-float.tif")
    Image.fromarray(np.zeros((4, 6), dtype=np.int32)).save(pics / "g-int.tif")
    os.mkfifo(pics / "h-pipe.png")
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    (pics / "i-flipped.png").write_bytes(flipped)
    return sorted(file.name for file in pics.iterdir() if file.name[1] == "-")


def test_files_that_cannot_be_decoded_are_left_out_with_a_warning(pics, caplog):
    arrays = save_some(pics, 20)
    broken = break_some(pics)
    assert len(broken) == 9
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "zoo"):
            dataset = folder(str(pics), size=(4, 6))
        assert everything(dataset) == sorted(array.tobytes() for array in arrays)
        (warning,) = caplog.messages
        assert warning == (
            f"Left out 9 of 29 image files in {pics}: a-cut.png: is truncated; b-empty.jpg: is "
            "empty; c-text.gif: is not an image in BMP, GIF, JPEG, PNG, PPM, TIFF or WEBP; and 6 more."
        )
        reasons = dict(left.split(": ", 1) for left in dataset.left_out)
        assert sorted(reasons) == broken
        assert reasons["d-postscript.png"] == reasons["c-text.gif"]
        assert reasons["e-dangling.png"] == "is a broken link"
        assert reasons["f-float.tif"] == reasons["g-int.tif"]
        assert reasons["f-float.tif"] == "cannot be decoded (the range of 32-bit pixels is unknown)"
        assert reasons["h-pipe.png"] == "is not a regular file"
        assert reasons["i-flipped.png"].startswith("cannot be decoded (")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "PPM"])
def test_a_truncated_file_is_reported_as_truncated(kind, pics):
    """Down to two bytes."""
    save_some(pics, 2)
    whole = io.BytesIO()
    Image.fromarray(draw(0, 40, 40, 3)).save(whole, kind)
    content = whole.getvalue()
    lengths = [2, 3, 4, 8, 12, 20, 30, 50, 100, 200, 400, len(content) // 2, int(0.9 * len(content))]
    for n in lengths:
        (pics / f"cut-{n}.png").write_bytes(content[:n])
    left_out = folder(str(pics), size=(4, 6), mode="grey").left_out
    assert left_out == tuple(sorted(f"cut-{n}.png: is truncated" for n in lengths))


def tiff(array: np.ndarray, channels: int = 1) -> bytes:
    """An uncompressed TIFF of one page, with numbers of any type."""
    height, width = array.shape[:2]
    bits, kind = 8 * array.itemsize, {"u": 1, "i": 2, "f": 3}[array.dtype.kind]
    lists = struct.pack(f"<{channels}H", *[bits] * channels) + struct.pack(f"<{channels}H", *[kind] * channels)
    at = 8 + array.nbytes
    inline = channels == 1
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, channels, bits if inline else at), (259, 3, 1, 1),
            (262, 3, 1, 2 if channels == 3 else 1), (273, 4, 1, 8), (277, 3, 1, channels), (278, 4, 1, height),
            (279, 4, 1, array.nbytes), (339, 3, channels, kind if inline else at + 2 * channels)]  # fmt: skip
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return b"II*\0" + struct.pack("<I", at + len(lists)) + array.astype(array.dtype.newbyteorder("<")).tobytes() + (
        lists + directory
    )  # fmt: skip


@pytest.mark.parametrize(
    ("dtype", "channels", "reason"),
    [
        ("f2", 1, "a TIFF of 1 channel of 16-bit floating-point numbers, which Pillow does not support"),
        ("f4", 1, "the range of 32-bit pixels is unknown"),
        ("f4", 3, "a TIFF of 3 channels of 32-bit floating-point numbers, which Pillow does not support"),
        ("f8", 1, "a TIFF of 1 channel of 64-bit floating-point numbers, which Pillow does not support"),
        ("u4", 1, "the range of 32-bit pixels is unknown"),
        ("u1", 5, "a TIFF of 5 channels of 8-bit unsigned integers, which Pillow does not support"),
    ],
)
def test_a_tiff_of_other_numbers_is_refused_with_the_reason(dtype, channels, reason, pics):
    save_some(pics, 2)
    shape = (4, 6) if channels == 1 else (4, 6, channels)
    (pics / "a.tif").write_bytes(tiff(np.zeros(shape, dtype), channels))
    assert folder(str(pics)).left_out == (f"a.tif: cannot be decoded ({reason})",)


def test_the_first_page_of_a_tiff_is_used_and_logged(pics, caplog):
    pages = [Image.fromarray(draw(i)) for i in range(3)]
    pages[0].save(pics / "a.tif", save_all=True, append_images=pages[1:])
    with caplog.at_level(logging.INFO, "zoo"):
        assert np.array_equal(one(pics / "a.tif"), draw(0)[None])
    assert "2 images have several frames or pages; using the first." in caplog.messages


@pytest.mark.parametrize("ending", ["pgm", "ppm", "pnm", "PGM"])
def test_netpbm(ending, pics):
    array = draw(0, channels=3 if ending == "ppm" else None)
    Image.fromarray(array).save(pics / f"a.{ending}", format="PPM")
    assert np.array_equal(one(pics / f"a.{ending}"), array.transpose(2, 0, 1) if array.ndim == 3 else array[None])


def test_image_files_of_other_formats_are_counted_and_named(pics, caplog):
    save_some(pics, 2)
    for name in ("a.heic", "b.HEIF", "c.avif", "d.cr2", "notes.txt"):
        (pics / name).write_bytes(b"...")
    assert [left.partition(":")[0] for left in folder(str(pics)).left_out] == ["a.heic", "b.HEIF", "c.avif", "d.cr2"]
    assert "4 of 6 image files" in caplog.text
    assert "a.heic: .heic files are not read, convert it to PNG or JPEG" in caplog.text


def test_a_folder_of_only_other_formats(pics):
    (pics / "a.heic").write_bytes(b"...")
    with pytest.raises(zoo.DataError, match="There are no images in .* 1 image files have other formats"):
        folder(str(pics))


def test_warnings_of_pillow_do_not_reach_the_user(pics, recwarn):
    """The image is odd in two ways that Pillow warns about: a palette with transparency in bytes, and
    more pixels than `MAX_IMAGE_PIXELS`."""
    image, _ = palette_image(draw(2, 1, 7, 3)[0])
    for i in range(2):
        image.save(pics / f"{i}.png", transparency=bytes(7))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
        assert folder(str(pics), mode="grey").shape == (1, 4, 6)
    assert list(recwarn) == []


def test_a_decompression_bomb_is_refused(pics):
    """200 million pixels in 200 kB."""
    save_some(pics, 2)
    header = struct.pack(">IIBBBBB", 20000, 10000, 8, 0, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(20001 * 1000))) + chunk(b"IEND", b"")
    (pics / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body)
    assert folder(str(pics)).left_out == ("bomb.png: has more than 179 million pixels",)


def test_a_file_of_terabytes_is_not_read_into_memory(pics):
    save_some(pics, 2)
    with (pics / "large.png").open("wb") as file:
        file.truncate(2**40)
    assert folder(str(pics)).left_out == ("large.png: has 1099.5 GB; the limit is 2 GB",)


def test_a_repaired_file_is_decoded(pics, caplog):
    save_some(pics, 4)
    (pics / "broken.png").write_text("no image")
    with caplog.at_level(logging.WARNING, "zoo"):
        assert len(everything(folder(str(pics)))) == 4
    assert "1 of 5 image files" in caplog.text
    assert ": broken.png: is not an image" in caplog.text
    save(draw(99), pics / "broken.png")
    assert draw(99).tobytes() in everything(folder(str(pics)))


def test_a_folder_without_decodable_images(pics, cache):
    break_some(pics)
    with pytest.raises(
        zoo.DataError, match=f"None of the 7 image files in {pics} can be decoded. The first: a-cut.*truncated"
    ):
        folder(str(pics), size=(4, 6))
    assert list(cache.iterdir()) == []
    with pytest.raises(zoo.DataError, match="None of the 7 image files"):
        folder(str(pics))


def test_an_empty_folder(pics):
    (pics / "readme.txt").write_text("no image")
    (pics / "deeper").mkdir()
    with pytest.raises(zoo.DataError, match=rf"no images in {pics}\. Supported endings: \.bmp, .*\.webp"):
        folder(str(pics))


def test_a_missing_folder_and_a_file(pics):
    with pytest.raises(zoo.DataUnavailable, match=f"{pics}/nothing does not exist"):
        folder(str(pics / "nothing"))
    save(draw(0), pics / "a.png")
    with pytest.raises(zoo.DataUnavailable, match=r"a\.png is not a directory"):
        folder(str(pics / "a.png"))


def test_a_single_image(pics):
    save(draw(0), pics / "a.png")
    with pytest.raises(zoo.DataError, match=r"one image, a\.png; at least two are needed"):
        folder(str(pics))


def test_a_read_error_is_not_a_damaged_image(pics, cache, monkeypatch):
    """The error may be temporary, and files that are left out stay out of the cache."""
    save_some(pics, 3)

    def failing(path: Path) -> bytes:
        raise OSError(errno.EIO, "Input/output error", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", failing)
        with pytest.raises(zoo.DataError, match=r"00.\.png cannot be read: Input/output error"):
            folder(str(pics))
    assert list(cache.iterdir()) == []
    assert len(everything(folder(str(pics)))) == 3


@pytest.fixture
def unprivileged(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in which permissions apply: root, who can read anything, becomes another user."""
    Image.init()  # that user may not be able to import its modules
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o777)
        monkeypatch.setenv("XDG_CACHE_HOME", str(root / "xdg"))
        before = os.getresuid()
        if before[1] == 0:
            os.setresuid(65534, 65534, 0)
        yield root / "pics"
        os.setresuid(*before)


def test_a_file_without_permission_is_left_out(unprivileged, caplog):
    save_some(unprivileged, 4)
    (unprivileged / "000.png").chmod(0)
    with caplog.at_level(logging.WARNING, "zoo"):
        assert len(everything(folder(str(unprivileged)))) == 3
    assert "1 of 4 image files" in caplog.text
    (unprivileged / "000.png").chmod(0o644)
    assert len(everything(folder(str(unprivileged)))) == 4


def test_a_subfolder_without_permission_is_an_error(unprivileged):
    save_some(unprivileged, 4)
    (unprivileged / "secret").mkdir(mode=0)
    with pytest.raises(zoo.DataError, match="secret cannot be read: Permission denied"):
        folder(str(unprivileged))


# --- labels


def pixels_by_label(dataset: zoo.Dataset) -> set[tuple[int, bytes]]:
    decoded = set()
    for split in (dataset.train, dataset.test):
        assert split.labels is not None
        decoded |= {
            (label, image.numpy().tobytes()) for label, image in zip(split.labels.tolist(), split.x, strict=True)
        }
    return decoded


def test_subfolders_are_labels(pics):
    expected = set()
    for label, name in enumerate(("cat", "dog", "zebra")):
        for i in range(5):
            array = draw(10 * label + i)
            save(array, pics / name / ("deeper" if i % 2 else ".") / f"{i}.png")
            expected.add((label, array.tobytes()))
    (pics / "empty").mkdir()
    dataset = folder(str(pics))
    assert pixels_by_label(dataset) == expected
    assert dataset.label_names == ("cat", "dog", "zebra")


def test_an_image_outside_the_subfolders_removes_all_labels(pics):
    save_some(pics / "cat", 3)
    save(draw(5), pics / "stray.png")
    dataset = folder(str(pics))
    assert dataset.train.labels is None
    assert dataset.test.labels is None
    assert len(everything(dataset)) == 4


def test_hidden_files_are_ignored_and_links_are_reported(pics, tmp_path):
    """Links to folders are reported, and links that point outside are not followed."""
    save_some(pics, 3)
    save(draw(7), pics / ".hidden.png")
    save(draw(8), pics / ".thumbnails" / "a.png")
    save(draw(9), tmp_path / "elsewhere" / "a.png")
    (pics / "link").symlink_to(tmp_path / "elsewhere")
    (pics / "round").symlink_to(pics)
    (pics / "linked.png").symlink_to(tmp_path / "elsewhere" / "a.png")
    (pics / "twin.png").symlink_to("000.png")
    (pics / "annexed.png").symlink_to(".thumbnails/a.png")
    (pics / "annexed-twin.png").symlink_to(".thumbnails/a.png")
    dataset = folder(str(pics))
    assert dataset.train.labels is None
    assert everything(dataset) == sorted(draw(i).tobytes() for i in (0, 1, 2, 8))
    assert dataset.left_out == (
        "annexed.png: is a link to an image that is listed already",
        "link: is a link to a folder; links to folders are not followed",
        "linked.png: is a link that points outside the folder",
        "round: is a link to a folder; links to folders are not followed",
        "twin.png: is a link to an image that is listed already",
    )


# --- existing splits


def save_tree(root: Path, *names: str) -> dict[bytes, str]:
    """Write a different image to each path, and map images to paths."""
    tree = {}
    for i, name in enumerate(names):
        save(draw(i), root / name)
        tree[draw(i).tobytes()] = name
    return tree


def split_paths(dataset: zoo.Dataset, tree: dict[bytes, str]) -> tuple[set[str], set[str]]:
    """The paths of the training and test images, compared with `Split.paths`."""
    for split in dataset.splits.values():
        assert [tree[image.numpy().tobytes()] for image in split.x] == list(split.paths)
    return set(dataset.train.paths), set(dataset.test.paths)


@pytest.mark.parametrize(("train", "test", "val"), [("train", "test", "val"), ("Training", "TESTING", "Validation")])
def test_train_and_test_are_splits_not_labels(train, test, val, pics, caplog):
    """Test images are never trained on."""
    names = [f"{split}/{label}/{i}.png" for split in (train, test, val, "extra") for label in "ab" for i in range(3)]
    tree = save_tree(pics, *names)
    dataset = folder(str(pics), test_fraction=0.9)
    assert split_paths(dataset, tree) == tuple(
        {name for name in names if name.startswith(part)} for part in (train, test)
    )
    assert dataset.label_names == ("a", "b")
    assert set(dataset.validation.paths) == {name for name in names if name.startswith(val)}
    for split in dataset.splits.values():
        assert [dataset.label_names[label] for label in split.labels] == [path.split("/")[1] for path in split.paths]
    plain = dataset.validation.x.untyped_storage().data_ptr()
    assert plain == dataset.train.x.untyped_storage().data_ptr(), "mapped, like the others"
    assert len(dataset.left_out) == 6
    assert dataset.left_out[0] == "extra/a/0.png: is outside the splits"


@pytest.mark.parametrize(
    ("names", "labels", "tested"),
    [
        # An archive with one top folder; a folder with splits for each label; flat splits.
        (["c10/train/cat/1.png", "c10/train/dog/2.png", "c10/test/dog/3.png"], ("cat", "dog"), {"c10/test/dog/3.png"}),
        (["cat/train/1.png", "dog/train/2.png", "dog/test/3.png", "cat/test/4.png"], ("cat", "dog"),
         {"dog/test/3.png", "cat/test/4.png"}),
        (["train/1.png", "train/2.png", "test/3.png"], (), {"test/3.png"}),
        # A train is also a vehicle.
        (["bus/train/1.png", "train/train/2.png", "train/test/3.png", "bus/test/4.png"], ("bus", "train"),
         {"train/test/3.png", "bus/test/4.png"}),
        (["train/train/1.png", "train/bus/2.png", "test/train/3.png"], ("bus", "train"), {"test/train/3.png"}),
    ],
)  # fmt: skip
def test_the_layout_of_splits_and_labels(names, labels, tested, pics):
    tree = save_tree(pics, *names)
    dataset = folder(str(pics))
    assert split_paths(dataset, tree) == (set(names) - tested, tested)
    assert dataset.label_names == labels


def test_without_a_test_split_a_part_of_the_training_split_is_held_out(pics):
    tree = save_tree(pics, *(f"{split}/{i}.png" for split in ("train", "valid") for i in range(10)))
    dataset = folder(str(pics), test_fraction=0.3)
    train, test = split_paths(dataset, tree)
    assert (len(train), len(test)) == (7, 3)
    assert set(dataset.validation.paths) == {name for name in tree.values() if name.startswith("valid")}
    assert {name.partition("/")[0] for name in train | test} == {"train"}


def test_a_label_can_be_named_train(pics):
    save_tree(pics, "train/1.png", "bus/2.png", "car/3.png")
    assert folder(str(pics)).label_names == ("bus", "car", "train")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["cat/1.png", "dog/2.png", "Test/3.png"],
            "has a folder Test next to others. If it is a split, move the others",
        ),
        (["1.png", "2.png", "val/3.png"], "has a folder val next to others"),
        (["test/1.png", "test/2.png"], "has no training split next to test. To use all of that folder"),
    ],
)
def test_a_test_split_without_a_training_split_is_refused(names, message, pics):
    save_tree(pics, *names)
    with pytest.raises(zoo.DataError, match=message):
        folder(str(pics))


@pytest.mark.parametrize("name", ["test", "validation"])
def test_a_split_without_decodable_images(name, pics):
    save_tree(pics, "train/1.png", "train/2.png")
    (pics / name).mkdir()
    (pics / name / "3.png").write_text("no image")
    with pytest.raises(zoo.DataError, match=f"No {name} image in .* can be decoded"):
        folder(str(pics))


# --- the split


def members(dataset: zoo.Dataset) -> tuple[set[bytes], set[bytes]]:
    train, test = ({image.numpy().tobytes() for image in split.x} for split in (dataset.train, dataset.test))
    return train, test


def test_the_split_is_complete_disjoint_and_reproducible(pics, tmp_path):
    arrays = save_some(pics, 50)
    train, test = members(folder(str(pics)))
    assert (len(train), len(test)) == (45, 5)
    assert train | test == {array.tobytes() for array in arrays}
    shutil.rmtree(tmp_path / "xdg")
    assert members(folder(str(pics))) == (train, test)
    pics.rename(tmp_path / "moved")
    assert members(folder(str(tmp_path / "moved"))) == (train, test)


def test_another_seed_gives_another_split(pics):
    save_some(pics, 50)
    splits = {frozenset(members(folder(str(pics), split_seed=seed))[1]) for seed in range(3)}
    assert len(splits) == 3


def test_the_split_never_changes(pics):
    """A change would silently mix test images into the training of later runs."""
    for i in range(10):
        save(np.full((2, 2), i, dtype=np.uint8), pics / f"{i}.png")
    assert folder(str(pics), test_fraction=0.3).test.x[:, 0, 0, 0].tolist() == [9, 4, 2]


def test_adding_images_moves_few_others(pics):
    save_some(pics, 100)
    train, test = members(folder(str(pics)))
    for i in range(100, 110):
        save(draw(i), pics / f"{i}.png")
    more_train, more_test = members(folder(str(pics)))
    assert len(more_test) == 11
    assert len(test & more_train) + len(train & more_test) <= 3


@pytest.mark.parametrize(
    ("n", "fraction", "expected"),
    [(2, 0.1, 1), (2, 0.99, 1), (10, 0.01, 1), (10, 0.99, 9), (10, 0.25, 2), (10, 0.5, 5)],
)
def test_each_split_has_at_least_one_image(n, fraction, expected, pics):
    save_some(pics, n)
    dataset = folder(str(pics), test_fraction=fraction)
    assert (len(dataset.train), len(dataset.test)) == (n - expected, expected)


# --- decoded once


def test_loading_again_opens_no_image(pics, monkeypatch):
    save_some(pics, 20)
    first = folder(str(pics))
    opened: list[object] = []
    original = Image.open
    monkeypatch.setattr(Image, "open", lambda *args, **options: opened.append(args) or original(*args, **options))
    assert folder(str(pics)).sha256() == first.sha256()
    assert len(folder(str(pics), test_fraction=0.5).test) == 10
    assert opened == []
    folder(str(pics), mode="rgb")
    assert len(opened) == 40, "once for the header and once for the pixels"


def test_files_that_cannot_be_decoded_are_not_opened_again(pics, monkeypatch):
    """The reasons are stored with the images."""
    save_some(pics, 5)
    break_some(pics)
    first = folder(str(pics), size=(4, 6))
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("an image is opened"))
    again = folder(str(pics), size=(4, 6))
    assert (again.left_out, again.sha256()) == (first.left_out, first.sha256())
    assert len(again.left_out) == 9


def test_another_size_or_mode_is_decoded_again(pics, cache):
    save_some(pics, 4)
    for options in ({}, {"mode": "rgb"}, {"size": (4, 6)}, {"size": (6, 4)}, {"split_seed": 1}):
        folder(str(pics), **options)
    assert len(list(cache.glob("*.safetensors"))) == 5


def changed(pics: Path) -> None:
    """Another image of the same size in bytes, a nanosecond later."""
    before = (pics / "000.png").stat()
    save(255 - draw(0), pics / "000.png")
    assert (pics / "000.png").stat().st_size == before.st_size
    os.utime(pics / "000.png", ns=(before.st_atime_ns, before.st_mtime_ns + 1))


def added(pics: Path) -> None:
    save(draw(77), pics / "077.png")


def removed(pics: Path) -> None:
    (pics / "000.png").unlink()


def renamed(pics: Path) -> None:
    (pics / "000.png").rename(pics / "a.png")


@pytest.mark.parametrize("change", [changed, added, removed, renamed], ids=lambda c: c.__name__)
def test_a_changed_folder_is_decoded_again(change, pics, cache):
    save_some(pics, 5)
    folder(str(pics))
    change(pics)
    decoded = everything(folder(str(pics)))
    assert decoded == sorted(np.asarray(Image.open(file)).tobytes() for file in pics.iterdir())
    assert len(list(cache.glob("*.safetensors"))) == 2


def test_folders_with_equal_names_sizes_and_times_are_distinguished(tmp_path):
    """As in archives whose files all have the same time."""
    for name, level in (("one", 1), ("two", 2)):
        for i in range(2):
            save(np.full((4, 6), level, dtype=np.uint8), tmp_path / name / f"{i}.bmp")
            os.utime(tmp_path / name / f"{i}.bmp", (0, 0))
    assert folder(str(tmp_path / "one")).train.x.unique().tolist() == [1]
    assert folder(str(tmp_path / "two")).train.x.unique().tolist() == [2]


def test_both_splits_are_mapped_from_one_file(pics):
    save_some(pics, 10)
    dataset = folder(str(pics))
    storages = {split.x.untyped_storage().data_ptr() for split in (dataset.train, dataset.test)}
    assert len(storages) == 1
    assert sum(".safetensors" in line for line in Path("/proc/self/maps").read_text().splitlines()) >= 1


def test_the_number_of_images_decoded_ahead_is_bounded(monkeypatch):
    monkeypatch.setattr(threads, "WORKERS", 2)
    begun: list[int] = []

    def decode(i: int) -> int:
        begun.append(i)
        return i

    results = threads.in_order(decode, range(1000))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    assert len(begun) <= 3 + 2 * 2
    assert list(results) == list(range(3, 1000))


# --- in recipes


def test_a_model_trains_on_a_folder(pics, tmp_path):
    for i in range(24):
        save(draw(i, 20 + i, 30, 3), pics / f"{i}.png")
    run = zoo.train(
        "conv-vae",
        [f"data={{use: folder, path: {pics}, size: [16, 16]}}", "encoder.channels=[4,8]", "decoder.channels=[8,4]"],
        epochs=1,
        out=tmp_path / "runs",
        device="cpu",
    )
    assert run.environment["data"]["name"] == "folder"
    assert run.environment["data"]["shape"] == [3, 16, 16]
    assert (run.environment["data"]["train"], run.environment["data"]["test"]) == (22, 2)
    assert run.recipe.data[0].parameters == {
        "path": str(pics),
        "size": [16, 16],
        "mode": "auto",
        "test_fraction": 0.1,
        "split_seed": 0,
        "augment": [],
        "validation": 0,
    }
    assert zoo.load(run.path).sample(2).shape == (2, 3, 16, 16)


def test_a_home_folder(pics, monkeypatch):
    save_some(pics, 2)
    monkeypatch.setenv("HOME", str(pics.parent))
    assert len(folder("~/pics").train) == 1


def test_a_missing_folder_can_have_a_fallback(tmp_path):
    loaded = load_data([ComponentSpec(use="folder", path=str(tmp_path / "nothing")), ComponentSpec(use="digits")])
    assert loaded.spec.use == "digits"
    assert "nothing does not exist" in loaded.passed_over[0]


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ("test_fraction: 0", "test_fraction"),
        ("test_fraction: 1.0", "test_fraction"),
        ("mode: gray", "mode"),
        ("size: [0, 4]", "size"),
        ("size: 64", "size"),
        ("size: [64]", "size"),
        ("split_seed: -1", "split_seed"),
        ("root: /tmp", "root"),
    ],
)
def test_invalid_parameters_are_refused_before_reading(wrong, place):
    with pytest.raises(zoo.RecipeError, match=rf"data\.{place}"):
        zoo.recipe("mlp-vae", [f"data={{use: folder, path: /nowhere, {wrong}}}"])


def test_a_path_is_required():
    with pytest.raises(zoo.RecipeError, match=r"data\.path: is required"):
        zoo.recipe("mlp-vae", ["data=folder"])
