"""Locks between processes. The system frees the lock of a process that ends, however it ends."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from zoo.errors import RunError, RunLocked
from zoo.storage.files import write_json


@contextlib.contextmanager
def hold(path: Path, what: str, wait: bool = False) -> Iterator[None]:
    """Hold a lock inside the block.

    Args:
        path: the lock file; it stays when the lock is released. Who holds the lock is written beside it.
        what: the subject of an error message.
        wait: until whoever has the lock releases it, in place of raising `RunLocked`.

    Raises:
        RunLocked: another process, or another thread of this one, holds the lock. The message names it.
        RunError: the lock file cannot be made, or the file system has no locks.
    """
    lock = FileLock(path)
    owner = path.with_name(f"{path.name}.owner")
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise RunLocked(f"{what} is in use by {_describe(owner)}. Wait until it has ended, or end it.") from None
    except (OSError, NotImplementedError) as error:
        raise RunError(f"{what} cannot be locked: {error}") from error
    try:
        since = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        try:
            write_json({"pid": os.getpid(), "host": socket.gethostname(), "since": since}, owner)
        except OSError as error:
            raise RunError(f"{what} cannot be locked: {error}") from error
        yield
    finally:
        with contextlib.suppress(OSError):
            owner.unlink(missing_ok=True)
        lock.release()


def _describe(owner: Path) -> str:
    try:
        return "process {pid} on {host} since {since}".format(**json.loads(owner.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
