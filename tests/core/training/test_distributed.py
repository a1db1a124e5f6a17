from __future__ import annotations

import json
import logging
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import zoo
from processes import WAIT, Process
from resuming import TINY, assert_same, essence

LONG = [*TINY, "train.epochs=20"]
Start = Callable[..., "list[Process]"]


def free_port() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return str(sock.getsockname()[1])


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start two processes that train together, as ``torchrun`` would, but without its supervision."""
    cwd = tmp_path / "work"
    cwd.mkdir()
    started: list[Process] = []

    def start(*arguments: str, **environment: str) -> list[Process]:
        common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), **environment}
        command = [sys.executable, "-m", "zoo", "train", "--device", "cpu", *arguments]
        both = [Process(command, cwd, RANK=rank, LOCAL_RANK=rank, **common) for rank in "01"]
        started.extend(both)
        return both

    yield start
    for process in started:
        process.popen.kill()


def the_run(folder: Path) -> zoo.Run:
    (path,) = (folder / "mlp-vae").iterdir()
    return zoo.Run(path)


def test_two_processes_are_as_good_as_one(tmp_path):
    """Scenario 20. Two processes, started by torchrun, each with its part of every batch, give bit-identical results
    to one process that computes the same two parts. The 1438 images make batches of 479, which do not split evenly,
    and a last one of a single image, so the second process has none.
    """
    overrides = [*TINY, "train.epochs=3", "train.batch_size=479", "binarize=dynamic", "train.ema_decay=0.9"]
    overrides += ["train.skip_grad_norm=4"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    launcher += ["--master-addr", "127.0.0.1", "--master-port", free_port(), "-m", "zoo"]
    command = [*launcher, "train", "mlp-vae", *overrides, "--device", "cpu", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=WAIT)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert done.stderr.count("epoch 3/3") == 1, "one of them speaks"
    run = the_run(tmp_path / "runs")
    assert result["run"] == str(run.path.relative_to(tmp_path)), "and one of them writes"

    alone = zoo.train("mlp-vae", [*overrides, "train.microbatches=2"], device="cpu", out=tmp_path / "alone")
    assert [len(epoch.curve["loss"]) for epoch in alone.epochs()] == [4] * 3
    assert {skipped for epoch in alone.epochs() for skipped in epoch.curve["skipped"]} == {0, 1}
    together, expected = essence(run), essence(alone)
    assert together["state"].pop("processes") == 2
    assert expected["state"].pop("processes") == 1
    assert_same(together, expected)


def test_a_signal_to_one_of_them_stops_all(start, tmp_path, caplog):
    """Scenario 19. SIGTERM to the process that writes nothing: both exit with 143 at the same step and the state is
    saved. Two processes resume bit-identically to one with the same parts (scenario 12). A single process warns that
    its result will not be bit-identical (scenario 17).
    """
    first, second = start("mlp-vae", *LONG)
    first.wait_for("epoch  2/20")
    second.popen.send_signal(signal.SIGTERM)
    assert [process.end()[0] for process in (first, second)] == [143, 143], first.stderr + second.stderr
    assert "Stopped by SIGTERM. The state is saved. To resume:" in first.stderr
    assert "Stopped" not in second.stderr, "one of them speaks"
    run = the_run(tmp_path / "work" / "runs")
    checkpoint = run.checkpoints.newest()
    assert checkpoint.step >= 12
    assert checkpoint.state()["processes"] == 2
    assert not run.finished

    copy = zoo.Run(shutil.copytree(run.path, tmp_path / "copy"))
    with caplog.at_level(logging.WARNING, "zoo"), pytest.raises(zoo.Interrupted):
        zoo.resume(copy, time_limit=0.0)
    expected = "The run was trained by 2 processes and resumes with 1: the result will not be bit-identical."
    assert caplog.messages == [expected]

    both = start("--resume", str(run.path))
    assert [process.end()[0] for process in both] == [0, 0], both[0].stderr + both[1].stderr
    undisturbed = essence(
        zoo.train("mlp-vae", [*LONG, "train.microbatches=2"], device="cpu", out=tmp_path / "undisturbed")
    )
    together = essence(run)
    assert together["state"].pop("processes") == 2
    assert undisturbed["state"].pop("processes") == 1
    assert_same(together, undisturbed)


@pytest.mark.parametrize(("dead", "how"), [(0, signal.SIGKILL), (1, signal.SIGSTOP)])
def test_a_dead_process_does_not_leave_the_other_waiting(dead, how, start, tmp_path):
    """Scenario 21. One of two processes is killed or hangs: the other exits within the timeout, with exit code 1 and
    one message, and the run can be resumed from its last checkpoint.
    """
    both = start("mlp-vae", *TINY, "train.epochs=100000", ZOO_TIMEOUT="10")
    both[0].wait_for("epoch      2/100000")
    since = time.monotonic()
    both[dead].popen.send_signal(how)
    code, _ = both[1 - dead].end(within=60)
    assert time.monotonic() - since < 10 + 20, "the timeout, and some time to exit"
    assert code == 1, both[1 - dead].stderr
    assert f"Process {1 - dead} of 2 lost the connection to another one" in both[1 - dead].stderr
    assert "Traceback" not in both[1 - dead].stderr
    both[dead].popen.kill()
    both[dead].end()
    run = the_run(tmp_path / "work" / "runs")
    checkpoint = run.checkpoints.newest()
    assert checkpoint.step >= 12
    with pytest.raises(zoo.Interrupted):
        zoo.resume(run, time_limit=0.0)
    assert run.checkpoints.newest().step == checkpoint.step + 1


LEAVING = """
import os, sys, zoo
zoo.train("mlp-vae", sys.argv[1:], out="runs")
print([open(f"/proc/self/task/{t}/comm").read().strip() for t in os.listdir("/proc/self/task")])
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")
def test_no_thread_of_the_group_outlives_it(tmp_path):
    """Such a thread might abort the process at exit, after the work is done."""
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    command = [sys.executable, "-c", LEAVING, *TINY, "train.epochs=1"]
    both = [Process(command, tmp_path, RANK=rank, LOCAL_RANK=rank, **common) for rank in "01"]
    for process in both:
        code, threads = process.end()
        assert code == 0, process.stderr
        assert "python" in threads
        assert "gloo" not in threads
