"""Images of a data set, by label if it has labels."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo import Dataset, UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS, COLUMNS = 10, 12
INCHES = 0.72  # per image


def gallery(dataset: Dataset, title: str) -> Figure:
    """Draw training images in up to ten rows of twelve. The first ten labels share the rows.

    Raises:
        UsageError: the data are not images.
    """
    from matplotlib.figure import Figure

    if dataset.modality != "image":
        raise UsageError(f"Only images can be drawn; the modality of these data is {dataset.modality!r}.")
    images = dataset.train
    rows, names = _rows(dataset)
    columns = max(map(len, rows))
    _, height, width = dataset.shape
    gap = max(1, height // 14)

    grid = torch.full((len(rows) * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, dtype=torch.uint8)
    for i, indices in enumerate(rows):
        for j, image in enumerate(_rgb(images.x[indices])):
            top, left = i * (height + gap), j * (width + gap)
            grid[top : top + height, left : left + width] = image
    side = INCHES * columns
    figure = Figure(figsize=(max(side, 3.0) + 1.0, side * grid.shape[0] / grid.shape[1] + 0.6), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(grid.numpy(), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([i * (height + gap) + height / 2 for i in names], list(names.values()), fontsize=9)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    counts = f"{len(images)} training images, {len(dataset.test)} test images, {'x'.join(map(str, dataset.shape))}"
    more = f"; {len(names)} of {dataset.classes} labels" if names and dataset.classes > len(names) else ""
    axes.set_xlabel(counts + more, fontsize=9)
    figure.suptitle(textwrap.shorten(title, 80))
    return figure


def _rows(dataset: Dataset) -> tuple[list[Tensor], dict[int, str]]:
    """The indices of the images in each row, and the names of the rows that start a label."""
    images = dataset.train
    if images.labels is None:
        return list(torch.split(torch.arange(min(len(images), ROWS * COLUMNS)), COLUMNS)), {}
    labels = sorted(set(images.labels.tolist()))[:ROWS]
    most = COLUMNS * (ROWS // len(labels))
    rows: list[Tensor] = []
    names = {}
    for label in labels:
        names[len(rows)] = _name(dataset, label)
        rows += torch.split((images.labels == label).nonzero().flatten()[:most], COLUMNS)
    return rows, names


def _name(dataset: Dataset, label: int) -> str:
    name = dataset.label_names[label] if label < len(dataset.label_names) else str(label)
    return textwrap.shorten(name, 24, placeholder="...")


def _rgb(pixels: Tensor) -> Tensor:
    """Convert images to (N, H, W, 3). Images without one or three channels are drawn by their first channel."""
    channels = pixels if pixels.shape[1] == 3 else pixels[:, :1].expand(-1, 3, -1, -1)
    return channels.permute(0, 2, 3, 1)
