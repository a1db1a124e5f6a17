"""Capture: the checks that do not need a GPU, and those that do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import zoo
from zoo.training.capture import Snapshot, agree

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")


def test_a_snapshot_is_restored_in_place():
    """A graph reads the same tensors, so a restored tensor must keep its address."""
    net = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    tensors = [*net.parameters(), *(t for state in optimizer.state.values() for t in state.values())]
    before, addresses = [t.detach().clone() for t in tensors], [t.data_ptr() for t in tensors]
    snapshot = Snapshot(tensors)
    optimizer.step()
    assert not agree(before, snapshot.values())
    snapshot.restore()
    for tensor, value, address in zip(tensors, before, addresses, strict=True):
        assert torch.equal(tensor, value)
        assert tensor.data_ptr() == address


def test_agreement_is_up_to_rounding_and_no_further():
    exact = [torch.linspace(0, 1, 5)]
    assert agree(exact, [exact[0] * (1 + 1e-5)])
    assert not agree(exact, [exact[0] + 0.01])
    assert not agree(exact, [exact[0] * float("nan")])


@needs_cuda
@pytest.mark.parametrize("model", ["mlp-vae", "conv-vae"])
def test_a_captured_training_equals_an_eager_one(model, tmp_path, monkeypatch):
    overrides = ["data={use: digits}", "train.epochs=2"]
    captured = zoo.train(model, overrides, device="cuda", out=tmp_path).result()
    monkeypatch.setattr("zoo.training.step.capture", lambda *arguments: None)
    eager = zoo.train(model, overrides, device="cuda", out=tmp_path).result()
    assert captured["test"]["loss"] == pytest.approx(eager["test"]["loss"], rel=1e-3)


@needs_cuda
def test_a_component_that_synchronises_is_trained_eagerly(install, tmp_path, caplog):
    install(
        "acme-vae",
        "import zoo\n@zoo.hookimpl\ndef zoo_components():\n"
        "    yield zoo.Component('loss', 'waiting', 'acme_losses:Waiting')\n",
        acme_losses__py="import zoo\nELBO = zoo.get('loss', 'elbo')\nclass Waiting(ELBO):\n"
        "    def forward(self, vae, batch):\n        terms = super().forward(vae, batch)\n"
        "        terms['loss'].item()\n        return terms\n",
    )
    with caplog.at_level("INFO", logger="zoo"):
        zoo.train("mlp-vae", ["loss=waiting", "data={use: digits}"], device="cuda", out=tmp_path)
    assert "is not captured as a CUDA graph" in caplog.text
