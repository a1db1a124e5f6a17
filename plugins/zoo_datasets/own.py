"""Parameters shared by the data sets of user files: an absolute path, and a split by fraction and seed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, NonNegativeInt

from zoo import Split


def absolute(path: str) -> str:
    """Make a path absolute, so that a run can be resumed from any folder; ``~`` is the home directory."""
    return str(Path(os.path.expanduser(path)).absolute())  # noqa: PTH111 - `Path.expanduser` raises for unknown users


Place = Annotated[str, AfterValidator(absolute)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Seed = NonNegativeInt


def digest(*parts: str) -> bytes:
    """SHA-256 of several strings, which may hold any character that a path may."""
    running = hashlib.sha256()
    for part in parts:
        running.update(os.fsencode(part) + b"\0\0")
    return running.digest()


def place(seed: int, name: str) -> bytes:
    """The sort key of an item in the order of the split, in which the test images come first.

    It depends only on the seed and the name of the item, so adding items moves few of the others to the other split.
    """
    return digest(str(seed), name)


def split(images: Split, test_fraction: float) -> tuple[Split, Split]:
    """Split images into training and test images, at least one each. The first images are the test images.

    Both are slices, so memory-mapped images stay mapped.
    """
    n = min(max(round(test_fraction * len(images)), 1), len(images) - 1)
    return images.part(n, len(images)), images.part(0, n)
