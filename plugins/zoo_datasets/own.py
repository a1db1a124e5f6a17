"""What data of your own have in common: a path that means the same everywhere, and a split by fraction and seed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, NonNegativeInt

from zoo import Split


def absolute(path: str) -> str:
    """The path from the root; ``~`` is your home. So a run that was trained on it goes on in any folder."""
    return str(Path(os.path.expanduser(path)).absolute())  # noqa: PTH111 - `Path.expanduser` raises for unknown users


Place = Annotated[str, AfterValidator(absolute)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Seed = NonNegativeInt


def digest(*parts: str) -> bytes:
    """SHA-256 of several texts, which may hold anything that a path may."""
    running = hashlib.sha256()
    for part in parts:
        running.update(os.fsencode(part) + b"\0\0")
    return running.digest()


def place(seed: int, name: str) -> bytes:
    """Where an item comes in the order of the split, in which the test images are the first.

    It depends on the seed and the item's own name alone, so few change sides when others are added.
    """
    return digest(str(seed), name)


def split(images: Split, test_fraction: float) -> tuple[Split, Split]:
    """Training and test images: the first are for testing, one at least, and one at least is not.

    Slices, not indices: what is mapped stays mapped.
    """
    n = min(max(round(test_fraction * len(images)), 1), len(images) - 1)
    return images.part(n, len(images)), images.part(0, n)
