from __future__ import annotations

import shutil

import pytest

import zoo


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # torch.compile warns of its own machinery
def test_a_compiled_training_equals_an_eager_one(tmp_path):
    """Its draws may come from another generator, so the results agree like those of two seeds."""
    overrides = [
        "encoder.hidden=[8]",
        "decoder.hidden=[8]",
        "data={use: digits}",
        "train.steps=3",
        "train.batch_size=700",
    ]
    eager = zoo.train("mlp-vae", overrides, out=tmp_path).epochs()[0]
    compiled = zoo.train("mlp-vae", overrides, out=tmp_path, compile=True).epochs()[0]
    assert compiled.test["distortion"] == pytest.approx(eager.test["distortion"], rel=0.02)
