"""The axes of a sweep, as written on the command line: ``KEY=V1,V2,...`` and ``KEY=LOW..HIGH``."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from zoo import UsageError, parse_yaml

Settings = Mapping[str, Any]
"""The swept keys of the recipe, dotted, and their values in one trial."""

SEED = "train.seed"
MOST_SEEDS = 1000


@dataclass(frozen=True)
class Choices:
    """An axis of several values.

    Attributes:
        key: the dotted key in the recipe.
        values: in the order of the trials.
    """

    key: str
    values: tuple[Any, ...]

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values to validate: if they are valid, the whole axis is."""
        return self.values


@dataclass(frozen=True)
class Range:
    """An axis between two numbers, for a search. It is an axis of integers if both ends are integers.

    Attributes:
        key: the dotted key in the recipe.
        low, high: the ends, inclusive.
        log: whether the scale is logarithmic.
    """

    key: str
    low: float
    high: float
    log: bool = False

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values to validate: if they are valid, the whole axis is."""
        return self.low, self.high


Axis = Choices | Range


def read_axes(overrides: Sequence[str]) -> tuple[list[Axis], list[str]]:
    """Separate the axes from the overrides with one value.

    A range of integers of ``train.seed`` stands for all of them.

    Returns:
        The axes, and the overrides with one value.

    >>> read_axes(["latent_dim=2,5", "encoder.hidden=[512,256]", "train.optimizer.lr=1e-4..1e-2:log"])[0]
    [Choices(key='latent_dim', values=(2, 5)), Range(key='train.optimizer.lr', low=0.0001, high=0.01, log=True)]

    Raises:
        UsageError: a key or a value occurs twice, or a range is not valid.
    """
    axes: list[Axis] = []
    fixed = []
    for override in overrides:
        key, _, text = override.partition("=")
        axis = _range(key.strip(), text.strip()) or _choices(key.strip(), text)
        if axis is None:
            fixed.append(override)
        elif any(axis.key == other.key for other in axes):
            raise UsageError(f"{axis.key} is swept twice: write all of its values in one list.")
        else:
            axes.append(axis)
    return axes, fixed


def _choices(key: str, text: str) -> Choices | None:
    """The values between commas outside of brackets, braces and quotes: the items of a YAML list."""
    try:
        values = parse_yaml(f"[{text}]")
    except yaml.YAMLError:
        return None  # the error is reported when it is parsed as a single value
    if not isinstance(values, list) or len(values) < 2:
        return None
    for position, value in enumerate(values):
        if value in values[:position]:
            raise UsageError(f"{key}={text}: {value!r} occurs twice.")
    return Choices(key, tuple(values))


_NUMBER = r"[-+]?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?"


def _range(key: str, text: str) -> Choices | Range | None:
    if not re.match(rf"{_NUMBER}\.\.", text) or "," in text:
        return None
    match = re.fullmatch(rf"({_NUMBER})\.\.({_NUMBER})(:log)?", text)
    if match is None:
        raise UsageError(f"{key}={text}: expected a range such as 2..64, 0.5..4.0 or 1e-4..1e-2:log")
    try:
        low, high = parse_yaml(match[1]), parse_yaml(match[2])
    except yaml.YAMLError as error:
        raise UsageError(f"{key}={text[:100]}: {' '.join(str(error).split())}") from error
    if low >= high:
        raise UsageError(f"{key}={text}: expected the lower end first.")
    if key == SEED and isinstance(low, int) and isinstance(high, int) and high - low < MOST_SEEDS:
        return Choices(key, tuple(range(low, high + 1)))
    if match[3] and low <= 0:
        raise UsageError(f"{key}={text}: the lower end of a logarithmic range must be above 0.")
    return Range(key, low, high, bool(match[3]))


def write_axis(axis: Axis) -> Any:
    """Convert an axis to plain values, for ``sweep.yaml``.

    >>> write_axis(Choices("latent_dim", (2, 5))), write_axis(Range("loss.beta", 0.5, 4.0))
    ([2, 5], {'low': 0.5, 'high': 4.0, 'log': False})
    """
    return list(axis.values) if isinstance(axis, Choices) else {"low": axis.low, "high": axis.high, "log": axis.log}


def as_axis(key: str, plain: Any) -> Axis:
    """Convert plain values of `write_axis` to an axis.

    Raises:
        TypeError: they are not those of an axis.
    """
    if isinstance(plain, list):
        return Choices(key, tuple(plain))
    if not all(isinstance(plain[end], int | float) for end in ("low", "high")):
        raise TypeError(f"the ends of {key} are not numbers")
    return Range(key, **plain)


def grid(axes: Sequence[Axis]) -> Iterator[Settings]:
    """Every combination of the values; the last key varies fastest. A range has the values of its ends.

    >>> [dict(settings) for settings in grid([Choices("a", (1, 2)), Choices("b", ("x", "y"))])]
    [{'a': 1, 'b': 'x'}, {'a': 1, 'b': 'y'}, {'a': 2, 'b': 'x'}, {'a': 2, 'b': 'y'}]
    """
    for values in itertools.product(*(axis.ends for axis in axes)):
        yield {axis.key: value for axis, value in zip(axes, values, strict=True)}


def describe(settings: Settings) -> str:
    """Format settings as one line.

    >>> describe({"latent_dim": 2, "encoder.hidden": [8, 4], "loss": {"use": "elbo", "beta": 4.0}})
    'latent_dim=2, encoder.hidden=[8,4], loss={use: elbo, beta: 4}'
    """
    return ", ".join(f"{key}={show(value)}" for key, value in settings.items())


def show(value: Any) -> str:
    """Format a value as on the command line, with floats to four digits."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.4g}"
        case list():
            return f"[{','.join(map(show, value))}]"
        case dict():
            return f"{{{', '.join(f'{key}: {show(inner)}' for key, inner in value.items())}}}"
    return str(value)
