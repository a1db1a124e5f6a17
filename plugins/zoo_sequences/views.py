"""Views of sequences: data, reconstructions and samples side by side, and files of samples."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from zoo import VAE, Batch, Column, Run, atomic_write, evaluating, seeded
from zoo_canvas import blank
from zoo_sequences.tokens import END

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS, LINES, WIDTH = 5, 20, 44
"""How much is drawn: series, lines of text, and characters of a line."""

Sides = Mapping[str, Tensor]


def figures(vae: VAE, batch: Batch, run: Run) -> dict[str, Callable[[], Figure]]:
    """The figure of sequences by name, drawn when it is called.

    Args:
        vae: the model.
        batch: test sequences.
        run: the run, which has the columns.
    """
    sides = functools.cache(lambda: compared(vae, batch.map(lambda values: values[: LINES if run.columns else ROWS])))
    if run.columns:
        return {"lines": lambda: text(sides(), run.columns[0], run.title)}
    return {"series": lambda: series(sides(), run.title)}


@torch.no_grad()
def compared(vae: VAE, batch: Batch, seed: int = 0) -> Sides:
    """Data, with NaN where entries are missing; means of p(x | z) at the posterior means; and samples of the model."""
    device = next(vae.parameters()).device
    x, condition, mask = batch
    with evaluating(vae), seeded(seed, device):
        reconstructions = vae.decode(vae.posterior_mean(x, condition, mask), condition).mean
        samples = vae.sample(len(x)) if condition is None else vae.sample(1, condition)[0]
    data = x if mask is None else x.masked_fill(~mask, torch.nan)
    return {"data": data, "reconstructions": reconstructions, "samples": samples}


def series(sides: Sides, title: str) -> Figure:
    """Draw one series per row and side, with a line for each channel."""
    rows = len(sides["data"])
    figure = blank(3.2 * len(sides), 1.2 * rows + 0.6)
    axes = figure.subplots(rows, len(sides), squeeze=False, sharex=True, sharey=True)
    for column, (name, x) in enumerate(sides.items()):
        axes[0][column].set_title(name, fontsize=9)
        for row, example in enumerate(x.cpu()):
            axes[row][column].plot((example if example.ndim > 1 else example.unsqueeze(0)).flatten(1).T.numpy(), lw=0.9)
            axes[row][column].tick_params(labelsize=7)
    figure.suptitle(title)
    return figure


def text(sides: Sides, column: Column, title: str) -> Figure:
    """Write lines of text in one column per side."""
    figure = blank(0.09 * WIDTH * len(sides), 0.2 * len(sides["data"]) + 0.8)
    for position, (name, x) in enumerate(sides.items()):
        axes = figure.add_subplot(1, len(sides), position + 1)
        axes.set_axis_off()
        axes.set_title(name, fontsize=9, loc="left")
        drawn = [line.replace("$", r"\$")[:WIDTH] for line in lines(x, column)]
        axes.text(0, 1, "\n".join(drawn), family="monospace", fontsize=7, va="top", transform=axes.transAxes)
    figure.suptitle(title)
    return figure


def lines(x: Tensor, column: Column) -> list[str]:
    """Decode tokens (N, *data_shape) to lines: characters are joined, and other tokens are separated by a space.

    A model of counts may draw greater integers than those of its data, which are written as they are.

    >>> column = Column("character", "categorical", ("", "a", "b"), format="text")
    >>> lines(torch.tensor([[1.0, 2.0, 0.0, 0.0], [2.0, 2.0, 1.0, 1.0]]), column)
    ['ab', 'bbaa']
    """
    categories = dict(enumerate(column.categories))
    tokens = [str(categories.get(code, code)) for code in range(1 + max(int(x.max()), len(categories) - 1))]
    space = "" if column.format == "text" and all(len(token) <= 1 for token in tokens) else " "
    return [space.join(_until_end([tokens[int(code)] for code in codes])) for codes in x.flatten(1).cpu().tolist()]


def _until_end(tokens: Sequence[str]) -> Sequence[str]:
    return tokens[: tokens.index(END)] if END in tokens else tokens


def write_txt(x: Tensor, run: Run, path: Path, labels: Tensor | None = None) -> None:
    """Write one sequence per line: text, or the numbers of a series, channel after channel, separated by spaces."""
    with atomic_write(path) as file:
        if run.columns:
            file.write("".join(f"{line}\n" for line in lines(x, run.columns[0])).encode())
        else:
            np.savetxt(file, x.flatten(1).cpu().numpy(), fmt="%.6g")


def write_npy(x: Tensor, run: Run, path: Path, labels: Tensor | None = None) -> None:
    """Write the sequences as a NumPy array (N, *data_shape): float32, or int64 for tokens."""
    with atomic_write(path) as file:
        np.save(file, x.cpu().numpy().astype(np.int64 if run.columns else np.float32))
