from __future__ import annotations

import pytest

import zoo
from zoo.recipes.merge import merge
from zoo_sweep.axes import Choices, Range, as_axis, grid, read_axes, show, write_axis


@pytest.mark.parametrize(
    ("override", "axis"),
    [
        ("latent_dim=2,5,10,20,40", Choices("latent_dim", (2, 5, 10, 20, 40))),
        ("encoder.hidden=[512,256],[400]", Choices("encoder.hidden", ([512, 256], [400]))),
        ("loss={use: elbo, beta: 4.0},mse", Choices("loss", ({"use": "elbo", "beta": 4.0}, "mse"))),
        ("train.optimizer.lr=1e-3, 1e-4", Choices("train.optimizer.lr", (0.001, 0.0001))),
        ("train.max_grad_norm=null,1.0", Choices("train.max_grad_norm", (None, 1.0))),
        ("data='a,b',c", Choices("data", ("a,b", "c"))),
        ("latent_dim=2..64", Range("latent_dim", 2, 64)),
        ("latent_dim=2..64:log", Range("latent_dim", 2, 64, log=True)),
        ("loss.beta=0.5..4", Range("loss.beta", 0.5, 4)),
        ("loss.shift=-1.5..1.5", Range("loss.shift", -1.5, 1.5)),
        ("train.optimizer.lr=1e-4..1e-2:log", Range("train.optimizer.lr", 0.0001, 0.01, log=True)),
    ],
)
def test_axes_are_parsed(override, axis):
    assert read_axes([override]) == ([axis], [])
    assert as_axis(axis.key, write_axis(axis)) == axis


def test_a_range_of_seeds_is_all_of_them():
    assert read_axes(["train.seed=2..4"]) == ([Choices("train.seed", (2, 3, 4))], [])
    assert read_axes(["train.seed=0.5..4"]) == ([Range("train.seed", 0.5, 4)], [])
    assert read_axes(["latent_dim=2..4"]) == ([Range("latent_dim", 2, 4)], [])


@pytest.mark.parametrize(
    "override",
    ["latent_dim=2", "encoder.hidden=[512,256]", "loss={use: elbo, beta: 4.0}", "data={use: folder, path: ../x,}", "x"],
)
def test_single_values_are_not_axes(override):
    assert read_axes([override]) == ([], [override])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["latent_dim=2,5,2"], "2 occurs twice"),
        (["latent_dim=2,5", "latent_dim=7,9"], "latent_dim is swept twice"),
        (["latent_dim=9..2"], "expected the lower end first"),
        (["latent_dim=2..9:lgo"], r"expected a range such as 2\.\.64"),
        (["loss.beta=0..1:log"], "must be above 0"),
    ],
)
def test_invalid_axes_are_refused(overrides, message):
    with pytest.raises(zoo.UsageError, match=message):
        read_axes(overrides)


def test_a_grid_has_every_combination_once_and_the_last_key_varies_fastest():
    axes = [Choices("a.b", (1, 2, 3)), Choices("c", ("x", "y")), Choices("a.d", ([4], [5, 6]))]
    expected = [{"a.b": b, "c": c, "a.d": d} for b in (1, 2, 3) for c in ("x", "y") for d in ([4], [5, 6])]
    assert list(grid(axes)) == expected


def test_a_change_keeps_all_other_keys():
    change = zoo.parse_overrides({"encoder.hidden": [8], "train.seed": 3, "train.optimizer.lr": 0.5})
    base = {"encoder": {"use": "mlp", "hidden": [400]}, "train": {"epochs": 2, "optimizer": {"use": "Adam"}}}
    assert merge(base, change) == {
        "encoder": {"use": "mlp", "hidden": [8]},
        "train": {"epochs": 2, "optimizer": {"use": "Adam", "lr": 0.5}, "seed": 3},
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "null"), (True, "true"), (2, "2"), (0.00012345678, "0.0001235"), ([8, [4]], "[8,[4]]"), ("mse", "mse")],
)
def test_values_are_formatted(value, text):
    assert show(value) == text
