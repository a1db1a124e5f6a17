"""Signals as stop requests: the current step is finished, the state is saved, and the training ends."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from zoo.errors import ZooError


class Interrupted(ZooError):
    """A signal or the time limit stopped the training. Its state is saved.

    Attributes:
        exit_code: 128 plus the number of the signal: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP, 138 after
            SIGUSR1. 0 after the time limit.
        run: the folder of the run, or of the sweep, that can be resumed.
    """

    run: Path

    def __init__(self, reason: str, exit_code: int) -> None:
        super().__init__(reason)
        self.exit_code = exit_code


class StopRequest:
    """A context manager that records signals as requests to stop.

    The first signal is a request. A second SIGINT raises KeyboardInterrupt at once. The previous handlers are restored
    at the end. Outside the main thread, where Python does not allow it, no handlers are installed. SIGHUP and SIGUSR1,
    which terminals and schedulers send, stay ignored if they are, as under ``nohup``.

    Nested requests share signals: the inner one starts with the signal of the outer one and forwards its own. So a
    sweep stops even if a signal arrives too late to stop the current training.

    Args:
        time_limit: seconds after which the training should stop.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    TIME_LIMIT = 1

    def __init__(self, time_limit: float | None = None) -> None:
        self._deadline = None if time_limit is None else time.monotonic() + time_limit
        self._received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {n: signal.signal(n, self._receive) for n in self.SIGNALS if _can_handle(n)}
            if outer := self._outer(signal.SIGINT):
                self._received = outer._received
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = number
        if outer := self._outer(number):
            outer._received = number

    def _outer(self, number: int) -> StopRequest | None:
        """The request around this one."""
        outer = getattr(self._before.get(number), "__self__", None)
        return outer if isinstance(outer, StopRequest) else None

    @property
    def reason(self) -> int:
        """128 plus the number of the signal, `TIME_LIMIT`, or 0 if there is no request."""
        if self._received is not None:
            return 128 + self._received
        late = self._deadline is not None and time.monotonic() >= self._deadline
        return self.TIME_LIMIT if late else 0

    def raise_if_requested(self) -> None:
        """Raise `Interrupted` if a signal was received or the time limit is reached."""
        if reason := self.reason:
            raise interruption(reason)


def _can_handle(number: int) -> bool:
    """Whether to install a handler: the previous one can be restored, and the signal need not stay ignored."""
    before = signal.getsignal(number)
    return before is not None and not (before is signal.SIG_IGN and number in (signal.SIGHUP, signal.SIGUSR1))


def interruption(reason: int) -> Interrupted:
    """The exception for a `StopRequest.reason`."""
    if reason == StopRequest.TIME_LIMIT:
        return Interrupted("The time limit is reached.", 0)
    name = signal.Signals(reason - 128).name
    return Interrupted(f"Stopped by {'Ctrl-C' if name == 'SIGINT' else name}.", reason)
