"""Data passed as Python objects: accepted types, conversion, and errors."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import zoo
from resuming import TINY, assert_same, essence, run_main, stopped
from zoo_export.codes import encode
from zoo_sweep.sweep import sweep

DRAW = np.random.default_rng(0)
LEVELS = DRAW.integers(0, 256, (50, 6, 5), dtype=np.uint8)
COLOUR = DRAW.integers(0, 256, (20, 3, 6, 5), dtype=np.uint8)
LABELS = np.arange(50) % 3
OVERRIDES = [*TINY[1:], "train.epochs=2", "train.batch_size=64"]


def train(data: Any, out: Path, *more: str, **options: Any) -> zoo.Run:
    return zoo.train("mlp-vae", [*OVERRIDES, *more], data=data, out=out, **options)


def rows(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


# --- accepted data


@pytest.mark.parametrize(
    "given",
    [
        LEVELS,
        LEVELS[:, None],
        torch.from_numpy(LEVELS),
        torch.from_numpy(LEVELS)[:, None],
        LEVELS / 255,
        (LEVELS / 255).astype(np.float32),
        torch.from_numpy(LEVELS) / 255,
        (torch.from_numpy(LEVELS) / 255).requires_grad_(),
        np.asfortranarray(LEVELS),
        LEVELS[::-1][::-1],
        np.broadcast_to(LEVELS, LEVELS.shape),  # which is read-only
        (LEVELS, LABELS),
        (torch.from_numpy(LEVELS), torch.from_numpy(LABELS)),
        (LEVELS, LABELS[:, None].astype(np.uint8)),
        zoo.Split(torch.from_numpy(LEVELS)[:, None]),
        zoo.Split(torch.from_numpy(LEVELS)[:, None], torch.from_numpy(LABELS)),
    ],
    ids=lambda given: type(given).__name__,
)
def test_the_same_images_in_any_form_are_the_same_data(given):
    """A tenth is held out, and every form of one array, including floats, gives the same pixels."""
    dataset = zoo.load_dataset(given)
    expected = zoo.load_dataset(LEVELS)
    assert (len(dataset.train), len(dataset.test)) == (45, 5)
    assert torch.equal(dataset.train.x, expected.train.x)
    assert torch.equal(dataset.test.x, expected.test.x)
    assert rows(dataset.train.x) | rows(dataset.test.x) == rows(torch.from_numpy(LEVELS)[:, None])
    if dataset.classes:
        place = {image.tobytes(): label for image, label in zip(LEVELS, LABELS, strict=True)}
        for split in (dataset.train, dataset.test):
            assert split.labels.tolist() == [place[image.numpy().tobytes()] for image in split.x]


def test_the_same_images_in_a_file_and_in_memory_are_the_same_data(tmp_path, monkeypatch):
    """Conversion and split are shared, so the digests of labelled floats are equal."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    np.savez(tmp_path / "data.npz", images=LEVELS / 255, labels=LABELS)
    stored = zoo.load_dataset(str(tmp_path / "data.npz"), split_seed=4, test_fraction=0.3)
    given = zoo.load_dataset((LEVELS / 255, LABELS), split_seed=4, test_fraction=0.3)
    for one, other in ((stored.train, given.train), (stored.test, given.test)):
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.labels, other.labels)


@pytest.mark.parametrize(
    ("given", "shape", "sizes", "classes"),
    [
        ((LEVELS, LEVELS[:7]), (1, 6, 5), (50, 7), 0),
        ((torch.from_numpy(LEVELS), LEVELS[:7] / 255), (1, 6, 5), (50, 7), 0),
        (((LEVELS, LABELS), (LEVELS[:7], LABELS[:7])), (1, 6, 5), (50, 7), 3),
        ((zoo.Split(torch.from_numpy(COLOUR)), COLOUR[:2]), (3, 6, 5), (20, 2), 0),
        (COLOUR, (3, 6, 5), (18, 2), 0),
        (COLOUR.transpose(0, 2, 3, 1), (3, 6, 5), (18, 2), 0),
        ((COLOUR > 127), (3, 6, 5), (18, 2), 0),
    ],
)
def test_shapes_and_splits(given, shape, sizes, classes):
    dataset = zoo.load_dataset(given)
    assert (dataset.shape, (len(dataset.train), len(dataset.test)), dataset.classes) == (shape, sizes, classes)


def test_arrays_are_copied():
    """A `zoo.Dataset` is not copied."""
    given = LEVELS.copy()
    dataset = zoo.load_dataset(given)
    digest = dataset.sha256()
    given[:] = 0
    assert dataset.sha256() == digest
    assert zoo.load_dataset(dataset) is dataset


def test_the_split_depends_only_on_its_seed_and_is_logged(caplog):
    with caplog.at_level(logging.INFO, "zoo"):
        one, again, other = (zoo.load_dataset(LEVELS, split_seed=seed, test_fraction=0.2) for seed in (1, 1, 2))
    assert torch.equal(one.test.x, again.test.x)
    assert not torch.equal(one.test.x, other.test.x)
    assert caplog.messages[0] == "Holding out 10 of 50 examples for testing: test_fraction 0.2, split_seed 1."
    # Adding images moves only a few of the others to the other split.
    more = zoo.load_dataset(np.concatenate([LEVELS, LEVELS[::-1] ^ 1]), split_seed=1, test_fraction=0.2)
    assert len(rows(one.test.x) & rows(more.test.x)) >= 7


# --- a run


def test_a_run_on_an_object_equals_that_on_the_same_named_data(tmp_path):
    digits = zoo.load_dataset("digits")
    given, named = train(digits, tmp_path / "given"), train("digits", tmp_path / "named", "data.repeat=1")
    assert_same(essence(given), essence(named))
    assert given.environment["data"]["sha256"] == named.environment["data"]["sha256"] == digits.sha256()
    assert given.environment["data"]["name"] == "memory"
    evaluations = [zoo.evaluate(run, data=data).to_json() for run, data in ((given, digits), (named, None))]
    assert evaluations[0] == evaluations[1]


def test_a_run_is_resumed_evaluated_and_fitted_with_the_same_data(tmp_path):
    """Missing or different data are refused; functions without data work."""
    data = (LEVELS, LABELS)
    with pytest.raises(zoo.Interrupted) as caught:
        train(data, tmp_path / "stopped", "data.test_fraction=0.3", "data.split_seed=2", time_limit=0.0)
    run = zoo.Run(caught.value.run)
    assert run.recipe.data[0].parameters == {
        "modality": "auto",
        "layout": "auto",
        "test_fraction": 0.3,
        "split_seed": 2,
        "validation": 0,
    }
    whole = train(data, tmp_path / "whole", "data.test_fraction=0.3", "data.split_seed=2")

    again = re.escape("Pass them again: zoo.resume(run, data=...), zoo.evaluate(run, data=...)")
    other = "not those that .* was trained on: their SHA-256 differs"
    fit = ("gaussian-mixture", ["components=2"])
    for use in (zoo.resume, zoo.evaluate, lambda run, **data: zoo.fit_prior(run, *fit, **data)):
        used = run if use is zoo.resume else whole
        for missing, message in (({}, again), ({"data": (LEVELS ^ 1, LABELS)}, other), ({"data": LEVELS}, other)):
            with pytest.raises(zoo.UsageError, match=message):
                use(used, **missing)
        with pytest.raises(zoo.DataError, match="type str are not supported"):
            use(used, data="digits")
    assert_same(essence(zoo.resume(run, data=data)), essence(whole))

    assert zoo.evaluate(whole, data=data)["elbo"].value == zoo.evaluate(run, data=data)["elbo"].value
    assert zoo.fit_prior(whole, *fit, data=data)["images"] == 35
    assert zoo.load(whole).sample(2).shape == (2, 1, 6, 5)
    codes = encode(whole, data)
    assert codes["mean"].shape[1:] == (2,)


def test_named_data_cannot_be_passed_as_objects(tmp_path):
    run = stopped("mlp-vae", [*TINY, "train.epochs=1"], 3, tmp_path)
    with pytest.raises(zoo.UsageError, match="digits is loaded by name: omit data"):
        zoo.resume(run, data=LEVELS)
    zoo.resume(run)
    with pytest.raises(zoo.UsageError, match="digits is loaded by name: omit data"):
        zoo.evaluate(run, data=zoo.load_dataset("digits"))


def test_commands_explain_how_to_pass_the_data(tmp_path, capsys):
    run = train(LEVELS, tmp_path)
    for command in ("evaluate", "reconstruct"):
        assert run_main(command, str(run.path)) == 2
        assert "Pass them again: zoo.resume(run, data=...)" in capsys.readouterr().err
    assert run_main("sample", str(run.path)) == 0
    assert run_main("report", str(run.path)) == 0
    assert run_main("train", "mlp-vae", "--data", "memory", "--out", str(tmp_path / "other")) == 2
    assert not (tmp_path / "other").exists()
    assert "memory" not in {found.name for found in zoo.survey_data()}, "there is nothing to look for"


def test_a_path_can_be_an_object(tmp_path, monkeypatch):
    """`pathlib.Path` is a path, even if a data set has the same name."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "x.npy", LEVELS)
    assert len(zoo.load_dataset(Path("x.npy")).train) == 45
    with pytest.raises(zoo.DataUnavailable, match="There is no file or folder"):
        zoo.load_dataset(Path("digits"))


# --- errors


class DataLoader:
    """The error for a data frame explains how to convert it."""


class DataFrame:
    shape = (50, 64)


REFUSED = {
    "list": ([LEVELS], "type list are not supported.*Stack it: numpy.stack"),
    "list of two": ([LEVELS, LEVELS], "type list are not supported"),
    "int": (5, "type int are not supported"),
    "bytes": (b"digits", "type bytes are not supported"),
    "dict": ({"images": LEVELS}, "type dict are not supported"),
    "single": ((LEVELS,), "type tuple are not supported"),
    "triple": ((LEVELS, LEVELS, LEVELS), "type tuple are not supported"),
    "strings": (("digits", "mnist"), "type str are not supported.*are loaded from there"),
    "dataset": (
        torch.utils.data.TensorDataset(*[torch.rand(3, 1, 4, 4)] * 3),
        r"of a TensorDataset must be tensors, or pairs .* its batches are \(Tensor, Tensor, Tensor\)",
    ),
    "loader": (torch.utils.data.DataLoader([{"x": LEVELS}]), r"of a list must be tensors.* are \(dict\)"),
    "frame": (DataFrame(), r"DataFrame are not supported.*frame.to_numpy\(float\)"),
    "masked": (np.ma.masked_array(LEVELS), "numpy.MaskedArray are not supported"),
    "model": (SimpleNamespace(), "types.SimpleNamespace are not supported"),
    "sparse": (torch.rand(5, 1, 4, 4).to_sparse(), "A tensor of torch.float32 with layout torch.sparse_coo on cpu"),
    "meta": (torch.rand(5, 1, 4, 4, device="meta"), "A tensor of torch.float32 with layout torch.strided on meta"),
    "levels as floats": (LEVELS.astype(float), r"has the value \d+ at .* in \[0, 1\]. If these are levels up to 255"),
    "levels as integers": (LEVELS.astype(int), "dtype int64; .*Convert levels .* with .astype"),
    "nan": (torch.full((5, 6, 6), float("nan")), "every entry is NaN, which means missing"),
    "infinite": (torch.full((5, 1, 6, 6), float("inf")), "image 0 has the value inf"),
    "signed": (torch.rand(5, 1, 6, 6) * 2 - 1, r"If these are in \[-1, 1\]"),
    "complex": (torch.rand(5, 6, 6, dtype=torch.complex64), "dtype complex64"),
    "objects": (np.array([None]), "dtype object"),
    "rows of levels": (LEVELS.reshape(50, -1), r"shape \(50, 30\); expected .* \.reshape\(-1, HEIGHT, WIDTH\)"),
    "infinite vector": (torch.full((5, 6), float("inf")), r"data: examples has an infinite number at \[0, 0\]"),
    "negative codes": (np.full((5, 6), -1), r"integers from -1 to -1; codes are from 0"),
    "one image": (LEVELS[0], r"shape \(6, 5\); expected"),
    "one": (LEVELS[:1], "one image; training and testing need at least two"),
    "none": (LEVELS[:0], "holds no image"),
    "doubtful": (np.zeros((5, 3, 4, 3), np.uint8), "Write data.layout=nhwc"),
    "fewer labels": ((LEVELS, LABELS[:3]), "labels of 50 images are non-negative integers"),
    "negative labels": ((LEVELS, LABELS - 1), "has the label -1 at 0"),
    "labels as floats": ((LEVELS, LABELS / 2), "labels has dtype float64"),
    "test of another shape": ((LEVELS, COLOUR), "The splits must agree"),
    "test of 0 to 255": ((LEVELS, LEVELS.astype(float)), "data: test: image 0 has the value"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_other_data_are_refused(what, tmp_path):
    """By `zoo.train`, before a folder is created, and by `zoo.load_dataset`."""
    given, message = REFUSED[what]
    for use in (zoo.load_dataset, lambda data: train(data, tmp_path / "runs")):
        with pytest.raises(zoo.DataError, match=message):
            use(given)
    assert not (tmp_path / "runs").exists()


def test_the_layout_resolves_an_ambiguous_shape():
    doubtful = np.zeros((5, 3, 4, 3), np.uint8)
    assert zoo.load_dataset(doubtful, layout="nhwc").shape == (3, 3, 4)
    assert zoo.load_dataset(doubtful, layout="nchw").shape == (3, 4, 3)


@pytest.mark.parametrize("given", [(LEVELS, LEVELS[:7]), zoo.Dataset(*[zoo.Split(torch.from_numpy(COLOUR))] * 2)])
def test_split_parameters_are_refused_for_split_data(given):
    with pytest.raises(zoo.DataError, match="already split into .*: leave out test_fraction and split_seed"):
        zoo.load_dataset(given, test_fraction=0.5)


def test_two_data_sets_are_refused(tmp_path):
    with pytest.raises(zoo.UsageError, match="Two data sets were given: a ndarray and digits"):
        train(LEVELS, tmp_path, "data=digits")
    with pytest.raises(zoo.UsageError, match="A sweep loads its data for each trial.*numpy.savez"):
        sweep("mlp-vae", ["latent_dim=1,2"], data=LEVELS, out=tmp_path)
    with pytest.raises(zoo.UsageError, match="Expected the name of a data set"):
        zoo.load_dataset(None)


@pytest.mark.parametrize("labelled", [False, True])
def test_a_dataset_or_loader_of_torch_equals_its_tensors(labelled):
    """In the order of the dataset, although the loader shuffles."""
    tensors = [torch.from_numpy(LEVELS), torch.from_numpy(LABELS)][: 1 + labelled]
    expected = zoo.load_dataset(tuple(tensors) if labelled else tensors[0]).sha256()
    dataset = torch.utils.data.TensorDataset(*tensors)
    assert zoo.load_dataset(dataset).sha256() == expected
    assert zoo.load_dataset(torch.utils.data.DataLoader(dataset, 7, shuffle=True)).sha256() == expected
    pair = zoo.load_dataset((dataset, torch.utils.data.Subset(dataset, range(7))))
    assert (len(pair.train), len(pair.test)) == (50, 7)


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(torch.from_numpy(LEVELS))


def test_an_iterable_dataset_is_read_in_its_order():
    assert zoo.load_dataset(Stream()).sha256() == zoo.load_dataset(LEVELS).sha256()
