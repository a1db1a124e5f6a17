"""Locks between processes. The operating system releases the lock of a process that ends or is killed."""

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
        path: lock file, kept after release. The owner is recorded in ``<path>.owner``.
        what: subject of error messages.
        wait: wait for the lock instead of raising `RunLocked`.

    Raises:
        RunLocked: another process or thread holds the lock. The message names it.
        RunError: the lock file cannot be created, or the file system does not support locks.
    """
    lock = FileLock(path)
    owner = path.with_name(f"{path.name}.owner")
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise RunLocked(f"{what} is in use by {_describe(owner)}. Wait for it to end, or end it.") from None
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
