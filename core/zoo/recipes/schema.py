"""Recipes, their sections and component specs, as pydantic models."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, PrivateAttr
from pydantic_core import PydanticCustomError

from zoo.recipes.source import Raw
from zoo.storage.locate import NAME, NAME_RULE

Binarize = Literal["none", "threshold", "dynamic"]


class ComponentSpec(BaseModel):
    """A component and its parameters, such as ``mlp`` or ``{use: mlp, hidden: [400]}``."""

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
        """Whether the arguments have been checked."""
        return self._arguments is not None

    @property
    def arguments(self) -> dict[str, Any]:
        """The checked arguments of the constructor, with nested components as factories; empty before the check."""
        return dict(self._arguments or {})

    def with_arguments(self, arguments: dict[str, Any]) -> ComponentSpec:
        """A copy with these checked arguments."""
        spec = self.model_copy()
        spec._arguments = arguments
        return spec

    @pydantic.model_serializer
    def _to_plain(self) -> Any:
        return {"use": self.use, **self.parameters} if self.parameters else self.use


class Section(BaseModel):
    """A part of a recipe. Unknown keys are errors; numbers are finite and never converted from strings."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Checkpointing(Section):
    """When to save a checkpoint, whichever comes first. One is also saved at the end of the training and on a signal.

    Attributes:
        epochs, steps, minutes: the interval between checkpoints.
        keep: number of newest checkpoints to keep, in addition to the best one.
    """

    epochs: PositiveInt | None = 1
    steps: PositiveInt | None = None
    minutes: PositiveFloat | None = None
    keep: PositiveInt = 2


class TrainConfig(Section):
    """How a model is trained.

    Attributes:
        epochs: passes over the training set.
        steps: maximum number of steps; training may end in the middle of an epoch.
        batch_size: examples per step, over all processes.
        microbatches: number of parts that each batch is split into to save memory; the gradient is that of the batch.
        optimizer: an optimizer of `torch.optim` and its arguments, such as ``{use: Adam, lr: 0.001}``.
        scheduler: a scheduler of `torch.optim.lr_scheduler`, such as ``{use: CosineAnnealingLR, T_max: 5}``.
        scheduler_unit: how often the scheduler is advanced.
        warmup_steps: number of steps over which the learning rate rises linearly to its value.
        max_grad_norm: maximum norm of a phase's gradient, which is clipped to it.
        skip_grad_norm: skip an update of a phase if the norm of its gradient, before clipping, exceeds this value.
        ema_decay: decay of an exponential moving average of the parameters. The average is evaluated and saved, with
            the latest value of every buffer.
        precision: ``bfloat16`` computes matrix products in this type; losses stay in float32.
        memory_format: ``channels-last`` stores the weights of convolutions in this format, which is faster for some
            networks. Results agree up to rounding.
        deterministic: use only deterministic algorithms.
        monitor: the validation term to minimize; the epoch with its least value is the best one. Without a validation
            split, the last epoch is the best one.
        patience: number of epochs without improvement of `monitor` after which training ends. Requires a validation
            split.
        freeze: parts of the model that are not trained; they stay in evaluation mode.
        checkpoint: when to save checkpoints.
        seed: seed of the weights, the data order and all random draws.
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
    skip_grad_norm: PositiveFloat | None = None
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    memory_format: Literal["contiguous", "channels-last"] = "contiguous"
    deterministic: bool = False
    monitor: str = "loss"
    patience: PositiveInt | None = None
    freeze: list[Literal["encoder", "decoder", "prior"]] = []
    checkpoint: Checkpointing = Checkpointing()
    seed: NonNegativeInt = 0


class Recipe(Section):
    """A model: its name, its four components, its data sets and how to train it.

    Attributes:
        name: its name, also that of the folder of its runs.
        summary: one line for ``zoo list``.
        latent_dim: number of latent dimensions, passed to every component that has this parameter.
        encoder, decoder, prior, loss: the four components.
        data: data sets in order of preference; the first available one is used.
        binarize: how values in [0, 1] become binary: ``none`` leaves them unchanged, ``threshold`` rounds them, and
            ``dynamic`` draws a Bernoulli sample with that probability each time an example is used.
        train: how to train it.
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
        """The content of a recipe file, without the name."""
        raw: Raw = self.model_dump(exclude={"name"})
        return raw
