"""Read a folder of `diffusers.AutoencoderKL`: its configuration when a recipe is checked, its weights when the model is
built.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from zoo import ComponentError
from zoo_diffusers.names import CONV_OUT, current

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"


class StoredAutoencoder(BaseModel):
    """A folder of `diffusers.AutoencoderKL` in the recipe of a run.

    It has the part of the configuration that determines the networks, so that a run can be loaded without the folder.

    Attributes:
        path: the folder.
        sha256: of the weights.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: str
    sha256: str
    in_channels: PositiveInt
    block_out_channels: tuple[PositiveInt, ...] = Field(min_length=1)
    layers_per_block: PositiveInt
    latent_channels: PositiveInt
    norm_num_groups: PositiveInt
    mid_block_add_attention: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True

    @property
    def file(self) -> Path:
        """The file of the weights."""
        return Path(self.path) / WEIGHTS

    def load_into(self, targets: Mapping[str, Tensor]) -> bool:
        """Copy the weights into tensors, which have their names in diffusers.

        Returns:
            Whether the folder still has these weights. If not, the tensors are unchanged.

        Raises:
            ComponentError: the weights are not those of the configuration.
        """
        if not self.file.is_file() or _sha256(self.file) != self.sha256:
            return False
        prefixes = {_top(name) for name in targets}
        with safe_open(self.file, "pt") as file:
            weights = {current(name): file.get_tensor(name) for name in file.keys() if _top(name) in prefixes}  # noqa: SIM118
        for name, channels in (("quant_conv", 2 * self.latent_channels), ("post_quant_conv", self.latent_channels)):
            if name in prefixes and not getattr(self, f"use_{name}"):
                weights |= {f"{name}.weight": torch.eye(channels), f"{name}.bias": torch.zeros(channels)}
        if different := sorted(targets.keys() ^ weights.keys()):
            raise ComponentError(f"{self.file} does not match its configuration: {', '.join(different[:3])}, ...")
        for name, target in targets.items():
            if weights[name].numel() != target.numel():
                shapes = f"{tuple(weights[name].shape)}, not {tuple(target.shape)}"
                raise ComponentError(f"{self.file} does not match its configuration: {name} has shape {shapes}.")
        if f"{CONV_OUT}.weight" in weights:  # from pixels in [-1, 1] to pixels in [0, 1]
            weights[f"{CONV_OUT}.weight"] = weights[f"{CONV_OUT}.weight"].float() / 2
            weights[f"{CONV_OUT}.bias"] = (weights[f"{CONV_OUT}.bias"].float() + 1) / 2
        with torch.no_grad():
            for name, target in targets.items():
                target.copy_(weights[name].view(target.shape))
        return True


def read(folder: str | StoredAutoencoder) -> StoredAutoencoder:
    """Read the configuration of a folder. That in the recipe of a run is returned unchanged.

    Raises:
        PydanticCustomError: a file is missing or damaged, or the networks of the zoo cannot represent the model; the
            message names the key.
    """
    if isinstance(folder, StoredAutoencoder):
        return folder
    path = Path(os.path.expanduser(folder)).absolute()  # noqa: PTH111 - `Path.expanduser` raises for unknown users
    try:
        config = json.loads((path / CONFIG).read_bytes())
        with safe_open(path / WEIGHTS, "pt"):
            digest = _sha256(path / WEIGHTS)
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise _problem(f"expected a folder of diffusers.AutoencoderKL: {error}") from error
    try:
        represented = _Represented.model_validate(config)
        known = StoredAutoencoder.model_fields.keys() & config.keys()
        stored = StoredAutoencoder(**{key: config[key] for key in known}, path=str(path), sha256=digest)
    except ValidationError as error:
        details = error.errors()[0]
        key = details["loc"][0] if details["loc"] else "content"
        value = "" if details["type"] == "missing" else f", and is {config.get(key, config)!r}"
        raise _problem(f"{key} in {CONFIG}: {details['msg'][:1].lower()}{details['msg'][1:]}{value}") from error
    if represented.out_channels != stored.in_channels:
        raise _problem(f"out_channels in {CONFIG} should be in_channels, {stored.in_channels}")
    return stored


Folder = Annotated[str | StoredAutoencoder, AfterValidator(read), WithJsonSchema({"type": ["string", "object"]})]
"""The path of a folder in a recipe, which is replaced by its configuration."""


class _Represented(BaseModel):
    """The keys of a configuration with a single value that the networks of the zoo represent."""

    kind: Literal["AutoencoderKL"] = Field("AutoencoderKL", alias="_class_name")
    down_block_types: tuple[Literal["DownEncoderBlock2D"], ...]
    up_block_types: tuple[Literal["UpDecoderBlock2D"], ...]
    act_fn: Literal["silu"] = "silu"
    out_channels: PositiveInt


def _top(name: str) -> str:
    return name.partition(".")[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _problem(message: str) -> PydanticCustomError:
    return PydanticCustomError("folder", "{message}", {"message": message})
