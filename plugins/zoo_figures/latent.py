"""A plot of the latent space: the posterior means of images, and the rate of each dimension."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from zoo import VAE, Batch, UsageError
from zoo_canvas import BLUE, RED, blank
from zoo_figures.latents import encode_means, rates

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

Panel = Literal["codes", "rates"]

NAMED = 20
"""The largest number of labels in a legend; more are shown by a colour bar."""
MANY = "turbo"
"""The colour map of the colour bar."""
BARS = 24
"""The largest number of dimensions with a labelled bar each."""


@torch.no_grad()
def latent_space(
    vae: VAE,
    x: Tensor,
    condition: Tensor | None = None,
    *,
    threshold: float = 0.1,
    title: str = "Latent space",
    panels: Sequence[Panel] = ("codes", "rates"),
) -> Figure:
    """Plot posterior means of images, by label, and the rate of each latent dimension.

    On the left are the posterior means (see `VAE.posterior_mean`): a histogram for one dimension, a scatter plot for
    two, the first two principal components for more. On the right are the dimensions by rate, highest first (see
    `zoo_figures.latents.rates`), unless the rate does not decompose over the dimensions.

    Args:
        vae: the model.
        x: at least two images (N, C, H, W).
        condition: labels (N,), which colour the points and condition a conditional model.
        threshold: in nats; the title counts the dimensions above it.
        title: of the figure.
        panels: the panels to draw.

    Raises:
        UsageError: there is only one image, or only the rates are requested and they do not decompose.
    """
    if len(x) < 2:
        raise UsageError("A plot of the latent space needs at least two images.")
    images = Batch(x, condition)
    dimension_rates, note = None, ""
    if "rates" in panels:
        try:
            dimension_rates = rates(vae, images)
        except UsageError as error:
            if "codes" not in panels:
                raise
            note = str(error)
    count = ("codes" in panels) + (dimension_rates is not None)
    figure = blank(11.5 if count == 2 else 6.4, 5.4)
    if "codes" in panels:
        means = encode_means(vae, images).flatten(1).cpu().double().numpy()
        labels = None if condition is None else condition.cpu().numpy()
        _scatter(figure.add_subplot(1, count, 1), means, labels)
    if dimension_rates is not None:
        _bars(figure.add_subplot(1, count, count), dimension_rates.values.numpy(), dimension_rates.measure, threshold)
    if note:
        figure.supxlabel(note, fontsize=8, color="grey")
    figure.suptitle(title)
    return figure


def _scatter(axes: Axes, means: NDArray[np.float64], labels: NDArray[np.int64] | None) -> None:
    """Plot posterior means (N, D) in one or two dimensions."""
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"Posterior means of {len(means)} images")
    classes = [] if labels is None else sorted(set(labels.tolist()))
    color_of = _colors(classes)
    if means.shape[1] == 1:
        parts = [means[:, 0]] if labels is None else [means[labels == label, 0] for label in classes]
        axes.hist(parts, bins=60, stacked=True, color=list(color_of.values()) or [BLUE])
        axes.set(xlabel="z[0]", ylabel="images")
    else:
        places, names = (means, ("z[0]", "z[1]")) if means.shape[1] == 2 else _principal(means)
        colors = BLUE if labels is None else [color_of[label] for label in labels.tolist()]
        axes.scatter(
            places[:, 0], places[:, 1], c=colors, s=min(30, max(6, 6000 / len(means))), alpha=0.6, linewidths=0
        )
        axes.set(xlabel=names[0], ylabel=names[1])
        axes.set_aspect("equal", adjustable="datalim")
    if color_of:
        _legend(axes, color_of)


def _legend(axes: Axes, color_of: dict[int, str]) -> None:
    """Add a legend or a colour bar of the labels."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.patches import Patch

    if len(color_of) <= NAMED:
        handles = [Patch(color=color, label=str(label)) for label, color in color_of.items()]
        axes.legend(
            handles=handles, title="label", frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5)
        )
    else:
        scale = ScalarMappable(Normalize(min(color_of), max(color_of)), MANY)
        axes.figure.colorbar(scale, ax=axes, label="label")


def _colors(classes: list[int]) -> dict[int, str]:
    """The colour of each label. Labels below twenty have the same colour in every figure."""
    from matplotlib import colormaps
    from matplotlib.colors import Normalize, to_hex

    if not classes:
        return {}
    if classes[-1] >= NAMED:
        place, palette = Normalize(0, classes[-1]), colormaps[MANY]
        return {label: to_hex(palette(place(label))) for label in classes}
    palette = colormaps["tab10" if classes[-1] < 10 else "tab20"]
    return {label: to_hex(palette(label)) for label in classes}


def _principal(means: NDArray[np.float64]) -> tuple[NDArray[np.float64], tuple[str, str]]:
    """Project onto the first two principal components (N, 2), and name them."""
    from sklearn.decomposition import PCA

    pca = PCA(n_components=2, svd_solver="full")
    with np.errstate(invalid="ignore"):  # if all points are equal
        places: NDArray[np.float64] = pca.fit_transform(means)
    shares = np.nan_to_num(pca.explained_variance_ratio_)
    first, second = (f"principal component {i + 1}, {share:.0%} of the variance" for i, share in enumerate(shares))
    return places, (first, second)


def _bars(axes: Axes, values: NDArray[np.float64], measure: str, threshold: float) -> None:
    """Plot rates (D,), sorted."""
    order = np.argsort(-values, kind="stable")
    if len(values) <= BARS:
        axes.bar(range(len(values)), values[order], color=BLUE)
        axes.set_xticks(range(len(values)), [str(dim) for dim in order], fontsize=8)
        middle, half = (len(values) - 1) / 2, max(len(values), 6) / 2 + 0.2
        axes.set(xlabel="latent dimension", xlim=(middle - half, middle + half))
    else:
        axes.stairs(values[order], np.arange(len(values) + 1) + 0.5, fill=True, color=BLUE)
        axes.set_xlabel("latent dimensions, by rate")
    axes.axhline(threshold, color=RED, linestyle="--", linewidth=1, label=f"threshold, {threshold:g} nats")
    axes.set_ylabel(measure)
    axes.set_title(
        f"{(values > threshold).sum()} of {len(values)} dimensions above {threshold:g} nats; "
        f"{math.fsum(values):.2f} nats in total"
    )
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="upper right")
