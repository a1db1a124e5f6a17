from __future__ import annotations

import pytest
import torch

import zoo
from zoo.data.loader import Loader


def images(n: int = 10, labels: bool = True) -> zoo.Split:
    """Images whose pixels all have the index of the image as their value, scaled so that it can be recovered."""
    pixels = torch.arange(n, dtype=torch.uint8).view(-1, 1, 1, 1).expand(n, 2, 3, 4) * 20
    return zoo.Split(pixels.contiguous(), torch.arange(n) if labels else None)


def indices(batch: zoo.Batch) -> list[int]:
    return (batch.x[:, 0, 0, 0] * 255 / 20).round().int().tolist()


def test_an_epoch_holds_every_image_once_and_the_labels_go_with_them():
    batches = Loader(images(), batch_size=4)
    shuffled = [batches[index] for index in batches.shuffled(seed=0, epoch=0)]
    assert [len(batch.x) for batch in shuffled] == [4, 4, 2]
    assert sorted(i for batch in shuffled for i in indices(batch)) == list(range(10))
    for batch in shuffled:
        assert batch.condition is not None
        assert batch.condition.tolist() == indices(batch)


def test_the_order_is_a_pure_function_of_seed_and_epoch():
    batches = Loader(images(100 // 10), batch_size=10)

    def order(seed: int, epoch: int) -> list[int]:
        return next(batches.shuffled(seed, epoch)).tolist()

    torch.manual_seed(1)
    first = order(0, 1)
    torch.manual_seed(2)
    torch.rand(5)
    assert order(0, 1) == first
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_pixels_become_floats_in_the_unit_interval():
    pixels = torch.tensor([0, 51, 127, 128, 255], dtype=torch.uint8).view(5, 1, 1, 1)
    (batch,) = Loader(zoo.Split(pixels), 5).in_order()
    assert batch.x.dtype == torch.float32
    torch.testing.assert_close(batch.x.flatten(), torch.tensor([0, 0.2, 127 / 255, 128 / 255, 1.0]))
    assert batch.condition is None
    (binary,) = Loader(zoo.Split(pixels), 5, "threshold").in_order()
    assert binary.x.flatten().tolist() == [0, 0, 0, 1, 1]


def test_dynamic_binarisation_draws_anew_with_the_pixel_as_probability():
    pixels = torch.full((4000, 1, 1, 1), 51, dtype=torch.uint8)
    batches = Loader(zoo.Split(pixels), 4000, "dynamic")
    torch.manual_seed(0)
    (first,), (second,) = batches.in_order(), batches.in_order()
    assert set(first.x.flatten().tolist()) == {0.0, 1.0}
    assert first.x.mean().item() == pytest.approx(0.2, abs=0.02)
    assert (first.x != second.x).float().mean().item() == pytest.approx(2 * 0.2 * 0.8, abs=0.03)


@pytest.mark.parametrize(("n", "size", "expected"), [(1, 4, [1]), (3, 4, [3]), (5, 4, [4, 1]), (8, 4, [4, 4])])
def test_sizes_of_batches(n, size, expected):
    batches = Loader(images(n), size)
    assert [len(batch.x) for batch in batches.in_order()] == expected
    assert len(batches) == len(expected)


@pytest.mark.parametrize(
    ("pixels", "labels", "message"),
    [
        (torch.zeros(3, 1, 4, 4).double(), None, "uint8 or float32 tensor of shape"),
        (torch.zeros(3, dtype=torch.uint8), None, r"\(3,\)"),
        (torch.zeros(0, 1, 4, 4, dtype=torch.uint8), None, "no entries"),
        (torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), r"shape \(3,\)"),
        (torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.zeros(3), "int64"),
    ],
)
def test_what_are_no_images(pixels, labels, message):
    with pytest.raises(zoo.DataError, match=message):
        zoo.Split(pixels, labels)


def test_splits_must_agree():
    with pytest.raises(zoo.DataError, match="must agree"):
        zoo.Dataset(images(), zoo.Split(torch.zeros(2, 1, 3, 4, dtype=torch.uint8)))


def test_the_digest_of_the_data_sees_a_single_bit():
    dataset = zoo.Dataset(images(), images())
    changed = images()
    changed.x[3, 1, 2, 3] ^= 1
    assert dataset.sha256() == zoo.Dataset(images(), images()).sha256()
    assert dataset.sha256() != zoo.Dataset(images(), changed).sha256()
    assert dataset.sha256() != zoo.Dataset(images(), images(labels=False)).sha256()


def test_an_epoch_can_be_entered_in_the_middle():
    batches = Loader(images(), batch_size=3)
    whole = [index.tolist() for index in batches.shuffled(0, 5)]
    assert [index.tolist() for index in batches.shuffled(0, 5, start=2)] == whole[2:]
