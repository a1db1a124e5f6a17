"""Standard streams that are closed, have lost their reader, are full, or lack a character: no command fails on them."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import zoo
from processes import WAIT
from resuming import TINY, run_main
from zoo.cli.main import cli
from zoo.cli.streams import OutputError, Stream, lasting_streams

SHORT = ["train", "mlp-vae", *TINY, "train.epochs=2"]
COMMANDS = sorted(cli.list_commands(click.Context(cli)))


@contextlib.contextmanager
def broken_pipe(encoding: str = "utf-8") -> Iterator[io.TextIOWrapper]:
    """The end to write to of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", encoding=encoding) as stream:
        yield stream


# --- every command, in this process


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_survives_the_loss_of_its_readers(command, monkeypatch):
    """Its help goes to a stdout that nobody reads, its error about a wrong option to such a stderr."""
    with broken_pipe() as out, broken_pipe() as err:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        assert run_main(command, "--help") == 0
        assert run_main(command, "--no-such-option") == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_does_without_streams(command, monkeypatch):
    """Python has None for a stream that is closed."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert run_main(command, "--help") == 0
    assert run_main(command, "--no-such-option") == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_reports_results_that_cannot_be_written(command, monkeypatch, capsys):
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert run_main(command, "--help") == 1
        assert capsys.readouterr().err == "Error: The output could not be written: No space left on device.\n"


@pytest.mark.parametrize(
    "arguments", [["list"], ["list", "--json"], ["show", "mlp-vae"], ["plugins"], ["check", "elbo"]]
)
def test_what_prints_much_survives_too(arguments, monkeypatch):
    with broken_pipe() as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert run_main(*arguments) in (0, 2)


@pytest.mark.parametrize("stream", ["stdout", "stderr", "both"])
@pytest.mark.parametrize("state", ["closed", "unread", "full"])
def test_a_training_comes_to_its_end(state, stream, monkeypatch, tmp_path):
    """The run is finished, and only results that cannot be written are an error."""
    with contextlib.ExitStack() as opened:
        for name in ("stdout", "stderr") if stream == "both" else (stream,):
            put = None
            if state == "unread":
                put = opened.enter_context(broken_pipe())
            if state == "full":
                put = opened.enter_context(Path("/dev/full").open("w", encoding="utf-8"))
            monkeypatch.setattr(sys, name, put)
        code = run_main(*SHORT, "--out", str(tmp_path))
        monkeypatch.undo()
    assert code == (1 if state == "full" and stream != "stderr" else 0)
    run = the_run(tmp_path)
    assert run.finished
    assert len(run.epochs()) == 2


def the_run(out: Path) -> zoo.Run:
    (path,) = (out / "mlp-vae").iterdir()
    return zoo.Run(path)


# --- the stream


def written(encoding: str, errors: str, text: str) -> bytes:
    buffer = io.BytesIO()
    stream = Stream(io.TextIOWrapper(buffer, encoding=encoding, errors=errors), dispensable=False)
    assert stream.write(text) == len(text)
    stream.flush()
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("encoding", "errors", "text", "expected"),
    [
        ("utf-8", "strict", "ä ± €", "ä ± €".encode()),
        ("ascii", "strict", "ä ± €", rb"\xe4 \xb1 \u20ac"),
        ("ascii", "replace", "ä ±", b"? ?"),
        ("latin-1", "strict", "ä € 1", b"\xe4 \\u20ac 1"),
        ("utf-8", "strict", "runs/\udcff", rb"runs/\udcff"),
        ("utf-8", "surrogateescape", "runs/\udcff", b"runs/\xff"),
        ("ascii", "surrogateescape", "\udcc3\udcbc ±", rb"\udcc3\udcbc \xb1"),
    ],
)
def test_a_character_that_the_encoding_lacks_is_replaced(encoding, errors, text, expected):
    assert written(encoding, errors, text) == expected


def test_what_nobody_reads_is_dropped_and_the_buffers_are_emptied():
    """And Python, which flushes the stream when it ends, has nothing left to fail on."""
    with broken_pipe() as pipe:
        stream = Stream(pipe, dispensable=False)
        for _ in range(3):
            assert stream.write("x" * 100_000) == 100_000
            stream.flush()
        pipe.flush()
        assert not stream.isatty()


def test_a_full_disk_is_an_error_of_stdout_each_time_and_none_of_stderr():
    for dispensable in (False, True):
        with Path("/dev/full").open("w", encoding="utf-8") as full:
            stream = Stream(full, dispensable)
            for _ in range(2):
                with contextlib.nullcontext() if dispensable else pytest.raises(OutputError, match="No space left"):
                    stream.write("results")
                    stream.flush()


def test_the_streams_are_put_back():
    before = sys.stdout, sys.stderr
    with contextlib.suppress(KeyError), lasting_streams():
        assert (sys.stdout, sys.stderr) != before
        raise KeyError
    assert (sys.stdout, sys.stderr) == before


# --- real processes


def shell(line: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line in bash; ``zoo`` in it is this one."""
    program = f"zoo() {{ '{sys.executable}' -m zoo \"$@\"; }}\n{line}"
    return subprocess.run(
        ["bash", "-c", program], cwd=cwd, env={**os.environ, **environment}, capture_output=True, timeout=WAIT
    )


TRAIN = " ".join(["zoo", *SHORT]).replace("[", "\\[").replace("]", "\\]")


@pytest.mark.parametrize("redirected", [">&- 2>&- <&-", "2>&1 | true"])
def test_a_training_comes_to_its_end_whatever_becomes_of_its_streams(redirected, tmp_path):
    """Exit code 0 and a finished run."""
    done = shell(f"{{ {TRAIN}; echo $? > code; }} {redirected}", tmp_path)
    assert (tmp_path / "code").read_text() == "0\n", done.stderr
    assert done.stderr == b""
    assert the_run(tmp_path / "runs").finished


@pytest.mark.parametrize("command", ["zoo list", "zoo list --json"])
def test_the_head_of_an_output_is_printed_and_nothing_else(command, tmp_path):
    done = shell(f"set -o pipefail; {command} | head -1", tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.count(b"\n") == 1


@pytest.mark.parametrize("nohup", [False, True])
def test_a_terminal_that_goes_away(nohup, tmp_path):
    """The training stops with 129 and can be resumed; under nohup it comes to its end, although stderr is gone."""
    overrides = [*TINY, "train.epochs=2" if nohup else "train.epochs=4000"]
    child, terminal = pty.fork()
    if child == 0:  # the leader of a session, whose terminal is the other end of this one
        os.chdir(tmp_path)
        if nohup:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        os.execv(sys.executable, [sys.executable, "-m", "zoo", "train", "mlp-vae", *overrides])
    seen = b""
    while b"nats" not in seen:
        seen += os.read(terminal, 1000)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == (0 if nohup else 129), seen
    run = the_run(tmp_path / "runs")
    assert run.finished == nohup
    assert run.checkpoints.newest() is not None


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_run_below_a_path_that_the_streams_cannot_encode(encoding, tmp_path, monkeypatch):
    """Letters beyond the encoding and bytes that are no UTF-8, in what is printed on both streams."""
    folder = tmp_path / os.fsdecode("Läufe-Ω-\xff".encode("latin-1", "replace") + "ü€".encode())
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    assert run_main(*SHORT, "--out", str(folder)) == 0
    run = the_run(folder)
    assert run_main("evaluate", str(run.path), "--metric", "elbo", "--limit", "20") == 0
    assert run_main("report", str(run.path), "--limit", "20") == 0
    assert run_main("evaluate", str(folder)) == 2
    monkeypatch.undo()
    printed = out.buffer.getvalue().decode(encoding)
    assert "\\u20ac" in printed
    assert ("\\xb1" in printed) == (encoding == "ascii"), "the plus or minus of an error"
    assert "\\u20ac" in err.buffer.getvalue().decode(encoding)


def test_a_message_is_printed_once(capsys):
    """A command may read the same data several times, with the same warnings."""
    import logging

    from zoo.cli.output import _ToStderr

    handler = _ToStderr()
    for text in ("Column 'a' is left out.", "Column 'b' is left out.", "Column 'a' is left out."):
        handler.emit(logging.LogRecord("zoo", logging.WARNING, "", 0, text, (), None))
    assert capsys.readouterr().err == "Warning: Column 'a' is left out.\nWarning: Column 'b' is left out.\n"
