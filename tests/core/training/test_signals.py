from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import zoo
from processes import WAIT, Process
from resuming import TINY, When, assert_same, essence, run_main, send
from zoo.recipes.source import write_models
from zoo.training.signals import StopRequest

LONG = [*TINY, "train.epochs=40"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Start ``zoo`` in an empty folder."""
    cwd = tmp_path / "work"
    cwd.mkdir()
    started = []

    def start(*arguments: str) -> Process:
        started.append(Process([sys.executable, "-m", "zoo", *arguments], cwd))
        return started[-1]

    yield start
    for process in started:
        process.popen.kill()


def the_run(folder: Path) -> zoo.Run:
    (path,) = (folder / "mlp-vae").iterdir()
    return zoo.Run(path)


def command_to_resume(stderr: str) -> list[str]:
    """The arguments of the one printed command, as a shell would split them."""
    (line,) = re.findall(r"^ +(zoo train --resume .*)$", stderr, flags=re.MULTILINE)
    return shlex.split(line)[1:]


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGUSR1, 138)])
def test_a_signal_saves_and_exits_with_128_and_its_number(number, expected, start, tmp_path):
    """Scenario 18."""
    process = start("train", "mlp-vae", *LONG, "--out", "runs")
    process.wait_for("epoch  2/40")
    process.popen.send_signal(number)
    code, stdout = process.end()
    assert (code, stdout) == (expected, ""), process.stderr
    assert f"Stopped by {number.name}. The state is saved. To resume:" in process.stderr
    assert "Traceback" not in process.stderr
    run = the_run(tmp_path / "work" / "runs")
    assert not run.finished
    checkpoint = run.checkpoints.newest()
    assert checkpoint.step >= 24
    assert checkpoint.state()["step"] == checkpoint.step
    assert [epoch.epoch for epoch in run.epochs()] == list(range(1, checkpoint.step // 12 + 1))


def test_ctrl_c_prints_the_command_that_goes_on(start, tmp_path):
    """Scenarios 18 and 12. SIGINT exits with 130, and the printed command ends in a result that is bit-identical to
    that of an uninterrupted training.
    """
    process = start("train", "mlp-vae", *LONG, "--out", "all-runs")
    process.wait_for("epoch  3/40")
    process.popen.send_signal(signal.SIGINT)
    code, stdout = process.end()
    assert (code, stdout) == (130, ""), process.stderr
    assert "Stopped by Ctrl-C. The state is saved. To resume:" in process.stderr
    run = the_run(tmp_path / "work" / "all-runs")
    assert not run.finished

    again = start(*command_to_resume(process.stderr), "--json")
    code, stdout = again.end()
    assert code == 0, again.stderr
    assert json.loads(stdout)["epochs"] == 40
    assert run.finished
    assert_same(essence(run), essence(zoo.train("mlp-vae", LONG, out=tmp_path / "undisturbed")))


SLOW = """
    import time, zoo

    @zoo.hookimpl
    def zoo_components():
        yield zoo.Component("loss", "slow", "acme_slow:Slow")

    class Slow(zoo.Loss):
        calls = 0

        def forward(self, vae, batch):
            Slow.calls += 1
            if Slow.calls > 6:
                print("working", flush=True, file=__import__("sys").stderr)
                time.sleep(300)
            trace = vae.trace(batch)
            return {"loss": trace.kl.mean() - trace.log_px.mean()}
"""


def test_a_second_ctrl_c_stops_at_once(start, install, tmp_path):
    """Scenario 18. The current step would take five minutes: the first SIGINT waits for it, the second does not."""
    install("acme-slow", SLOW)
    process = start("train", "mlp-vae", *LONG, "loss=slow", "--out", "runs")
    process.wait_for("working")
    process.popen.send_signal(signal.SIGINT)
    time.sleep(1.0)
    assert process.popen.poll() is None, "the first one is a request"
    since = time.monotonic()
    process.popen.send_signal(signal.SIGINT)
    code, _ = process.end()
    assert time.monotonic() - since < 20
    assert code == 130, process.stderr
    assert "Stopped." in process.stderr
    assert "Traceback" not in process.stderr
    run = the_run(tmp_path / "work" / "runs")
    assert run.checkpoints.newest() is None
    assert not list(run.path.rglob(".saving-*"))


def test_a_time_limit_and_resume_auto(tmp_path, monkeypatch, capsys):
    """Scenario 18, as in a job that is queued repeatedly: the first ``--resume auto`` starts a run, which the time
    limit stops with exit code 0; the second finishes it; the third starts another.
    """
    monkeypatch.chdir(tmp_path)
    resolved = write_models({"mlp-vae": zoo.recipe("mlp-vae", LONG).to_raw()})
    Path("small.yaml").write_text(resolved)
    assert run_main("train", "small.yaml", "--time-limit", "0.1s") == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "The time limit is reached. The state is saved. To resume:" in captured.err
    run = the_run(Path("runs"))
    assert not run.finished
    assert command_to_resume(captured.err) == ["train", "--resume", str(run.path)]

    assert run_main("train", "mlp-vae", "--resume", "auto", "--json") == 0
    captured = capsys.readouterr()
    assert "training a new one" not in captured.err
    assert json.loads(captured.out)["run"] == str(run.path)
    assert the_run(Path("runs")).finished, "there still is one run"
    assert_same(essence(run), essence(zoo.train("mlp-vae", LONG, out="undisturbed")))

    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # MNIST is not asked for
    monkeypatch.setattr(urllib.request, "_opener", None)  # which remembers the proxies of its first use
    assert run_main("train", "mlp-vae", "--resume", "auto", "--data-dir", str(tmp_path), "--time-limit", "0s") == 0
    assert "There is no unfinished run of mlp-vae in runs; training a new one." in capsys.readouterr().err
    assert len(list(Path("runs/mlp-vae").iterdir())) == 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--out", "all runs"], []),
        (["--data-dir", "my data"], ["--data-dir", "my data"]),
        (["--device", "cpu"], ["--device", "cpu"]),
    ],
)
def test_the_printed_command_is_one_that_a_shell_takes(arguments, expected, tmp_path, monkeypatch, capsys):
    """Scenario 18: it is quoted if necessary and has the options that the next process needs."""
    monkeypatch.chdir(tmp_path)
    assert run_main("train", "mlp-vae", *LONG, *arguments, "--time-limit", "0s") == 0
    run = the_run(Path(arguments[1] if arguments[0] == "--out" else "runs"))
    command = command_to_resume(capsys.readouterr().err)
    assert command[:3] == ["train", "--resume", str(run.path)]
    assert command[3:] == expected


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in StopRequest.SIGNALS]


@pytest.mark.parametrize("how", ["finished", "stopped", "failed", "twice"])
def test_the_handlers_are_put_back(how, tmp_path):
    """Scenario 18: the caller's handlers, whether the training ends, is stopped, fails, or is stopped at once."""

    def mine(number: int, frame: object) -> None: ...

    before = [signal.signal(number, mine) for number in StopRequest.SIGNALS]
    try:
        inside: list[object] = []
        callbacks = [When(2, lambda: inside.extend(handlers()))]
        if how == "stopped":
            callbacks.append(When(3, send(signal.SIGINT)))
        if how == "twice":
            callbacks.append(When(3, lambda: [send(signal.SIGINT)(), time.sleep(0.1), send(signal.SIGINT)()]))
        overrides = [*TINY, "train.epochs=1", *(["train.optimizer.lr=1e20"] if how == "failed" else [])]
        expected = {"stopped": zoo.Interrupted, "failed": zoo.TrainingError, "twice": KeyboardInterrupt}
        if how in expected:
            with pytest.raises(expected[how]):
                zoo.train("mlp-vae", overrides, out=tmp_path, callbacks=callbacks)
        else:
            assert zoo.train("mlp-vae", overrides, out=tmp_path, callbacks=callbacks).finished
        assert mine not in inside
        assert handlers() == [mine] * len(StopRequest.SIGNALS)
    finally:
        for number, handler in zip(StopRequest.SIGNALS, before, strict=True):
            signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_what_is_ignored_stays_ignored(number, tmp_path):
    """``nohup zoo train`` survives the end of its terminal."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        run = zoo.train("mlp-vae", [*TINY, "train.epochs=1"], out=tmp_path, callbacks=[When(2, send(number))])
        assert run.finished
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", StopRequest.SIGNALS)
def test_a_training_is_stopped_by_each_signal_and_resumed_bit_identically(number, tmp_path):
    """Scenario 12 for every signal, in this process."""
    overrides = [*TINY, "train.epochs=2"]
    with pytest.raises(zoo.Interrupted) as caught:
        zoo.train("mlp-vae", overrides, out=tmp_path / "stopped", callbacks=[When(7, send(number))])
    assert caught.value.exit_code == 128 + number
    resumed = essence(zoo.resume(caught.value.run))
    assert_same(resumed, essence(zoo.train("mlp-vae", overrides, out=tmp_path / "undisturbed")))


def test_off_the_main_thread_nothing_is_installed(tmp_path):
    """Scenario 18: a training in a thread of a server."""
    before = handlers()
    inside: list[object] = []
    done: list[zoo.Run] = []
    observer = When(2, lambda: inside.extend(handlers()))

    def work() -> None:
        done.append(zoo.train("mlp-vae", [*TINY, "train.epochs=1"], out=tmp_path / "thread", callbacks=[observer]))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(WAIT)
    assert inside == before
    (run,) = done
    assert_same(essence(run), essence(zoo.train("mlp-vae", [*TINY, "train.epochs=1"], out=tmp_path / "main")))


def test_the_greatest_reason_wins():
    """Scenario 19: several processes agree on the greatest reason; a signal is greater than the time limit."""
    assert 128 + min(StopRequest.SIGNALS) > StopRequest.TIME_LIMIT > 0
    stop = StopRequest(time_limit=0.0)
    assert stop.reason == StopRequest.TIME_LIMIT
    with stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.reason == 143
    assert StopRequest().reason == 0
