"""Standard streams that no command fails on: closed, without a reader, or with an encoding that lacks a character."""

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
"""What a write fails with once its reader, or its terminal, has gone."""


class OutputError(ZooError):
    """Results cannot be written to stdout: its disk is full, say."""


class Stream(io.TextIOBase):
    """A text stream in place of a standard one.

    A character that its encoding lacks is written as an escape. Once its reader has gone, whatever is written is
    dropped, as in ``zoo list | head -1``.

    Args:
        stream: the one that it writes to.
        dispensable: whether any other failure to write is passed over too. So it is for stderr: a training does not
            end because nobody sees how it goes.
    """

    def __init__(self, stream: TextIO, dispensable: bool) -> None:
        self._stream: TextIO | None = stream
        self._dispensable = dispensable
        self._failure: OutputError | None = None
        self._encoding = getattr(stream, "encoding", None) or "utf-8"
        self._errors = getattr(stream, "errors", None) or "strict"

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """That of the stream."""
        return self._encoding

    @property
    def errors(self) -> str:  # type: ignore[override]
        """What the stream does with a character that its encoding lacks, were it asked to write one."""
        return self._errors

    def writable(self) -> bool:
        """Whether it can be written: yes."""
        return True

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        """The descriptor of the stream."""
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return self._stream.fileno()

    def write(self, text: str | bytes) -> int:
        """Write, or drop what nobody reads. Click writes the words of a shell completion as bytes.

        Raises:
            OutputError: the stream is needed, and cannot be written.
            TypeError: no bytes, by which click tells a text stream from a binary one, which it would wrap.
        """
        if isinstance(text, bytes):
            if not text:
                raise TypeError("A text stream was given bytes.")
            text = text.decode()
        try:
            text.encode(self._encoding, self._errors)
            written = text
        except UnicodeEncodeError:
            written = text.encode(self._encoding, "backslashreplace").decode(self._encoding)
        with self._surviving():
            if self._stream is not None:
                self._stream.write(written)
        return len(text)

    def flush(self) -> None:
        """Pass on what was written.

        Raises:
            OutputError: the stream is needed, and cannot be written.
        """
        with self._surviving():
            if self._stream is not None:
                self._stream.flush()

    @contextlib.contextmanager
    def _surviving(self) -> Iterator[None]:
        if self._failure is not None:  # click swallows one, of an empty text that it tries a stream with
            raise self._failure
        try:
            yield
        except BlockingIOError:  # a reader that is slower than it allows, and still there
            if not self._dispensable:
                raise
        except OSError as error:
            self._let_go()
            if not self._dispensable and error.errno not in GONE:
                self._failure = OutputError(f"The output could not be written: {error.strerror or error}.")
                raise self._failure from error

    def _let_go(self) -> None:
        """Let what is still in the buffers of the stream go nowhere, so that Python may flush them when it ends."""
        stream, self._stream = self._stream, None
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)


@contextlib.contextmanager
def lasting_streams() -> Iterator[None]:
    """Stdout and stderr as a `Stream` inside the block. One that is closed goes nowhere."""
    before = sys.stdout, sys.stderr
    with contextlib.ExitStack() as closing:
        if any(stream is None for stream in (sys.stdin, *before)):
            _take_free_descriptors()
        nowhere = closing.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
        out, err = (nowhere if stream is None else stream for stream in before)
        sys.stdout, sys.stderr = Stream(out, dispensable=False), Stream(err, dispensable=True)
        try:
            yield
        finally:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OutputError):
                    stream.flush()
            sys.stdout, sys.stderr = before


def _take_free_descriptors() -> None:
    """Occupy 0, 1 and 2, so that no file that is opened later is taken for a standard stream."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
