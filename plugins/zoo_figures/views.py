"""The views of data other than images, which plugins provide; see `zoo.View`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from zoo import UsageError, View, atomic_write, registry

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from zoo import VAE, Batch, Run

CHUNK = 100_000
"""Examples sampled at once."""


def view_of(run: Run) -> View | None:
    """The view of the modality of a run's data, or None."""
    modality = run.environment["data"].get("modality", "image")
    views = (item for _, item in registry().plugins.collect("zoo_views") if isinstance(item, View))
    return next((view for view in views if view.modality == modality), None)


def drawings(vae: VAE, batch: Batch, run: Run) -> Mapping[str, Callable[[], Figure]]:
    """The figures of the view of a run's data by name, or none."""
    view = view_of(run)
    figures: Mapping[str, Callable[[], Figure]] = {} if view is None else resolve_name(view.figures)(vae, batch, run)
    return figures


def writers_of(run: Run) -> Mapping[str, str]:
    """The functions that write examples of a run's data by format; a NumPy array can hold any of them."""
    view = view_of(run)
    return {"npy": "zoo_figures.views:write_npy"} if view is None else view.writers


def write_npy(x: Tensor, run: Run, path: Path, labels: Tensor | None = None) -> None:
    """Write examples as a NumPy array (N, *data_shape) of float32."""
    import numpy as np

    with atomic_write(path) as file:
        np.save(file, x.cpu().numpy().astype(np.float32))


def writer_of(run: Run, format: str) -> Callable[..., None]:
    """The function that writes examples of a run's data in a format.

    Raises:
        UsageError: its data cannot be written in that format.
    """
    formats = writers_of(run)
    if format not in formats:
        modality = run.environment["data"].get("modality", "image")
        raise UsageError(
            f"--format {format}: samples of {run.title}, whose data are of the modality {modality}, can be written as "
            f"{', '.join(('png', *formats) if modality == 'image' else formats)}."
        )
    writer: Callable[..., None] = resolve_name(formats[format])
    return writer


def write_samples(run: Run, vae: VAE, count: int, path: Path, format: str, seed: int, condition: Tensor | None) -> None:
    """Draw examples from the model, and write them in the units of the data.

    Args:
        run: the run.
        vae: its model.
        count: number of examples.
        path, format: of the file.
        seed: of the draws.
        condition: the label (1,) of all examples, or None; a conditional model then draws uniform labels.
    """
    import torch

    from zoo import evaluating, seeded

    writer = writer_of(run, format)
    drawn: list[Any] = []
    labels = None
    with torch.no_grad(), evaluating(vae), seeded(seed):
        if vae.classes:
            labels = torch.randint(vae.classes, (count,)) if condition is None else condition.expand(count)
        for start in range(0, count, CHUNK):
            n = min(CHUNK, count - start)
            drawn.append(vae.sample(n) if labels is None else vae.sample(1, labels[start : start + n])[0])
    writer(torch.cat(drawn), run, path, labels)
