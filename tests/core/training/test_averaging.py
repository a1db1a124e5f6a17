"""Averaged weights: parameters are averaged, buffers are copied."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.recipes.building import build
from zoo.training.trainer import Trainer
from zoo_conformance.candidate import few_digits

DECAYS = (1e-9, 0.5, 0.9, 1 - 1e-12)
STEPS = 4


def trainer_at_rest(model: str, decay: float) -> Trainer:
    """A trainer whose learning rate is 0, for a few steps on digits."""
    recipe = zoo.recipe(
        model,
        [
            *(f"train.ema_decay={decay!r}", "train.optimizer.lr=0", "train.batch_size=8"),
            *(f"train.steps={STEPS}", "train.monitor=loss"),
        ],
    )
    dataset = few_digits(train=24, test=8)
    torch.manual_seed(0)
    vae, loss = build(recipe, (1, 8, 8), 10, 24)
    return Trainer(vae, loss, dataset, recipe.train, binarize=recipe.binarize)


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter and every buffer, saved or not."""
    return dict(itertools.chain(module.named_parameters(), module.named_buffers()))


@pytest.mark.parametrize("model", zoo.list_models())
def test_without_learning_the_averaged_model_is_the_model(model):
    """Bit-identical after every step and for every decay, so every metric of the two is equal."""
    for decay in DECAYS:
        trainer = trainer_at_rest(model, decay)
        assert trainer.averaged is not None
        before = {name: value.clone() for name, value in trainer.vae.named_parameters()}
        trainer.fit()
        assert trainer.averaged.n_averaged == STEPS
        averaged = tensors(trainer.model)
        for name, value in tensors(trainer.vae).items():
            assert averaged[name].dtype == value.dtype
            assert torch.equal(averaged[name], value), f"{name} at a decay of {decay}"
        for name, value in before.items():
            assert torch.equal(averaged[name], value), f"{name} was moved without a learning rate"


class Counting(zoo.Encoder):
    """An encoder that counts its calls in training mode in integers, remembers a flag and tracks a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 4)
        self.register_buffer("calls", torch.tensor(0))
        self.register_buffer("small", torch.tensor(3, dtype=torch.uint8))
        self.register_buffer("even", torch.tensor(True))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("unsaved", torch.tensor([2, 1]), persistent=False)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> torch.distributions.Distribution:
        if self.training:
            self.calls += 1
            self.even.logical_not_()
            self.mean.lerp_(x.mean(), 0.1)
        loc, scale = self.linear(x.flatten(1)).chunk(2, -1)
        return torch.distributions.Independent(torch.distributions.Normal(loc, scale.exp()), 1)


@pytest.mark.parametrize("decay", DECAYS)
def test_buffers_of_any_type_are_those_of_the_model(decay):
    """While the parameters are trained and averaged."""
    settings = [f"train.ema_decay={decay!r}", "latent_dim=2", "train.batch_size=8", "train.steps=7"]
    recipe = zoo.recipe("mlp-vae", settings)
    vae, loss = build(recipe, (1, 8, 8))
    vae.encoder = Counting()
    trainer = Trainer(vae, loss, few_digits(train=24, test=8), recipe.train, binarize=recipe.binarize)
    trainer.fit()
    averaged = tensors(trainer.model)
    assert int(vae.encoder.calls) == 7
    assert int(vae.encoder.small) == 3
    for name, value in vae.named_buffers():
        assert torch.equal(averaged[name], value), name
    apart = any(not torch.equal(averaged[name], value) for name, value in vae.named_parameters())
    assert apart or decay == DECAYS[0]


@pytest.mark.parametrize("model", ["full-covariance", "vq-vae"])
def test_averaging_changes_no_metric_of_a_training_at_rest(model, tmp_path, monkeypatch):
    """End to end; `full-covariance` has an int64 buffer, and a codebook changes without a learning rate."""
    monkeypatch.setattr("zoo_figures.callback.DrawFigures.on_train_end", lambda *_, **__: None)
    at_rest = ["data=[{use: digits}]", "train.optimizer.lr=0", "train.epochs=2", "train.batch_size=256"]
    plain, averaged = (zoo.train(model, [*at_rest, *more], out=tmp_path) for more in ([], ["train.ema_decay=0.9"]))
    assert [epoch.test for epoch in plain.epochs()] == [epoch.test for epoch in averaged.epochs()]
    one, two = (zoo.load(run).state_dict() for run in (plain, averaged))
    for name, value in one.items():
        assert torch.equal(value, two[name]), name
