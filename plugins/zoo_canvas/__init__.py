"""Drawing helpers: empty figures, grids of images, and writing PNG files."""

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
BLUE, RED, GREEN = "#4c78a8", "#e45756", "#54a24b"


def blank(width: float, height: float) -> Figure:
    """Create an empty figure, in inches, without pyplot and its global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, path: Path | str) -> Path:
    """Write a figure atomically, as PNG or in the format of the path's ending.

    Raises:
        OSError: the file cannot be written.
        ValueError: the ending is not an image format.
    """
    path = Path(path)
    with atomic_write(path) as file:
        figure.savefig(file, format=path.suffix.lstrip(".") or "png", **_LOOK)
    return path


def png(figure: Figure) -> bytes:
    """Encode a figure as PNG, as `save` writes it, at `DPI` pixels per inch."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", **_LOOK)
    return buffer.getvalue()


def show(axes: Axes, images: Tensor, columns: int, gap: int | None = None, around: float = 1.0) -> None:
    """Draw images (N, C, H, W), clipped to [0, 1], in a grid.

    One channel is drawn in grey, three in RGB, any other number as its mean. A single image has no gap around it.

    Args:
        axes: where to draw.
        images: the images.
        columns: number of columns.
        gap: pixels around each image; by default `gap_of`.
        around: grey level of the gap, in [0, 1].

    Raises:
        UsageError: the data are not images.
    """
    if images.ndim != 4:
        raise UsageError(
            f"Only images (C, H, W) can be drawn in a grid; these data have shape {tuple(images.shape[1:])}. Figures "
            "that suit the data are in the run folder and in `zoo report`; `zoo sample` writes rows of tables as CSV."
        )
    gap = gap_of(images) if gap is None else gap
    pixels = grid(images, columns, gap if len(images) > 1 else 0, around)
    axes.imshow(pixels.numpy(), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def grid(images: Tensor, columns: int, gap: int, around: float = 1.0) -> Tensor:
    """Join images (N, C, H, W), clipped to [0, 1], into one (height, width, 3) with `gap` pixels around each.

    It does the same as torchvision's `make_grid`, which takes two seconds to import.

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
    image = cells.reshape(rows, columns, *cells.shape[1:]).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    return torch.nn.functional.pad(image, (0, 0, 0, gap, 0, gap), value=around)


def count(axes: Axes, label: str) -> None:
    """Label the x axis and restrict its ticks to integers."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def gap_of(images: Tensor) -> int:
    """Default number of pixels between images in a grid."""
    return max(1, images.shape[-2] // 14)


def centres(count: int, size: int, gap: int) -> list[float]:
    """Coordinates of the centres of `count` images in a row, each of `size` pixels.

    >>> centres(3, size=4, gap=1)
    [2.5, 7.5, 12.5]
    """
    return [gap + (size - 1) / 2 + i * (size + gap) for i in range(count)]
