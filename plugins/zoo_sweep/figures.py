"""Figures of several runs: losses by setting, reconstructions, the history of a search, a comparison of runs."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo import Batch, Epoch, Run, seeded
from zoo_canvas import count, gap_of, grid
from zoo_sweep.results import Outcome, Results, Row, label

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 10
"""Settings in one figure. More lines cannot be told apart."""

COLUMNS = 12


def losses(rows: Sequence[Row], keys: Sequence[str], title: str) -> Figure:
    """Training loss and held-out loss against the epochs, one line for each setting.

    The held-out loss is that of the validation split, or of the test split if there is none.

    The training loss is a running mean over a tenth of an epoch. With one seed, the loss at every step is drawn in the
    background; with several, the line is their mean, with a band of one standard deviation.
    """
    figure = _figure(10.0, 4.2)
    training = figure.add_subplot(1, 2, 1)
    testing = figure.add_subplot(1, 2, 2, sharex=training, sharey=training)
    visible_values: list[float] = []
    split = "validation" if all(outcome.validation for row in rows for outcome in row.finished) else "test"
    for row, color in zip(rows, _colors(rows, keys), strict=True):
        histories = [Run(Path(outcome.run)).epochs() for outcome in row.finished]
        smooth_curves = []
        for history in histories:
            positions, steps = _steps(history)
            if len(histories) == 1:
                training.plot(positions, steps, color=color, alpha=0.2, linewidth=0.6)
            window = max(1, len(steps) // len(history) // 10)
            means = torch.tensor(steps).unfold(0, window, 1).mean(1)
            smooth_curves.append((positions[window // 2 :][: len(means)], means.tolist()))
        smooth = _line(training, smooth_curves, color, "-")
        held_out = [_held_out(history, split) for history in histories]
        visible_values += smooth[len(smooth) // 20 :] + _line(testing, held_out, color, "o-", label(row, keys))
    margin = 0.04 * (max(visible_values) - min(visible_values)) or 1.0
    training.set(ylabel="loss (nats per example)", title="training, at each step")
    training.set_ylim(
        min(visible_values) - margin, max(visible_values) + margin
    )  # without the high losses of the first steps
    training.set_xlim(left=0)
    testing.set(title=f"{split} split, after each epoch")
    for axes in (training, testing):
        count(axes, "epoch")
        _tidy(axes)
    handles, labels = testing.get_legend_handles_labels()
    figure.legend(
        handles, labels, title=keys[0] if len(keys) == 1 else None, loc="outside right upper", frameon=False, fontsize=9
    )
    figure.suptitle(title)
    return figure


Curve = tuple[Sequence[float], Sequence[float]]
"""Positions and values."""


def _steps(history: Sequence[Epoch]) -> Curve:
    """The training loss at every step, against epochs."""
    steps = list(itertools.chain.from_iterable(epoch.curve["loss"] for epoch in history))
    per_epoch = len(steps) / len(history)
    return [(i + 1) / per_epoch for i in range(len(steps))], steps


def _held_out(history: Sequence[Epoch], split: str = "test") -> Curve:
    """The loss on a split after each epoch."""
    return [epoch.epoch for epoch in history], [epoch.held_out[split]["loss"] for epoch in history]


def _line(axes: Axes, curves: Sequence[Curve], color: str, style: str, name: str | None = None) -> list[float]:
    """Draw the mean and the spread of curves of different lengths, and return the mean."""
    positions = max((positions for positions, _ in curves), key=len)
    columns = [
        [value for value in column if value is not None] for column in itertools.zip_longest(*(c for _, c in curves))
    ]
    means = [statistics.fmean(column) for column in columns]
    axes.plot(positions, means, style, color=color, markersize=4, label=name)
    if len(curves) > 1:
        spreads = [statistics.stdev(column) if len(column) > 1 else 0.0 for column in columns]
        low = [mean - spread for mean, spread in zip(means, spreads, strict=True)]
        high = [mean + spread for mean, spread in zip(means, spreads, strict=True)]
        axes.fill_between(positions, low, high, color=color, alpha=0.2, linewidth=0)
    return means


@torch.no_grad()
def reconstructions(rows: Sequence[Row], keys: Sequence[str], title: str, data_dir: Path | None = None) -> Figure:
    """Test images, and a row of reconstructions for each setting.

    If the data are swept, the input images are drawn again whenever the data change.
    """
    strips: list[tuple[str, Tensor]] = []
    batches: dict[tuple[str, str], Batch] = {}
    last = None
    for row in rows:
        run = Run(Path(row.finished[0].run))
        source = run.environment["data"]["sha256"], run.recipe.binarize
        if source not in batches:
            batches[source] = run.test_batch(COLUMNS, data_dir)
        batch = batches[source]
        if source != last:
            strips.append(("input", batch.x))
            last = source
        with seeded(0):
            strips.append((label(row, keys), run.load().reconstruct(batch.x, batch.condition)))
    figure = _figure(0.75 * COLUMNS + 1.6, 0.78 * len(strips) + 0.5)
    for position, (name, images) in enumerate(strips):
        axes = figure.add_subplot(len(strips), 1, position + 1)
        axes.imshow(_side_by_side(images), interpolation="nearest")
        axes.set_xticks([])
        axes.set_yticks([images.shape[-2] / 2], [name], fontsize=9)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    figure.suptitle(f"{title}, by {keys[0]}" if len(keys) == 1 else title)
    return figure


def history(results: Results, title: str) -> Figure:
    """The score of each trial of a search, and the best so far. Failed trials are crosses at the upper edge."""
    figure = _figure(7.0, 4.0)
    axes = figure.add_subplot()
    scored = [(row.number, results.score(row)) for row in results.rows if row.state == "finished"]
    failed = [row.number for row in results.rows if row.state == "failed"]
    numbers = [number for number, _ in scored]
    axes.plot(numbers, [score for _, score in scored], "o", color="#4c78a8", markersize=5, label="trial")
    best = list(itertools.accumulate((score for _, score in scored), min))
    axes.step(numbers, best, where="post", color="#e45756", label="best so far")
    if failed:
        top = axes.get_ylim()[1]
        axes.plot(failed, [top] * len(failed), "x", color="#777777", label="failed", clip_on=False)
    name = "loss (nats per example)" if results.monitor == "loss" else results.monitor
    axes.set(title=title, ylabel=f"validation {name}")
    count(axes, "trial")
    axes.legend(frameon=False, fontsize=9)
    _tidy(axes)
    return figure


def comparison(names: Sequence[str], outcomes: Sequence[Outcome], title: str) -> Figure:
    """The test losses of several runs against the epochs, and the terms of their best epochs."""
    terms = [term for term in ("loss", "distortion", "rate") if all(term in outcome.test for outcome in outcomes)]
    figure = _figure(11.0, max(4.0, 0.35 * len(names) + 2.0))
    grid = figure.add_gridspec(1, 1 + len(terms), width_ratios=[3.0] + [1.2] * len(terms))
    curves = figure.add_subplot(grid[0])
    colors = _spread_colors(len(names))
    for name, outcome, color in zip(names, outcomes, colors, strict=True):
        _line(curves, [_held_out(Run.open(outcome.run).epochs())], color, "o-", name)
    curves.set(title="test split, after each epoch", ylabel="loss (nats per example)")
    count(curves, "epoch")
    _tidy(curves)
    figure.legend(loc="outside lower center", ncols=min(4, len(names)), frameon=False, fontsize=9)
    positions = list(range(len(names)))
    for number, term in enumerate(terms):
        axes = figure.add_subplot(grid[number + 1])
        values = [outcome.test[term] for outcome in outcomes]
        bars = axes.barh(positions, values, color=colors)
        axes.bar_label(bars, [f"{value:.2f}" for value in values], fontsize=8, padding=2)
        axes.set_xlim(min(0.0, *values), max(0.0, *values) * 1.35)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set(title=f"test {term}", xlabel="nats", yticks=[])
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    return figure


def _colors(rows: Sequence[Row], keys: Sequence[str]) -> list[str]:
    """Shades from dark to light if one number is swept, else distinct colours."""
    values = [row.settings.get(keys[0]) for row in rows] if len(keys) == 1 else []
    if not values or not all(isinstance(value, int | float) for value in values):
        return _spread_colors(len(rows))
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    ranks = {value: rank for rank, value in enumerate(sorted(values))}  # type: ignore[type-var]
    return [to_hex(colormaps["viridis"](0.9 * ranks[value] / max(1, len(ranks) - 1))) for value in values]


def _spread_colors(count: int) -> list[str]:
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps["tab10"](number % 10)) for number in range(count)]


def _side_by_side(images: Tensor) -> np.ndarray[Any, Any]:
    """Images (N, C, H, W) in one row, as (H, W, 3) for a figure."""
    return grid(images, COLUMNS, gap_of(images)).numpy()


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _tidy(axes: Axes) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
