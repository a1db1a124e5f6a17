"""Runs as files: who owns one, which is the newest, what ties its files together. Scenarios 36 to 40."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import zoo
import zoo.api
from processes import Process
from resuming import TINY, assert_same, essence, reseal, run_main, stopped
from zoo.errors import NoRun, RunLocked
from zoo.recorder import RunRecorder
from zoo.run import METRICS, SEALED
from zoo.storage.files import MANIFEST
from zoo.storage.locate import runs_in
from zoo_sweep.sweep import sweep

EPOCH = 12  # steps
SHORT = [*TINY, "train.epochs=2"]


@pytest.fixture(autouse=True)
def no_figures(monkeypatch, request):
    if "with_figures" not in request.fixturenames:
        monkeypatch.setattr("zoo_figures.callback.DrawFigures.on_train_end", lambda *_, **__: None)


@pytest.fixture
def with_figures() -> None:
    """The run is drawn too."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A finished run of two epochs."""
    return zoo.train("mlp-vae", SHORT, out=tmp_path_factory.mktemp("trained")).path


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory) -> Path:
    """The same, stopped in its second epoch."""
    return stopped("mlp-vae", SHORT, EPOCH + 3, tmp_path_factory.mktemp("interrupted")).path


@pytest.fixture
def finished(trained, tmp_path) -> zoo.Run:
    return zoo.Run(shutil.copytree(trained, tmp_path / "runs" / "mlp-vae" / "2026-01-31T12-00-00"))


@pytest.fixture
def unfinished(interrupted, tmp_path) -> zoo.Run:
    return zoo.Run(shutil.copytree(interrupted, tmp_path / "runs" / "mlp-vae" / "2026-01-31T12-00-01"))


def contents(folder: Path) -> dict[str, tuple[str, int]]:
    """The digest and the time of every file but the lock."""
    return {
        str(file.relative_to(folder)): (hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns)
        for file in folder.rglob("*")
        if file.is_file() and file.name != ".lock"
    }


# --- one process owns a run


def test_a_run_that_is_being_trained_is_refused_by_name_and_a_kill_frees_it(tmp_path, monkeypatch, capsys):
    """Scenario 36, with real processes and a real ``kill -9``. The first is stopped, so that whatever changes in its
    folder was done by another.
    """
    monkeypatch.chdir(tmp_path)
    long = [*TINY, "train.epochs=30"]
    process = Process([sys.executable, "-m", "zoo", "train", "mlp-vae", *long, "--device", "cpu"], tmp_path)
    try:
        process.wait_for("epoch  2/30")
        process.popen.send_signal(signal.SIGSTOP)
        (path,) = Path("runs", "mlp-vae").iterdir()
        before = contents(path)
        for command in (("train", "--resume", str(path)), ("fit-prior", str(path), "gaussian-mixture")):
            assert run_main(*command) == 2
            message = capsys.readouterr().err
            assert f"Error: {path} is in use by process {process.popen.pid} on " in message
            assert contents(path) == before
        assert run_main("train", "--resume", str(path.parent)) == 2
        message = capsys.readouterr().err
        assert f"{path} is in use by process {process.popen.pid} on " in message
        assert "runs/mlp-vae has no unfinished run that can be resumed" in message
        assert contents(path) == before

        (Path("mine.yaml")).write_text((path / "recipe.yaml").read_text())
        assert run_main("train", "mine.yaml", "--resume", "auto", "--time-limit", "0s") == 0
        message = capsys.readouterr().err
        assert "It is skipped." in message
        assert "There is no unfinished run of mlp-vae in runs; training a new one." in message
        assert len(list(path.parent.iterdir())) == 2
        assert contents(path) == before
    finally:
        process.popen.kill()
        process.end()
    assert process.popen.returncode == -signal.SIGKILL
    resumed = zoo.resume(path, device="cpu")
    undisturbed = zoo.train("mlp-vae", long, device="cpu", out=tmp_path / "undisturbed")
    assert_same(essence(resumed), essence(undisturbed))


def test_the_lock_is_held_while_a_run_is_written_and_no_longer(finished, unfinished):
    with finished.held():
        with pytest.raises(RunLocked, match=rf"{finished.path} is in use by process {os.getpid()} on "):
            zoo.fit_prior(finished, "gaussian-mixture", components=2)
        with pytest.raises(RunLocked):
            zoo.resume(finished, epochs=3)
        assert zoo.load(finished).latent_shape == (2,), "whoever reads needs no lock"
    zoo.fit_prior(finished, "gaussian-mixture", components=2)

    held = []

    class Resumer(zoo.Callback):
        def on_epoch_end(self, trainer: zoo.Training, epoch: zoo.Epoch) -> None:
            with pytest.raises(RunLocked):
                zoo.resume(unfinished.path)
            held.append(epoch.epoch)

    zoo.resume(unfinished, callbacks=[Resumer()])
    assert held == [2]
    with unfinished.held():
        pass


def test_a_sweep_passes_over_a_trial_that_is_trained_elsewhere(tmp_path, caplog):
    """It is not recorded as a failure, and is trained once it is free."""
    swept = sweep("mlp-vae", [TINY[0], *TINY[2:], "train.epochs=1", "latent_dim=2,3"], out=tmp_path, name="s")
    run = swept.trials[0].run
    (run.path / MANIFEST).unlink()
    with run.held(), caplog.at_level(logging.WARNING, "zoo"):
        swept.run()
    assert [trial.state for trial in swept.trials] == ["unfinished", "finished"]
    assert f"{run.path} is in use by process" in caplog.text
    assert [trial.state for trial in swept.run().trials] == ["finished", "finished"]


def test_what_a_kill_left_of_a_file_is_removed_by_the_next_owner(unfinished):
    leftover = unfinished.path / ".saving-0a1b2c3d-recipe.yaml"
    report = unfinished.path / ".saving-0a1b2c3d-report.html"  # anybody may be writing this one
    leftover.write_text("mod")
    report.write_text("<!doc")
    with unfinished.held():
        assert not leftover.exists()
    assert report.exists()


# --- which run is the newest


NAMES = ["2025-12-31T23-59-59", *("2026-01-31T12-00-00" + suffix for suffix in ("", "-2", "-9", "-10", "-11"))]


@pytest.mark.parametrize("names", [NAMES, [*NAMES, "2026-02-01T00-00-00"], ["run-2", "run-9", "run-10"]])
def test_newest_is_by_time_and_number(names, trained, interrupted, tmp_path):
    """Scenario 37: ``-9`` comes before ``-11``, a name without a number before both, and a time decides first."""
    folder = tmp_path / "mlp-vae"
    folder.mkdir()
    for name in random.Random(0).sample(names, len(names)):
        shutil.copytree(interrupted, folder / name)
    assert [path.name for path in runs_in(folder)] == names[::-1]
    assert zoo.resume(folder).path.name == names[-1]
    assert zoo.Run.open(folder).path.name == names[-1], "which is the only finished one"
    shutil.copytree(trained, folder / "2020-01-01T00-00-00")
    assert zoo.resume(folder).path.name == names[-2], "the newest unfinished one"
    assert zoo.Run.open(folder).path.name == names[-1]


def test_a_run_with_a_name_of_its_own_is_placed_by_the_time_of_its_start(interrupted, tmp_path):
    for name, started in (("a", "2026-01-31T12:00:01+01:00"), ("b", "2026-01-31T11:00:00+01:00")):
        path = Path(shutil.copytree(interrupted, tmp_path / name))
        environment = json.loads((path / "environment.json").read_text())
        (path / "environment.json").write_text(json.dumps({**environment, "started": started}))
    shutil.copytree(interrupted, tmp_path / "2026-01-31T12-00-00")
    assert [path.name for path in runs_in(tmp_path)] == ["a", "2026-01-31T12-00-00", "b"]


def test_a_folder_without_an_unfinished_run_is_an_error(finished, tmp_path, capsys):
    """Scenario 37: it does not take a finished one and train nothing with exit code 0."""
    before = contents(tmp_path)
    with pytest.raises(NoRun, match=f"{finished.path.parent} has no unfinished run"):
        zoo.resume(finished.path.parent)
    assert run_main("train", "--resume", str(finished.path.parent)) == 2
    assert "has no unfinished run that can be resumed" in capsys.readouterr().err
    assert contents(tmp_path) == before


def empty(run: Path) -> None:
    """The recipe, as a disk that filled up used to leave it."""
    (run / "recipe.yaml").write_text("")


HARMS: dict[str, Callable[[Path], object]] = {
    "an empty recipe": empty,
    "a torn recipe": lambda run: (run / "recipe.yaml").write_text((run / "recipe.yaml").read_text()[:300] + "\n  - ["),
    "a recipe of a component that is gone": lambda run: (run / "recipe.yaml").write_text(
        (run / "recipe.yaml").read_text().replace("use: mlp", "use: mlpp")
    ),
    "an edited recipe": lambda run: (run / "recipe.yaml").write_text(
        (run / "recipe.yaml").read_text().replace("batch_size: 128", "batch_size: 64")
    ),
    "no environment": lambda run: (run / "environment.json").unlink(),
    "an empty environment": lambda run: (run / "environment.json").write_text(""),
    "an environment of nothing": lambda run: (run / "environment.json").write_text("{}"),
    "an environment without data": lambda run: (run / "environment.json").write_text('{"id": "1", "data": {}}'),
    "a list for an environment": lambda run: (run / "environment.json").write_text("[]"),
    "damaged checkpoints": lambda run: [file.write_bytes(b"") for file in run.glob("checkpoints/*/state.pt")],
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_run_that_cannot_be_read_is_named_and_passed_over(harm, unfinished, interrupted, tmp_path, capsys):
    """Scenario 37: by ``--resume auto`` and by the folder of runs. Named by itself it is an error."""
    torn = Path(shutil.copytree(interrupted, unfinished.path.with_name("2026-02-01T00-00-00")))
    HARMS[harm](torn)
    before = contents(torn)
    assert run_main("train", "mlp-vae", "--resume", "auto", "--out", str(tmp_path / "runs")) == 0
    message = capsys.readouterr().err
    assert str(torn) in message
    assert "It is skipped." in message
    assert unfinished.finished
    after = contents(torn)
    after.pop(".lock", None)
    before.pop(".lock", None)
    assert after == before
    assert run_main("train", "--resume", str(torn)) == 2
    assert f"Error: {torn}" in capsys.readouterr().err.replace("The recipe of ", "")


def test_a_run_without_a_checkpoint_is_passed_over(unfinished, interrupted):
    new = shutil.copytree(interrupted, unfinished.path.with_name("2026-02-01T00-00-00"))
    shutil.rmtree(Path(new) / "checkpoints")
    assert zoo.resume(unfinished.path.parent).path == unfinished.path


@pytest.mark.parametrize("full", ["environment.json", "recipe.yaml"])
def test_a_start_on_a_full_disk_leaves_nothing(full, tmp_path, monkeypatch):
    """The folder of a run that could not be begun would be in the way of every later one."""
    real = os.replace

    def replace_unless_full(source: Path, target: Path, **keywords: Any) -> None:
        if Path(target).name == full:
            raise OSError(28, "No space left on device")
        real(source, target, **keywords)

    monkeypatch.setattr(os, "replace", replace_unless_full)
    with pytest.raises(zoo.RunError, match="cannot be written: No space left on device"):
        zoo.train("mlp-vae", SHORT, out=tmp_path)
    assert list((tmp_path / "mlp-vae").iterdir()) == []


# --- equal runs, equal bytes


TIMED = {"environment.json", METRICS, MANIFEST, "state.pt"}
"""What holds a time, or the digest of what does."""


def test_equal_runs_leave_equal_bytes(tmp_path, with_figures):
    """Scenario 38: recipe, weights, checkpoints, figures, a fitted prior, codes and exported parts."""
    for name in ("a", "b"):
        run = zoo.train("mlp-vae", [*TINY, "train.epochs=1"], folder=tmp_path / name)
        zoo.fit_prior(run, "gaussian-mixture", components=2)
        assert run_main("encode", str(run.path)) == 0
        assert run_main("sample", str(run.path), "-n", "4") == 0
        assert run_main("export", str(run.path), "--part", "decoder") == 0
    one, other = ({n: d for n, (d, _) in contents(tmp_path / name).items()} for name in ("a", "b"))
    assert set(one) == set(other)
    timeless = {name for name in one if Path(name).name not in TIMED} | {"prior/manifest.json"}
    assert {name for name in timeless if one[name] != other[name]} == set()
    for expected in ("model.safetensors", "recipe.yaml", "checkpoints/step-12/model.safetensors", "codes.npz"):
        assert expected in timeless
    assert {"figures/samples.png", "export-onnx/decoder.onnx"} <= timeless


def test_a_finished_run_is_not_rewritten(tmp_path, with_figures, capsys):
    """Scenario 38: neither by the library nor by the command line; a prior that was fitted stays fitted to it."""
    run = zoo.train("mlp-vae", [*TINY, "train.epochs=1"], out=tmp_path)
    zoo.fit_prior(run, "gaussian-mixture", components=2)
    before = contents(run.path)
    zoo.resume(run)
    assert run_main("train", "--resume", str(run.path)) == 0
    assert "is already finished. Use --epochs N to train it longer." in capsys.readouterr().err
    assert contents(run.path) == before
    assert zoo.load(run).prior is not None


# --- the digests of a finished run


READERS = {
    "evaluate": ("--metric", "elbo", "--limit", "9"),
    "sample": ("-n", "1"),
    "reconstruct": ("-n", "1"),
    "traverse": ("--steps", "2"),
    "interpolate": ("0", "1", "--steps", "2"),
    "latent": ("-n", "9"),
    "encode": (),
    "export": (),
    "report": ("--limit", "9"),
    "fit-prior": ("gaussian-mixture",),
    "compare": (),
    "train": (),
}


def read_with(command: str, run: Path) -> int:
    arguments = [command, *(("--resume",) if command == "train" else ()), str(run)]
    if command == "compare":
        arguments += [str(run)]
    if command in ("sample", "reconstruct", "traverse", "interpolate", "latent", "compare"):
        arguments += ["--out", str(run / "out.png")]
    return run_main(*arguments, *READERS[command])


def flip(path: Path, position: int = -20) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("command", READERS)
def test_every_command_that_reads_a_run_refuses_damaged_weights(command, finished, capsys):
    """Scenario 40: one flipped bit, then a NaN in a file whose digest is in order."""
    weights = finished.path / "model.safetensors"
    whole = weights.read_bytes()
    flip(weights)
    assert read_with(command, finished.path) == 2
    assert f"Error: {weights} is damaged: its SHA-256 does not match the manifest." in capsys.readouterr().err
    weights.write_bytes(whole)
    if command in ("compare", "train"):  # they compare the digests, and load no weights of a finished run
        return
    tensors = load_file(weights)
    name = next(iter(tensors))
    tensors[name].view(-1)[0] = torch.nan
    save_file(tensors, weights)
    reseal(finished.path)
    assert read_with(command, finished.path) == 2
    assert f"Error: {weights} cannot be used: its tensor {name!r} contains NaN." in capsys.readouterr().err


def test_every_file_of_a_finished_run_has_a_digest(finished, caplog):
    """Scenario 40, as the documentation promises. Changed metrics are reported: the weights are still good."""
    manifest = json.loads((finished.path / MANIFEST).read_text())
    assert set(manifest["sha256"]) == set(SEALED)
    for name in SEALED:
        assert manifest["sha256"][name] == hashlib.sha256((finished.path / name).read_bytes()).hexdigest()
        path = finished.path / name
        whole = path.read_bytes()
        flip(path, len(whole) // 2)
        if name == METRICS:
            with caplog.at_level(logging.WARNING, "zoo"):
                zoo.Run(finished.path).epochs()
            assert str(path) in caplog.text
        else:
            with pytest.raises(zoo.RunError, match=f"{path} is damaged"):
                zoo.load(finished.path)
        path.write_bytes(whole)
    zoo.load(finished.path)
    covered = {file.name for file in finished.path.iterdir() if file.is_file()}
    assert covered == {*SEALED, MANIFEST, ".lock"}


def test_weights_without_a_manifest_are_not_a_finished_run(finished):
    """They may have been written by a process that was killed before it sealed the run. The checkpoints have theirs."""
    (finished.path / MANIFEST).unlink()
    assert not finished.finished
    flip(finished.path / "model.safetensors")
    zoo.load(finished.path)
    shutil.rmtree(finished.path / "checkpoints")
    with pytest.raises(zoo.RunError, match=r"manifest\.json is missing"):
        zoo.load(finished.path)


def test_nan_is_never_saved(finished):
    """Scenario 22, for a buffer: no gradient and no loss may show it."""
    weights = finished.checkpoint("last").weights()
    name = next(iter(weights))
    weights[name].view(-1)[0] = torch.nan
    before = contents(finished.path)
    with pytest.raises(zoo.TrainingError, match=f"The tensor {name!r} of the model contains NaN"):
        finished.checkpoints.save(99, weights, {})
    assert contents(finished.path) == before


# --- a checkpoint belongs to its recipe


def leaves(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [leaf for key, inner in value.items() for leaf in leaves(inner, (*place, key))]
    if isinstance(value, list):
        return [leaf for key, inner in enumerate(value) for leaf in leaves(inner, (*place, key))]
    return [place]


def other(value: Any) -> Any:
    """Another value that could stand in its place."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    return 7 if value is None else f"{value}-other"


def test_every_edit_of_the_recipe_is_refused_by_name(unfinished, capsys):
    """Scenario 39: every key but the summary, one after the other; and three of them at the command line."""
    file = unfinished.path / "recipe.yaml"
    whole = file.read_text()
    written = yaml.safe_load(whole)
    places = leaves(written)
    assert len(places) > 30
    edited = []
    for place in places:
        changed = yaml.safe_load(whole)
        inner = changed
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = other(inner[place[-1]])
        file.write_text(yaml.safe_dump(changed))
        key = ".".join(str(part) for part in place[2:])
        if key == "summary":
            continue
        with pytest.raises((zoo.RunError, zoo.RecipeError)) as caught:
            zoo.Run(unfinished.path).checkpoint()
        assert str(unfinished.path) in str(caught.value)
        if not isinstance(caught.value, zoo.RecipeError):
            edited.append(key.partition(".0")[0])
            assert edited[-1] in str(caught.value)
    assert {"latent_dim", "train.seed", "train.batch_size", "train.epochs", "encoder.hidden"} <= set(edited)
    for old, new in (("seed: 0", "seed: 1"), ("batch_size: 128", "batch_size: 64"), ("epochs: 2", "epochs: 3")):
        file.write_text(whole.replace(old, new))
        assert file.read_text() != whole
        assert run_main("train", "--resume", str(unfinished.path)) == 2
        message = capsys.readouterr().err
        assert f"train.{new.replace(':', ' is')}, was {old.partition(' ')[2]}" in message
        assert f"{file} is not the recipe that" in message
    file.write_text(whole)
    assert zoo.resume(unfinished).finished


def test_a_run_of_an_older_version_is_resumed(unfinished):
    """Options that the older version did not have are at their defaults; a removed or an added line is an edit."""
    file, old = unfinished.path / "recipe.yaml", {"memory_format", "skip_grad_norm"}
    whole = yaml.safe_load(file.read_text())
    ((_, recipe),) = whole["models"].items()
    for key in old:
        del recipe["train"][key]
    for checkpoint in unfinished.checkpoints:
        trained = checkpoint.manifest()["recipe"]
        train = {key: value for key, value in trained["train"].items() if key not in old}
        reseal(checkpoint.path, recipe={**trained, "train": train})
    recipe["train"]["memory_format"] = "channels-last"
    file.write_text(yaml.safe_dump(whole))
    with pytest.raises(zoo.RunError, match=r"train\.memory_format is 'channels-last', was None"):
        zoo.resume(unfinished.path)
    del recipe["train"]["memory_format"], recipe["train"]["seed"]
    recipe["train"]["batch_size"] = 64
    file.write_text(yaml.safe_dump(whole))
    with pytest.raises(zoo.RunError, match=r"train\.batch_size is 64, was 128"):
        zoo.resume(unfinished.path)
    recipe["train"]["batch_size"] = 128
    file.write_text(yaml.safe_dump(whole))
    assert zoo.resume(unfinished.path).finished


def test_an_edited_learning_rate_is_refused_by_name(tmp_path):
    run = stopped("mlp-vae", [*SHORT, "train.optimizer={use: Adam, lr: 0.002}"], 3, tmp_path)
    file = run.path / "recipe.yaml"
    file.write_text(file.read_text().replace("0.002", "0.02"))
    with pytest.raises(zoo.RunError, match=r"train\.optimizer\.lr is 0\.02, was 0\.002"):
        zoo.resume(run.path)


def test_a_recipe_that_is_edited_during_the_training_is_not_sealed(tmp_path):
    class Editor(zoo.Callback):
        def on_epoch_end(self, trainer: zoo.Training, epoch: zoo.Epoch) -> None:
            file = tmp_path / "run" / "recipe.yaml"
            file.write_text(file.read_text().replace("seed: 0", "seed: 1"))

    with pytest.raises(zoo.RunError, match="train.seed is 1, was 0"):
        zoo.train("mlp-vae", SHORT, folder=tmp_path / "run", callbacks=[Editor()])
    assert not zoo.Run(tmp_path / "run").finished


@pytest.mark.parametrize("seed", [0, 1])
def test_a_checkpoint_of_another_run_is_refused_by_name(seed, unfinished, tmp_path, caplog):
    """Scenario 39: of another seed, and of a run that is the same in everything. Its own is used."""
    foreign = stopped("mlp-vae", [*SHORT, f"train.seed={seed}"], EPOCH + 9, tmp_path / "foreign")
    stranger = unfinished.path / "checkpoints" / f"step-{EPOCH + 9}"
    shutil.copytree(foreign.path / "checkpoints" / stranger.name, stranger)
    expected = essence(zoo.train("mlp-vae", SHORT, out=tmp_path / "undisturbed"))
    with caplog.at_level(logging.WARNING, "zoo"):
        zoo.resume(unfinished)
    assert caplog.messages == [f"{stranger} is a checkpoint of another run. It is skipped."]
    assert_same(essence(unfinished), expected)


def test_a_run_with_foreign_checkpoints_alone_is_refused(unfinished, tmp_path):
    foreign = stopped("mlp-vae", SHORT, 3, tmp_path / "foreign")
    shutil.rmtree(unfinished.path / "checkpoints")
    shutil.copytree(foreign.path / "checkpoints", unfinished.path / "checkpoints")
    with pytest.raises(zoo.RunError, match="has no valid checkpoint to resume from"):
        zoo.resume(unfinished)


def test_a_renamed_checkpoint_is_refused_by_name(unfinished, tmp_path, caplog):
    """Scenario 39: ``step-1000000``. What is older is used, and goes on being tidied up."""
    renamed = (unfinished.path / "checkpoints" / f"step-{EPOCH + 3}").rename(
        unfinished.path / "checkpoints" / "step-1000000"
    )
    with caplog.at_level(logging.WARNING, "zoo"):
        zoo.resume(unfinished)
    assert caplog.messages[0] == f"{renamed} was renamed: it contains step {EPOCH + 3}. It is skipped."
    expected = zoo.train("mlp-vae", SHORT, out=tmp_path / "undisturbed")
    assert_same(load_file(unfinished.path / "model.safetensors"), load_file(expected.path / "model.safetensors"))


def test_invalid_checkpoints_do_not_end_the_tidying_up(unfinished):
    checkpoints = unfinished.checkpoints
    (checkpoints.folder / "step-1000000").mkdir()
    for step in range(20, 30):
        checkpoints.save(step, {"weight": torch.zeros(1)}, {"step": step})
    steps = [checkpoint.step for checkpoint in checkpoints]
    assert steps[:2] == [1000000, 29]
    assert len(steps) <= 2 + checkpoints.keep + 1, "and the best one"


# --- more epochs, on purpose


@pytest.mark.parametrize("state", ["finished", "unfinished"])
def test_a_run_is_trained_longer(state, finished, unfinished, tmp_path, capsys):
    """To the bits of one that was to have so many epochs from the start; and the run says so."""
    run = {"finished": finished, "unfinished": unfinished}[state]
    assert run_main("train", "--resume", str(run.path), "--epochs", "3", "--json") == 0
    assert json.loads(capsys.readouterr().out)["epochs"] == 3
    run = zoo.Run(run.path)
    assert run.finished
    assert run.recipe.train.epochs == 3
    (change,) = run.environment["extended"]
    assert change["epochs"] == {"from": 2, "to": 3}
    undisturbed = zoo.train("mlp-vae", [*TINY, "train.epochs=3"], out=tmp_path / "undisturbed")
    assert_same(essence(run), essence(undisturbed))
    assert (run.path / "recipe.yaml").read_text() == (undisturbed.path / "recipe.yaml").read_text()
    zoo.load(run)

    before = contents(run.path)
    assert run_main("train", "--resume", str(run.path), "--epochs", "3") == 0, "a job that is queued again"
    assert contents(run.path) == before
    assert run_main("train", "--resume", str(run.path), "--epochs", "2") == 2
    assert "has 3 epochs in its recipe; --epochs 2 cannot shorten it." in capsys.readouterr().err
    assert contents(run.path) == before
    zoo.resume(run, epochs=4)
    assert [change["epochs"]["to"] for change in zoo.Run(run.path).environment["extended"]] == [3, 4]


def test_a_run_that_is_trained_longer_can_be_stopped_and_resumed(finished, tmp_path):
    """The checkpoints of both numbers of epochs are its own; an edit of the recipe still is not."""
    from resuming import When, send

    with pytest.raises(zoo.Interrupted):
        zoo.resume(finished, epochs=4, callbacks=[When(2 * EPOCH + 5, send(signal.SIGTERM))])
    assert not zoo.Run(finished.path).finished
    file = finished.path / "recipe.yaml"
    whole = file.read_text()
    for epochs in (2, 3, 5):
        file.write_text(whole.replace("epochs: 4", f"epochs: {epochs}"))
        with pytest.raises(zoo.RunError, match=f"train.epochs is {epochs}, was 4"):
            zoo.resume(finished.path)
    file.write_text(whole)
    zoo.resume(finished.path)
    assert_same(
        essence(zoo.Run(finished.path)), essence(zoo.train("mlp-vae", [*TINY, "train.epochs=4"], out=tmp_path / "u"))
    )


@pytest.mark.parametrize("full", ["environment.json", "recipe.yaml"])
def test_a_full_disk_while_the_number_of_epochs_is_written(full, finished, monkeypatch):
    """The run is as it was, or resumed to it: nothing of it is lost."""
    before = essence(finished)
    with monkeypatch.context() as disk:
        real = os.replace

        def replace_unless_full(source: Path, target: Path, **keywords: Any) -> None:
            if Path(target).name == full:
                raise OSError(28, "No space left on device")
            real(source, target, **keywords)

        disk.setattr(os, "replace", replace_unless_full)
        with pytest.raises(zoo.TrainingError, match="No space left"):
            zoo.resume(finished, epochs=3)
    resumed = zoo.resume(finished.path)
    assert resumed.finished
    assert_same(essence(resumed), before)


@pytest.mark.parametrize("ended", ["train.steps=20", "train.patience=1"])
def test_what_ended_for_another_reason_is_not_trained_longer(ended, tmp_path):
    rising = ["train.monitor=rate", "loss={use: elbo, beta: 0.1}", "train.optimizer.lr=0.01", "data.validation=29"]
    run = zoo.train("mlp-vae", [*TINY, *rising, "train.epochs=3", ended], out=tmp_path)
    before = contents(run.path)
    with pytest.raises(zoo.RunError, match=r"train\.steps or train\.patience ended it earlier"):
        zoo.resume(run, epochs=9)
    assert contents(run.path) == before


def test_a_run_is_not_trained_longer_than_its_schedule(tmp_path):
    """One cycle has an end, after which torch raises: the run would not be finished any more, and could not be."""
    cycle = "train.scheduler={use: OneCycleLR, max_lr: 0.01, total_steps: 30}"
    run = zoo.train("mlp-vae", [*SHORT, cycle, "train.scheduler_unit=step"], out=tmp_path)
    before = contents(run.path)
    with pytest.raises(zoo.ComponentError, match="after 31 steps of 36, fails: ValueError: Tried to step 31 times"):
        zoo.resume(run, epochs=3)
    assert contents(run.path) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train.seed=3",), "omit KEY=VALUE."),
        (("--seed", "3", "--data", "digits"), "omit --data, --seed."),
        (("--registry", "recipe.yaml"), "omit --registry."),
    ],
)
def test_nothing_else_may_change(arguments, message, unfinished, capsys, monkeypatch):
    monkeypatch.chdir(unfinished.path)
    before = contents(unfinished.path)
    model = ("mlp-vae",) if "=" in arguments[0] else ()
    assert run_main("train", *model, *arguments, "--resume", str(unfinished.path)) == 2
    text = capsys.readouterr().err
    assert message in text
    assert "Only --epochs is allowed" in text
    assert contents(unfinished.path) == before


def test_a_run_of_another_model_is_not_resumed(unfinished, capsys):
    for place in (unfinished.path, unfinished.path.parent):
        assert run_main("train", "conv-vae", "--resume", str(place)) == 2
        assert f"{place} is a run of mlp-vae, not of conv-vae" in capsys.readouterr().err


# --- metrics


def test_a_torn_last_line_costs_one_line(finished, tmp_path, capsys):
    """Scenario 40, in every reader of the file, and once."""
    whole = finished.epochs()
    with (finished.path / METRICS).open("a") as file:
        file.write('{"epoch": 3, "st')
    for command in ("report", "compare"):
        assert read_with(command, finished.path) == 0
        message = capsys.readouterr().err
        assert f"Warning: {finished.path / METRICS}: line 3 cannot be read and is skipped." in message
    assert zoo.Run(finished.path).epochs() == whole
    assert zoo.Run(finished.path).result()["epochs"] == 2


@pytest.mark.parametrize("line", ["", "[]", "7", "null", "{}", '{"epoch": 1}', '"NaN"', "\x00" * 9, "[" * 100_000])
def test_any_line_that_cannot_be_read_costs_one_line(line, finished, caplog):
    lines = (finished.path / METRICS).read_text().splitlines()
    (finished.path / METRICS).write_text("\n".join([lines[0], line, lines[1]]) + "\n")
    with caplog.at_level(logging.WARNING, "zoo"):
        assert [epoch.epoch for epoch in finished.epochs()] == [1, 2]
    assert caplog.messages == [f"{finished.path / METRICS}: line 2 cannot be read and is skipped."]


def test_numbers_that_are_not_finite_go_through_the_metrics_file(finished):
    """As strings, since JSON has none; files with Python's NaN, of older versions, are read too."""
    first, last = finished.epochs()
    odd = replace(last, test={**last.test, "a": float("nan"), "b": float("inf"), "c": float("-inf")})
    RunRecorder(finished).rewind([first, odd])
    (_, line) = (finished.path / METRICS).read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail)["test"]["a"] == "NaN"
    assert str(finished.epochs()[1].test) == str(odd.test)
    (finished.path / METRICS).write_text(line.replace('"NaN"', "NaN").replace('"Infinity"', "Infinity") + "\n")
    assert str(finished.epochs()[0].test) == str(odd.test)
