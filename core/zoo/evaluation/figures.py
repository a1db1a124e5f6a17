"""Figures: loss curves, reconstructions, samples, images decoded from chosen points."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo.modes import evaluating, seeded
from zoo.training.history import Epoch
from zoo.vae import VAE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
COLUMNS = 12
TRAIN_COLOR, TEST_COLOR = "#4c78a8", "#e45756"


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG."""
    figure.savefig(path, dpi=DPI, bbox_inches="tight", pad_inches=0.12)
    return path


def curves(history: Sequence[Epoch], title: str) -> Figure:
    """Every term of the loss against the epochs: in training at each step, on the test set after each epoch."""
    names = list(history[0].test)
    figure = _figure(4.2 * len(names), 3.4)
    epochs = [epoch.epoch for epoch in history]
    for position, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), position + 1)
        steps = list(itertools.chain.from_iterable(epoch.curve[name] for epoch in history))
        per_epoch = len(steps) / len(history)
        axes.plot([(i + 1) / per_epoch for i in range(len(steps))], steps, color=TRAIN_COLOR, alpha=0.35, linewidth=0.8)
        axes.plot(
            [e - 0.5 for e in epochs], [e.train[name] for e in history], "o-", color=TRAIN_COLOR, markersize=4,
            label="train, mean of the epoch",
        )  # fmt: skip
        axes.plot(
            epochs, [e.test[name] for e in history], "s-", color=TEST_COLOR, markersize=4, label="test, after the epoch"
        )
        # The first steps are far off; the rest is what one wants to see.
        settled = steps[len(steps) // 20 :] + [e.test[name] for e in history]
        margin = 0.05 * (max(settled) - min(settled)) or 1.0
        axes.set_ylim(min(settled) - margin, max(settled) + margin)
        axes.set(title=name, xlabel="epoch", xlim=(0, epochs[-1] + 0.02 * epochs[-1]))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if position == 0:
            axes.set_ylabel("nats per example")
            axes.legend(frameon=False, fontsize=8)
    figure.suptitle(title)
    return figure


@torch.no_grad()
def reconstructions(vae: VAE, x: Tensor, title: str) -> Figure:
    """Images (N, C, H, W) in rows of twelve, each row above the row of their reconstructions."""
    with evaluating(vae), seeded(0, x.device):
        reconstructed = vae.reconstruct(x)
    rows = list(zip(torch.split(x, COLUMNS), torch.split(reconstructed, COLUMNS), strict=True))
    columns = min(COLUMNS, len(x))
    figure = _figure(0.75 * columns + 1.0, 1.55 * len(rows) + 0.5)
    for position, (originals, images) in enumerate(rows):
        axes = figure.add_subplot(len(rows), 1, position + 1)
        _show(axes, torch.cat([originals, images]), len(originals))
        height = x.shape[-2] + _gap(x)
        axes.set_yticks([height * 0.5, height * 1.5], ["input", "reconstruction"], fontsize=9)
        axes.tick_params(length=0)
    figure.suptitle(title)
    return figure


@torch.no_grad()
def samples(vae: VAE, n: int, title: str, seed: int = 0) -> Figure:
    """The mean images of `n` draws from the prior, in a grid."""
    device = next(vae.parameters()).device
    with evaluating(vae), seeded(seed, device):
        images = vae.sample(n)
    columns = math.ceil(math.sqrt(n))
    side = 0.6 * columns
    figure = _figure(max(side, 3.0), max(side * math.ceil(n / columns) / columns, 1.0) + 0.45)
    _show(figure.add_subplot(), images, columns)
    figure.suptitle(title)
    return figure


@torch.no_grad()
def decoded(vae: VAE, z: Tensor, title: str) -> Figure:
    """The mean image at each of the points `z`, (N, latent_dim), under its coordinates."""
    with evaluating(vae):
        images = vae.decode(z).mean
    columns = min(8, len(z))
    rows = math.ceil(len(z) / columns)
    figure = _figure(max(1.35 * columns, 3.0), 1.65 * rows + 0.45)
    for position, (image, point) in enumerate(zip(images, z.tolist(), strict=True)):
        axes = figure.add_subplot(rows, columns, position + 1)
        _show(axes, image.unsqueeze(0), 1)
        axes.set_title(_coordinates(point), fontsize=9)
    figure.suptitle(title)
    return figure


def _gap(images: Tensor) -> int:
    """Pixels between images in a grid."""
    return max(1, images.shape[-2] // 14)


def _coordinates(point: list[float]) -> str:
    shown = [f"{value:g}" for value in point[:4]]
    return f"[{', '.join(shown)}{', ...' if len(point) > 4 else ''}]"


def _figure(width: float, height: float) -> Figure:
    """A figure without pyplot, so that no window and no global state is involved."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _show(axes: Axes, images: Tensor, columns: int) -> None:
    from torchvision.utils import make_grid

    padding = _gap(images) if len(images) > 1 else 0
    grid = make_grid(images.clamp(0, 1).cpu(), nrow=columns, padding=padding, pad_value=1.0)
    axes.imshow(grid.permute(1, 2, 0).numpy(), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
