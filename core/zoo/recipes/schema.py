"""The shape of a recipe, and the checking of one with every problem reported at once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

from zoo.errors import Problem, did_you_mean
from zoo.recipes.source import Raw

Binarize = Literal["none", "threshold", "dynamic"]


class Block(BaseModel):
    """A component and its parameters: ``mlp``, or ``{use: mlp, hidden: [400]}``."""

    model_config = ConfigDict(frozen=True, extra="allow")
    use: str

    @pydantic.model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"use": value} if isinstance(value, str) else value

    @property
    def parameters(self) -> dict[str, Any]:
        """Everything but ``use``."""
        return dict(self.model_extra or {})

    @pydantic.model_serializer
    def _to_plain(self) -> Any:
        return {"use": self.use, **self.parameters} if self.parameters else self.use


class Section(BaseModel):
    """A part of a recipe: unknown keys are errors, and numbers are not made out of strings."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Training(Section):
    """How a model is trained.

    Attributes:
        epochs: passes over the training set.
        batch_size: images in one step.
        optimizer: an optimiser of `torch.optim`, by its name in lower case, and its arguments.
        seed: of the weights, the order of the data and every draw.
    """

    epochs: PositiveInt = 5
    batch_size: PositiveInt = 128
    optimizer: Block = Block(use="adam")
    seed: NonNegativeInt = 0


class Recipe(Section):
    """A model: a name, four choices and their parameters, the data it wants and how it is trained.

    Attributes:
        name: what it is called; the folder of its runs.
        summary: one line for ``zoo list``.
        latent_dim: number of latent dimensions, injected into every component that asks for it.
        encoder, decoder, prior, loss: the four choices.
        data: data sets in order of preference; the first that can be had is used.
        binarize: what becomes of a pixel's intensity: ``none`` keeps it in [0, 1], ``threshold`` cuts at one half,
            ``dynamic`` draws a new bit with that probability each time the image is used.
        train: how it is trained.
    """

    name: str
    summary: str = ""
    latent_dim: PositiveInt
    encoder: Block
    decoder: Block
    prior: Block
    loss: Block
    data: list[Block] = Field(min_length=1)
    binarize: Binarize = "none"
    train: Training = Training()

    @pydantic.field_validator("data", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, (str, dict)) else value

    def to_raw(self) -> Raw:
        """The recipe as it is written in a file, under its name."""
        raw: Raw = self.model_dump(exclude={"name"})
        return raw


def check(model: type[BaseModel], values: Mapping[str, Any], place: str = "") -> tuple[Any, list[Problem]]:
    """Validate `values` strictly, as JSON would be: lists may stand for tuples, strings never for numbers.

    Returns:
        The validated model, or None, and the problems found.
    """
    try:
        return model.model_validate_json(json.dumps(values, default=str), strict=True), []
    except pydantic.ValidationError as error:
        return None, [_problem(model, details, place) for details in error.errors()]


def _problem(model: type[BaseModel], details: Any, prefix: str) -> Problem:
    path = [str(part) for part in details["loc"]]
    place = ".".join([prefix, *path] if prefix else path)
    if details["type"] == "extra_forbidden":
        known = _fields_at(model, path[:-1])
        message = f"unknown key.{did_you_mean(path[-1], known)} Known: {', '.join(known) or 'none'}."
    elif details["type"] == "missing":
        message = "is required"
    elif details["type"] in ("model_type", "model_attributes_type", "dict_type"):
        message = f"expected a mapping, got {details['input']!r}"
    else:
        message = f"{details['msg'][:1].lower()}{details['msg'][1:]}, got {details['input']!r}"
    return Problem(place, message)


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return [name for name in model.model_fields if name != "name" or model is not Recipe]
