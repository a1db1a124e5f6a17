"""Validation of values against pydantic models. Every problem is reported with its key and a suggestion."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pydantic
from pydantic import BaseModel

from zoo.errors import Problem, did_you_mean, shortened
from zoo.recipes.schema import Recipe, Section
from zoo.recipes.source import MAX_DEPTH, Raw

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
    **dict.fromkeys(("skip_threshold", "grad_skip_threshold", "gradient_skip_threshold"), "train.skip_grad_norm"),
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
"""Names of keys in other libraries, and the last parts of the key here."""


def check(
    model: type[BaseModel],
    values: Mapping[str, Any],
    place: str = "",
    others: Sequence[str] = (),
    elsewhere: Sequence[str] = (),
) -> tuple[Any, list[Problem]]:
    """Validate `values` strictly, as JSON: a list is accepted for a tuple, a string is never accepted for a number.

    Args:
        model: the pydantic model.
        values: its fields.
        place: the key of the values in the recipe.
        others: keys that are valid in addition to the model's fields, for suggestions.
        elsewhere: all keys of the recipe, for suggestions.

    Returns:
        The validated model, or None if there are problems; and the problems.
    """
    try:
        plain = as_plain(values)
    except (ValueError, TypeError, RecursionError) as error:
        return None, [Problem(place, f"expected only names, numbers, strings, lists and mappings: {error}")]
    problems: dict[str, list[str]] = {}
    for path, message in _out_of_range(plain):
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
    """Check a recipe except for the parameters of its components."""
    recipe, problems = check(Recipe, {**raw, "name": name}, elsewhere=elsewhere)
    if "name" in raw:
        problems.append(Problem("name", "cannot be set; the name of a model is its key under `models:`"))
    return recipe, problems


def as_plain(values: Any) -> Any:
    """Convert values to JSON types.

    Raises:
        ValueError, TypeError, RecursionError: they cannot be written as JSON, or are nested too deeply.
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
    raise ValueError(f"nested more than {MAX_DEPTH} levels deep")


def _join(prefix: str, path: Sequence[str | int]) -> str:
    return ".".join([prefix, *map(str, path)] if prefix else map(str, path))


def _out_of_range(value: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """The paths of numbers that no tensor or seed can represent, with messages."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        yield (), "an integer must be between -2^63 and 2^63 - 1"
    if isinstance(value, float) and not math.isfinite(value):
        yield (), f"a number must be finite, got {value}"
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from (((key, *path), message) for path, message in _out_of_range(item))


def _problem(
    model: type[BaseModel], details: Any, values: Any, prefix: str, others: Sequence[str], elsewhere: Sequence[str]
) -> Problem:
    path = _path(details["loc"], values)
    value = shortened(repr(details["input"]))
    if details["type"] in ("extra_forbidden", "missing"):
        key = str(details["loc"][-1])
        path = path if path[-1:] == [key] else [*path, key]
    if details["type"] == "extra_forbidden":
        fields = [*_fields_at(model, path[:-1]), *(others if len(path) == 1 else ())]
        inner = [f"{field}.{key}" for field in fields if key in _fields_at(model, [*path[:-1], field])]
        suggestion = (
            f" Did you mean {inner[0]!r}?"
            if inner
            else _suggestion(key, prefix, elsewhere) or did_you_mean(key, fields)
        )
        message = f"unknown key.{suggestion} Known: {', '.join(fields) or 'none'}."
    elif details["type"] == "missing":
        message = "is required"
    elif details["type"] in ("model_type", "model_attributes_type", "dict_type"):
        message = f"expected a mapping, got {value}"
    elif details["type"] == "bool_type":
        message = f"expected true or false, got {value}"
    else:
        message = f"{details['msg'][:1].lower()}{details['msg'][1:]}, got {value}"
    return Problem(_join(prefix, path), message)


def _path(location: Sequence[str | int], values: Any) -> list[str]:
    """The keys in a location of pydantic, without the branches of unions, such as ``constrained-float``."""
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


def _suggestion(key: str, prefix: str, elsewhere: Sequence[str]) -> str:
    """A suggestion for a key that belongs elsewhere in the recipe, or is that of another library; or an empty string.

    >>> _suggestion("learning-rate", "", ["latent_dim", "train.optimizer.lr"])
    " Did you mean 'train.optimizer.lr'?"
    """
    name = key.lower().replace("-", "_")
    ends = (name, FOREIGN.get(name, name))
    places = [place for place in elsewhere if any(f".{place}".endswith(f".{end}") for end in ends)]
    places = [place for place in places if prefix and place.startswith(f"{prefix}.")] or places
    depth = min((place.count(".") for place in places), default=0)
    nearest = [place for place in places if place.count(".") == depth]
    return f" Did you mean {' or '.join(map(repr, nearest[:2]))}?" if nearest else ""


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return [name for name in model.model_fields if name != "name" or model is not Recipe]


def keys_of(model: type[BaseModel], place: str = "") -> list[str]:
    """Every dotted key of a section and of the sections inside it.

    >>> from zoo.recipes.schema import Checkpointing
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
