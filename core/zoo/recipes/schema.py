"""The shape of a recipe, and the checking of one with every problem reported at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt

from zoo.errors import Problem, did_you_mean
from zoo.recipes.source import Raw

Binarize = Literal["none", "threshold", "dynamic"]


class ComponentSpec(BaseModel):
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


class Checkpointing(Section):
    """When the state of a training is saved. Whatever comes first; it is saved at the end and on a signal anyway.

    Attributes:
        epochs, steps, minutes: save after so many.
        keep: how many of the newest to keep, besides the best one.
    """

    epochs: PositiveInt | None = 1
    steps: PositiveInt | None = None
    minutes: PositiveFloat | None = None
    keep: PositiveInt = 2


class TrainConfig(Section):
    """How a model is trained.

    Attributes:
        epochs: passes over the training set.
        steps: end after so many steps, in the middle of an epoch if need be.
        batch_size: images in one step, over all processes.
        microbatches: parts in which a batch is worked through, to save memory; the gradient is that of the whole batch.
        optimizer: an optimiser of `torch.optim`, by its name in lower case, and its arguments.
        scheduler: a schedule of `torch.optim.lr_scheduler`, such as ``{use: cosine-annealing, T_max: 5}``.
        scheduler_unit: what the schedule counts.
        warmup_steps: steps over which the learning rate rises linearly to its value.
        max_grad_norm: the greatest norm of a phase's gradient; a longer one is scaled down.
        ema_decay: decay of an exponential moving average of the weights, which is then what is tested and saved.
        precision: ``bfloat16`` lets matrix products run in it; losses stay in float32.
        deterministic: only algorithms that give the same bits each time.
        monitor: the test term whose least value makes an epoch the best one.
        patience: end after so many epochs without a new best.
        checkpoint: when to save.
        seed: of the weights, the order of the data and every draw.
    """

    epochs: PositiveInt = 5
    steps: PositiveInt | None = None
    batch_size: PositiveInt = 128
    microbatches: PositiveInt = 1
    optimizer: ComponentSpec = ComponentSpec(use="adam")
    scheduler: ComponentSpec | None = None
    scheduler_unit: Literal["epoch", "step"] = "epoch"
    warmup_steps: NonNegativeInt = 0
    max_grad_norm: PositiveFloat | None = None
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    deterministic: bool = False
    monitor: str = "loss"
    patience: PositiveInt | None = None
    checkpoint: Checkpointing = Checkpointing()
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
    encoder: ComponentSpec
    decoder: ComponentSpec
    prior: ComponentSpec
    loss: ComponentSpec
    data: list[ComponentSpec] = Field(min_length=1)
    binarize: Binarize = "none"
    train: TrainConfig = TrainConfig()

    @pydantic.field_validator("data", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, (str, dict)) else value

    def to_raw(self) -> Raw:
        """The recipe as it is written in a file, under its name."""
        raw: Raw = self.model_dump(exclude={"name"})
        return raw


def check(
    model: type[BaseModel], values: Mapping[str, Any], place: str = "", others: Sequence[str] = ()
) -> tuple[Any, list[Problem]]:
    """Validate `values` strictly, as JSON would be: lists may stand for tuples, strings never for numbers.

    Args:
        place: where the values stand, before the keys in the problems.
        others: keys that are known beside the model's fields, for suggestions.

    Returns:
        The validated model, or None, and the problems found.
    """
    try:
        return model.model_validate_json(json.dumps(values, default=str), strict=True), []
    except pydantic.ValidationError as error:
        found: dict[str, list[str]] = {}
        for details in error.errors():
            problem = _problem(model, details, place, others)
            found.setdefault(problem.place, []).append(problem.message)
        return None, [Problem(where, "; or ".join(messages)) for where, messages in found.items()]


_TYPES = {"int", "float", "str", "bool"}


def _problem(model: type[BaseModel], details: Any, prefix: str, others: Sequence[str]) -> Problem:
    # The branches of a union are in the path too, as "literal['a','b']", "constrained-float" or "int".
    path = [str(p) for p in details["loc"] if isinstance(p, int) or (p.isidentifier() and p not in _TYPES)]
    place = ".".join([prefix, *path] if prefix else path)
    if details["type"] == "extra_forbidden":
        key = path[-1]
        known = [*_fields_at(model, path[:-1]), *(others if len(path) == 1 else ())]
        below = [f"{field}.{key}" for field in known if key in _fields_at(model, [*path[:-1], field])]
        suggestion = f" Did you mean {below[0]!r}?" if below else did_you_mean(key, known)
        message = f"unknown key.{suggestion} Known: {', '.join(known) or 'none'}."
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
