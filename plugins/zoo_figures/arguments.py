"""Arguments of the figure commands: dimensions, latent points, labels and test images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo import UsageError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from zoo import VAE, Batch, Run

NAMED = 10
"""The largest number of label names in a message."""


class Numbers(click.ParamType):  # type: ignore[type-arg]
    """Comma-separated integers."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        """Read ``0,3,5``."""
        try:
            return [int(number) for number in str(value).split(",")]
        except ValueError:
            self.fail(f"{value!r} is not a list of integers such as 0,3,5.", param, ctx)


def parse_points(texts: Sequence[str], latent_shape: tuple[int, ...]) -> Tensor:
    """Parse points, each of comma-separated numbers, to a tensor (N, *latent_shape).

    Raises:
        UsageError: a point does not consist of as many numbers as the latent has.
    """
    import torch

    size = math.prod(latent_shape)
    points = []
    for text in texts:
        try:
            point = [float(number) for number in text.split(",")]
        except ValueError:
            raise UsageError(f"--z {text}: expected comma-separated numbers such as 0,1") from None
        if len(point) != size:
            raise UsageError(f"--z {text}: the latent has {size} dimensions, and {len(point)} numbers were given")
        points.append(point)
    return torch.tensor(points).reshape(-1, *latent_shape)


def parse_label(label: str | None, vae: VAE, names: Sequence[str] = ()) -> tuple[Tensor | None, str]:
    """Parse a label, by name or number.

    Returns:
        The condition (1,) and the end of a title; None and an empty string without a label.

    Raises:
        UsageError: the model is not conditional, or has no such label.
    """
    import torch

    if label is None:
        return None, ""
    if not vae.classes:
        raise UsageError(f"--label {label}: this model is not conditional on labels.")
    if label in names:
        return torch.tensor([list(names).index(label)]), f", label {label}"
    if not label.isdecimal() or int(label) >= vae.classes:
        named = f" or {', '.join(names[:NAMED])}{', ...' if len(names) > NAMED else ''}" if names else ""
        raise UsageError(
            f"--label {label}: there is no such label. Labels are 0 to {vae.classes - 1}{named}."
            + did_you_mean(label, names)
        )
    number = int(label)
    return torch.tensor([number]), f", label {names[number] if number < len(names) else number}"


def select_test_images(run: Run, indices: Sequence[int], data_dir: Path | None) -> Batch:
    """The test images at `indices`.

    Raises:
        UsageError: an index is too large.
    """
    import zoo

    test = run.test_batch(max(indices) + 1, data_dir)
    for number in indices:
        if number >= len(test.x):
            raise UsageError(f"There is no test image {number}: expected 0 to {len(test.x) - 1}.")
    index = list(indices)
    return zoo.Batch(test.x[index], None if test.condition is None else test.condition[index])
