"""Float data, masks, validation splits and modalities."""

from __future__ import annotations

import pytest
import torch

import zoo
from zoo.data.loader import Loader


def vectors(n: int = 6, d: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_a_loader_gives_float_data_as_they_are_and_bytes_as_fractions():
    x = vectors()
    index = torch.tensor([4, 1])
    batch = Loader(zoo.Split(x), 2)[index]
    assert torch.equal(batch.x, x[index])
    assert batch.mask is None
    levels = torch.tensor([[0, 51, 255]], dtype=torch.uint8)
    torch.testing.assert_close(Loader(zoo.Split(levels), 1)[torch.tensor([0])].x, torch.tensor([[0.0, 0.2, 1.0]]))


def test_missing_entries_are_zero_in_a_batch_and_its_mask_says_so():
    x, mask = vectors(), vectors(seed=1) > 0
    split = zoo.Split(x.where(mask, torch.nan), mask=mask)
    for start, batch in zip(range(0, 6, 4), Loader(split, 4).in_order(), strict=True):
        assert torch.equal(batch.mask, mask[start : start + 4])
        assert torch.equal(batch.x, x[start : start + 4].where(batch.mask, 0.0))
    assert torch.equal(split.part(2, 5).mask, mask[2:5])


def test_binarisation_needs_fractions():
    x = vectors()
    with pytest.raises(zoo.DataError, match="binarize=dynamic requires data in .0, 1."):
        Loader(zoo.Split(x), 2, "dynamic")
    bits = next(Loader(zoo.Split(x.sigmoid()), 6, "threshold").in_order()).x
    assert torch.equal(bits, (x > 0).float())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": vectors().double()}, "uint8 or float32 tensor of shape .N, .data_shape.*not torch.float64"),
        ({"x": torch.zeros(3)}, "of shape .3,."),
        ({"x": vectors().log()}, r"not finite. Mask missing ones: Split.x, mask=~torch.isnan.x"),
        ({"x": vectors(), "mask": torch.ones(6, 4)}, "mask must be a bool tensor.*not torch.float32"),
        ({"x": vectors(), "mask": torch.ones(6, dtype=torch.bool)}, r"mask must be .* of shape \(6, 4\)"),
    ],
)
def test_what_is_no_split(arguments, message):
    with pytest.raises(zoo.DataError, match=message):
        zoo.Split(**arguments)


@pytest.mark.parametrize(
    ("x", "modality"),
    [
        (torch.zeros(2, 7), "vector"),
        (torch.zeros(2, 2, 30), "vector"),
        (torch.zeros(2, 3, 8, 8), "image"),
        (torch.zeros(2, 5, 8, 8), "vector"),
        (torch.zeros(2, 5, 8, 8, dtype=torch.uint8), "image"),
    ],
)
def test_the_modality_that_a_shape_has_by_default(x, modality):
    assert zoo.Dataset(zoo.Split(x), zoo.Split(x)).modality == modality
    assert zoo.Dataset(zoo.Split(x), zoo.Split(x), modality="sequence").modality == "sequence"
    with pytest.raises(zoo.DataError, match="modality must be one of image, table, sequence, vector, not 'sound'"):
        zoo.Dataset(zoo.Split(x), zoo.Split(x), modality="sound")


def test_summary_by_hand():
    """Column 0 is 1, 3, (missing): mean 2, deviation 1; column 1 is 0, 0, 6: mean 2, deviation sqrt(8)."""
    x = torch.tensor([[1.0, 0.0], [3.0, 0.0], [torch.nan, 6.0]])
    train = zoo.Split(x, torch.tensor([0, 1, 1]), mask=~x.isnan())
    test = zoo.Split(torch.tensor([[-4.0, 0.0]]), torch.tensor([1]))
    summary = zoo.Dataset(train, test, validation=test).summary()
    assert (summary["train"], summary["test"], summary["validation"]) == (3, 1, 1)
    assert summary["range"] == [-4.0, 6.0]
    assert summary["mean"] == pytest.approx([2, 2])
    assert summary["std"] == pytest.approx([1, 8**0.5])
    assert summary["observed"] == pytest.approx(5 / 6)
    assert summary["labels"][1] == {"label": "1", "train": 2, "test": 1, "validation": 1}


def test_the_digest_covers_mask_dtype_and_validation():
    x, mask = vectors(), vectors(seed=1) > 0
    split = zoo.Split(x)
    datasets = [
        zoo.Dataset(split, split),
        zoo.Dataset(split, split, split),
        zoo.Dataset(zoo.Split(x, mask=mask), split),
        zoo.Dataset(zoo.Split(x, mask=~mask), split),
    ]
    assert len({dataset.sha256() for dataset in datasets}) == 4


def test_splits_agree():
    with pytest.raises(zoo.DataError, match=r"validation split torch.float32 of shape \(3,\)"):
        zoo.Dataset(zoo.Split(vectors()), zoo.Split(vectors()), zoo.Split(vectors(d=3)))
