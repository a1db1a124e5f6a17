"""Advice for numbers that are far from unit scale."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

import zoo
from zoo.recipes.advice import scale_advice

NORMAL = np.random.default_rng(0).normal(size=(60, 2, 8))


@pytest.mark.parametrize(
    ("values", "advised"),
    [
        (NORMAL, False),
        (3 + 2 * NORMAL, False),
        (20 + 50 * NORMAL, True),
        (1000 + NORMAL, True),
        (0.001 * NORMAL, True),
        (np.abs(NORMAL) / 10, False),
        (np.rint(50 * np.abs(NORMAL)), False),
    ],
    ids=["standard", "near", "wide", "far", "tiny", "intensities", "counts"],
)
def test_numbers_far_from_unit_scale_are_reported(values, advised):
    x = torch.tensor(values, dtype=torch.float32)
    assert (scale_advice(zoo.Split(x)) is not None) == advised
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[0] = False
    spoiled = x.clone()
    spoiled[0] = 1e6  # missing
    assert (scale_advice(zoo.Split(spoiled, mask=mask)) is not None) == advised


def test_a_training_on_series_in_other_units_warns(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "zoo"):
        zoo.train("series-vae", data=20 + 50 * NORMAL, out=tmp_path, epochs=1, figures=False, progress=False)
    assert "Standardize each channel, (x - mean) / std, and undo it in samples" in caplog.text
