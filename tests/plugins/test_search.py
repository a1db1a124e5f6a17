from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import zoo
import zoo.api
from resuming import When, run_main, send
from zoo_sweep import figures
from zoo_sweep.axes import Choices, Range
from zoo_sweep.search import Search
from zoo_sweep.sweep import Sweep, sweep

optuna = pytest.importorskip("optuna")

SMALL = ("data={use: digits, validation: 29}", "encoder.hidden=[8]", "decoder.hidden=[8]", "train.epochs=1")
RANGES = ("latent_dim=2..6", "train.optimizer.lr=1e-4..1e-2:log", "loss=elbo,{use: elbo, beta: 2.0}")


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """Drawing takes most of the time."""
    monkeypatch.setattr("zoo_figures.callback.DrawFigures.on_train_end", lambda *_, **__: None)
    monkeypatch.setattr(Sweep, "draw", lambda *_: [])


def search(folder: Path, total: int, seed: int = 0, name: str = "s", axes=None) -> Search:
    axes = axes or [Range("a", 2, 64), Range("b", 1e-4, 1e-2, log=True), Choices("c", ([8, 4], "x", None))]
    return Search(f"sqlite:///{folder / 'study.db'}", name, axes, total, seed, "purpose")


def go_through(source: Search) -> list[dict]:
    """Minimize a function with its minimum at a=10, b=1e-3."""
    proposals = []
    for number, settings in source:
        assert number == len(proposals) + 1
        value = (settings["a"] - 10) ** 2 + (math.log10(settings["b"]) + 3) ** 2 + (settings["c"] == "x")
        source.record(number, value, {"runs": []})
        proposals.append(dict(settings))
    return proposals


def test_suggestions_are_in_range_and_reproducible(tmp_path):
    proposals = go_through(search(tmp_path, 12))
    assert len(proposals) == 12
    for settings in proposals:
        assert isinstance(settings["a"], int)
        assert 2 <= settings["a"] <= 64
        assert 1e-4 <= settings["b"] <= 1e-2
        assert settings["c"] in ([8, 4], "x", None)
    assert len({settings["a"] for settings in proposals}) > 3
    below = sum(settings["b"] < 1e-3 for settings in proposals)
    assert 2 <= below <= 10, "half of a logarithmic range is below its geometric mean"
    assert go_through(search(tmp_path, 12, name="again")) == proposals
    assert go_through(search(tmp_path, 12, name="other", seed=1)) != proposals


def test_a_search_can_be_continued(tmp_path):
    undisturbed = go_through(search(tmp_path, 4, name="undisturbed"))
    first = search(tmp_path, 4)
    number, settings = next(iter(first))
    assert (number, settings) == (1, undisturbed[0])
    second = search(tmp_path, 4)
    assert list(second.started()) == [(1, undisturbed[0])]
    second.record(1, 3.0, {"runs": []})
    second.record(1, 5.0, {"runs": []})
    assert [(trial.number, trial.state, trial.settings) for trial in second.trials()] == [
        (1, "finished", undisturbed[0])
    ]
    assert first.study.trials[0].value == 3.0, "the second record is ignored"
    second.record(next(iter(second))[0], None, {"runs": []})
    assert [trial.state for trial in first.trials()] == ["finished", "failed"]
    assert list(first.started()) == []


def test_two_processes_do_not_exceed_the_number_of_trials(tmp_path):
    """The other process asks between this one's count and its own request."""
    first, second = search(tmp_path, 1), search(tmp_path, 1)
    ask = first.study.ask
    first.study.ask = lambda: (next(iter(second)), ask())[1]
    assert list(first) == []
    assert [(trial.number, trial.state) for trial in first.trials()] == [(1, "unfinished")]
    assert list(second) == []


def test_a_search_of_trainings(tmp_path):
    """The value is the mean of the monitored term over seeds; a sweep stopped in its second trial continues there."""
    counted = When(None, lambda: None)
    counted.on_train_begin = lambda *_: setattr(counted, "runs", getattr(counted, "runs", 0) + 1)
    counted.on_step_end = lambda trainer: counted.runs == 4 and trainer.step == 5 and send(signal.SIGTERM)()
    with pytest.raises(zoo.Interrupted) as caught:
        sweep("mlp-vae", [*SMALL, *RANGES], seeds=2, trials=3, out=tmp_path, callbacks=[counted])
    swept = Sweep.open(caught.value.run)
    assert [(t.number, t.seed, t.state) for t in swept.trials] == [
        (1, 0, "finished"),
        (1, 1, "finished"),
        (2, 0, "finished"),
        (2, 1, "unfinished"),
    ]
    settings = dict(swept.trials[3].settings)
    results = swept.run().results()
    assert [row.number for row in results.rows] == [1, 2, 3]
    assert dict(results.rows[1].settings) == settings
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{swept.path / 'study.db'}")
    for row, trial in zip(results.rows, study.trials, strict=True):
        losses = [zoo.Run(Path(outcome.run)).epochs()[-1].validation["loss"] for outcome in row.outcomes]
        assert trial.value == pytest.approx(sum(losses) / 2, rel=1e-12)
        recipe = zoo.Run(Path(row.outcomes[0].run)).recipe
        assert (recipe.latent_dim, recipe.train.optimizer.parameters["lr"]) == (
            trial.params["latent_dim"],
            trial.params["train.optimizer.lr"],
        )
    assert results.best.number == study.best_trial.number + 1
    scores = [results.score(row) for row in results.rows]
    dots, best = figures.history(results, "title").axes[0].lines
    assert list(dots.get_ydata()) == scores
    assert list(best.get_ydata()) == [min(scores[: i + 1]) for i in range(3)]


def test_a_search_needs_a_validation_split(tmp_path):
    with pytest.raises(zoo.UsageError, match="A search needs a validation split: leave out data.validation=0"):
        sweep("mlp-vae", ["data=digits", "data.validation=0", *RANGES], trials=2, out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_failed_trial_of_a_search(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_main("sweep", "mlp-vae", *SMALL, "train.optimizer.lr=1e20,1e21", "--trials", "2", "--json") == 1
    result = json.loads(capsys.readouterr().out)
    assert [trial["state"] for trial in result["trials"]] == ["failed", "failed"]
    assert result["best"] is None
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{result['sweep']}/study.db")
    assert {trial.state for trial in study.trials} == {optuna.trial.TrialState.FAIL}


def test_two_processes_on_one_study(tmp_path):
    """Two processes that share only the storage start at the same time on a missing file."""
    total = 4
    program = (
        "from zoo_figures.callback import DrawFigures; DrawFigures.on_train_end = lambda *_, **__: None; "
        "from zoo.cli.main import main; main()"
    )
    command = [sys.executable, "-c", program, "sweep", "mlp-vae", *SMALL, "latent_dim=2..40", "--trials", str(total)]
    command += ["--storage", f"sqlite:///{tmp_path / 'shared.db'}", "--name", "s", "--json"]
    pipe = subprocess.PIPE
    started = [
        subprocess.Popen([*command, "--out", tmp_path / out], stdout=pipe, stderr=pipe, text=True) for out in ("a", "b")
    ]
    ended = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0, 0], ended
    folders = [Sweep.open(tmp_path / out / "mlp-vae" / "sweep-s") for out in ("a", "b")]
    here, there = ({trial.number for trial in swept.trials} for swept in folders)
    assert here.isdisjoint(there)
    assert here | there == set(range(1, total + 1))
    first, second = (swept.results() for swept in folders)
    assert [row.number for row in first.rows] == list(range(1, total + 1))
    assert [first.score(row) for row in first.rows] == [second.score(row) for row in second.rows]
    assert first.best.number == second.best.number
    assert {row.number for row in first.rows if row.machine is None} == here
    assert all(row.machine for row in first.rows if row.number in there)


def test_the_study_of_another_sweep_is_refused(tmp_path):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    shared = {"trials": 1, "storage": url, "name": "s"}
    sweep("mlp-vae", [*SMALL, "latent_dim=2..6"], out=tmp_path / "a", **shared)
    for other in (["latent_dim=2..7"], ["latent_dim=2..6", "loss=mse"]):
        with pytest.raises(zoo.RunError, match="has another recipe, other data or other keys"):
            sweep("mlp-vae", [*SMALL, *other], out=tmp_path / "b", **shared)
    assert not (tmp_path / "b").exists()


def test_passwords_are_not_stored(tmp_path, monkeypatch):
    monkeypatch.setattr(Sweep, "_source", lambda self: None)
    url = "postgresql://me:secret@host/zoo"
    swept = Sweep.create("mlp-vae", [*SMALL, "latent_dim=2..6"], trials=1, storage=url, out=tmp_path)
    assert "secret" not in (swept.path / "sweep.yaml").read_text()
    assert Sweep.open(swept.path).plan.storage == "postgresql://me@host/zoo"


def test_without_optuna_a_search_is_refused_and_a_grid_works(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(zoo.UsageError, match=r"pip install 'vae-zoo\[sweep\]'"):
        sweep("mlp-vae", [*SMALL, "latent_dim=2..6"], trials=2, out=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert len(sweep("mlp-vae", [*SMALL, "latent_dim=2,3"], out=tmp_path).results().rows) == 2
