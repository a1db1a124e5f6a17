"""The schema of ``environment.json`` in a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydantic
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt

from zoo.errors import RunError, shortened


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)


class Data(_Part):
    """The data set of a run."""

    name: str
    shape: list[PositiveInt] = pydantic.Field(min_length=1)
    classes: NonNegativeInt = 0
    train: PositiveInt
    test: PositiveInt
    validation: PositiveInt | None = None
    modality: str = "image"
    binarize: str
    sha256: str
    passed_over: list[str] = []


class Environment(_Part):
    """The content of the file."""

    id: str
    started: str
    command: list[str]
    seed: int
    device: str
    bfloat16_instructions: bool | None = None
    threads: int
    python: str
    platform: str
    processors: int | None
    versions: dict[str, str]
    plugins: dict[str, str]
    data: Data
    code: bool = False


def require_environment(content: Any, file: Path) -> dict[str, Any]:
    """Validate the content of an ``environment.json``.

    Raises:
        RunError: it is invalid; the message names the first error.
    """
    try:
        Environment.model_validate(content)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        message = f"{place}: {first['msg']}" if place else f"expected a mapping, got {shortened(repr(content))}"
        raise RunError(f"{file} is damaged: {message}") from error
    environment: dict[str, Any] = content
    return environment
