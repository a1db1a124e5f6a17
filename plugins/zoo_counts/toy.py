"""Counts from a known process."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from pydantic import Field, PositiveInt

from zoo import Dataset, Split

TYPES, BATCHES = 4, 2
THETA = 4.0


def toy_counts(
    cells: Annotated[int, Field(ge=10)] = 2000,
    genes: PositiveInt = 50,
    data_seed: Annotated[int, Field(ge=0, lt=2**32)] = 0,
) -> Dataset:
    """Counts like those of single cells, generated without any file; every fifth cell is a test cell.

    x ~ NegativeBinomial(mean l f, theta = 4), log l ~ N(log 500, 0.4^2), and f is the softmax of a standard normal
    vector of the type of the cell plus half of one of its batch. Labels are batches 0 and 1; the factor is the type.

    Args:
        cells: number of cells.
        genes: number of genes.
        data_seed: determines all draws.
    """
    random = np.random.RandomState(data_seed)  # its stream is the same for all versions of NumPy
    types, batches = random.randint(TYPES, size=cells), random.randint(BATCHES, size=cells)
    logits = random.randn(TYPES, genes)[types] + 0.5 * random.randn(BATCHES, genes)[batches]
    frequencies = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    library = np.exp(np.log(500) + 0.4 * random.randn(cells, 1))
    counts = random.poisson(random.gamma(THETA, library * frequencies / THETA))
    x, labels = torch.from_numpy(counts).float(), torch.from_numpy(batches).long()
    factors = torch.from_numpy(types).long().unsqueeze(1)
    test = torch.arange(cells) % 5 == 4
    train, held = (Split(x[rows], labels[rows], factors=factors[rows]) for rows in (~test, test))
    return Dataset(train, held, factor_names=("type",))
