from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import zoo
from zoo_datasets.freyfaces import FILE, SHAPE


def write(root: Path, x: np.ndarray) -> None:
    (root / "images").mkdir()
    np.savez(root / "images" / FILE, x=x)


def numbered() -> np.ndarray:
    """Images whose first two pixels are their number."""
    x = np.zeros(SHAPE, np.uint8)
    x[:, 0, 0, 0], x[:, 0, 0, 1] = np.divmod(np.arange(len(x)), 256)
    return x


def numbers(split: zoo.Split) -> list[int]:
    return (split.x[:, 0, 0, 0].int() * 256 + split.x[:, 0, 0, 1]).tolist()


def test_every_image_is_in_one_split_and_the_seed_decides_which(tmp_path):
    write(tmp_path, numbered())
    first, again, other = (zoo.load_dataset("freyfaces", data_dir=tmp_path, split_seed=seed) for seed in (0, 0, 1))
    assert [len(first.train), len(first.validation), len(first.test)] == [1565, 200, 200]
    assert sorted(n for split in first.splits.values() for n in numbers(split)) == list(range(1965))
    assert numbers(first.test) == first.test.index.tolist()
    assert numbers(first.test) == numbers(again.test) != numbers(other.test)
    assert numbers(first.train) != sorted(numbers(first.train))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"\x93NUMPY"])
def test_a_damaged_file_is_named(content, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / FILE).write_bytes(content)
    with pytest.raises(zoo.DataError, match=FILE):
        zoo.load_dataset("freyfaces", data_dir=tmp_path)


def test_another_array_is_refused(tmp_path):
    write(tmp_path, np.zeros((10, 28, 20), np.uint8))
    with pytest.raises(zoo.DataError, match=r"expected 'x' to be uint8 of shape \(1965, 1, 28, 20\)"):
        zoo.load_dataset("freyfaces", data_dir=tmp_path)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(zoo.DataUnavailable, match=FILE):
        zoo.load_dataset("freyfaces", data_dir=tmp_path)


def test_the_faces_themselves():
    root = Path(os.environ.get("ZOO_DATA", "."))
    if not (root / "images" / FILE).exists():
        pytest.skip(f"images/{FILE} is not in ZOO_DATA")
    faces = zoo.load_dataset("freyfaces", data_dir=root)
    assert faces.shape == SHAPE[1:]
    assert faces.train.mean().mean().item() == pytest.approx(0.606, abs=0.001)
    assert faces.train.x.dtype == torch.uint8
