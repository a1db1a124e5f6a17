"""Standard streams that tolerate a closed descriptor, a lost reader and a limited encoding."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from zoo.errors import ZooError

GONE = (errno.EPIPE, errno.EIO)
"""Errors of a write whose reader or terminal is gone."""


class OutputError(ZooError):
    """Results cannot be written to stdout, such as on a full disk."""


class Stream(io.TextIOBase):
    """A wrapper of a standard text stream.

    Characters that the encoding lacks are written as escapes. If the reader is gone, as in ``zoo list | head -1``,
    output is dropped.

    Args:
        stream: stream to write to.
        dispensable: ignore other write errors too. True for stderr: progress that cannot be shown must not end a
            training.
    """

    encoding, errors = "", ""  # writable, unlike those of the base class

    def __init__(self, stream: TextIO, dispensable: bool) -> None:
        self._stream: TextIO | None = stream
        self._dispensable = dispensable
        self._failure: OutputError | None = None
        self.encoding = getattr(stream, "encoding", None) or "utf-8"
        self.errors = getattr(stream, "errors", None) or "strict"

    def writable(self) -> bool:
        """Always true."""
        return True

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        """The descriptor of the stream."""
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return self._stream.fileno()

    def write(self, text: str | bytes) -> int:
        """Write, or drop the text if the reader is gone. Click writes completions as bytes.

        Raises:
            OutputError: the stream is not dispensable and cannot be written.
            TypeError: `text` is ``b""``, with which click detects binary streams.
        """
        if isinstance(text, bytes):
            if not text:
                raise TypeError("expected str, got bytes")
            text = text.decode()
        try:
            text.encode(self.encoding, self.errors)
            encodable = text
        except UnicodeEncodeError:
            encodable = text.encode(self.encoding, "backslashreplace").decode(self.encoding)
        with self._tolerant():
            if self._stream is not None:
                self._stream.write(encodable)
        return len(text)

    def flush(self) -> None:
        """Flush the stream; raises like `write`."""
        with self._tolerant():
            if self._stream is not None:
                self._stream.flush()

    @contextlib.contextmanager
    def _tolerant(self) -> Iterator[None]:
        if self._failure is not None:  # click catches it when it probes the stream with an empty text
            raise self._failure
        try:
            yield
        except BlockingIOError:  # a slow reader of a non-blocking pipe
            if not self._dispensable:
                raise
        except OSError as error:
            self._discard()
            if not self._dispensable and error.errno not in GONE:
                self._failure = OutputError(f"The output could not be written: {error.strerror or error}.")
                raise self._failure from error

    def _discard(self) -> None:
        """Redirect the stream to the null device, so that flushing its buffer at exit does not fail."""
        stream, self._stream = self._stream, None
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())
                os.close(null)


@contextlib.contextmanager
def lasting_streams() -> Iterator[None]:
    """Wrap stdout and stderr in a `Stream` inside the block. Output to a closed one is dropped."""
    before = sys.stdout, sys.stderr
    if any(stream is None for stream in (sys.stdin, *before)):
        _occupy_standard_descriptors()
    with Path(os.devnull).open("w", encoding="utf-8") as null:
        out, err = (null if stream is None else stream for stream in before)
        sys.stdout, sys.stderr = Stream(out, dispensable=False), Stream(err, dispensable=True)
        try:
            yield
        finally:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OutputError):
                    stream.flush()
            sys.stdout, sys.stderr = before


def _occupy_standard_descriptors() -> None:
    """Open descriptors 0, 1 and 2 if they are closed, so that no file opened later becomes a standard stream."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
