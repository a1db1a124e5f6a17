"""Loss curves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from zoo import Epoch
from zoo_canvas import BLUE, GREEN, RED, blank, count

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 4
HELD_OUT = {"validation": ("^-", GREEN), "test": ("s-", RED)}


def curves(history: Sequence[Epoch], title: str = "Training", terms: Sequence[str] | None = None) -> Figure:
    """Plot every term of the loss against the epochs: each training step, and the held-out splits after each epoch.

    Args:
        history: the epochs, as returned by `Run.epochs`.
        title: of the figure.
        terms: the terms to plot; by default all.
    """
    names = list(history[0].test if terms is None else terms)
    columns = min(COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    figure = blank(4.2 * columns, 3.4 * rows)
    epochs = [epoch.epoch for epoch in history]
    for position, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, position + 1)
        steps = list(itertools.chain.from_iterable(epoch.curve[name] for epoch in history))
        per_epoch = len(steps) / len(history)
        axes.plot([(i + 1) / per_epoch for i in range(len(steps))], steps, color=BLUE, alpha=0.35, linewidth=0.8)
        axes.plot(
            [e - 0.5 for e in epochs], [e.train[name] for e in history], "o-", color=BLUE, markersize=4,
            label="train, mean of the epoch",
        )  # fmt: skip
        # The axis leaves out the high losses of the first steps.
        settled = steps[len(steps) // 20 :]
        for split, (style, color) in HELD_OUT.items():
            values = [e.held_out[split][name] for e in history if split in e.held_out]
            if values:
                axes.plot(epochs, values, style, color=color, markersize=4, label=f"{split}, after the epoch")
                settled = settled + values
        margin = 0.05 * (max(settled) - min(settled)) or 1.0
        axes.set_ylim(min(settled) - margin, max(settled) + margin)
        axes.set(title=name, xlim=(0, epochs[-1] + 0.02 * epochs[-1]))
        count(axes, "epoch")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if position % columns == 0:
            axes.set_ylabel("nats per example")
        if position == 0:
            axes.legend(frameon=False, fontsize=8)
    figure.suptitle(title)
    return figure
