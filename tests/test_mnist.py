"""The main job on the real data: these take minutes and skip where MNIST is absent."""

from __future__ import annotations

import pytest

import zoo


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_tutorials_model_reaches_the_reference(mnist_root, tmp_path, seed):
    """108.9 nats on the test set after five epochs, as the same network gives with a hand-written loop."""
    run = zoo.train("mlp-vae", data="mnist", data_dir=mnist_root, seed=seed, out=tmp_path)
    result = run.result()
    assert result["test"]["loss"] == pytest.approx(108.9, abs=1.0)
    assert result["train"]["loss"] == pytest.approx(110.3, abs=1.0)
