"""Views of tables: marginals and correlations of data, reconstructions and samples, and files of rows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from zoo import VAE, Batch, Column, Run, atomic_write, evaluating, observed_entries, seeded
from zoo_canvas import BLUE, GREEN, RED, blank
from zoo_tables.frames import to_frame
from zoo_tables.writing import with_text_dates, write_frame

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

MOST_COLUMNS, MOST_CATEGORIES, MOST_FEATURES = 24, 12, 40
"""How much is drawn: columns of marginals, categories of a column, and rows of a correlation matrix."""
BINS = 30
COLORS = {"data": BLUE, "reconstructions": RED, "samples": GREEN}

Tables = Mapping[str, tuple[Tensor, Tensor]]


def figures(vae: VAE, batch: Batch, run: Run) -> dict[str, Callable[[], Figure]]:
    """The figures of a table by name; each is drawn when it is called.

    Args:
        vae: the model.
        batch: test rows.
        run: the run, which has the columns.
    """
    tables = functools.cache(lambda: compared(vae, batch))
    return {
        "marginals": lambda: marginals(tables(), run.columns, f"{run.title}: marginals of {len(batch.x)} test rows"),
        "correlations": lambda: correlations(tables(), run.columns, f"{run.title}: correlations"),
    }


@torch.no_grad()
def compared(vae: VAE, batch: Batch, seed: int = 0) -> Tables:
    """Data, reconstructions and samples, each as x (N, D) and the mask of known entries.

    Reconstructions are draws from p(x | z) at the posterior mean of each row, and samples are draws of the model with
    the labels of the rows.
    """
    device = next(vae.parameters()).device
    x, condition, mask = batch
    observed = observed_entries(x, mask)
    every = torch.ones_like(observed)
    with evaluating(vae), seeded(seed, device):
        reconstructions = vae.decode(vae.posterior_mean(x, condition, mask), condition).sample()
        samples = vae.sample(len(x)) if condition is None else vae.sample(1, condition)[0]
    return {"data": (x, observed), "reconstructions": (reconstructions, every), "samples": (samples, every)}


def marginals(tables: Tables, columns: Sequence[Column], title: str) -> Figure:
    """Draw the distribution of each column in each table: histograms of numbers, frequencies of categories."""
    drawn = columns[:MOST_COLUMNS]
    across = min(4, len(drawn))
    down = -(-len(drawn) // across)
    figure = blank(3.0 * across, 2.0 * down + 0.6)
    for i, column in enumerate(drawn):
        axes = figure.add_subplot(down, across, i + 1)
        values = {name: x[mask[:, i], i].cpu().double().numpy() for name, (x, mask) in tables.items()}
        (_bars if column.coded else _histogram)(axes, column, values)
        axes.set_title(column.name[:30], fontsize=9)
        axes.set_yticks([])
        axes.tick_params(labelsize=7)
    rest = f" (the first {len(drawn)} of {len(columns)} columns)" if len(drawn) < len(columns) else ""
    figure.suptitle(title + rest)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(tables))
    return figure


def _histogram(axes: Any, column: Column, values: Mapping[str, Any]) -> None:
    """Histograms over the range of the data; values outside it count in the first or last bin."""
    reference = values["data"]
    low, high = np.quantile(reference, (0.005, 0.995)) if len(reference) else (0.0, 1.0)
    if column.format == "integer":  # bins hold the same number of integers
        first, last = np.rint(column.decode(np.array([low, high])))
        step = max(1, -(-(last - first + 1) // BINS))
        shown = np.arange(first - 0.5, last + step, step)
        edges = column.encode(shown)
    else:
        edges = np.linspace(low, max(high, low + 1e-6), BINS + 1)
        shown = np.asarray(column.decode(edges))
    if column.format in ("date", "datetime"):
        shown = np.datetime64("1970-01-01", "s") + np.rint(shown * 86400).astype(np.int64).astype("timedelta64[s]")
        axes.tick_params(axis="x", rotation=30)
    else:
        axes.locator_params(axis="x", nbins=5)
    for name, table in values.items():
        counts, _ = np.histogram(table.clip(edges[0], edges[-1]), edges)
        axes.stairs(counts / max(1, len(table)), shown, color=COLORS[name], label=name, fill=name == "data", alpha=0.8)


def _bars(axes: Any, column: Column, values: Mapping[str, Any]) -> None:
    """Frequencies of the most frequent categories of the data."""
    size = len(column.categories)
    order = np.argsort(-np.bincount(values["data"].astype(np.int64), minlength=size), kind="stable")[:MOST_CATEGORIES]
    order = np.sort(order) if column.kind == "ordinal" else order
    width = 0.8 / len(values)
    for j, (name, table) in enumerate(values.items()):
        shares = np.bincount(table.astype(np.int64), minlength=size)[order] / max(1, len(table))
        axes.bar(np.arange(len(order)) + (j - 1) * width, shares, width, color=COLORS[name], label=name)
    axes.set_xticks(range(len(order)), [str(column.categories[i])[:10] for i in order], rotation=30, fontsize=7)


def correlations(tables: Tables, columns: Sequence[Column], title: str) -> Figure:
    """Draw the correlation matrix of each table. A category is a feature that is 1 in its rows and 0 in others."""
    names, _ = features(tables["data"][0][:1], tables["data"][1][:1], columns)
    side = 3.2
    figure = blank(side * len(tables) + 1.2, side + 1.4)
    for i, (name, (x, mask)) in enumerate(tables.items()):
        axes = figure.add_subplot(1, len(tables), i + 1)
        image = axes.imshow(correlation(features(x, mask, columns)[1]), vmin=-1, vmax=1, cmap="RdBu_r")
        axes.set_title(name, fontsize=9)
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
        axes.set_yticks(range(len(names)), names if i == 0 else [], fontsize=6)
    figure.colorbar(image, ax=figure.axes, shrink=0.7)
    figure.suptitle(title)
    return figure


def features(x: Tensor, mask: Tensor, columns: Sequence[Column]) -> tuple[list[str], Any]:
    """Names and values (N, F) of the features of a table, NaN where missing."""
    names: list[str] = []
    values: list[Any] = []
    for i, column in enumerate(columns):
        entries = x[:, i].cpu().double().masked_fill(~mask[:, i].cpu(), float("nan")).numpy()
        if column.kind == "categorical":
            for code, category in enumerate(column.categories[:MOST_CATEGORIES]):
                names.append(f"{column.name}={category}"[:24])
                values.append(np.where(np.isnan(entries), np.nan, entries == code))
        else:
            names.append(column.name[:24])
            values.append(np.log(np.maximum(entries, 1e-30)) if column.kind == "positive" else entries)
    return names[:MOST_FEATURES], np.stack(values[:MOST_FEATURES], 1)


def correlation(values: Any) -> Any:
    """Pearson correlations (F, F) over the rows in which both features are known; 0 where one of them is constant.

    >>> correlation(np.array([[0.0, 2.0, 1.0], [1.0, 0.0, np.nan], [2.0, -2.0, 1.0]])).round(3).tolist()
    [[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    known = ~np.isnan(values)
    centered = np.where(known, values - np.nanmean(np.where(known.any(0), values, 0.0), 0), 0.0)
    covariance = centered.T @ centered
    squares = (centered**2).T @ known
    scale = np.sqrt(squares * squares.T)
    result = np.divide(covariance, scale, out=np.zeros_like(covariance), where=scale > 0)
    np.fill_diagonal(result, 1.0)
    return result


def write_csv(x: Tensor, run: Run, path: Path, labels: Tensor | None = None) -> None:
    """Write rows as CSV in the original columns, kinds and categories. Missing entries are empty."""
    with atomic_write(path) as file:
        write_frame(with_text_dates(rows(x, run, labels), run.columns), file, ".csv")


def write_parquet(x: Tensor, run: Run, path: Path, labels: Tensor | None = None) -> None:
    """Write rows as Parquet; see `write_csv`."""
    with atomic_write(path) as file:
        write_frame(rows(x, run, labels), file, ".parquet")


def rows(x: Tensor, run: Run, labels: Tensor | None = None) -> DataFrame:
    """Rows as a data frame; with labels, in a further column."""
    frame = to_frame(x, run.columns)
    if labels is not None:
        names = np.asarray(run.label_names or [str(i) for i in range(run.classes)], dtype=object)
        frame[run.recipe.data[0].parameters.get("label") or "label"] = names[labels.cpu().numpy()]
    return frame
