from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import zoo
import zoo.api
from resuming import TINY, run_main, stopped
from zoo_figures import figures
from zoo_sweep.comparison import compare, flatten
from zoo_sweep.sweep import Sweep, sweep

FIXED = (*TINY, "train.epochs=1")
NO_DATA = tuple(change for change in FIXED if not change.startswith("data="))


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """Runs with different recipes."""
    out = tmp_path_factory.mktemp("compared")
    changes = {
        "base": [],
        "wider": ["encoder.hidden=[9]", "train.optimizer.lr=0.002"],
        "mse": ["loss=mse"],
        "binarised": ["binarize=threshold"],
        "continuous": ["decoder.likelihood=continuous-bernoulli"],
        "repeated": ["data={use: digits, repeat: 2}"],
        "clipped": ["train.max_grad_norm=1.0", "train.scheduler={use: StepLR, step_size: 1}"],
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zoo_figures.callback.DrawFigures.on_train_end", lambda *_, **__: None)
        return {name: zoo.train("mlp-vae", [*FIXED, *change], out=out).path for name, change in changes.items()}


@pytest.mark.parametrize(
    ("other", "differences", "warning"),
    [
        ("wider", {"encoder.hidden": [[8], [9]], "train.optimizer.lr": [0.001, 0.002]}, None),
        ("mse", {"loss": ["elbo", "mse"]}, "The losses are of different kinds (elbo, mse)"),
        ("binarised", {"binarize": ["none", "threshold"]}, "The pixels were binarised differently (none, threshold)"),
        (
            "continuous",
            {"decoder.likelihood": ["bernoulli", "continuous-bernoulli"], "decoder.likelihood.centered": [False, None]},
            "The likelihoods differ (bernoulli, continuous-bernoulli)",
        ),
        ("repeated", {"data.repeat": [1, 2]}, "The runs were trained on different data (digits)"),
        (
            "clipped",
            {
                "train.max_grad_norm": [None, 1.0],
                "train.scheduler": [None, "StepLR"],
                "train.scheduler.step_size": [None, 1],
            },
            None,
        ),
    ],
)
def test_only_differences_are_listed(runs, other, differences, warning):
    comparison = compare(runs["base"], runs[other])
    assert dict(comparison.differences) == differences
    if warning is None:
        assert comparison.warnings == []
    else:
        (message,) = comparison.warnings
        assert (
            message == f"{warning}: {'their' if warning.startswith('The runs') else 'the'} numbers are not comparable."
        )


def test_a_likelihood_inside_another_decoder_is_compared(runs, tmp_path, monkeypatch):
    """The likelihood is found at any depth."""
    monkeypatch.setattr("zoo_figures.callback.DrawFigures.on_train_end", lambda *_, **__: None)
    conditional = ["encoder={use: conditional}", "prior=conditional-normal"]
    same, other = (
        zoo.train(
            "mlp-vae",
            [*FIXED[:2], FIXED[-1], *conditional, f"decoder={{use: conditional, decoder: {decoder}}}"],
            out=tmp_path,
        )
        for decoder in ("mlp", "{use: mlp, likelihood: gaussian}")
    )
    assert compare(runs["base"], same).warnings == []
    assert compare(runs["base"], other).warnings == [
        "The likelihoods differ (bernoulli, gaussian): the numbers are not comparable."
    ]


def test_data_are_named_by_their_path(tmp_path, monkeypatch):
    """Not by the name of the data set, "arrays"."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    compared = []
    for name in ("cats.npy", "dogs.npy"):
        np.save(tmp_path / name, np.random.default_rng(len(compared)).random((9, 8, 8)))
        titles: list[str] = []
        monkeypatch.setattr(figures, "curves", lambda history, title, titles=titles: titles.append(title))
        monkeypatch.setattr(figures, "reconstructions", lambda *_: None)
        monkeypatch.setattr(figures, "samples", lambda *_: None)
        monkeypatch.setattr(figures, "save", lambda *_: None)
        compared.append(zoo.train("mlp-vae", NO_DATA, data=str(tmp_path / name), out=tmp_path / "runs"))
        assert titles == [f"mlp-vae on {name}"]
        assert compared[-1].result()["data"] == name
    comparison = compare(*compared)
    assert [run["data"] for run in comparison.to_json()["runs"]] == ["cats.npy", "dogs.npy"]
    assert comparison.warnings == [
        "The runs were trained on different data (cats.npy, dogs.npy): their numbers are not comparable."
    ]


def test_equal_recipes_have_no_differences(runs):
    comparison = compare(runs["base"], zoo.Run(runs["base"]))
    assert (dict(comparison.differences), comparison.warnings) == ({}, [])
    assert comparison.names == ["1: mlp-vae", "2: mlp-vae"]


def test_names_and_figure(runs):
    comparison = compare(*(runs[name] for name in ("base", "mse")))
    assert comparison.names == ["loss=elbo", "loss=mse"]
    assert compare(runs["base"], runs["clipped"]).names == ["1: mlp-vae", "2: mlp-vae"]
    curves, *bars = comparison.figure().axes
    tests = [zoo.Run(runs[name]).epochs()[-1].test for name in ("base", "mse")]
    assert [list(line.get_ydata()) for line in curves.lines] == [[test["loss"]] for test in tests]
    for axes, term in zip(bars, ("loss", "distortion", "rate"), strict=True):
        assert [patch.get_width() for patch in axes.patches] == [test[term] for test in tests]


def test_recipes_as_dotted_keys_can_be_written_as_overrides():
    """Each difference can be used as an override."""
    recipe = zoo.recipe("mlp-vae", ["loss={use: elbo, beta: 2.0}", "data=digits", "train.max_grad_norm=0.5"])
    flat = flatten(recipe)
    assert flat["loss"] == "elbo"
    again = zoo.recipe("mlp-vae", [f"{key}={json.dumps(value)}" for key, value in flat.items()])
    assert flatten(again) == flat
    assert again.model_copy(update={"summary": recipe.summary}) == recipe


def test_a_sweep_is_compared_as_its_finished_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("zoo_figures.callback.DrawFigures.on_train_end", lambda *_, **__: None)
    monkeypatch.setattr(Sweep, "draw", lambda *_: [])
    monkeypatch.chdir(tmp_path)
    swept = sweep("mlp-vae", [*FIXED, "data.validation=0", "train.optimizer.lr=1e-3,1e20,1e-2"], out=tmp_path)
    (other,) = (stopped("mlp-vae", [*FIXED, "train.epochs=2"], 15, tmp_path),)
    comparison = compare(swept.path, other)
    assert [run.path.name for run in comparison.runs] == ["trial-001", "trial-003", other.path.name]
    assert dict(comparison.differences) == {"train.epochs": [1, 1, 2], "train.optimizer.lr": [0.001, 0.01, 0.001]}
    assert [outcome.state for outcome in comparison.outcomes] == ["finished", "finished", "unfinished"]

    assert run_main("compare", str(swept.path), str(other.path), "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == {**comparison.to_json(), "figure": "comparison.png"}
    assert Path("comparison.png").read_bytes()[:4] == b"\x89PNG"
    assert run_main("compare", str(swept.path), str(other.path), "--out", "c.png") == 0
    table = capsys.readouterr().out
    assert "(unfinished)" in table
    assert [line.split() for line in table.splitlines() if line.startswith(("DIFFERENCE", "train."))] == [
        ["DIFFERENCE", "1", "2", "3"],
        ["train.epochs", "1", "1", "2"],
        ["train.optimizer.lr", "0.001", "0.01", "0.001"],
    ]


def test_runs_that_cannot_be_compared_are_refused(runs, tmp_path, monkeypatch):
    monkeypatch.setattr("zoo_figures.callback.DrawFigures.on_train_end", lambda *_, **__: None)
    with pytest.raises(zoo.UsageError, match="needs at least two finished runs, and there are 1"):
        compare(runs["base"])
    early = stopped("mlp-vae", FIXED, 3, tmp_path)
    with pytest.raises(zoo.RunError, match="has no finished epoch"):
        compare(runs["base"], early)
    with pytest.raises(zoo.RunError, match="cannot be written"):
        raise_from_main(runs, tmp_path)


def raise_from_main(runs: dict[str, Path], tmp_path: Path) -> None:
    from zoo_sweep.cli import compare

    compare.main([str(runs["base"]), str(runs["mse"]), "--out", str(tmp_path / "no" / "c.png")], standalone_mode=False)
