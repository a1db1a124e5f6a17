"""Run the code of plugins so that it can neither write to stdout nor end the process."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from zoo.errors import ZooError


class PluginExit(Exception):
    """A plugin raised something other than an `Exception`, such as SystemExit."""


@contextlib.contextmanager
def plugin_code() -> Iterator[None]:
    """Run code of a plugin: redirect its output to stderr, and convert whatever it raises to an `Exception`.

    A KeyboardInterrupt passes only if the user pressed Ctrl-C.
    """
    with stdout_to_stderr, _interrupts() as interrupts:
        try:
            yield
        except Exception:
            raise
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and interrupts:
                raise
            raise PluginExit(describe(error)) from error


def describe(error: BaseException) -> str:
    """Format the type and message of an exception of a plugin."""
    try:
        message = str(error)
    except BaseException:
        message = "its message cannot be read"
    text = message if isinstance(error, PluginExit | ZooError) else f"{type(error).__name__}: {message}"
    return text.encode("utf-8", "backslashreplace").decode()


class _Stderr:
    """A stdout that writes to the current stderr and ignores `close`."""

    def close(self) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


class _Redirection:
    """Redirect stdout to stderr, in Python and at the file descriptor, until the last user has left."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._stdout, self._stderr = sys.stdout, sys.stderr
                _flush(sys.stdout)
                self._descriptor = _redirect_descriptor()
            self._users += 1
            self._redirect()

    def __exit__(self, *_: object) -> None:
        """Restore the streams, even if they were replaced inside the block."""
        with self._lock:
            self._users -= 1
            self._redirect()
            if self._users == 0:
                sys.stdout = self._stdout
                if self._descriptor is not None:
                    _flush(sys.__stdout__)
                    os.dup2(self._descriptor, 1)
                    os.close(self._descriptor)

    def _redirect(self) -> None:
        sys.stdout = None if self._stderr is None else _Stderr()
        sys.stderr = self._stderr


stdout_to_stderr = _Redirection()
"""Redirect to stderr what is printed inside the block: stdout is for results."""


def _flush(stream: Any) -> None:
    with contextlib.suppress(Exception):
        stream.flush()


def _redirect_descriptor() -> int | None:
    """Redirect descriptor 1 to 2. Returns a duplicate of the original, or None if one of them is closed."""
    try:
        descriptor = os.dup(1)
    except OSError:
        return None
    try:
        os.dup2(2, 1)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


@contextlib.contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Record each SIGINT inside the block, and pass it on to the previous handler."""
    received: list[int] = []
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(previous):
        yield received
        return

    def record(number: int, frame: Any) -> Any:
        received.append(number)
        return previous(number, frame)

    signal.signal(signal.SIGINT, record)
    try:
        yield received
    finally:
        if signal.getsignal(signal.SIGINT) is record:
            signal.signal(signal.SIGINT, previous)
