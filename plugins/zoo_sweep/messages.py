"""Log messages of many trainings."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

log = logging.getLogger("zoo")


@contextlib.contextmanager
def repeated_once() -> Iterator[None]:
    """Log messages that the trainings repeat, below a warning, only once inside the block."""
    messages: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        repeated = record.levelno < logging.WARNING and message in messages
        messages.add(message)
        return not repeated

    log.addFilter(is_new)
    try:
        yield
    finally:
        log.removeFilter(is_new)
