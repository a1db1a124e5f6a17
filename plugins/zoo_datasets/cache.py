"""A cache of decoded images: each set is decoded once, written atomically, and memory-mapped from then on."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path

from zoo import DataError, NotPrepared, surveying, sync_folder, user_cache
from zoo_datasets.cache_file import CachedSplit, Item, explain_os_errors, open_cached, write_images

log = logging.getLogger("zoo")

PATIENCE = 1800.0  # seconds to wait for another process that holds an unfinished file without writing to it
POLL = 0.1  # seconds


def cached_images(key: str, images: Iterable[Item], folder: Path | None = None) -> CachedSplit:
    """Map the images stored under `key`, after decoding and storing `images` if they are not in the cache.

    Pixels are read from disk page by page, so a data set may be larger than memory. Writing to them changes a private
    copy of the page, never the file.

    Each set is one safetensors file with the tensors ``pixels``, ``labels`` and ``notes``, named after the SHA-256 of
    its key. It is written under a temporary name and renamed when it is complete. A file whose size disagrees with its
    header is damaged and is written again; its content is compared with the digest in the header only if its
    modification time has changed. Any of these files may be deleted at any time.

    The temporary file is locked while it is written. A second process that needs the same images waits and maps the
    result of the first. The lock of a killed process is released by the system, so an unlocked temporary file is an
    orphan, which the next writer in the folder removes.

    Args:
        key: identifies the images: their source, its state, and how they are decoded.
        images: pairs of a uint8 array (C, H, W), of the same shape for all images, and an integer label. Consumed
            lazily, one by one, and only if the images are not in the cache. A string is a note to store with them.
        folder: of the cache; by default ``vae-zoo/cache`` in the user's cache folder.

    Returns:
        Split whose ``x`` is memory-mapped, with its ``file`` and ``notes``.

    Raises:
        DataError: an image has another shape or dtype, or there is none; the disk is full, or the folder cannot be
            written (the temporary file is removed); another process holds the file and makes no progress.
        NotPrepared: the images are not in the cache, and `zoo.survey_data` is looking.
    """
    folder = user_cache() / "cache" if folder is None else folder
    file = folder / f"{hashlib.sha256(key.encode()).hexdigest()}.safetensors"
    with explain_os_errors(folder):
        cached = open_cached(file)
    if cached is None:
        if surveying.get():
            raise NotPrepared("Not decoded yet.")
        return _build(file, images)
    log.info("Using %d decoded images from the cache.", len(cached))
    return cached


def clean_cache(days: float, folder: Path | None = None) -> list[tuple[Path, int]]:
    """Delete images that have not been used for `days` days, and the unfinished files of killed processes.

    Processes that have mapped an image keep it until they end. Deleted images are decoded again when they are needed.

    Returns:
        The deleted files of images, with their sizes in bytes.

    Raises:
        DataError: a file cannot be deleted.
    """
    folder = user_cache() / "cache" if folder is None else folder
    _remove_orphans(folder)
    deleted = []
    for file in sorted(folder.glob("*.safetensors")):
        with explain_os_errors(folder), contextlib.suppress(FileNotFoundError):  # deleted by another process
            status = file.stat()
            if time.time() - status.st_atime >= 86400 * days:
                file.unlink()
                deleted.append((file, status.st_size))
    return deleted


def _build(file: Path, images: Iterable[Item]) -> CachedSplit:
    partial = file.with_suffix(".partial")
    with explain_os_errors(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        _remove_orphans(file.parent)
        out = _claim(partial)
    with out:
        try:
            with explain_os_errors(file.parent):
                cached = open_cached(file, warn=True)  # another process may have written it in the meantime
            if cached is not None:
                partial.unlink()
                return cached
            write_images(out, images, file.parent)
            with explain_os_errors(file.parent):
                os.fsync(out.fileno())
                partial.replace(file)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        with explain_os_errors(file.parent):
            sync_folder(file.parent)
            cached = open_cached(file)
    if cached is None:
        raise DataError(f"{file} disappeared or was damaged right after it was written. Try again.")
    return cached


# --- ownership of the unfinished file


def _claim(partial: Path) -> io.FileIO:
    """Open the unfinished file, empty it, and lock it until it is closed or this process ends.

    Raises:
        DataError: another process holds it and has not written to it for `PATIENCE` seconds.
    """
    while True:
        with contextlib.ExitStack() as closing:
            out = closing.enter_context(io.FileIO(os.open(partial, os.O_RDWR | os.O_CREAT, 0o666), "r+"))
            _lock(out, partial)
            # Between opening and locking, its owner may have renamed it, or another process removed it as an orphan.
            if _is_at(out, partial):
                out.truncate(0)
                closing.pop_all()
                return out


def _lock(out: io.FileIO, partial: Path) -> None:
    """Wait for the lock, as long as its owner makes progress."""
    size, since, announced = -1, 0.0, False
    while not _try_lock(out):
        now = os.fstat(out.fileno()).st_size
        if now != size:
            size, since = now, time.monotonic()
        elif time.monotonic() - since > PATIENCE:
            raise DataError(
                f"Another process has locked {partial} and has not written to it for {PATIENCE:.0f} seconds. "
                "End that process and try again."
            )
        if not announced:
            log.info("Waiting for another process that is decoding the same images into %s.", partial)
            announced = True
        time.sleep(POLL)


def _remove_orphans(folder: Path) -> None:
    """Remove the unfinished files of processes that have died."""
    for partial in folder.glob("*.partial"):
        # A failure concerns the file of another process, and does not stop this one.
        with contextlib.suppress(OSError), partial.open("r+b", buffering=0) as orphan:
            if _try_lock(orphan) and _is_at(orphan, partial):
                partial.unlink()


def _try_lock(file: io.FileIO) -> bool:
    import fcntl  # not available on Windows, where importing this module must still work

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(file: io.FileIO, path: Path) -> bool:
    """Whether an open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
