"""Arrays of any shape as data: vectors, sequences, codes and missing entries, and what a run reads later."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

import zoo

RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(40, 7))
SEQUENCES = RNG.normal(size=(40, 2, 9)).astype(np.float32)
CODES = RNG.integers(0, 5, (40, 6))
LABELS = np.arange(40) % 3


def source_order(dataset: zoo.Dataset, array: np.ndarray) -> np.ndarray:
    """The examples of both splits, in the order of the source, by their index."""
    x = torch.cat([dataset.train.x, dataset.test.x])
    return x[torch.cat([dataset.train.index, dataset.test.index]).argsort()].numpy()


@pytest.mark.parametrize(
    ("array", "shape", "modality"),
    [
        (VECTORS, (7,), "vector"),
        (VECTORS.astype(np.float16), (7,), "vector"),
        (SEQUENCES, (2, 9), "sequence"),
        (RNG.normal(size=(40, 2, 3, 4, 5)), (2, 3, 4, 5), "vector"),
        (CODES, (6,), "sequence"),
        (CODES.astype(np.int32), (6,), "sequence"),
        (VECTORS > 0, (7,), "vector"),
    ],
)
@pytest.mark.parametrize("form", ["array", "tensor", "npy", "npz", "pt"])
def test_an_array_of_any_shape_is_read_as_it_is(array, shape, modality, form, tmp_path):
    """Every form gives float32 entries equal to the array, a tenth of which is held out."""
    data: object = array
    if form == "tensor":
        data = torch.from_numpy(array)
    elif form == "npy":
        np.save(data := tmp_path / "a.npy", array)
    elif form == "npz":
        np.savez(data := tmp_path / "a.npz", x=array, y=LABELS)
    elif form == "pt":
        torch.save({"x": torch.from_numpy(array)}, data := tmp_path / "a.pt")
    dataset = zoo.load_dataset(data)
    assert (dataset.shape, dataset.modality, dataset.train.x.dtype) == (shape, modality, torch.float32)
    assert (len(dataset.train), len(dataset.test)) == (36, 4)
    np.testing.assert_array_equal(source_order(dataset, array), array.astype(np.float32))
    assert dataset.train.mask is None
    if form == "npz":
        assert dataset.train.labels.tolist() == (dataset.train.index % 3).tolist()


def test_codes_have_one_column_with_a_category_for_each():
    (column,) = zoo.load_dataset(CODES).columns
    assert (column.kind, column.categories) == ("categorical", (0, 1, 2, 3, 4))


@pytest.mark.parametrize("array", [VECTORS, SEQUENCES, RNG.random((40, 1, 4, 4)), RNG.random((40, 4, 5))])
@pytest.mark.parametrize("form", ["array", "npz"])
def test_nan_means_missing(array, form, tmp_path, monkeypatch):
    """In images as well, whose other entries are rounded to i/255."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    array = array.copy()
    missing = np.random.default_rng(1).random(array.shape) < 0.3
    array[missing] = np.nan
    data: object = array
    if form == "npz":
        np.savez(data := tmp_path / "a.npz", x=array)
    dataset = zoo.load_dataset(data)
    for split in (dataset.train, dataset.test):
        expected = np.nan_to_num(array[split.index.numpy()])
        observed = ~missing[split.index.numpy()]
        assert np.array_equal(split.mask.numpy().reshape(expected.shape), observed)
        x = split.x.numpy().reshape(expected.shape)
        expected = np.rint(expected * 255) if split.x.dtype == torch.uint8 else expected.astype(np.float32)
        np.testing.assert_array_equal(x, expected)


@pytest.mark.parametrize(("modality", "shape"), [("sequence", (4, 5)), ("vector", (4, 5)), ("image", (1, 4, 5))])
def test_the_modality_resolves_an_ambiguous_array(modality, shape):
    dataset = zoo.load_dataset(RNG.random((20, 4, 5)), modality=modality)
    assert (dataset.shape, dataset.modality) == (shape, modality)


def test_training_and_test_arrays():
    dataset = zoo.load_dataset(((VECTORS, LABELS), (VECTORS[:5], LABELS[:5])))
    assert (len(dataset.train), len(dataset.test), dataset.classes) == (40, 5, 3)


def train(data: object, out: Path, *overrides: str) -> zoo.Run:
    small = ["encoder.hidden=[4]", "decoder.hidden=[4]", "latent_dim=2", "decoder.likelihood=gaussian", "binarize=none"]
    return zoo.train("mlp-vae", [*small, *overrides], data=data, out=out, epochs=1, figures=False, progress=False)


def test_a_run_reads_other_data_whole_and_in_order(tmp_path):
    """Nothing is held out; labels and parameters are those of the run."""
    run = train((VECTORS, LABELS), tmp_path, "data.test_fraction=0.5")
    split = run.read(VECTORS[:9][::-1])
    np.testing.assert_array_equal(split.x.numpy(), VECTORS[:9][::-1].astype(np.float32))
    assert len(run.read(VECTORS[:1])) == 1
    np.save(tmp_path / "rows.npy", VECTORS[:5])
    np.testing.assert_array_equal(run.read(tmp_path / "rows.npy").x.numpy(), VECTORS[:5].astype(np.float32))
    with pytest.raises(zoo.DataError, match=r"trained on data of shape \(7,\); got \(2, 9\)"):
        run.read(SEQUENCES)


def test_a_run_reads_a_data_set_whole_and_without_repetition(digits_run):
    run = zoo.Run(digits_run)
    assert len(run.read("digits")) == 1797


def test_joined_splits_are_in_the_order_of_the_source(tmp_path):
    """For a data set that knows nothing of reading whole."""
    source = zoo.Dataset(
        zoo.Split(torch.tensor([[3.0], [1.0]]), index=torch.tensor([3, 1])),
        zoo.Split(torch.tensor([[0.0], [2.0]]), index=torch.tensor([0, 2]), mask=torch.tensor([[True], [False]])),
    )
    run = train(VECTORS[:, :1], tmp_path)
    split = run.read(source)
    assert split.x[:, 0].tolist() == [0, 1, 2, 3]
    assert split.mask[:, 0].tolist() == [True, True, False, True]


def test_columns_of_a_run_are_stored_and_injected(tmp_path):
    """A model is rebuilt from the folder alone, and a code of the training is required."""
    columns = (zoo.Column("a", "real", location=2.0, scale=3.0), zoo.Column("b", "binary", ("no", "yes")))
    x = torch.stack([torch.randn(20), torch.arange(20) % 2.0], 1)
    received = []

    @zoo.register
    class SeesColumns(zoo.get("encoder", "mlp")):
        def __init__(self, columns: tuple[zoo.Column, ...], data_shape: tuple[int, ...], latent_dim: int) -> None:
            received.append(columns)
            super().__init__(data_shape, latent_dim, hidden=(4,))

    data = zoo.Dataset(zoo.Split(x), zoo.Split(x), modality="table", columns=columns)
    run = zoo.train(
        "mlp-vae",
        ["latent_dim=2", "encoder={use: sees-columns}", "decoder.likelihood=gaussian", "binarize=none"],
        **{"data": data, "out": tmp_path, "epochs": 1, "figures": False, "progress": False},
    )
    assert run.columns == columns
    zoo.load(run.path)
    assert len(received) >= 2
    assert set(received) == {columns}
    assert data.summary()["columns"][1]["categories"] == ["no", "yes"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", "float"), "has the kind 'float'; expected one of real, positive"),
        (("a", "categorical"), "is categorical with 0 categories"),
        (("a", "real", ("x",)), "is real with 1 categories"),
        (("a", "categorical", ("x", "x")), "distinct categories"),
        (("a", "binary", ("x", "y", "z")), "is binary with 3 categories; expected two"),
        (("a", "real", (), 0.0, 0.0), "a scale above 0"),
        (("a", "real", (), float("nan")), "expected finite numbers"),
    ],
)
def test_an_impossible_column_is_refused(arguments, message):
    with pytest.raises(zoo.DataError, match=message):
        zoo.Column(*arguments)


def test_columns_must_fit_the_data():
    split = zoo.Split(torch.zeros(3, 4))
    with pytest.raises(zoo.DataError, match=r"There are 2 columns for data of shape \(4,\)"):
        zoo.Dataset(split, split, columns=(zoo.Column("a", "real"), zoo.Column("b", "real")))


def test_codes_of_a_run_bound_those_that_it_reads(tmp_path, caplog):
    caplog.set_level(logging.ERROR)
    run = train(CODES, tmp_path)
    assert len(run.columns[0].categories) == 5
    np.testing.assert_array_equal(run.read(CODES[:3]).x.numpy(), CODES[:3])
    with pytest.raises(zoo.DataError, match="the code 9, and the model was trained on codes up to 4"):
        run.read(np.full((2, 6), 9))
