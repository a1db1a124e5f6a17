from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import re
import resource
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import zoo
from resuming import TINY, assert_same, essence, reseal, run_main, stopped
from zoo.recipes.datasets import load_data
from zoo.recipes.schema import ComponentSpec
from zoo.recorder import RunRecorder, create_run
from zoo.storage.checkpoints import STATE, Checkpoint, Checkpoints
from zoo.storage.files import FORMAT, MANIFEST, TEMPORARY
from zoo.storage.locate import WEIGHTS

TESTS = Path(__file__).parents[2]


def weights_at(step: int, size: int = 4) -> dict[str, torch.Tensor]:
    return {"weight": torch.full((size,), float(step))}


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    """A folder with the checkpoints of steps 1, 2 and 3; the second is the best."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=3)
    for step, score in ((1, 2.0), (2, 1.0), (3, None)):
        checkpoints.save(step, weights_at(step), {"step": step}, score)
    return checkpoints


def steps(checkpoints: Checkpoints) -> list[int]:
    return [checkpoint.step for checkpoint in checkpoints]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def damage(checkpoint: Checkpoint) -> None:
    (checkpoint.path / STATE).write_bytes(b"")


def test_a_kill_during_a_save_loses_no_checkpoint():
    """Scenario 1. Fifteen real kills of a process that only saves; `make soak` runs two hundred."""
    done = subprocess.run(
        [sys.executable, TESTS / "soak_kill.py", "--kills", "15"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    match = re.search(r"15 of 15 kills survived, \d+ of them in the middle of a file; (\d+) steps saved", done.stdout)
    assert match, done.stdout
    assert int(match[1]) > 0


class Unsavable:
    def __reduce__(self):
        raise ZeroDivisionError("half-way")


def test_an_error_while_serializing_leaves_no_file(checkpoints):
    """Scenario 2. The first megabyte of the state is on disk when its second entry raises."""
    before = contents(checkpoints.folder)
    with pytest.raises(ZeroDivisionError, match="half-way"):
        checkpoints.save(4, weights_at(4), {"moments": torch.zeros(2**18), "rest": Unsavable()})
    assert contents(checkpoints.folder) == before
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["step-1", "step-2", "step-3"]


def test_a_save_removes_temporary_files_of_a_killed_process(checkpoints):
    """Scenario 2."""
    (checkpoints.folder / (TEMPORARY + "abc")).mkdir()
    (checkpoints.folder / (TEMPORARY + "abc") / WEIGHTS).write_bytes(b"half")
    assert checkpoints.newest().step == 3
    checkpoints.save(4, weights_at(4), {})
    assert not list(checkpoints.folder.glob(TEMPORARY + "*"))


def test_order_of_a_save(checkpoints, monkeypatch):
    """Scenario 3. Every file and the temporary folder are synced before the rename, and the parent folder after it. The
    calls are real and recorded.
    """
    calls: list[tuple[str, Path]] = []
    fsync, replace = os.fsync, os.replace

    def recording_fsync(descriptor: int) -> None:
        calls.append(("fsync", Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    def recording_replace(source, target, **keywords) -> None:
        calls.append(("replace", Path(target)))
        replace(source, target, **keywords)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(os, "replace", recording_replace)
    monkeypatch.setattr(os, "rename", recording_replace)
    checkpoints.save(4, weights_at(4), {"step": 4})

    target = checkpoints.folder / "step-4"
    published = calls.index(("replace", target))
    before, after = calls[:published], calls[published + 1 :]
    synced = [path for call, path in before if call == "fsync"]
    (temporary,) = {path.parent for path in synced if path.name == STATE}
    assert temporary.parent == checkpoints.folder, "on the file system of the target"
    assert temporary.name.startswith(TEMPORARY)
    for name in (WEIGHTS, STATE, MANIFEST):
        assert before.index(("fsync", temporary / name)) < published
    assert before[-1] == ("fsync", temporary)
    assert after == [("fsync", checkpoints.folder)]


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """Mount a file system of a limited size at `folder`."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = shutil.which("mount") and subprocess.run(command, capture_output=True).returncode == 0
    if not mounted:
        pytest.skip("only root can mount a small file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def small_files(size: int) -> Iterator[None]:
    """Limit the size of files of this process. Python ignores the signal, so writing fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("full_at", ["weights", "state"])
@pytest.mark.parametrize("kind", ["disk", "limit"])
def test_a_full_disk(kind, full_at, tmp_path):
    """Scenario 4. A disk of 1 MB, or a limit of 1 MB on files, and a save of 4 MB: torch raises a RuntimeError for
    the state, Python an OSError for the weights.
    """
    large, small = 2**20, 4
    with small_disk(tmp_path / "disk", "1m") if kind == "disk" else contextlib.nullcontext():
        checkpoints = Checkpoints(tmp_path / "disk" / "checkpoints")
        checkpoints.save(1, weights_at(1), {"step": 1})
        before = contents(checkpoints.folder)
        weights = weights_at(2, large if full_at == "weights" else small)
        state = {"moments": torch.ones(large if full_at == "state" else small)}
        with (
            small_files(2**20) if kind == "limit" else contextlib.nullcontext(),
            pytest.raises(zoo.TrainingError, match=r"step-2 could not be saved: .* Earlier checkpoints are intact"),
        ):
            checkpoints.save(2, weights, state)
        assert contents(checkpoints.folder) == before
        assert steps(checkpoints) == [1]
        checkpoints.newest().verify()
        assert not list(checkpoints.folder.glob(TEMPORARY + "*")), "temporary files are removed"
        assert checkpoints.save(2, weights_at(2), {}).step == 2, "a small save succeeds"


@pytest.mark.parametrize("kilobytes", [60, 100, 150])
def test_a_training_on_a_full_disk_can_be_resumed(kilobytes, tmp_path):
    """Scenario 4, end to end: whichever file does not fit (checkpoint, metrics), the error is a `TrainingError`, the
    newest checkpoint loads, and with more space the resumed run is bit-identical to an uninterrupted one.
    """
    overrides = [*TINY, "train.epochs=6", "train.checkpoint.keep=99"]
    disk = tmp_path / "disk"
    with small_disk(disk, f"{kilobytes}k"):
        with pytest.raises(zoo.TrainingError, match=r"could not be (saved|written): .*(No space left|unexpected pos)"):
            zoo.train("mlp-vae", overrides, out=disk)
        (path,) = (disk / "mlp-vae").iterdir()
        run = zoo.Run(path)
        assert not run.finished
        newest = run.checkpoints.newest()
        assert newest is not None
        newest.verify()
        subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
        resumed = essence(zoo.resume(run))
    assert_same(resumed, essence(zoo.train("mlp-vae", overrides, out=tmp_path)))


def test_a_full_disk_at_the_end_of_a_run(tmp_path, caplog):
    """Scenario 4: no space for the figures, with which the run still finishes; and none for ``model.safetensors``."""
    run = stopped("mlp-vae", [*TINY, "train.epochs=1", "train.checkpoint.steps=1"], 11, tmp_path)
    checkpoint = run.checkpoints.newest()
    size = sum(file.stat().st_size for file in checkpoint.path.iterdir())
    assert size < 90_000
    with small_files(90_000), caplog.at_level(logging.WARNING, "zoo"):  # some figures take more
        zoo.resume(run)
    assert run.finished
    assert re.search(r"is finished, but manifold.png could not be written: .*File too large", caplog.text)
    (run.path / WEIGHTS).unlink()
    with (
        small_files(100),
        pytest.raises(zoo.TrainingError, match=r"safetensors could not be written: .*File too large"),
    ):
        RunRecorder(run).finish()
    assert not run.finished
    assert not list(run.path.glob(TEMPORARY + "*"))
    RunRecorder(run).finish()
    assert zoo.load(run).latent_shape == (2,)


@pytest.mark.parametrize("kind", ["truncated", "empty", "missing"])
@pytest.mark.parametrize("file", [WEIGHTS, STATE, MANIFEST])
def test_a_damaged_file_is_named_and_the_newest_valid_checkpoint_is_used(checkpoints, file, kind, caplog):
    """Scenario 6."""
    path = checkpoints.folder / "step-3" / file
    if kind == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: 0 if kind == "empty" else -20])
    with pytest.raises(zoo.RunError, match=re.escape(str(path))):
        next(iter(checkpoints)).verify()
    with caplog.at_level(logging.WARNING, "zoo"):
        assert checkpoints.newest().step == 2
    (record,) = caplog.records
    assert str(path) in record.getMessage()
    assert record.getMessage().endswith("It is skipped.")
    assert record.levelno == logging.WARNING


def test_resume_falls_back_to_the_newest_valid_checkpoint_with_a_warning(tmp_path, caplog):
    """Scenario 6. The result equals that of an uninterrupted training: the lost steps are repeated."""
    overrides = [*TINY, "train.epochs=3"]
    run = stopped("mlp-vae", overrides, 30, tmp_path / "stopped")
    assert steps(run.checkpoints) == [30, 24]
    state = run.path / "checkpoints" / "step-30" / STATE
    state.write_bytes(state.read_bytes()[:1000])
    with caplog.at_level(logging.WARNING, "zoo"):
        resumed = essence(zoo.resume(run))
    assert [r.getMessage() for r in caplog.records] == [
        f"{state} is damaged: its SHA-256 does not match the manifest. It is skipped."
    ]
    assert_same(resumed, essence(zoo.train("mlp-vae", overrides, out=tmp_path / "undisturbed")))


def test_every_flipped_bit_is_detected(checkpoints):
    """Scenario 7. Every bit of the manifest, and one bit of each byte of the other files."""
    checkpoint = checkpoints.best()
    draw = random.Random(0)
    for name in (WEIGHTS, STATE, MANIFEST):
        path = checkpoint.path / name
        whole = path.read_bytes()
        for position in range(len(whole)):
            for bit in range(8) if name == MANIFEST else (draw.randrange(8),):
                path.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << bit]) + whole[position + 1 :])
                with pytest.raises(zoo.RunError, match=re.escape(str(checkpoint.path))):
                    checkpoint.verify()
        path.write_bytes(whole)
        checkpoint.verify()


def test_retention_keeps_the_newest_and_the_best(tmp_path):
    """Scenario 8."""
    checkpoints = Checkpoints(tmp_path, keep=2)
    history = []
    for step, score in ((1, 5.0), (2, 3.0), (3, None), (4, None), (5, 1.0), (6, None), (7, None), (8, None)):
        checkpoints.save(step, weights_at(step), {}, score)
        history.append(steps(checkpoints))
    assert history == [[1], [2, 1], [3, 2], [4, 3, 2], [5, 4], [6, 5], [7, 6, 5], [8, 7, 5]]
    assert checkpoints.best().step == 5


@pytest.mark.parametrize("keep", [1, 2])
def test_retention_never_deletes_the_last_valid_one(tmp_path, keep):
    """Scenario 8: damaged checkpoints with a higher step, left after a fallback, do not displace valid ones."""
    unlimited = Checkpoints(tmp_path, keep=99)
    for step in (1, 2, 3, 8, 9):
        unlimited.save(step, weights_at(step), {})
    for checkpoint in list(unlimited)[:2]:
        damage(checkpoint)
    checkpoints = Checkpoints(tmp_path, keep=keep)
    assert checkpoints.newest().step == 3
    checkpoints.save(4, weights_at(4), {})
    assert checkpoints.newest().step == 4
    assert set(steps(checkpoints)) >= {4, 3}, "a damaged checkpoint causes no deletion"
    for step in (5, 6, 7, 8, 9):
        checkpoints.save(step, weights_at(step), {})
        assert checkpoints.newest().step == step
    assert steps(checkpoints) == [9, 8][:keep], "damaged checkpoints are replaced, and old ones deleted"


def test_retention_keeps_the_best_valid_checkpoint(tmp_path, caplog):
    """Scenario 8: if the best one is damaged, the next best is kept."""
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step, score in ((1, 2.0), (2, 1.0), (3, None)):
        checkpoints.save(step, weights_at(step), {}, score)
    damage(Checkpoint(tmp_path / "step-2", 2))
    checkpoints.keep = 1
    checkpoints.save(4, weights_at(4), {})
    assert checkpoints.best().step == 1
    assert 4 in steps(checkpoints)


def test_a_valid_checkpoint_is_not_overwritten(checkpoints):
    """Scenarios 1 and 8: replacing it would leave a moment without it, and lose its score."""
    before = contents(checkpoints.folder)
    existing = checkpoints.save(2, weights_at(99), {"step": 99})
    assert (existing.step, existing.score) == (2, 1.0)
    assert contents(checkpoints.folder) == before
    damage(existing)
    checkpoints.save(2, weights_at(2), {"step": 2}, 1.0)
    assert checkpoints.best().state() == {"step": 2}


def test_newest_is_numeric(tmp_path):
    """Scenario 9."""
    checkpoints = Checkpoints(tmp_path, keep=99)
    for step in (9, 100, 10, 1000, 99):
        checkpoints.save(step, weights_at(step), {})
    for other in ("step-", "step-x", "step-²", "step-7.tmp", "step--3"):
        (tmp_path / other).mkdir()
    assert steps(checkpoints) == [1000, 100, 99, 10, 9]
    assert checkpoints.newest().step == 1000
    assert Checkpoints(tmp_path / "absent").newest() is None


@pytest.mark.parametrize("overrides", [(), ("--json",)])
def test_resuming_a_run_that_does_not_exist_is_an_error(overrides, tmp_path, capsys, monkeypatch):
    """Scenario 10: no new run starts, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    assert run_main("train", "mlp-vae", "--resume", "runs/mlp-vae/2026-01-31T12-00-00", *overrides) == 2
    captured = capsys.readouterr()
    assert "Error: runs/mlp-vae/2026-01-31T12-00-00 is not a directory." in captured.err
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_a_checkpoint_cannot_be_resumed(tmp_path, capsys):
    """Scenario 10."""
    run = stopped("mlp-vae", TINY, 3, tmp_path)
    shutil.rmtree(run.path / "checkpoints")
    before = contents(run.path)
    with pytest.raises(zoo.RunError, match="has no valid checkpoint to resume from"):
        zoo.resume(run.path)
    assert run_main("train", "--resume", str(run.path)) == 2
    assert f"Error: {run.path} has no valid checkpoint to resume from." in capsys.readouterr().err
    assert contents(run.path) == before


@pytest.mark.parametrize(
    "manifest",
    [
        {"format": 1, "sha256": {}},
        {"format": 3, "files": []},
        {"format": 0},
        {"format": "1", "sha256": {}},
        {"format": None},
    ],
)
def test_another_format_version_is_refused_by_name(checkpoints, manifest):
    """Scenario 11, whatever else the manifest contains."""
    (checkpoints.folder / "step-3" / MANIFEST).write_text(json.dumps(manifest))
    expected = rf"step-3 has format {manifest['format']}; this version of vae-zoo reads format {FORMAT}\."
    with pytest.raises(zoo.RunError, match=expected):
        next(iter(checkpoints)).verify()
    assert checkpoints.newest().step == 2


@pytest.mark.parametrize("manifest", ["[]", "7", "{}", '{"sha256": {}}', "null", f'{{"format": {FORMAT}}}'])
def test_an_invalid_manifest_is_refused(checkpoints, manifest):
    """Scenario 6."""
    (checkpoints.folder / "step-3" / MANIFEST).write_text(manifest)
    with pytest.raises(zoo.RunError, match=r"manifest\.json"):
        next(iter(checkpoints)).verify()


class Malicious:
    """An object whose pickle creates a folder when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
def test_a_malicious_pickle_never_runs(how, tmp_path):
    """Scenario 32. The training state is a malicious pickle with a valid manifest."""
    import pickle

    run = stopped("mlp-vae", [*TINY, "train.epochs=2"], 5, tmp_path)
    checkpoint = run.checkpoints.newest()
    proof = tmp_path / "it ran"
    state = {**checkpoint.state(), "loss": Malicious(proof)}
    if how == "pickle":
        (checkpoint.path / STATE).write_bytes(pickle.dumps(state))
    else:
        torch.save(state, checkpoint.path / STATE, _use_new_zipfile_serialization=how == "zip")
    reseal(checkpoint.path)
    checkpoint.verify()
    with pytest.raises(zoo.RunError, match=r"state\.pt cannot be loaded"):
        zoo.resume(run)
    assert not proof.exists()
    zoo.load(run)
    assert not proof.exists(), "the weights are not a pickle"
    with (checkpoint.path / STATE).open("rb") as file:
        pickle.load(file) if how == "pickle" else torch.load(file, weights_only=False)
    assert proof.exists(), "the pickle is effective"


def header(text: str, length: int | None = None, rest: bytes = b"\0" * 64) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text.encode() + rest


def entry(dtype: str = "F32", shape: str = "[4]", offsets: str = "[0,16]") -> str:
    return f'"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}'


@pytest.mark.parametrize(
    "content",
    {
        "empty": b"",
        "only a length": b"\x08\0\0\0",
        "header of 2**63 bytes": header("{}", 2**63),
        "header longer than the file": header("{}", 10_000_000),
        "no JSON": header("{'a': 1"),
        "no mapping": header("[]"),
        "not UTF-8": struct.pack("<Q", 2) + b"\xff\xfe" + b"\0" * 64,
        "deeply nested": header("[" * 100_000),
        "end beyond the file": header("{" + entry(shape="[400]", offsets="[0,1600]") + "}", rest=b"\0" * 16),
        "offsets backwards": header("{" + entry(offsets="[16,0]") + "}"),
        "negative offset": header("{" + entry(offsets="[-16,0]") + "}"),
        "shape larger than its bytes": header("{" + entry(shape="[4000000000]") + "}"),
        "shape that overflows": header("{" + entry(shape="[4611686018427387904,4]", offsets="[0,0]") + "}"),
        "negative shape": header("{" + entry(shape="[-4]") + "}"),
        "unknown dtype": header("{" + entry(dtype="PICKLE") + "}"),
        "overlap": header("{" + entry() + "," + entry().replace('"a"', '"b"') + "}", rest=b"\0" * 16),
        "hole": header("{" + entry(offsets="[16,32]") + "}", rest=b"\0" * 32),
        "a zip": b"PK\x03\x04" + b"\0" * 64,
        "a pickle": b"\x80\x04\x95" + b"\0" * 64,
    }.items(),
    ids=lambda item: item[0],
)
def test_a_hostile_safetensors_header_is_refused(content, digits_run, tmp_path):
    """Scenario 32, in the weights of a run and in a checkpoint, each with a valid manifest."""
    run = zoo.Run(shutil.copytree(digits_run, tmp_path / "run"))
    (run.path / WEIGHTS).write_bytes(content[1])
    reseal(run.path)
    with pytest.raises(zoo.RunError, match=r"model\.safetensors cannot be loaded"):
        zoo.load(run)
    (run.path / MANIFEST).unlink()
    checkpoint = run.checkpoints.newest()
    (checkpoint.path / WEIGHTS).write_bytes(content[1])
    reseal(checkpoint.path)
    with pytest.raises(zoo.RunError, match=r"model\.safetensors cannot be loaded"):
        zoo.resume(run)


def test_weights_of_another_model_are_refused(digits_run, tmp_path):
    """Scenario 32: the shapes must match the recipe."""
    run = zoo.Run(shutil.copytree(digits_run, tmp_path / "run"))
    recipe = run.path / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("400", "300"))
    reseal(run.path)
    with pytest.raises(zoo.RunError, match="are not those of its recipe"):
        zoo.load(run)
    (run.path / MANIFEST).unlink()
    with pytest.raises(zoo.RunError, match=r"is not the recipe that .*step-900 was trained with: encoder\.hidden is"):
        zoo.resume(run)
    for checkpoint in run.checkpoints:
        reseal(checkpoint.path, **run.checkpoints.origin)
    with pytest.raises(zoo.RunError, match="does not belong to this model and configuration"):
        zoo.resume(run)


@pytest.mark.parametrize("kind", ["a folder", "nothing", "a file"])
def test_a_run_is_not_written_through_a_link(kind, tmp_path):
    """Scenario 35. ``runs/mlp-vae`` is a link out of ``runs``."""
    outside, root = tmp_path / "outside", tmp_path / "runs"
    root.mkdir()
    (root / "mlp-vae").symlink_to(outside)
    if kind == "a folder":
        outside.mkdir()
    elif kind == "a file":
        outside.write_text("mine")
    recipe = zoo.recipe("mlp-vae", data="digits")
    with pytest.raises(zoo.RunError, match=f"{root / 'mlp-vae'} is a link to {outside}"):
        create_run(root, recipe, load_data([ComponentSpec(use="digits")]), torch.device("cpu"))
    with pytest.raises(zoo.RunError, match="is a link to"):
        zoo.train("mlp-vae", TINY, out=root)
    if kind == "a folder":
        assert list(outside.iterdir()) == []
    elif kind == "a file":
        assert outside.read_text() == "mine"
    else:
        assert not outside.exists()


def test_two_threads_can_save_into_two_folders(tmp_path):
    """Checkpoints of two runs in one process are independent."""
    errors: list[BaseException] = []

    def save(name: str) -> None:
        checkpoints = Checkpoints(tmp_path / name)
        try:
            for step in range(5):
                checkpoints.save(step, weights_at(step), {"step": step})
            assert checkpoints.newest().state() == {"step": 4}
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=save, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
