"""Numbers that a trained model should have, computed from the data in closed form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from zoo import Dataset, Recipe, Split, UsageError

Array = np.ndarray[Any, np.dtype[np.float64]]


def pca_score(dataset: Dataset, recipe: Recipe, split: str) -> float:
    """The mean log-density of probabilistic PCA with a learned noise, `sklearn.decomposition.PCA.score`, in nats.

    The global optimum of a linear VAE whose Gaussian likelihood has one learned scale (arXiv 1911.02469, theorem 1).
    """
    from sklearn.decomposition import PCA

    return float(PCA(recipe.latent_dim).fit(_rows(dataset.train)).score(_rows(dataset.splits[split])))


def fixed_scale_pca_score(dataset: Dataset, recipe: Recipe, split: str) -> float:
    """The mean log-density of probabilistic PCA whose noise is the fixed scale of the recipe's likelihood, in nats.

    Principal components with a variance below that of the noise are not used (arXiv 1911.02469, section 4).
    """
    variances, axes, mean = _principal_components(dataset)
    noise = _scale(recipe) ** 2
    marginal = np.full(len(variances), noise)
    marginal[: recipe.latent_dim] = np.maximum(variances[: recipe.latent_dim], noise)
    z = (_rows(dataset.splits[split]) - mean) @ axes
    return float(-0.5 * (z**2 / marginal + np.log(2 * np.pi * marginal)).sum(1).mean())


def fixed_scale_active_units(dataset: Dataset, recipe: Recipe, split: str) -> float:
    """The number of latent dimensions that are not collapsed: principal components with a variance above the noise."""
    variances, _, _ = _principal_components(dataset)
    return float((variances[: recipe.latent_dim] > _scale(recipe) ** 2).sum())


EXACT: Mapping[str, Callable[[Dataset, Recipe, str], float]] = {
    "pca-score": pca_score,
    "fixed-scale-pca-score": fixed_scale_pca_score,
    "fixed-scale-active-units": fixed_scale_active_units,
}


def _rows(split: Split) -> Array:
    """The examples as rows, uint8 i as i / 255."""
    rows: Array = split.x.flatten(1).double().numpy()
    return rows / 255 if not split.x.is_floating_point() else rows


def _principal_components(dataset: Dataset) -> tuple[Array, Array, Array]:
    """Variances in decreasing order, axes as columns, and the mean of the training split."""
    rows = _rows(dataset.train)
    variances, axes = np.linalg.eigh(np.cov(rows.T, ddof=0))
    return variances[::-1], axes[:, ::-1], rows.mean(0)


def _scale(recipe: Recipe) -> float:
    """The fixed scale of the Gaussian likelihood.

    Raises:
        UsageError: the recipe has none.
    """
    likelihood = recipe.decoder.parameters.get("likelihood")
    scale = likelihood.get("scale") if isinstance(likelihood, dict) else None
    if not isinstance(scale, float | int):
        raise UsageError(f"The exact value needs a Gaussian likelihood of a fixed scale, not {likelihood!r}.")
    return float(scale)
