"""The plan of a sweep, which ``sweep.yaml`` holds: the recipe, the axes, the seeds and the number of trials."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic
import yaml

import zoo
from zoo import Recipe, RunError, UsageError
from zoo_sweep.axes import SEED, Axis, Choices, Range, as_axis, write_axis
from zoo_sweep.folder import PLAN
from zoo_sweep.search import import_optuna

log = logging.getLogger("zoo")

FORMAT = 2
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?")
VALIDATION = 0.1
"""The fraction of training examples that a sweep holds out, if the data have no validation split."""


@dataclass(frozen=True)
class Plan:
    """The content of ``sweep.yaml``.

    Attributes:
        model: the name of the recipe.
        recipe: the recipe that the settings change.
        axes: the swept keys and their values.
        seeds: the seeds that each setting is trained with; None for the seed of the recipe.
        trials: the number of trials of a search; None for a grid.
        storage: the address of the study, without its password; None if it is in the folder.
        study: the name of the study.
        digest: SHA-256 of the data; None if the data are swept.
        stacked: whether trials with the same shapes are trained in one stack.
    """

    model: str
    recipe: dict[str, Any]
    axes: tuple[Axis, ...]
    seeds: tuple[int, ...] | None
    trials: int | None
    storage: str | None
    study: str
    digest: str | None
    stacked: bool = False

    def to_yaml(self) -> str:
        """Serialize the plan."""
        axes = {axis.key: write_axis(axis) for axis in self.axes}
        seeds = None if self.seeds is None else list(self.seeds)
        return zoo.write_yaml({"format": FORMAT, **vars(self), "axes": axes, "seeds": seeds})

    @classmethod
    def read(cls, file: Path) -> Plan:
        """Read a plan from a file.

        Raises:
            RunError: it cannot be read, or has another format.
        """
        try:
            content = zoo.parse_yaml(file.read_text("utf-8"))
            version = content.pop("format")
            if version != FORMAT:
                raise RunError(f"{file} has format {version}; this version of the zoo reads format {FORMAT}.")
            content["axes"] = tuple(as_axis(key, axis) for key, axis in content["axes"].items())
            content["seeds"] = content["seeds"] and tuple(content["seeds"])
            plan: Plan = pydantic.TypeAdapter(cls).validate_python(vars(cls(**content)))
            return plan
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise RunError(f"{file} cannot be read: {place}: {first['msg']}") from error
        except FileNotFoundError:
            raise RunError(f"{file.parent} is not a sweep: it has no {PLAN}.") from None
        except (OSError, ValueError, AttributeError, KeyError, TypeError, yaml.YAMLError) as error:
            raise RunError(f"{file} cannot be read: {' '.join(str(error).split())}") from error

    @property
    def purpose(self) -> str:
        """A digest of everything that processes on one study must agree on."""
        shared = Plan(**{**vars(self), "trials": None, "storage": None, "study": ""})
        return hashlib.sha256(shared.to_yaml().encode()).hexdigest()


def split_seeds(axes: Sequence[Axis], count: int | None) -> tuple[list[Axis], tuple[int, ...] | None]:
    """Separate the seeds from the other axes.

    Args:
        axes: the axes, which may include ``train.seed``.
        count: the number of seeds, as an alternative to an axis.

    Raises:
        UsageError: the seeds are a range, are given twice, or are fewer than two.
    """
    seed_axis = next((axis for axis in axes if axis.key == SEED), None)
    others = [axis for axis in axes if axis is not seed_axis]
    if isinstance(seed_axis, Range):
        raise UsageError(f"{SEED} cannot be a range. Write {SEED}=0,1,2, {SEED}=0..2 or --seeds 3.")
    if seed_axis is not None and count is not None:
        raise UsageError(f"--seeds and {SEED} set the seeds twice: leave out one of them.")
    if count is not None and count < 2:
        raise UsageError(f"--seeds {count}: expected at least 2. For one seed, write {SEED}=N.")
    if isinstance(seed_axis, Choices):
        return others, seed_axis.values
    return others, None if count is None else tuple(range(count))


def check_axes(
    axes: Sequence[Axis], seeds: tuple[int, ...] | None, fixed: Sequence[str], trials: int | None, storage: str | None
) -> None:
    """Check the axes against the other arguments of a sweep.

    Raises:
        UsageError: nothing is swept, a key is set twice, or a range or storage is used without a search.
    """
    if not axes and (seeds is None or trials is not None):
        raise UsageError(
            "Nothing to sweep: no KEY has several values. Write, for example, latent_dim=2,5,10, "
            "or latent_dim=2..64 with --trials 20."
        )
    for axis in axes:
        if any(override.partition("=")[0].strip() == axis.key for override in fixed):
            raise UsageError(f"{axis.key} is set twice, to several values and to one: leave out one of them.")
        if isinstance(axis, Range) and trials is None:
            raise UsageError(f"{axis.key} is a range, which takes a search: set the number of trials with --trials.")
    if trials is None and storage is not None:
        raise UsageError("--storage applies to a search: set --trials too.")
    if trials is not None:
        if trials < 1:
            raise UsageError(f"--trials {trials}: expected at least 1.")
        import_optuna()


def with_validation(recipe: Recipe, overrides: Sequence[str], trials: int | None) -> Recipe:
    """Hold out validation examples to compare the settings on, unless `overrides` say otherwise."""
    if not any(override.partition("=")[0].strip() == "data.validation" for override in overrides):
        log.info(
            "Settings are compared on a validation split: data.validation=%g holds out training examples. "
            "data.validation=0 trains on all of them, without a best setting.",
            VALIDATION,
        )
        return zoo.recipe(recipe, {"data.validation": VALIDATION})
    if trials is not None:
        raise UsageError("A search needs a validation split: leave out data.validation=0.")
    return recipe


def check_name(name: str | None) -> None:
    """Require a name that can be a folder.

    Raises:
        UsageError: it cannot.
    """
    if name is not None and not NAME.fullmatch(name):
        raise UsageError(
            f"--name {name[:100]!r}: a name is made of letters, digits, '.', '_' and '-', at most 100, with a "
            "letter or digit first and no '.' at the end."
        )
