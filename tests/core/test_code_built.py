"""Models that are built in code: trained without a recipe, saved as a run, and classes registered without a package."""

from __future__ import annotations

import signal

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Independent, Normal

import zoo
import zoo.catalog
from resuming import When, assert_same, run_main, send
from zoo_export.export import export
from zoo_report.report import report


class TinyEncoder(zoo.Encoder):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 4)

    def forward(self, x, condition=None):
        mean, log_scale = self.linear(x.flatten(1)).chunk(2, -1)
        return Independent(Normal(mean, log_scale.exp()), 1)


class TinyDecoder(zoo.Decoder):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 64)

    def forward(self, z, condition=None):
        return Independent(Bernoulli(logits=self.linear(z).unflatten(-1, (1, 8, 8)), validate_args=False), 3)


class UnitPrior(zoo.Prior):
    def forward(self, encoder, condition=None):
        return Independent(Normal(torch.zeros(2), 1.0), 1)


class Bound(zoo.Loss):
    def forward(self, vae, batch):
        trace = vae.trace(batch)
        return {"loss": trace.kl.mean() - trace.log_px.mean()}


@pytest.fixture(scope="module")
def digits():
    return zoo.load_dataset("digits")


def trainer_for(digits, **options) -> zoo.Trainer:
    torch.manual_seed(0)
    vae = zoo.VAE(TinyEncoder(), TinyDecoder(), UnitPrior())
    config = zoo.TrainConfig(epochs=2, batch_size=128)
    return zoo.Trainer(vae, Bound(), digits, config, binarize="dynamic", device="cpu", progress=False, **options)


def test_a_model_of_ones_own_classes_trains_without_a_recipe(digits):
    trainer = trainer_for(digits)
    before = {name: value.clone() for name, value in trainer.vae.state_dict().items()}
    history = trainer.fit()
    assert [epoch.epoch for epoch in history] == [1, 2]
    assert history[1].test["loss"] < history[0].test["loss"] < 64
    assert all(not torch.equal(before[name], value) for name, value in trainer.vae.state_dict().items())


def test_it_resumes_bit_identically(digits, tmp_path):
    straight = trainer_for(digits)
    straight.fit()
    with pytest.raises(zoo.Interrupted):
        trainer_for(digits, checkpoints=tmp_path / "saved", callbacks=[When(7, send(signal.SIGTERM))]).fit()
    resumed = trainer_for(digits, checkpoints=str(tmp_path / "saved"))
    assert resumed.resume()
    assert resumed.step == 7
    resumed.fit()
    assert_same(resumed.vae.state_dict(), straight.vae.state_dict())
    assert not trainer_for(digits, checkpoints=tmp_path / "empty").resume()


def test_a_component_that_misbehaves_is_named_by_its_class(digits):
    trainer = trainer_for(digits)
    trainer.vae.decoder.linear = nn.Linear(3, 64)
    with pytest.raises(zoo.ComponentError, match="decoder TinyDecoder on latents of shape"):
        trainer.fit()


def test_it_is_saved_as_a_run_that_the_tools_accept(digits, tmp_path):
    trainer = trainer_for(digits)
    with pytest.raises(zoo.UsageError, match=r"call trainer\.fit\(\) first"):
        zoo.save_run(trainer, tmp_path / "early")
    trainer.fit()
    run = zoo.save_run(trainer, tmp_path / "mine", name="tiny")
    assert (run.recipe.name, run.recipe.encoder.use, run.recipe.latent_dim) == ("tiny", "TinyEncoder", 2)
    assert_same(zoo.load(run).state_dict(), trainer.vae.state_dict())
    evaluation = zoo.evaluate(run, samples=20, limit=50)
    assert evaluation["elbo"].value < evaluation["log-likelihood"].value < 0
    assert "Loss" in report(run, limit=30, metrics=False).figures
    assert (export(run, "torch") / "decoder.pt2").exists()
    named = zoo.save_run(trainer, tmp_path / "named", data="digits")
    assert named.recipe.data[0].use == "digits"
    assert zoo.evaluate(named, ["elbo"], limit=50)["elbo"].value == evaluation["elbo"].value
    assert torch.equal(named.test_batch(9).x, run.test_batch(9).x)
    with pytest.raises(zoo.RunError, match="already contains a run"):
        zoo.save_run(trainer, tmp_path / "mine")


def test_a_saved_run_is_opened_again_with_a_model_and_its_data(digits, tmp_path, capsys):
    trainer = trainer_for(digits)
    trainer.fit()
    zoo.save_run(trainer, tmp_path / "mine")
    assert run_main("sample", str(tmp_path / "mine")) == 2
    assert "was built in code (encoder TinyEncoder, decoder TinyDecoder, prior UnitPrior)" in capsys.readouterr().err
    other = zoo.VAE(TinyEncoder(), TinyDecoder(), UnitPrior())
    run = zoo.Run.open(tmp_path / "mine").attach(other, digits)
    assert_same(zoo.load(run).state_dict(), trainer.vae.state_dict())
    assert zoo.evaluate(run, ["elbo"], limit=20)["elbo"].value < 0
    with pytest.raises(zoo.RunError, match="are not those of its recipe"):
        zoo.Run.open(tmp_path / "mine").attach(zoo.create_model("mlp-vae", data_shape=(1, 8, 8)), digits).load()


def test_a_registered_class_is_named_in_recipes_and_replaced_when_registered_again(digits, tmp_path):
    @zoo.register
    class ShortEncoder(zoo.get("encoder", "mlp")):
        """A short encoder."""

    assert zoo.get("encoder", "short-encoder") is ShortEncoder
    assert "short-encoder" in zoo.list_components("encoder")
    run = zoo.train(
        "mlp-vae", ["encoder={use: short-encoder, hidden: [4]}", "train.steps=2"], data="digits", out=tmp_path,
        figures=False,
    )  # fmt: skip
    assert type(zoo.load(run).encoder) is ShortEncoder

    class Another(ShortEncoder):
        """Another one."""

    zoo.register(Another, name="short-encoder")
    assert zoo.get("encoder", "short-encoder") is Another
    with pytest.raises(zoo.UsageError, match=r"The encoder 'mlp' is provided by vae-zoo .*Choose another name"):
        zoo.register(Another, name="mlp")
    with pytest.raises(zoo.UsageError, match="The kind of .* cannot be inferred"):
        zoo.register(nn.Linear)
    with pytest.raises(zoo.UsageError, match="cannot be registered"):
        zoo.register(Another, name="a b")
