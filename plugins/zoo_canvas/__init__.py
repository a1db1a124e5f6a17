"""What figures are drawn on: an empty figure, images in a grid, the PNG."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo import UsageError, atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
COLUMNS = 12
_LOOK: dict[str, Any] = {"dpi": DPI, "bbox_inches": "tight", "pad_inches": 0.12}
BLUE, RED = "#4c78a8", "#e45756"


def blank(width: float, height: float) -> Figure:
    """An empty figure, in inches; without pyplot, so that no window and no global state is involved."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, path: Path | str) -> Path:
    """Write a figure as PNG, or in the format that the ending of the path names, atomically.

    Raises:
        OSError, ValueError: the file cannot be written, or its ending is no format of images.
    """
    path = Path(path)
    with atomic_write(path) as file:
        figure.savefig(file, format=path.suffix.lstrip(".") or "png", **_LOOK)
    return path


def png(figure: Figure) -> bytes:
    """A figure as PNG, as `save` writes it, at `DPI` pixels for each inch."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", **_LOOK)
    return buffer.getvalue()


def show(axes: Axes, images: Tensor, columns: int, gap: int | None = None, around: float = 1.0) -> None:
    """Draw images (N, C, H, W), clipped to [0, 1], in a grid with `gap` pixels around each, by default `gap_of`, white.

    One channel is grey, three are red, green and blue; of any other number the mean is shown. One image has no gap.

    Raises:
        UsageError: these are not images.
    """
    if images.ndim != 4:
        raise UsageError(f"Only images (C, H, W) can be drawn; these data have the shape {tuple(images.shape[1:])}.")
    gap = gap_of(images) if gap is None else gap
    drawn = grid(images, columns, gap if len(images) > 1 else 0, around)
    axes.imshow(drawn.numpy(), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def grid(images: Tensor, columns: int, gap: int, around: float = 1.0) -> Tensor:
    """Images (N, C, H, W), clipped to [0, 1], as one of shape (height, width, 3), `gap` pixels around each.

    That of torchvision, without the two seconds that it takes to import.

    >>> import torch
    >>> grid(torch.zeros(3, 1, 1, 1), columns=2, gap=1)[..., 0]
    tensor([[1., 1., 1., 1., 1.],
            [1., 0., 1., 0., 1.],
            [1., 1., 1., 1., 1.],
            [1., 0., 1., 1., 1.],
            [1., 1., 1., 1., 1.]])
    """
    if images.shape[-3] not in (1, 3):
        images = images.mean(-3, keepdim=True)
    count, _, height, width = images.shape
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    cells = torch.full((rows * columns, 3, gap + height, gap + width), around)
    cells[:count, :, gap:, gap:] = images.clamp(0, 1).cpu()
    joined = cells.reshape(rows, columns, *cells.shape[1:]).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    return torch.nn.functional.pad(joined, (0, 0, 0, gap, 0, gap), value=around)


def count(axes: Axes, what: str) -> None:
    """Label the x axis with what is counted along it, with ticks at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(what)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def gap_of(images: Tensor) -> int:
    """Pixels between images in a grid."""
    return max(1, images.shape[-2] // 14)


def centres(count: int, size: int, gap: int) -> list[float]:
    """Where the middles of `count` images in a row lie, each of `size` pixels, in the coordinates of the axes.

    >>> centres(3, size=4, gap=1)
    [2.5, 7.5, 12.5]
    """
    return [gap + (size - 1) / 2 + i * (size + gap) for i in range(count)]
