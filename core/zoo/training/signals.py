"""Signals as requests: the step under way is finished, the state is saved, and the training ends."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from zoo.errors import ZooError


class Interrupted(ZooError):
    """A training that stopped when it was asked to, with its state saved.

    Attributes:
        exit_code: 128 and the number of the signal: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP, 138 after
            SIGUSR1. At a time limit 0.
        run: the folder of the run, or of the sweep, that can be resumed.
    """

    run: Path

    def __init__(self, reason: str, exit_code: int) -> None:
        super().__init__(reason)
        self.exit_code = exit_code


class StopRequest:
    """Whether the training has been asked to stop, and why. Installed as a context manager.

    The first signal is a request. The second SIGINT acts as if nothing were installed: it stops at once. The handlers
    that stood before are put back at the end. Off the main thread nothing is installed, since Python allows none there.
    SIGHUP and SIGUSR1, which terminals and schedulers send, stay ignored where they are, as under ``nohup``.

    Requests nest: the one inside begins with what the one outside was asked, and what it is asked itself the one
    outside learns too. So a sweep stops even where the signal came too late to stop the training under way.

    Args:
        time_limit: seconds after which the training asks itself to stop.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    TIME_LIMIT = 1

    def __init__(self, time_limit: float | None = None) -> None:
        self._deadline = None if time_limit is None else time.monotonic() + time_limit
        self._received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {n: signal.signal(n, self._receive) for n in self.SIGNALS if not _stays(n)}
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
        """The request that this one stands inside of."""
        outer = getattr(self._before.get(number), "__self__", None)
        return outer if isinstance(outer, StopRequest) else None

    @property
    def reason(self) -> int:
        """128 and the number of the signal that came, `TIME_LIMIT`, or 0 while nobody has asked."""
        if self._received is not None:
            return 128 + self._received
        late = self._deadline is not None and time.monotonic() >= self._deadline
        return self.TIME_LIMIT if late else 0

    def raise_if_requested(self) -> None:
        """Raise `Interrupted` if a signal came or the time limit is reached."""
        if reason := self.reason:
            raise interruption(reason)


def _stays(number: int) -> bool:
    """Whether a signal is left alone: what ignores it is to go on, or its handler could not be put back."""
    before = signal.getsignal(number)
    return before is None or (before is signal.SIG_IGN and number in (signal.SIGHUP, signal.SIGUSR1))


def interruption(reason: int) -> Interrupted:
    """What ends the training for a `StopRequest.reason`."""
    if reason == StopRequest.TIME_LIMIT:
        return Interrupted("The time limit is reached.", 0)
    name = signal.Signals(reason - 128).name
    return Interrupted(f"Stopped by {'Ctrl-C' if name == 'SIGINT' else name}.", reason)
