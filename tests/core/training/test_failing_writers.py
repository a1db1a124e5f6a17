"""A training whose disk fills up, becomes read-only or disappears: a clear error, and no loss of data.

The test mounts a real file system and changes its size or mode.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import zoo
from resuming import TINY, When, assert_same, essence, run_main
from zoo.recorder import RunRecorder
from zoo_sweep.sweep import sweep

OVERRIDES = [*TINY, "train.epochs=3", "train.checkpoint.keep=9"]
MOUNTED = shutil.which("mount") and os.geteuid() == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if not MOUNTED or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a file system can be mounted by root alone")
    yield folder
    while os.path.ismount(folder):
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> Callable[[], None]:
    """Leave no free space at all."""

    def action() -> None:
        with contextlib.suppress(OSError), (disk / "ballast").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    return action


def make_read_only(disk: Path) -> Callable[[], None]:
    """Mount over it: the file system itself stays writable while a run has its lock open for writing."""

    def action() -> None:
        subprocess.run(["mount", "--bind", str(disk), str(disk)], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", str(disk)], check=True)

    return action


def mend(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,bind,rw", str(disk)], check=True)
    (disk / "ballast").unlink(missing_ok=True)


HARMS = {"full": (fill, "No space left"), "read-only": (make_read_only, "Read-only file system")}


@pytest.mark.parametrize("step", [13, 36])
@pytest.mark.parametrize("harm", HARMS)
def test_a_disk_that_takes_nothing_more_ends_a_training_that_can_be_resumed(harm, step, disk, tmp_path):
    """Scenario 4, in mid-epoch and in the last step: metrics, checkpoints and final weights. Saved files are intact,
    and with free space the resumed result is bit-identical.
    """
    action, words = HARMS[harm]
    with pytest.raises(zoo.TrainingError, match=rf"could not be (saved|written): .*({words}|unexpected pos)"):
        zoo.train("mlp-vae", OVERRIDES, out=disk, callbacks=[When(step, action(disk))])
    (path,) = (disk / "mlp-vae").iterdir()
    run = zoo.Run(path)
    assert not run.finished
    newest = run.checkpoints.newest()
    assert newest is not None
    mend(disk)
    assert_same(essence(zoo.resume(run)), essence(zoo.train("mlp-vae", OVERRIDES, out=tmp_path / "undisturbed")))


@pytest.mark.parametrize("harm", HARMS)
def test_figures_that_cannot_be_written_lose_nothing(harm, disk, tmp_path, monkeypatch, caplog):
    """The disk is full after the weights are written: the training is finished, and each missing figure is named."""
    action, words = HARMS[harm]
    finish = RunRecorder.finish
    monkeypatch.setattr(RunRecorder, "finish", lambda recorder: [finish(recorder), action(disk)()])
    with caplog.at_level(logging.WARNING, "zoo"):
        run = zoo.train("mlp-vae", OVERRIDES, out=disk)
    assert run.finished
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 4
    for message, name in zip(messages, ("curves", "reconstructions", "samples", "manifold"), strict=True):
        assert message.startswith(f"{run.path} is finished, but {name}.png could not be written: OSError: ")
        assert words in message
    mend(disk)
    assert_same(essence(run), essence(zoo.train("mlp-vae", OVERRIDES, out=tmp_path / "undisturbed")))


def test_the_command_reports_a_training_without_figures(disk, monkeypatch, capsys):
    """The same from the command line: exit code 0, and the result on stdout."""
    finish = RunRecorder.finish
    monkeypatch.setattr(RunRecorder, "finish", lambda own: [finish(own), shutil.rmtree(own.run.figures)])
    assert run_main("train", "mlp-vae", *OVERRIDES, "--out", str(disk)) == 0
    captured = capsys.readouterr()
    assert "figures    none\n" in captured.out
    assert captured.err.count("could not be written: FileNotFoundError") == 4


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # tensorboard's own
def test_a_log_of_tensorboard_that_cannot_be_written_ends_nothing(disk, tmp_path, monkeypatch, caplog):
    """Only the log is on the full disk: a warning, and the training finishes."""
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("ZOO_DISABLE_PLUGINS", "")
    from zoo.plugins.registry import fresh_registry

    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "tensorboard").symlink_to(disk)
    with fresh_registry(), caplog.at_level(logging.WARNING, "zoo"):
        run = zoo.train("mlp-vae", OVERRIDES, folder=folder, callbacks=[When(2, fill(disk))])
    assert run.finished
    assert len(run.epochs()) == 3
    (message,) = (record.getMessage() for record in caplog.records)
    assert message.startswith("The callback TensorBoardLog of vae-zoo")
    assert message.endswith("No space left on device")


@pytest.mark.parametrize("removed", ["run", "out"])
@pytest.mark.parametrize("more", [[], ["train.checkpoint.steps=1"]], ids=["epochs", "steps"])
def test_a_folder_that_is_removed_is_noticed_and_not_made_anew(more, removed, tmp_path):
    """When something is saved next: at the end of an epoch, or after the next step."""
    out = tmp_path / "out"

    def remove() -> None:
        shutil.rmtree(out if removed == "out" else next((out / "mlp-vae").iterdir()))

    with pytest.raises(zoo.TrainingError, match=r"The folder .*mlp-vae/\d.* was removed during the training"):
        zoo.train("mlp-vae", [*OVERRIDES, *more], out=out, callbacks=[When(15, remove)])
    assert not list(out.rglob("*-*/*"))
    assert out.exists() == (removed == "run")


def test_a_signal_after_the_folder_was_removed_ends_with_an_error(tmp_path):
    """The training cannot be resumed, so it does not exit with 143 and a command to resume it."""
    out = tmp_path / "out"
    with pytest.raises(zoo.TrainingError, match="was removed during the training"):
        zoo.train("mlp-vae", OVERRIDES, out=out, time_limit=0, callbacks=[When(1, lambda: shutil.rmtree(out))])
    assert not out.exists()


def test_a_sweep_whose_folder_is_removed_says_so(tmp_path):
    """The failure of a trial cannot be recorded either; the error has both reasons."""
    out = tmp_path / "out"
    options = {"seeds": 2, "out": out, "callbacks": [When(3, lambda: shutil.rmtree(out))]}
    with pytest.raises(zoo.TrainingError, match=r"could not be written: .* The trial failed: The folder .* removed"):
        sweep("mlp-vae", [*TINY, "train.epochs=1"], **options)
    assert not out.exists()


def test_the_figures_of_a_sweep_that_cannot_be_written_lose_nothing(tmp_path, monkeypatch, capsys):
    """The table is still printed."""
    out = tmp_path / "out"
    monkeypatch.setattr("zoo_sweep.sweep.save", lambda figure, path: Path("/dev/full").write_bytes(b"-"))
    arguments = ["sweep", "mlp-vae", *TINY, "loss=elbo,mse", "--epochs", "1", "--out", str(out), "--json"]
    assert run_main(*arguments) == 0
    captured = capsys.readouterr()
    assert [trial["state"] for trial in json.loads(captured.out)["trials"]] == ["finished"] * 2
    assert "is finished, but its figures could not be written" in captured.err
