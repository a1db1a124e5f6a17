"""The shape of a recipe, and the checking of one with every problem reported at once."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, PrivateAttr
from pydantic_core import PydanticCustomError

from zoo.errors import Problem, did_you_mean, shortened
from zoo.recipes.source import MAX_DEPTH, Raw
from zoo.storage.locate import NAME, NAME_RULE

FOREIGN = {
    **dict.fromkeys(("learning_rate", "learningrate", "base_lr", "init_lr"), "lr"),
    **dict.fromkeys(("max_epochs", "num_epochs", "n_epochs", "nb_epochs", "total_epochs", "epoch"), "train.epochs"),
    **dict.fromkeys(("max_steps", "num_steps", "total_steps", "iterations", "num_train_steps"), "train.steps"),
    **dict.fromkeys(("batchsize", "bs", "train_batch_size", "per_device_train_batch_size"), "batch_size"),
    **dict.fromkeys(
        ("latent_size", "latent_dims", "latents", "latent_channels", "num_latents", "n_latent", "z_dim", "zdim",
         "z_size", "nz", "dim_z", "embedding_dim", "bottleneck_dim"),
        "latent_dim",
    ),
    **dict.fromkeys(("hidden_dims", "hidden_dim", "hidden_size", "hidden_sizes", "hidden_units", "layers"), "hidden"),
    **dict.fromkeys(("kl_weight", "kld_weight", "kl_coeff", "kl_beta", "beta_kl"), "beta"),
    **dict.fromkeys(("gradient_clip_val", "grad_clip", "clip_grad", "clip_grad_norm", "clip"), "train.max_grad_norm"),
    **dict.fromkeys(("accumulate_grad_batches", "gradient_accumulation_steps", "accumulate"), "train.microbatches"),
    **dict.fromkeys(("early_stopping", "early_stopping_patience"), "train.patience"),
    **dict.fromkeys(("ema", "average", "ema_rate"), "train.ema_decay"),
    **dict.fromkeys(("select",), "train.monitor"),
    **dict.fromkeys(("random_state", "random_seed", "manual_seed"), "train.seed"),
    **dict.fromkeys(("lr_scheduler", "schedule"), "train.scheduler"),
    **dict.fromkeys(("optim", "optimizer_cls"), "train.optimizer"),
    **dict.fromkeys(("warmup", "num_warmup_steps"), "train.warmup_steps"),
    **dict.fromkeys(("dtype", "amp", "mixed_precision"), "train.precision"),
    **dict.fromkeys(("wd", "l2"), "weight_decay"),
    **dict.fromkeys(("dataset", "data_dir", "dataset_name"), "data"),
    **dict.fromkeys(("image_size", "img_size", "resize"), "size"),
    **dict.fromkeys(("criterion", "objective", "loss_fn"), "loss"),
    **dict.fromkeys(("reconstruction_loss", "recon_loss", "observation_model"), "likelihood"),
}  # fmt: skip
"""What other libraries call a key, in lower case with underscores, and the key here or the end of it."""

Binarize = Literal["none", "threshold", "dynamic"]


class ComponentSpec(BaseModel):
    """A component and its parameters: ``mlp``, or ``{use: mlp, hidden: [400]}``."""

    model_config = ConfigDict(frozen=True, extra="allow")
    use: str
    _arguments: dict[str, Any] | None = PrivateAttr(None)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ComponentSpec) and (self.use, self.parameters) == (other.use, other.parameters)

    def __hash__(self) -> int:
        return hash(self.use)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"use": value} if isinstance(value, str) else value

    @property
    def parameters(self) -> dict[str, Any]:
        """Everything but ``use``."""
        return dict(self.model_extra or {})

    @property
    def is_checked(self) -> bool:
        """Whether it carries its arguments."""
        return self._arguments is not None

    @property
    def arguments(self) -> dict[str, Any]:
        """The checked arguments of the constructor, nested components as factories; empty before the check."""
        return dict(self._arguments or {})

    def with_arguments(self, arguments: dict[str, Any]) -> ComponentSpec:
        """A copy that carries these arguments."""
        spec = self.model_copy()
        spec._arguments = arguments
        return spec

    @pydantic.model_serializer
    def _to_plain(self) -> Any:
        return {"use": self.use, **self.parameters} if self.parameters else self.use


class Section(BaseModel):
    """A part of a recipe: unknown keys are errors, numbers are finite and are not made out of strings."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


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
        scheduler: a schedule of `torch.optim.lr_scheduler`, such as ``{use: CosineAnnealingLR, T_max: 5}``.
        scheduler_unit: what the schedule counts.
        warmup_steps: steps over which the learning rate rises linearly to its value.
        max_grad_norm: the greatest norm of a phase's gradient; a longer one is scaled down.
        ema_decay: decay of an exponential moving average of the parameters, which is then evaluated and saved, with
            the latest value of every buffer.
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
    optimizer: ComponentSpec = ComponentSpec(use="Adam")
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

    @pydantic.field_validator("name")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        if not NAME.fullmatch(value):
            raise PydanticCustomError("name", NAME_RULE)
        return value

    @pydantic.field_validator("data", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, (str, dict)) else value

    def to_raw(self) -> Raw:
        """The recipe as it is written in a file, under its name."""
        raw: Raw = self.model_dump(exclude={"name"})
        return raw


def check(
    model: type[BaseModel],
    values: Mapping[str, Any],
    place: str = "",
    others: Sequence[str] = (),
    elsewhere: Sequence[str] = (),
) -> tuple[Any, list[Problem]]:
    """Validate `values` strictly, as JSON would be: lists may stand for tuples, strings never for numbers.

    Args:
        place: where the values stand, before the keys in the problems.
        others: keys that are known beside the model's fields, for suggestions.
        elsewhere: all keys of the recipe in full, for suggestions.

    Returns:
        The validated model, or None, and the problems found.
    """
    try:
        plain = as_plain(values)
    except (ValueError, TypeError, RecursionError) as error:
        return None, [Problem(place, f"expected names, numbers, text, lists and mappings alone: {error}")]
    problems: dict[str, list[str]] = {}
    for path, message in _unusable(plain):
        problems.setdefault(_join(place, path), []).append(message)
    try:
        checked = model.model_validate_json(json.dumps(plain), strict=True)
    except pydantic.ValidationError as error:
        for details in error.errors():
            problem = _problem(model, details, plain, place, others, elsewhere)
            problems.setdefault(problem.place, []).append(problem.message)
    if problems:
        return None, [Problem(where, "; or ".join(messages)) for where, messages in problems.items()]
    return checked, []


def check_recipe(name: str, raw: Raw, elsewhere: Sequence[str] = ()) -> tuple[Any, list[Problem]]:
    """The recipe called `name`, checked as far as that is possible without a look at its components."""
    recipe, problems = check(Recipe, {**raw, "name": name}, elsewhere=elsewhere)
    if "name" in raw:
        problems.append(Problem("name", "cannot be set. A model is named where it stands in a file, under `models:`"))
    return recipe, problems


def as_plain(values: Any) -> Any:
    """The values as JSON has them: mappings with text for keys, lists, text, numbers, true, false and null.

    Raises:
        ValueError, TypeError, RecursionError: they cannot be written so.
    """
    plain = json.loads(json.dumps(values, default=str))
    level = [plain]
    for _ in range(MAX_DEPTH + 1):
        level = [
            item
            for value in level
            for item in (value.values() if isinstance(value, dict) else value if isinstance(value, list) else ())
        ]
        if not level:
            return plain
    raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")


def _join(prefix: str, path: Sequence[str | int]) -> str:
    return ".".join([prefix, *map(str, path)] if prefix else map(str, path))


def _unusable(value: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """The places of numbers that no tensor and no seed can hold."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        yield (), "a whole number must lie between -2^63 and 2^63 - 1"
    if isinstance(value, float) and not math.isfinite(value):
        yield (), f"a number must be finite, got {value}"
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from (((key, *path), message) for path, message in _unusable(item))


def _problem(
    model: type[BaseModel], details: Any, values: Any, prefix: str, others: Sequence[str], elsewhere: Sequence[str]
) -> Problem:
    path = _path(details["loc"], values)
    given = shortened(repr(details["input"]))
    if details["type"] in ("extra_forbidden", "missing"):
        key = str(details["loc"][-1])
        path = path if path[-1:] == [key] else [*path, key]
    if details["type"] == "extra_forbidden":
        known = [*_fields_at(model, path[:-1]), *(others if len(path) == 1 else ())]
        below = [f"{field}.{key}" for field in known if key in _fields_at(model, [*path[:-1], field])]
        suggestion = (
            f" Did you mean {below[0]!r}?" if below else _meant(key, prefix, elsewhere) or did_you_mean(key, known)
        )
        message = f"unknown key.{suggestion} Known: {', '.join(known) or 'none'}."
    elif details["type"] == "missing":
        message = "is required"
    elif details["type"] in ("model_type", "model_attributes_type", "dict_type"):
        message = f"expected a mapping, got {given}"
    elif details["type"] == "bool_type":
        message = f"expected true or false, got {given}"
    else:
        message = f"{details['msg'][:1].lower()}{details['msg'][1:]}, got {given}"
    return Problem(_join(prefix, path), message)


def _path(location: Sequence[str | int], values: Any) -> list[str]:
    """The keys in a location of pydantic's, in which branches of unions stand too, such as ``constrained-float``."""
    path = []
    for part in location:
        if isinstance(values, dict) and part in values:
            values = values[str(part)]
        elif isinstance(values, list) and isinstance(part, int) and part < len(values):
            values = values[part]
        else:
            continue
        path.append(str(part))
    return path


def _meant(key: str, prefix: str, elsewhere: Sequence[str]) -> str:
    """A suggestion for a key that stands in another place of the recipe, or that other libraries call so; or nothing.

    >>> _meant("learning-rate", "", ["latent_dim", "train.optimizer.lr"])
    " Did you mean 'train.optimizer.lr'?"
    """
    name = key.lower().replace("-", "_")
    ends = (name, FOREIGN.get(name, name))
    places = [known for known in elsewhere if any(f".{known}".endswith(f".{end}") for end in ends)]
    places = [known for known in places if prefix and known.startswith(f"{prefix}.")] or places
    nearest = [known for known in places if known.count(".") == min(place.count(".") for place in places)]
    return f" Did you mean {' or '.join(map(repr, nearest[:2]))}?" if nearest else ""


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return [name for name in model.model_fields if name != "name" or model is not Recipe]


def keys_of(model: type[BaseModel], place: str = "") -> list[str]:
    """Every key of a section and of the sections in it, in full.

    >>> keys_of(Checkpointing, "train.checkpoint.")[:2]
    ['train.checkpoint.epochs', 'train.checkpoint.steps']
    """
    keys = []
    for name in _fields_at(model, []):
        keys.append(f"{place}{name}")
        inner = model.model_fields[name].annotation
        if isinstance(inner, type) and issubclass(inner, Section):
            keys += keys_of(inner, f"{place}{name}.")
    return keys
