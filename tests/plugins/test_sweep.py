from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

import zoo
import zoo.api
from resuming import When, assert_same, essence, run_main, send
from zoo_sweep import figures
from zoo_sweep.folder import best_run
from zoo_sweep.sweep import Sweep, sweep

SMALL = ("data={use: digits, validation: 29}", "encoder.hidden=[8]", "decoder.hidden=[8]")
ONE_EPOCH = (*SMALL, "train.epochs=1")
EPOCH = 12  # steps, on digits without repetition


@pytest.fixture(autouse=True)
def no_figures(monkeypatch, request):
    """Drawing takes most of the time. Tests of figures use the fixture `draws`."""
    monkeypatch.setattr("zoo_figures.callback.DrawFigures.on_train_end", lambda *_, **__: None)
    if "draws" not in request.fixturenames:
        monkeypatch.setattr(Sweep, "draw", lambda *_: [])


@pytest.fixture
def draws():
    """Let sweeps draw their figures."""


def files(folder: Path) -> dict[Path, int]:
    files = (path for path in folder.rglob("*") if path.is_file())
    # Lock files are empty; filelock before 4.0 truncates them on every acquisition.
    return {path: path.stat().st_mtime_ns for path in files if path.parent.name != ".locks"}


def test_settings_are_compared_on_a_validation_split(tmp_path, caplog):
    """Never on the test split. The examples are held out by themselves, and the log says so."""
    small = ["data=digits", *SMALL[1:], "train.epochs=1"]
    with caplog.at_level("INFO", "zoo"):
        results = sweep("mlp-vae", [*small, "latent_dim=2,3"], out=tmp_path, name="s").results()
    assert "compared on a validation split: data.validation=0.1 holds out" in caplog.text
    runs = [zoo.Run(Path(row.outcomes[0].run)) for row in results.rows]
    scores = [run.epochs()[-1].validation["loss"] for run in runs]
    assert [results.score(row) for row in results.rows] == scores
    assert results.best.number == 1 + int(np.argmin(scores))
    assert [run.environment["data"]["validation"] for run in runs] == [144, 144]
    assert best_run(tmp_path / "mlp-vae" / "sweep-s") == runs[results.best.number - 1].path


def test_without_a_validation_split_no_setting_is_the_best(tmp_path, caplog):
    small = ["data=digits", *SMALL[1:], "train.epochs=1"]
    with caplog.at_level("INFO", "zoo"):
        swept = sweep("mlp-vae", [*small, "data.validation=0", "latent_dim=2,3"], out=tmp_path)
        seeds = sweep("mlp-vae", small, seeds=2, out=tmp_path, name="seeds")
    assert "validation" not in caplog.text
    assert swept.results().best is None
    assert seeds.results().best is None, "seeds are not selected from"
    with pytest.raises(zoo.RunError, match="has no best run: it was trained without a validation split"):
        best_run(swept.path)


def test_a_trial_equals_a_run_of_zoo_train(tmp_path):
    swept = sweep("mlp-vae", [*ONE_EPOCH, "latent_dim=2,3", "loss=elbo,mse"], out=tmp_path, name="s")
    assert swept.path == tmp_path / "mlp-vae" / "sweep-s"
    settings = [(2, "elbo"), (2, "mse"), (3, "elbo"), (3, "mse")]
    assert [tuple(trial.settings.values()) for trial in swept.trials] == settings
    for trial in (swept.trials[1], swept.trials[2]):
        latent_dim, loss = trial.settings.values()
        alone = zoo.train("mlp-vae", [*ONE_EPOCH, f"latent_dim={latent_dim}", f"loss={loss}"], out=tmp_path / "alone")
        assert trial.run.recipe == alone.recipe
        assert_same(essence(trial.run), essence(alone))


def test_mean_and_spread_over_seeds(tmp_path):
    swept = sweep("mlp-vae", [*ONE_EPOCH, "latent_dim=2,3", "train.seed=0,1,7"], out=tmp_path)
    rows = swept.results().rows
    assert [dict(row.settings) for row in rows] == [{"latent_dim": 2}, {"latent_dim": 3}]
    for row in rows:
        runs = [zoo.Run(Path(outcome.run)) for outcome in row.outcomes]
        assert [run.recipe.train.seed for run in runs] == [0, 1, 7]
        losses = np.array([run.epochs()[-1].test["loss"] for run in runs])
        assert len(set(losses)) == 3
        summary = row.to_json()
        assert summary["mean"]["test"]["loss"] == pytest.approx(losses.mean(), rel=1e-12)
        assert summary["sd"]["test"]["loss"] == pytest.approx(losses.std(ddof=1), rel=1e-9)
        rates = np.array([run.epochs()[-1].train["rate"] for run in runs])
        assert summary["sd"]["train"]["rate"] == pytest.approx(rates.std(ddof=1), rel=1e-9)
    means = [row.to_json()["mean"]["validation"]["loss"] for row in rows]
    assert swept.results().best.number == 1 + int(np.argmin(means))


@pytest.mark.parametrize("seeds", [None, 2])
def test_a_command_on_a_sweep_uses_its_best_run(seeds, tmp_path, capsys):
    """Not its last run."""
    swept = sweep("mlp-vae", [*ONE_EPOCH, "train.optimizer.lr=1e-5,1e-2,1e-6"], seeds=seeds, out=tmp_path)
    best = swept.results().best
    assert best.number == 2
    assert best_run(swept.path) == Path(best.outcomes[0].run)
    assert run_main("sample", str(swept.path), "-n", "1", "--json") == 0
    assert json.loads(capsys.readouterr().out)["run"] == best.outcomes[0].run


def test_a_command_on_a_sweep_without_a_finished_trial_is_refused(tmp_path):
    swept = sweep("mlp-vae", [*ONE_EPOCH, "train.optimizer.lr=1e20,1e21"], out=tmp_path)
    with pytest.raises(zoo.RunError, match="has no finished trial"):
        best_run(swept.path)


def test_the_core_does_not_treat_a_sweep_as_a_run(tmp_path):
    swept = sweep("mlp-vae", [*ONE_EPOCH, "latent_dim=2,3"], out=tmp_path)
    with pytest.raises(zoo.NoRun, match="contains no finished run"):
        zoo.load(swept.path)
    with pytest.raises(zoo.NoRun, match="has no unfinished run"):
        zoo.resume(swept.path)


def test_a_number_of_seeds_counts_from_zero(tmp_path):
    swept = sweep("mlp-vae", ONE_EPOCH, seeds=2, out=tmp_path)
    assert [trial.run.recipe.train.seed for trial in swept.trials] == [0, 1]
    (row,) = swept.results().rows
    assert len(row.finished) == 2


def test_the_numbers_are_those_of_the_best_epoch(tmp_path):
    """With a small beta the rate rises in one of the trials, so its first epoch is the best."""
    fixed = [*SMALL, "train.epochs=3", "train.monitor=rate", "loss={use: elbo, beta: 0.1}", "train.optimizer.lr=0.01"]
    swept = sweep("mlp-vae", [*fixed, "latent_dim=2,3"], out=tmp_path)
    results = swept.results()
    assert results.monitor == "rate"
    best = []
    for row, trial in zip(results.rows, swept.trials, strict=True):
        epochs = trial.run.epochs()
        rates = [epoch.validation["rate"] for epoch in epochs]
        best.append(epochs[int(np.argmin(rates))])
        (outcome,) = row.outcomes
        assert (outcome.epoch, outcome.test) == (best[-1].epoch, best[-1].test)
        assert outcome.train["loss"] == best[-1].train["loss"]
        assert results.score(row) == min(rates)
        assert outcome.seconds == pytest.approx(sum(epoch.seconds for epoch in epochs), abs=1e-3)
    assert best[0].epoch == 1


def test_killed_and_resumed(tmp_path):
    """A real ``kill -9`` in the second of three trials: the first is kept, the second resumes from its checkpoint
    to the bits of one that was not killed, the third is trained.
    """
    fixed = [*SMALL, "train.epochs=2", "train.checkpoint.steps=1"]
    program = (
        "import os, signal, sys, zoo\n"
        "from zoo_sweep.sweep import sweep\n"
        "class Killer(zoo.Callback):\n"
        "    trial = 0\n"
        "    def on_train_begin(self, trainer): self.trial += 1\n"
        "    def on_step_end(self, trainer):\n"
        "        self.trial == 2 and trainer.step == 20 and os.kill(os.getpid(), signal.SIGKILL)\n"
        "sweep('mlp-vae', sys.argv[1:], name='s', out='runs', callbacks=[Killer()])\n"
    )
    overrides = [*fixed, "latent_dim=2,3,4"]
    killed = subprocess.run([sys.executable, "-c", program, *overrides], cwd=tmp_path, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    swept = Sweep.open(tmp_path / "runs" / "mlp-vae" / "sweep-s")
    assert [trial.state for trial in swept.trials] == ["finished", "unfinished"]
    assert swept.trials[1].run.checkpoints.newest().step == 19
    before = files(swept.trials[0].path)
    steps = []
    observer = When(None, lambda: None)
    observer.on_step_end = lambda trainer: steps.append(trainer.step)
    swept.run(callbacks=[observer])
    assert steps == [*range(20, 25), *range(1, 25)]
    assert files(swept.trials[0].path) == before
    undisturbed = sweep("mlp-vae", overrides, out=tmp_path / "undisturbed")
    for trial, other in zip(swept.trials, undisturbed.trials, strict=True):
        assert_same(essence(trial.run), essence(other.run))


def test_a_trial_killed_before_its_first_checkpoint_starts_again(tmp_path):
    swept = sweep("mlp-vae", [*ONE_EPOCH, "latent_dim=2,3"], out=tmp_path, name="s")
    expected = essence(swept.trials[1].run)
    path = swept.trials[1].path
    (path / "model.safetensors").unlink()
    for checkpoint in list((path / "checkpoints").iterdir()):
        for file in checkpoint.iterdir():
            file.unlink()
        checkpoint.rmdir()
    swept.run()
    assert_same(essence(swept.trials[1].run), expected)
    with pytest.raises(zoo.RunError, match="already contains a run"):
        zoo.train("mlp-vae", ONE_EPOCH, folder=path)


@pytest.mark.parametrize("step", [5, EPOCH])
def test_stopped_by_a_signal(step, tmp_path):
    """In the middle of a trial, and in its last step, after which the sweep must stop."""
    observer = When(step, send(signal.SIGTERM))
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(zoo.Interrupted) as caught:
        sweep("mlp-vae", [*ONE_EPOCH, "latent_dim=2,3"], out=tmp_path, name="s", callbacks=[observer])
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert caught.value.exit_code == 143
    assert caught.value.run == tmp_path / "mlp-vae" / "sweep-s"
    swept = Sweep.open(caught.value.run)
    assert [trial.state for trial in swept.trials] == ["unfinished" if step < EPOCH else "finished"]
    assert [trial.state for trial in swept.run().trials] == ["finished", "finished"]


def test_a_signal_before_the_first_step_of_a_trial_stops_it_there(tmp_path):
    """While the data are loaded, the sweep handles signals and passes them to the training."""
    observer = When(None, lambda: None)
    observer.on_train_begin = lambda *_: send(signal.SIGTERM)()
    with pytest.raises(zoo.Interrupted) as caught:
        sweep("mlp-vae", [*ONE_EPOCH, "latent_dim=2,3"], out=tmp_path, callbacks=[observer])
    (trial,) = Sweep.open(caught.value.run).trials
    assert trial.run.checkpoints.newest().step == 1


def test_the_resume_command_is_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("zoo.training.trainer.progress_callback", lambda: When(5, send(signal.SIGINT)))
    assert run_main("sweep", "mlp-vae", *ONE_EPOCH, "latent_dim=2,3", "--out", "my runs", "--data-dir", "d") == 130
    stderr = capsys.readouterr().err
    assert "Stopped by Ctrl-C. The state is saved. To resume:" in stderr
    zoo_, *command = shlex.split(stderr.splitlines()[-1])
    (path,) = Path("my runs", "mlp-vae").iterdir()
    assert (zoo_, command) == ("zoo", ["sweep", "--resume", str(path), "--data-dir", "d"])
    monkeypatch.setattr("zoo.training.trainer.progress_callback", lambda: When(99, lambda: None))
    assert run_main(*command, "--json") == 0
    assert [trial["state"] for trial in json.loads(capsys.readouterr().out)["trials"]] == ["finished", "finished"]


def test_a_failed_trial_is_recorded_and_the_sweep_continues(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["mlp-vae", *ONE_EPOCH, "train.optimizer.lr=1e-3,1e20,1e-2", "--name", "s"]
    assert run_main("sweep", *arguments, "--json") == 0
    out, err = capsys.readouterr()
    assert "Warning: trial-002 failed: " in err
    trials = json.loads(out)["trials"]
    assert [trial["state"] for trial in trials] == ["finished", "failed", "finished"]
    (failed,) = trials[1]["runs"]
    assert failed["reason"] in err
    assert "Try a smaller" in failed["reason"]
    assert json.loads(out)["best"]["trial"] == 3
    folder = Path("runs", "mlp-vae", "sweep-s")
    assert json.loads((folder / "trials" / "trial-002" / "failure.json").read_text())["error"] == "TrainingError"

    before = files(folder)
    assert run_main("sweep", "--resume", str(folder)) == 0
    assert files(folder) == before, "no trial is trained again"
    table = capsys.readouterr().out.splitlines()
    header = (
        "TRIAL train.optimizer.lr TRAIN LOSS VALIDATION LOSS TEST LOSS TEST DISTORTION TEST RATE EPOCH SECONDS NOTE"
    )
    assert " ".join(table[0].split()) == header
    assert table[2].startswith("2      1e+20")
    assert "failed: " in table[2]
    assert "best     trial 3: train.optimizer.lr=0.01" in "\n".join(table)


def test_a_failure_of_any_kind_is_recorded(tmp_path, monkeypatch, install):
    """A bug in a constructor, and the exit code if every trial fails."""
    install(
        "acme-picky",
        """
        import zoo

        @zoo.hookimpl
        def zoo_components():
            yield zoo.Component("loss", "picky", "acme_picky:Picky")

        class Picky(zoo.Loss):
            def __init__(self, level: int = 0) -> None:
                super().__init__()
                raise {1: KeyError, 2: ZeroDivisionError}[level]("no")

            def forward(self, vae, batch): ...
        """,
    )
    monkeypatch.chdir(tmp_path)
    assert run_main("sweep", "mlp-vae", *ONE_EPOCH, "loss=picky", "loss.level=1,2", "--name", "s") == 1
    first, second = Sweep.open("runs/mlp-vae/sweep-s").trials
    assert "KeyError: 'no'" in first.failure
    assert "ZeroDivisionError: no" in second.failure


def test_a_trial_of_another_process_is_skipped(tmp_path, caplog):
    overrides = [*ONE_EPOCH, "latent_dim=2,3"]
    swept = Sweep.create("mlp-vae", overrides, out=tmp_path, name="s")
    with FileLock(swept.path / ".locks" / "001"), caplog.at_level("INFO", "zoo"):
        swept.run()
    assert [(trial.number, trial.state) for trial in swept.trials] == [(2, "finished")]
    assert "Another process is training trial 1 (latent_dim=2)." in caplog.messages
    assert [trial.state for trial in swept.run().trials] == ["finished", "finished"]


def test_repeated_messages_are_logged_once(tmp_path, caplog):
    with caplog.at_level("INFO", "zoo"):
        sweep("mlp-vae", [*ONE_EPOCH, "latent_dim=2,3,4"], out=tmp_path)
    assert [message for message in caplog.messages if message.startswith("trial")] == [
        "trial 1 of 3: latent_dim=2",
        "trial 2 of 3: latent_dim=3",
        "trial 3 of 3: latent_dim=4",
    ]
    assert sum("29 validation, 359 test examples" in message for message in caplog.messages) == 1


def test_the_same_command_continues_and_another_is_refused(tmp_path):
    overrides = [*ONE_EPOCH, "latent_dim=2,3"]
    swept = sweep("mlp-vae", overrides, out=tmp_path, name="s")
    before = files(swept.path)
    assert sweep("mlp-vae", overrides, out=tmp_path, name="s").path == swept.path
    assert files(swept.path) == before
    for other in ([*ONE_EPOCH, "latent_dim=2,4"], [*overrides, "loss=mse"]):
        with pytest.raises(zoo.RunError, match="holds another sweep"):
            sweep("mlp-vae", other, out=tmp_path, name="s")
    assert files(swept.path) == before


def test_other_data_are_refused(tmp_path):
    swept = Sweep.create("mlp-vae", [*ONE_EPOCH, "latent_dim=2,3"], out=tmp_path)
    plan = swept.path / "sweep.yaml"
    plan.write_text(plan.read_text().replace(swept.plan.digest, "f" * 64))
    with pytest.raises(zoo.RunError, match="The data differ from those"):
        Sweep.open(swept.path).run()
    assert not swept.trials


def test_data_can_be_swept(tmp_path):
    swept = sweep("mlp-vae", [*ONE_EPOCH[1:], "data=digits,{use: digits, repeat: 2}"], out=tmp_path)
    assert [trial.run.environment["data"]["train"] for trial in swept.trials] == [1438, 2876]
    assert swept.results().data is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["latent_dim=2"], "Nothing to sweep: no KEY has several values"),
        (["latent_dmi=2,5"], "Did you mean 'latent_dim'?"),
        (["latent_dim=2,5", "encoder.hiden=[3]"], "Did you mean 'hidden'?"),
        (["loss=elbo,elbwo"], "Did you mean 'elbo'?"),
        (["latent_dim=2,two"], "input should be a valid integer, got 'two'"),
        (["latent_dim=2,5,0"], "greater than 0, got 0"),
        (["latent_dim=2,5", "latent_dim=3"], "latent_dim is set twice"),
        (["latent_dim=2,5", "--data", "mnits"], "Did you mean 'mnist'?"),
        (["latent_dim=2,5", "--device", "tpu9"], "There is no device 'tpu9'"),
        (["latent_dim=2..64"], "latent_dim is a range, which takes a search"),
        (["latent_dim=2..0", "--trials", "3"], "expected the lower end first"),
        (["latent_dim=0..64", "--trials", "3"], "greater than 0, got 0"),
        (["latent_dim=2,5", "--storage", "sqlite:///s.db"], "set --trials too"),
        (["latent_dim=2..5", "--trials", "3", "--storage", "nosuch://x"], "The storage nosuch://x cannot be used"),
        (["--seeds", "2", "--trials", "3"], "no KEY has several values"),
        (["train.seed=0,1", "--seeds", "2"], "leave out one of them"),
        (["train.seed=0.5..5", "--trials", "3"], "train.seed cannot be a range"),
        (["train.seed=0,x"], "train.seed: input should be a valid integer, got 'x'"),
        (["--seeds", "1"], "Invalid value for '--seeds'"),
        (["latent_dim=2,5", "--name", "../x"], "a name is made of letters"),
        (["latent_dim=2,5", "--resume", "x"], "continues the sweep unchanged"),
    ],
)
def test_bad_input_is_refused_before_any_training(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = [] if "--data" in arguments else ["--data", "digits"]
    code = run_main("sweep", "mlp-vae", *arguments, *data)
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep"], "Missing argument 'MODEL'"),
        (["sweep", "mlp-va", "latent_dim=2,3"], "Did you mean 'mlp-vae'?"),
        (["sweep", "--resume", "nowhere"], "nowhere is not a sweep"),
        (["compare", "nowhere"], "nowhere is not a directory"),
    ],
)
def test_other_bad_input(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_main(*arguments) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_folder_is_reported_before_the_first_step(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(zoo.RunError, match="The output folder .* cannot be written"):
        sweep("mlp-vae", [*ONE_EPOCH, "latent_dim=2,3"], out=tmp_path / "file" / "runs")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mlp-vae").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(zoo.RunError, match="runs are not written through links"):
        sweep("mlp-vae", [*ONE_EPOCH, "latent_dim=2,3"], out=tmp_path / "runs")


@pytest.mark.parametrize("content", ["", "format: 1", "format: 9\n", "[1]", "!!python/object:os.system {}", "a: {"])
def test_a_damaged_plan_is_named(content, tmp_path):
    """Scenario 34, for the plan of a sweep."""
    (tmp_path / "sweep.yaml").write_text(content)
    with pytest.raises(zoo.RunError, match=r"sweep\.yaml"):
        Sweep.open(tmp_path)


def test_the_figures_show_the_numbers_of_the_runs(draws, tmp_path):
    overrides = [*SMALL, "train.epochs=2", "latent_dim=2,5", "train.optimizer.lr=1e-3,1e20"]
    swept = sweep("mlp-vae", overrides, out=tmp_path)
    for name in ("losses", "reconstructions"):
        assert (swept.path / "figures" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    rows = [row for row in swept.results().rows if row.finished]
    assert [row.number for row in rows] == [1, 3], "a failed trial is not drawn"
    figure = figures.losses(rows, ["latent_dim", "train.optimizer.lr"], "title")
    training, testing = figure.axes
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["latent_dim=2, train.optimizer.lr=0.001", "latent_dim=5, train.optimizer.lr=0.001"]
    for position, row in enumerate(rows):
        epochs = zoo.Run(Path(row.outcomes[0].run)).epochs()
        steps = [value for epoch in epochs for value in epoch.curve["loss"]]
        raw, mean = training.lines[2 * position : 2 * position + 2]
        assert list(raw.get_ydata()) == steps
        assert list(raw.get_xdata()) == pytest.approx([(i + 1) / EPOCH for i in range(2 * EPOCH)])
        assert list(mean.get_ydata()) == pytest.approx(steps, rel=1e-6), "a tenth of twelve steps is one step"
        assert list(testing.lines[position].get_xdata()) == [1, 2]
        assert list(testing.lines[position].get_ydata()) == [epoch.validation["loss"] for epoch in epochs]

    shown = figures.reconstructions(rows, ["latent_dim", "train.optimizer.lr"], "title")
    assert [axes.get_yticklabels()[0].get_text() for axes in shown.axes] == ["input", *legend]
    run = zoo.Run(Path(rows[1].outcomes[0].run))
    x = run.test_images(12)
    for axes, images in zip(shown.axes, (x, None, zoo.load(run).reconstruct(x).detach()), strict=True):
        if images is not None:
            drawn = torch.from_numpy(np.asarray(axes.images[0].get_array())).float()
            assert torch.allclose(drawn[1:9, 10:18, 0], images[1, 0], atol=1e-6)


def test_a_band_over_seeds_is_one_standard_deviation_wide(tmp_path):
    swept = sweep("mlp-vae", [*SMALL, "train.epochs=2", "latent_dim=2,3"], seeds=3, out=tmp_path)
    rows = swept.results().rows
    testing = figures.losses(rows, ["latent_dim"], "title").axes[1]
    losses = np.array(
        [[epoch.validation["loss"] for epoch in zoo.Run(Path(o.run)).epochs()] for o in rows[0].outcomes],
        dtype=np.float64,
    )
    assert list(testing.lines[0].get_ydata()) == pytest.approx(losses.mean(0))
    band = testing.collections[0].get_paths()[0].vertices
    for epoch in (1, 2):
        edges = sorted({y for x, y in band if x == epoch})
        expected = losses[:, epoch - 1].mean() + np.array([-1, 1]) * losses[:, epoch - 1].std(ddof=1)
        assert [edges[0], edges[-1]] == pytest.approx(expected)


def test_torchrun_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "2")
    with pytest.raises(zoo.UsageError, match="without torchrun"):
        sweep("mlp-vae", [*ONE_EPOCH, "latent_dim=2,3"], out=tmp_path)
