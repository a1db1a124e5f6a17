"""Atomic files, JSON without NaN, and locks between processes."""

from __future__ import annotations

import json
import math
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator

import pytest

import zoo
from zoo.errors import RunLocked
from zoo.storage.files import TEMPORARY, atomic_write, plain, sealed, to_json, verify_files, write_bytes, write_text
from zoo.storage.lock import hold

ODD = {"a": [1.5, math.nan, (math.inf, -math.inf)], "b": {"c": math.nan}, "d": "NaN", "e": None, "f": True}


def test_json_has_no_nan():
    """RFC 8259 knows no NaN. Python's `float` reads the strings back."""
    read = json.loads(to_json(ODD), parse_constant=pytest.fail)
    assert read == plain(ODD)
    assert read == {
        "a": [1.5, "NaN", ["Infinity", "-Infinity"]],
        "b": {"c": "NaN"},
        "d": "NaN",
        "e": None,
        "f": True,
    }
    assert [float(value) for value in read["a"][2]] == [math.inf, -math.inf]


@pytest.mark.parametrize("name", ["a", "x" * 255, "ä ü.json"])
def test_a_file_is_complete_or_as_it_was(name, tmp_path):
    path = tmp_path / name
    write_text("one", path)
    assert path.read_text() == "one"

    def half() -> Iterator[bytes]:
        yield b"half of tw"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), atomic_write(path) as file:
        file.writelines(half())
    assert path.read_text() == "one"
    write_bytes(b"two", path)
    assert path.read_text() == "two"
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_kill_in_the_middle_of_a_write_costs_nothing(tmp_path):
    program = (
        "import os, sys; from pathlib import Path; from zoo.storage.files import atomic_write\n"
        "with atomic_write(Path(sys.argv[1])) as file:\n"
        "    file.write(b'x' * 100); file.flush(); os.kill(os.getpid(), 9)\n"
    )
    path = tmp_path / "file"
    write_text("one", path)
    killed = subprocess.run([sys.executable, "-c", program, path])
    assert killed.returncode == -signal.SIGKILL
    assert path.read_text() == "one"
    (leftover,) = tmp_path.glob(TEMPORARY + "*")
    assert leftover.read_bytes() == b"x" * 100


def test_files_and_checkpoints_have_the_permissions_that_the_umask_gives(tmp_path):
    """Not those of a temporary file, which nobody else may read."""
    from zoo.storage.checkpoints import Checkpoints

    before = os.umask(0o022)
    try:
        write_text("one", tmp_path / "file")
        saved = Checkpoints(tmp_path / "checkpoints").save(1, {}, {})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644
    assert stat.S_IMODE(saved.path.stat().st_mode) == 0o755


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_text("through", pipe)
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_manifest_names_the_file_that_was_altered(tmp_path):
    write_text("one", tmp_path / "a")
    manifest = json.loads(sealed(tmp_path, ["a"], value=math.inf))
    assert manifest["value"] == "Infinity"
    verify_files(tmp_path, manifest["sha256"], ["a"])
    write_text("two", tmp_path / "a")
    with pytest.raises(zoo.RunError, match=f"{tmp_path / 'a'} is damaged"):
        verify_files(tmp_path, manifest["sha256"], ["a"])
    (tmp_path / "a").unlink()
    with pytest.raises(zoo.RunError, match=f"{tmp_path / 'a'} cannot be read"):
        verify_files(tmp_path, manifest["sha256"], ["a"])


HOLDER = (
    "import sys, time; from pathlib import Path; from zoo.storage.lock import hold\n"
    "with hold(Path(sys.argv[1]), 'it'):\n"
    "    print('held', flush=True); time.sleep(300)\n"
)


def test_a_kill_frees_a_lock(tmp_path):
    """Also where another process waits for it. The message names the owner, and a dead one's name is not believed."""
    path = tmp_path / "lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, path], stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(RunLocked, match=rf"it is in use by process {holder.pid} on \S+ since 2"), hold(path, "it"):
            pass
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    with hold(path, "it", wait=True), pytest.raises(RunLocked, match=f"process {os.getpid()} "), hold(path, "it"):
        pass
    with hold(path, "it"):
        (tmp_path / "lock.owner").write_text("{}")
        with pytest.raises(RunLocked, match="in use by another process"), hold(path, "it"):
            pass
    with hold(path, "it"):
        pass


def test_what_cannot_be_locked_is_named(tmp_path):
    (tmp_path / "lock").mkdir()
    with pytest.raises(zoo.RunError, match="it cannot be locked: .*directory"), hold(tmp_path / "lock", "it"):
        pass
