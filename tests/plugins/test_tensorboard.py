from __future__ import annotations

import pytest

import zoo
from zoo.plugins.registry import fresh_registry

event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def test_scalars_figures_and_hyperparameters_are_logged(tmp_path, monkeypatch):
    monkeypatch.delenv("ZOO_DISABLE_PLUGINS")
    overrides = ["encoder.hidden=[8]", "decoder.hidden=[8]", "data={use: digits}", "train.epochs=2"]
    with fresh_registry():
        run = zoo.train("mlp-vae", overrides, out=tmp_path)
    log = event_accumulator.EventAccumulator(str(run.path / "tensorboard"), {"scalars": 0})
    log.Reload()
    first, second = run.epochs()
    logged = log.Scalars("test/loss")
    assert [event.step for event in logged] == [first.step, second.step]
    assert [event.value for event in logged] == pytest.approx([first.test["loss"], second.test["loss"]])
    steps = log.Scalars("step/rate")
    assert [event.step for event in steps] == list(range(1, second.step + 1))
    assert [event.value for event in steps] == pytest.approx(first.curve["rate"] + second.curve["rate"])
    assert set(log.Tags()["images"]) == {"curves", "reconstructions", "samples"}
    assert any("hparams" in path.name for path in (run.path / "tensorboard").iterdir())
