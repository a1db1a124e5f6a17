"""The breast cancer data of scikit-learn, with entries hidden."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from zoo import Dataset, Split, derive_seed

HIDE = 32  # random stream


def breast_cancer(
    missing: Annotated[float, Field(ge=0, lt=1)] = 0.5,
    pattern: Literal["random", "above-mean"] = "random",
    transductive: bool = False,
    seed: int = 0,
) -> Dataset:
    """569 tumours with 30 measurements each (UCI, Breast Cancer Wisconsin Diagnostic); label 1 is benign.

    Columns are standardized by mean and standard deviation of the training rows, hidden entries included, as in the
    published code of arXiv 1812.02633. Hidden entries are masked; `Split.x` keeps their values, from which the metric
    ``imputation-error`` computes the error of imputations.

    Args:
        missing: fraction of the entries of each split to hide.
        pattern: ``random`` hides entries completely at random. ``above-mean`` hides the values of the first 15 columns
            that are above the training mean, whatever `missing` is (arXiv 2006.12871).
        transductive: train on all rows and test on the same rows, instead of testing on every fifth one.
        seed: determines which entries are hidden.
    """
    from sklearn.datasets import load_breast_cancer

    rows, targets = load_breast_cancer(return_X_y=True)
    test = np.arange(len(rows)) % 5 == 4
    train = np.ones(len(rows), dtype=bool) if transductive else ~test
    standard = (rows - rows[train].mean(0)) / rows[train].std(0)
    x, labels = torch.from_numpy(standard).float(), torch.from_numpy(targets).long()
    mask = torch.ones_like(x, dtype=torch.bool)
    if pattern == "above-mean":
        mask[:, : x.shape[1] // 2] = x[:, : x.shape[1] // 2] <= 0

    def split(chosen: np.ndarray, stream: int) -> Split:
        index = torch.from_numpy(chosen.nonzero()[0])
        observed = mask[index]
        if pattern == "random":
            observed = _observed(observed, missing, derive_seed(seed, HIDE, stream))
        return Split(x[index], labels[index], index=index, mask=observed)

    training = split(train, 0)
    return Dataset(training, training if transductive else split(test, 1), label_names=("malignant", "benign"))


def _observed(mask: Tensor, missing: float, seed: int) -> Tensor:
    """Hide a fraction of the entries, rounded down, completely at random."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randperm(mask.numel(), generator=generator)[: int(missing * mask.numel())]
    return mask.flatten().index_fill(0, hidden, False).reshape(mask.shape)
