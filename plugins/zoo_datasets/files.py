"""Files of well-known data sets: downloaded by torchvision, verified here before they are used."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from zoo import DataError, DataUnavailable

NETWORK_TIMEOUT = 30.0  # seconds without a response

T = TypeVar("T")


def gather(
    root: Path, folder: str, names: Iterable[str], read: Callable[[Path], T], fetch: Callable[[], object] | None
) -> dict[str, T]:
    """Read each file of a folder below `root`, after downloading missing ones.

    Args:
        root: the folder of data files.
        folder: name of the data set's folder.
        names: names of the files.
        read: reads one file.
        fetch: downloads missing files; None to download nothing.

    Returns:
        The result of `read` by file name.

    Raises:
        DataUnavailable: files are missing and were not downloaded; the message names them.
        DataError: a file cannot be read, or `read` raised it.
    """
    files = {name: root / folder / name for name in names}
    absent = _absent(files)
    # Before any download, so that damaged data are not reported as unavailable.
    parts = {name: _read(file, read) for name, file in files.items() if name not in absent}
    if absent:
        advice = f"If you have them, set --data-dir or ZOO_DATA to the folder that holds {folder or absent[0]}."
        if fetch is None:
            raise DataUnavailable(f"{_listed(absent)} not in {root / folder}, and downloads are off. {advice}")
        with _fetching(root / folder, advice):
            fetch()
        if missing := _absent(files):
            raise DataUnavailable(
                f"{_listed(missing)} not in {root / folder}. torchvision downloads nothing if the data are there in "
                "another form, such as the folder `processed` of its versions before 2021. Move that folder away."
            )
        parts.update({name: _read(files[name], read) for name in absent})
    return {name: parts[name] for name in files}


def check_md5(file: Path, content: bytes, md5: str | None, advice: str = "Delete it to download it again.") -> bytes:
    """Return the content after verifying its MD5. Without an expected digest, nothing is verified.

    Raises:
        DataError: the digest is wrong; the message names the file.
    """
    if md5 is not None and (actual := hashlib.md5(content, usedforsecurity=False).hexdigest()) != md5:
        raise DataError(f"{file} is damaged: its MD5 is {actual}, not {md5}. {advice}")
    return content


def _absent(files: dict[str, Path]) -> list[str]:
    return [name for name, file in files.items() if not file.exists()]


def _read(file: Path, read: Callable[[Path], T]) -> T:
    try:
        return read(file)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}.") from error


def _listed(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


@contextlib.contextmanager
def _fetching(folder: Path, advice: str) -> Iterator[None]:
    """Set a timeout, redirect progress to stderr, and report a failure in one line."""
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NETWORK_TIMEOUT)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise DataUnavailable(f"Not in {folder}, and the download failed ({reason}). {advice}") from error
    finally:
        socket.setdefaulttimeout(timeout)
