"""The validation split: how it is held out, what uses it, and that the test split never influences training."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import zoo
from resuming import TINY, run_main


def rows(n: int = 100, seed: int = 0, **fields) -> zoo.Split:
    """Rows whose first entry is their index."""
    x = torch.rand(n, 3, generator=torch.Generator().manual_seed(seed))
    x[:, 0] = torch.arange(n)
    return zoo.Split(x, **fields)


def numbers(split: zoo.Split | None) -> list[int]:
    assert split is not None
    return split.x[:, 0].int().tolist()


@pytest.mark.parametrize(("validation", "count"), [(1, 1), (10, 10), (99, 99), (0.1, 10), (0.004, 1), (0.5, 50)])
def test_every_example_goes_to_one_of_the_two_splits(validation, count):
    data = zoo.Dataset(rows(), rows(20, 1)).hold_out(validation)
    assert len(data.validation) == count
    assert sorted(numbers(data.train) + numbers(data.validation)) == list(range(100))
    assert numbers(data.test) == list(range(20))


def test_the_held_out_examples_depend_on_the_seed_alone():
    data = zoo.Dataset(rows(), rows(20, 1))
    first, again, other = (numbers(data.hold_out(10, seed).validation) for seed in (0, 0, 1))
    assert first == again != other
    assert first != list(range(first[0], first[0] + 10))  # drawn, not cut out


@pytest.mark.parametrize("mapped", [False, True])
def test_everything_that_belongs_to_an_example_goes_with_it(mapped):
    number = torch.arange(100)
    split = rows(
        labels=number,
        factors=number[:, None],
        paths=tuple(map(str, range(100))),
        index=number,
        mask=torch.rand(100, 3) < 0.5,
        digest="a" if mapped else None,
    )
    x, mask = split.x.clone(), split.mask.clone()
    data = zoo.Dataset(split, split.part(0, 5), factor_names=("number",)).hold_out(30, seed=2)
    for part in (data.train, data.validation):
        of = part.labels
        torch.testing.assert_close(part.x, x[of], rtol=0, atol=0)
        assert torch.equal(part.mask, mask[of])
        assert torch.equal(part.factors[:, 0], of)
        assert torch.equal(part.index, of)
        assert part.paths == tuple(map(str, of.tolist()))


def test_mapped_data_stay_where_they_are():
    """Both splits are views of the mapped examples; only as many examples move as are held out."""
    split = rows(1000, digest="a")
    before, memory = split.x.clone(), split.x.data_ptr()
    data = zoo.Dataset(split, rows(5, 1)).hold_out(10)
    assert data.train.x.data_ptr() == memory
    assert data.validation.x.data_ptr() == memory + 990 * 3 * 4
    assert int((data.train.x != before[:990]).any(1).sum()) <= 10
    plain = zoo.Dataset(zoo.Split(before), rows(5, 1)).hold_out(10)
    assert torch.equal(plain.train.x, data.train.x)
    assert torch.equal(plain.validation.x, data.validation.x)
    digests = [zoo.Dataset(rows(1000, digest="a"), rows(5, 1)).hold_out(10, seed).sha256() for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("validation", [100, 1000, 0.999])
def test_something_remains_to_train_on(validation):
    with pytest.raises(zoo.DataError, match=r"hold out \d+ of 100 training examples\. Expected a fraction below 1"):
        zoo.Dataset(rows(), rows(20, 1)).hold_out(validation)


def test_a_second_validation_split_is_refused():
    data = zoo.Dataset(rows(), rows(20, 1), rows(10, 2))
    with pytest.raises(zoo.DataError, match=r"already have a validation split: omit data\.validation"):
        data.hold_out(10)
    with pytest.raises(zoo.DataError, match=r"omit data\.validation"):
        zoo.train("mlp-vae", ["data.validation=0.1"], data=data)


def test_repeated_images_are_not_in_both_splits():
    """`digits` repeats its training images several times per epoch."""
    data = zoo.load_dataset("digits", repeat=3, validation=100)
    assert (len(data.train), len(data.validation), len(data.test)) == (3 * 1338, 100, 359)
    assert not set(data.train.index.tolist()) & set(data.validation.index.tolist())
    plain = zoo.load_dataset("digits")
    assert torch.equal(data.validation.x, plain.train.x[data.validation.index])
    assert torch.equal(data.train.labels, plain.train.labels[data.train.index])


def test_the_override_applies_to_every_data_set():
    recipe = zoo.recipe("mlp-vae", ["data.validation=0.1"])
    assert [spec.parameters["validation"] for spec in recipe.data] == [0.1, 0.1]
    assert recipe.data[1].parameters["repeat"] == 40


@pytest.mark.parametrize("value", ["1.5", "-1", "-0.1", "1.0", "true", "x", "[1]", "null"])
def test_a_size_is_a_count_or_a_fraction(value):
    with pytest.raises(zoo.RecipeError, match=r"data\.validation: "):
        zoo.recipe("mlp-vae", ["data=digits", f"data.validation={value}"])


SELECTING = ("train.monitor=rate", "loss={use: elbo, beta: 0.1}", "train.optimizer.lr=0.01", "data.validation=100")


def test_the_best_epoch_by_validation_is_the_result(tmp_path):
    run = zoo.train("mlp-vae", [*TINY, *SELECTING, "train.epochs=3"], out=tmp_path)
    rates = [epoch.validation["rate"] for epoch in run.epochs()]
    assert min(rates) == rates[0]  # the rate rises with so small a beta
    assert run.best_epoch().epoch == 1
    result = run.result()
    assert (result["epoch"], result["validation"]["rate"]) == (1, rates[0])
    assert result["test"] == run.epochs()[0].test
    data = zoo.load_dataset("digits", validation=100, seed=run.recipe.train.seed)
    assert run.loaded().dataset.sha256() == data.sha256()
    terms = run.epochs()[0].validation
    elbo = zoo.evaluate(run, ["elbo"], split="validation")["elbo"].value
    assert elbo == pytest.approx(-(terms["distortion"] + terms["rate"]), rel=0.01)


def test_the_held_out_examples_follow_the_seed_of_the_training(tmp_path):
    indices = []
    for seed in (0, 1):
        run = zoo.train("mlp-vae", [*TINY, "data.validation=100", "train.epochs=1"], seed=seed, out=tmp_path)
        indices.append(run.loaded().dataset.validation.index)
    assert not torch.equal(*indices)


def test_without_a_validation_split_the_last_weights_are_the_result(tmp_path):
    run = zoo.train("mlp-vae", [*TINY, *SELECTING[:-1], "train.epochs=3"], out=tmp_path)
    rates = [epoch.test["rate"] for epoch in run.epochs()]
    assert min(rates) == rates[0]
    assert run.best_epoch().epoch == 3
    assert "validation" not in run.result()
    newest = run.checkpoints.newest()
    assert (newest.step, newest.score) == (36, None)
    for name, value in newest.weights().items():
        assert torch.equal(load_file(run.path / "model.safetensors")[name], value)


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("train.patience=3", "train.patience"),
        ("train.scheduler={use: ReduceLROnPlateau, patience: 1}", "train.scheduler"),
    ],
)
def test_an_option_that_selects_needs_a_validation_split(option, named, tmp_path, capsys):
    assert run_main("train", "mlp-vae", *TINY, option, "--out", str(tmp_path)) == 2
    err = capsys.readouterr().err
    assert f"{named}: requires a validation split, and the data have none: set data.validation=0.1" in err
    assert not list(tmp_path.iterdir())


def test_progress_names_the_split_of_every_number(tmp_path, capsys):
    options = (*TINY, "data.validation=100", "--epochs", "2", "--out", str(tmp_path))
    assert run_main("train", "mlp-vae", *options) == 0
    out, err = capsys.readouterr()
    assert "mlp-vae on digits: 1338 training, 100 validation, 359 test examples of 1x8x8" in err
    line = next(line for line in err.splitlines() if line.startswith("epoch 1/2"))
    assert line.index("train") < line.index("validation") < line.index("test")
    assert [word for word in ("train", "validation", "test") if f"\n{word} " in "\n" + out] == [
        *("train", "validation", "test")
    ]


EVERYTHING = (
    *("train.patience=2", "train.ema_decay=0.9", "train.epochs=4", "train.monitor=rate", "binarize=dynamic"),
    "train.scheduler={use: ReduceLROnPlateau, factor: 0.5, patience: 0}",
)


@pytest.mark.parametrize("options", [(), EVERYTHING], ids=["plain", "everything that selects"])
@pytest.mark.parametrize("noise", ["other values", "no digits", "fewer", "constant"])
def test_the_test_split_never_influences_the_weights(options, noise, tmp_path):
    digits = zoo.load_dataset("digits")
    if options:
        digits = digits.hold_out(100)
    x = torch.randint(0, 256, digits.test.x.shape, dtype=torch.uint8)
    other = {
        "other values": digits.test.x.flip(0, 3),
        "no digits": x,
        "fewer": x[:1],
        "constant": torch.full_like(x, 255),
    }[noise]
    labels = digits.test.labels[: len(other)]
    weights = []
    for test in (digits.test, zoo.Split(other, labels)):
        run = zoo.train("mlp-vae", [*TINY[1:], *options], data=replace(digits, test=test), epochs=4, out=tmp_path)
        weights.append((run.path / "model.safetensors").read_bytes())
        assert run.best_epoch().epoch == (1 if options else 4) or options
    assert weights[0] == weights[1]
