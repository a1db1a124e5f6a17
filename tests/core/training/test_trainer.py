from __future__ import annotations

import json
import re

import pytest
import torch
from torch import nn

import zoo
from zoo.model.context import derive_seed
from zoo.recipes.building import build
from zoo.training.distributed import Group
from zoo.training.optimization import OptimizedPhase
from zoo.training.step import NOISE, Part, TrainingStep
from zoo.training.terms import mean_terms
from zoo.training.trainer import Trainer

SMALL = ("encoder.hidden=[16]", "decoder.hidden=[16]", "data=digits")


def toy_data(n: int = 10) -> zoo.Dataset:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, 1, 4, 4), dtype=torch.uint8, generator=generator)
    return zoo.Dataset(zoo.Split(pixels), zoo.Split(pixels[: max(1, n // 2)]))


def trainer_for(*overrides: str, n: int = 10, loss: zoo.Loss | None = None, **keywords) -> Trainer:
    recipe = zoo.recipe("mlp-vae", [*SMALL, *overrides])
    dataset = toy_data(n)
    torch.manual_seed(recipe.train.seed)
    vae, own = build(recipe, dataset.shape)
    options = {"binarize": recipe.binarize, "device": "cpu", **keywords}
    return Trainer(vae, loss or own, dataset, recipe.train, **options)


class PerImage(zoo.Loss):
    """A loss whose value for an image is its mean pixel."""

    def forward(self, vae, batch):
        value = batch.x.mean((1, 2, 3)).mean()
        weight = next(vae.parameters()).sum() * 0
        return {"loss": value + weight, "pixel": value}


@pytest.mark.parametrize("batch_size", [1, 3, 4, 10, 100])
def test_a_short_last_batch_counts_for_what_it_holds(batch_size):
    """Trap 14. Ten images in batches of 3 or 4 leave a shorter last one."""
    trainer = trainer_for(f"train.batch_size={batch_size}", "train.epochs=1", loss=PerImage())
    (epoch,) = trainer.fit()
    pixels = trainer.train.x
    assert epoch.train["pixel"] == pytest.approx(pixels.double().mean().item() / 255, rel=1e-6)
    assert epoch.test["pixel"] == pytest.approx(pixels[:5].double().mean().item() / 255, rel=1e-6)


def test_the_trainer_takes_the_steps_of_a_hand_written_loop():
    """The same order, noise and optimizer by hand give the same weights."""
    trainer = trainer_for("train.epochs=3", "train.batch_size=4")
    trainer.fit()

    by_hand = trainer_for("train.epochs=3", "train.batch_size=4")
    optimizer = torch.optim.Adam(by_hand.vae.parameters(), lr=1e-3, fused=True)
    indices = [index for epoch in range(3) for index in by_hand.train.shuffled(0, epoch)]
    for step, index in enumerate(indices):
        batch = by_hand.train[index]
        torch.manual_seed(derive_seed(0, NOISE, 0, 0, step))
        q = by_hand.vae.encode(batch.x)
        z = q.rsample()
        logits = by_hand.vae.decoder.trunk(z).squeeze(1)
        bce = nn.functional.binary_cross_entropy_with_logits(logits, batch.x, reduction="sum")
        mean, scale = q.base_dist.loc, q.base_dist.scale
        kl = -0.5 * (1 + 2 * scale.log() - mean**2 - scale**2).sum()
        optimizer.zero_grad()
        ((bce + kl) / len(batch.x)).backward()
        optimizer.step()
    for name, value in by_hand.vae.state_dict().items():
        torch.testing.assert_close(trainer.vae.state_dict()[name], value, atol=2e-6, rtol=1e-4, msg=name)


def test_testing_leaves_no_trace():
    trainer = trainer_for("binarize=dynamic")
    state = torch.get_rng_state()
    first = mean_terms(trainer.vae, trainer.loss, trainer.test, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert trainer.vae.training
    torch.rand(7)
    assert mean_terms(trainer.vae, trainer.loss, trainer.test, seed=3) == first
    assert mean_terms(trainer.vae, trainer.loss, trainer.test, seed=4) != first


class Adversary(zoo.Loss):
    """Two objectives that pull on each other's parameters through everything they touch."""

    def __init__(self) -> None:
        super().__init__()
        self.critic = nn.Linear(40, 1)

    def forward(self, vae, batch):
        trace = vae.trace(batch)
        score = self.critic(trace.z).mean()
        return {"loss": trace.kl.mean() - trace.log_px.mean() + score, "score": score}

    def criticize(self, vae, batch):
        return {"loss": self.critic(vae.trace(batch).z).square().mean()}

    def phases(self, vae):
        return [
            zoo.Phase("autoencoder", list(vae.parameters()), self),
            zoo.Phase("critic", list(self.critic.parameters()), self.criticize),
        ]


def test_no_phase_changes_the_gradient_of_anothers_parameters():
    """Scenario 25, trap 3: each phase changes its own parameters by its own gradient."""
    trainer = trainer_for()
    batch = next(trainer.train.in_order())
    loss = Adversary()
    phases = loss.phases(trainer.vae)
    torch.manual_seed(derive_seed(0, NOISE, 1, 0, 0))
    expected_critic = torch.autograd.grad(loss.criticize(trainer.vae, batch)["loss"], list(loss.critic.parameters()))
    torch.manual_seed(derive_seed(0, NOISE, 0, 0, 0))
    expected_vae = torch.autograd.grad(loss(trainer.vae, batch)["loss"], list(trainer.vae.parameters()))

    recorded = []
    settings = zoo.recipe("mlp-vae", ["train.optimizer={use: SGD, lr: 0.0}"]).train
    optimized = [OptimizedPhase(phase, settings) for phase in phases]
    for each in optimized:
        each.optimizer.register_step_pre_hook(
            lambda optimizer, *_: recorded.append([p.grad.clone() for p in optimizer.param_groups[0]["params"]])
        )
    take_step = TrainingStep(trainer.vae, loss, optimized, settings, Group(), torch.device("cpu"))
    terms = take_step(0, [Part(0, batch, 1.0)])
    for gradients, expected in zip(recorded, (expected_vae, expected_critic), strict=True):
        for gradient, correct in zip(gradients, expected, strict=True):
            torch.testing.assert_close(gradient, correct)
    assert set(terms) == {"loss", "score", "gradient_norm", "critic.loss", "critic.gradient_norm"}


def test_a_loss_that_explodes_ends_in_a_clear_failure(tmp_path):
    with pytest.raises(zoo.TrainingError, match=r"became (nan|inf|-inf). Try a smaller"):
        zoo.train("mlp-vae", [*SMALL, "train.optimizer.lr=1e20"], out=tmp_path)
    (run,) = (tmp_path / "mlp-vae").iterdir()
    assert not (run / "model.safetensors").exists(), "a bad state is never saved"
    assert not (run / "checkpoints").exists()
    with pytest.raises(zoo.RunError, match="no finished run"):
        zoo.load(tmp_path / "mlp-vae")
    with pytest.raises(zoo.RunError, match="has no weights"):
        zoo.load(run)


@pytest.mark.parametrize(("n", "batch_size"), [(1, 128), (3, 128), (129, 128)])
def test_few_images(n, batch_size):
    """Scenario 29: one image, fewer images than a batch, a last batch of one image."""
    trainer = trainer_for(f"train.batch_size={batch_size}", "train.epochs=2", n=n)
    history = trainer.fit()
    assert [len(epoch.curve["loss"]) for epoch in history] == [-(-n // batch_size)] * 2


@pytest.mark.parametrize(
    ("kind", "part", "message"),
    [
        ("encoder", "TensorEncoder", "must return a torch.distributions.Distribution, not a Tensor"),
        ("encoder", "UndeclaredEvent", "must return a distribution with batch shape (N,), not (N, 40)"),
        ("decoder", "FixedLatent", "decoder 'broken' on latents of shape (2, 40) fails"),
        (
            "decoder",
            "AnotherImage",
            "decoder 'broken' is a distribution over (1, 9, 9), but the examples have the shape",
        ),
        ("prior", "AnotherLatent", "prior 'broken' is a distribution over (7,), but the latents of encoder 'mlp' have"),
        ("prior", "NotAPrior", "prior 'broken' is a NotAPrior, not a zoo.Prior"),
        ("loss", "NoLoss", "must return a dict with a term 'loss'; it returned the terms ['distortion']"),
        ("loss", "VectorLoss", "the term 'loss' must be a scalar tensor, not a tensor of shape (2,)"),
        ("loss", "DetachedLoss", "'loss' is detached from the parameters"),
        ("loss", "InfiniteLoss", "the term 'loss' is inf on the first batch"),
        ("loss", "RaisingLoss", "loss 'broken' fails: AttributeError"),
        ("loss", "RefusingLoss", "loss 'broken' cannot be constructed: ValueError: no such luck"),
    ],
)
def test_a_component_that_misbehaves_is_named_before_training(kind, part, message, install, tmp_path):
    """Scenario 31."""
    install(
        "acme-vae",
        f"""
        import zoo

        @zoo.hookimpl
        def zoo_components():
            yield zoo.Component({kind!r}, "broken", "broken_parts:{part}")
        """,
    )
    with pytest.raises(zoo.ComponentError, match=re.escape(message)) as error:
        zoo.train("mlp-vae", [f"{kind}=broken"], data="digits", out=tmp_path / "runs")
    assert error.value.exit_code == 2
    assert not (tmp_path / "runs").exists(), "nothing half-written"


def test_a_run_is_rebuilt_from_its_folder_alone(tmp_path):
    run = zoo.train("mlp-vae", [*SMALL, "decoder.likelihood=continuous-bernoulli"], epochs=1, seed=4, out=tmp_path)
    first, second = zoo.load(run.path), zoo.load(tmp_path / "mlp-vae")
    assert not first.training
    x = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(first.reconstruct(x), second.reconstruct(x), atol=0, rtol=0)
    assert run.recipe.train.seed == 4
    assert run.recipe.decoder.parameters["activation"] == "relu", "defaults are written out"
    assert run.recipe.decoder.parameters["likelihood"] == "continuous-bernoulli"
    environment = json.loads((run.path / "environment.json").read_text())
    assert (
        environment["versions"]["torch"] == torch.__version__.partition("+")[0]
        or environment["versions"]["torch"] == torch.__version__
    )
    assert environment["data"]["name"] == "digits"
    assert len(environment["data"]["sha256"]) == 64
    again = zoo.train(str(run.path / "recipe.yaml"), out=tmp_path)
    assert again.path != run.path, "a run is never overwritten"
    assert again.result()["test"] == run.result()["test"], "the resolved recipe reproduces the run"


def test_damaged_weights_are_named(tmp_path):
    run = zoo.train("mlp-vae", SMALL, epochs=1, out=tmp_path)
    weights = run.path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(zoo.RunError, match=r"model.safetensors is damaged"):
        zoo.load(run.path)


def test_many_runs_in_one_second_get_a_folder_each(tmp_path):
    runs = {zoo.train("mlp-vae", [*SMALL, "encoder.hidden=[2]"], epochs=1, out=tmp_path).path for _ in range(3)}
    assert len(runs) == 3


def test_the_steps_of_a_training_can_be_taken_by_a_caller(tmp_path):
    """With the callbacks around them, and the same result as `fit`."""
    small = ["encoder.hidden=[4]", "decoder.hidden=[4]", "train.steps=15", "train.seed=3"]
    recipe, dataset = zoo.recipe("mlp-vae", small), zoo.load_dataset("digits")
    calls = []

    class Observer(zoo.Callback):
        def on_train_begin(self, trainer):
            calls.append("begin")

        def on_train_end(self, trainer, finished):
            calls.append(finished)

    trainers = []
    for _ in range(2):
        with zoo.seeded(3):
            vae, loss = zoo.build(recipe, dataset.shape, 0)
        trainers.append(zoo.Trainer(vae, loss, dataset, recipe.train, callbacks=[Observer()], device="cpu"))
    trainers[0].fit()
    with trainers[1].fitting() as steps:
        parts = next(steps)
        for _ in range(14):
            assert calls == ["begin", True, "begin"]
            parts = steps.send(trainers[1].take_step(trainers[1].step, parts))
        with pytest.raises(StopIteration):
            steps.send(trainers[1].take_step(trainers[1].step, parts))
    assert calls == ["begin", True, "begin", True]
    assert [epoch.train for epoch in trainers[1].history] == [epoch.train for epoch in trainers[0].history]
    for own, expected in zip(trainers[1].vae.parameters(), trainers[0].vae.parameters(), strict=True):
        assert torch.equal(own, expected)
