"""Sweeps whose trials are trained in one stack."""

from __future__ import annotations

import signal

import pytest
import torch

import zoo
from resuming import send
from zoo_sweep import comparison
from zoo_sweep.draws import CannotStack, Draw, Recording, Replaying
from zoo_sweep.stacked import stacked_step, trainer_of
from zoo_sweep.stacked_step import StackedStep
from zoo_sweep.sweep import Sweep, sweep

DATA = "data={use: digits, validation: 29}"
SMALL = (DATA, "encoder.hidden=[8]", "decoder.hidden=[8]", "train.epochs=2")
EPOCH = 12  # steps, on digits without repetition


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """Drawing takes most of the time."""
    monkeypatch.setattr("zoo_figures.callback.DrawFigures.on_train_end", lambda *_, **__: None)
    monkeypatch.setattr(Sweep, "draw", lambda *_: [])


def outcomes(sweep: Sweep) -> dict[str, tuple[list[zoo.Epoch], dict[str, torch.Tensor]]]:
    """The epochs and the weights of the finished trials, by name."""
    trials = [trial for trial in sweep.trials if trial.state == "finished"]
    return {trial.path.name: (trial.run.epochs(), trial.run.load().state_dict()) for trial in trials}


def assert_agree(actual: Sweep, expected: Sweep, rtol: float = 1e-4) -> None:
    """The weights and the terms of each epoch are equal up to rounding."""
    actual, expected = outcomes(actual), outcomes(expected)
    assert actual.keys() == expected.keys()
    for name, (epochs, weights) in expected.items():
        own_epochs, own_weights = actual[name]
        for epoch, own in zip(epochs, own_epochs, strict=True):
            assert (own.step, own.train) == (epoch.step, pytest.approx(epoch.train, rel=rtol, abs=1e-5))
            assert own.test == pytest.approx(epoch.test, rel=rtol, abs=1e-5)
            assert own.validation == pytest.approx(epoch.validation, rel=rtol, abs=1e-5)
            assert own.curve["gradient_norm"] == pytest.approx(epoch.curve["gradient_norm"], rel=1e-3)
        for key, value in weights.items():
            assert (own_weights[key] - value).norm() <= rtol * value.norm() + 1e-7, key


@pytest.mark.parametrize(
    ("model", "overrides"),
    [
        ("mlp-vae", ["train.seed=0..2", "binarize=dynamic"]),
        ("mlp-vae-2d", ["train.optimizer.lr=0.0003,0.001,0.01"]),
        ("beta-vae", ["loss.beta=1,4", "loss.warmup_epochs=1", "train.seed=3,4"]),
        ("iwae", ["loss.samples=3", "train.seed=0,1"]),
        ("ciwae", ["loss.samples=3", "loss.beta=0.05,0.5"]),
        ("mlp-vae", ["encoder={hidden: [], posterior: {use: gaussian, scale: shared}}", "train.seed=0,1"]),
        ("mlp-vae", ["train.optimizer={use: AdamW, weight_decay: 0.1}", "train.optimizer.betas=[0.9,0.99],[0.5,0.9]"]),
        ("mlp-vae", ["train.optimizer={use: SGD, lr: 0.01, momentum: 0.9}", "train.seed=0,1"]),
        ("mlp-vae", ["train.warmup_steps=5", "train.max_grad_norm=2,20", "train.ema_decay=0.9"]),
        ("mlp-vae", ["train.scheduler={use: StepLR, step_size: 1}", "train.optimizer.lr=0.001,0.01"]),
        ("mlp-vae", ["train.freeze=[encoder]", "train.seed=0,1", "train.steps=17"]),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_a_member_agrees_with_its_run_alone(model, overrides, tmp_path, caplog):
    """Weights and terms, whatever differs: draws, order and binarization by seed, optimizers, and weights of losses."""
    small = [*SMALL[:1], *SMALL[2:]] if "hidden: []" in overrides[0] else SMALL
    with caplog.at_level("INFO", "zoo"):
        stacked = sweep(model, [*small, *overrides], out=tmp_path, name="stacked", stacked=True)
    assert "trials in one stack" in caplog.text
    assert "cannot be stacked" not in caplog.text
    alone = sweep(model, [*small, *overrides], out=tmp_path, name="alone")
    assert_agree(stacked, alone)


def test_the_runs_are_ordinary_runs(tmp_path):
    """`load`, `evaluate` and `compare` accept them, and their checkpoints hold one model, not the stack."""
    stacked = sweep("mlp-vae", [*SMALL, "train.seed=0..3"], out=tmp_path, name="stacked", stacked=True)
    alone = sweep("mlp-vae", [*SMALL, "train.seed=0,1"], out=tmp_path, name="alone")
    run = stacked.trials[1].run
    value = zoo.evaluate(run, ["elbo"])["elbo"].value
    assert value == pytest.approx(zoo.evaluate(alone.trials[1].run, ["elbo"])["elbo"].value, rel=1e-4)
    assert comparison.compare(stacked.path).runs[1].recipe.train.seed == 1
    sizes = [
        (trial.run.checkpoints.newest().path / "state.pt").stat().st_size for trial in (*stacked.trials, *alone.trials)
    ]
    assert max(sizes) < 1.1 * min(sizes)


def test_a_member_that_fails_does_so_alone(tmp_path, caplog):
    """Its reason is that of the training alone, and the others are not affected."""
    arguments = [*SMALL, "train.optimizer.lr=0.001,1e+30,0.01"]
    stacked = sweep("mlp-vae", arguments, out=tmp_path, name="stacked", stacked=True)
    assert [trial.state for trial in stacked.trials] == ["finished", "failed", "finished"]
    assert "trial-002 failed" in caplog.text
    assert "became" in stacked.trials[1].failure
    assert_agree(stacked, sweep("mlp-vae", arguments, out=tmp_path, name="alone"))


def test_a_member_that_loses_patience_leaves_the_stack(tmp_path):
    """The others continue to the end of their training, and agree with their trainings alone."""
    arguments = [*SMALL, "train.epochs=4", "train.patience=1", "train.optimizer.lr=1e-12,0.001,0.002"]
    stacked = sweep("mlp-vae", arguments, out=tmp_path, name="stacked", stacked=True)
    epochs = [len(trial.run.epochs()) for trial in stacked.trials]
    assert min(epochs) < max(epochs)
    assert_agree(stacked, sweep("mlp-vae", arguments, out=tmp_path, name="alone"), rtol=2e-3)


@pytest.mark.parametrize("step", [5, EPOCH])
def test_an_interrupted_stack_resumes(step, tmp_path, caplog):
    """A signal saves every member after the same step, and the resumed stack agrees with an uninterrupted one."""

    class Signal(zoo.Callback):
        def on_step_end(self, trainer):
            if trainer.step == step and trainer.config.seed == 1:
                send(signal.SIGINT)()

    arguments = [*SMALL, "train.seed=0..2"]
    created = Sweep.create("mlp-vae", arguments, out=tmp_path, name="stacked", stacked=True)
    with pytest.raises(zoo.Interrupted):
        created.run(callbacks=[Signal()])
    steps = {trial.run.checkpoints.newest().step for trial in created.trials}
    assert len(steps) == 1
    assert steps <= {step, step + 1}
    assert [trial.state for trial in created.trials] == ["unfinished"] * 3
    resumed = Sweep.open(created.path)
    with caplog.at_level("INFO", "zoo"):
        resumed.run()
    assert "Training 3 trials in one stack" in caplog.text
    assert_agree(resumed, sweep("mlp-vae", arguments, out=tmp_path, name="alone"))


@pytest.mark.parametrize(
    ("model", "overrides", "reason"),
    [
        ("piwae", [], "its loss has several phases: generative, inference"),
        ("mlp-vae", ["train.microbatches=2"], "train.microbatches splits its batches"),
        ("mlp-vae", ["train.deterministic=true"], "train.deterministic is set"),
        ("mlp-vae", ["train.skip_grad_norm=1"], "train.skip_grad_norm may skip the update of one of the models"),
        ("hvae", [], "requires_grad_"),
    ],
)
def test_what_cannot_be_stacked_is_trained_one_by_one(model, overrides, reason, tmp_path, caplog):
    """The reason is logged."""
    arguments = [*SMALL, "train.steps=2", *overrides, "train.seed=0,1"]
    result = sweep(model, arguments, out=tmp_path, stacked=True)
    assert f"{model} cannot be stacked: " in caplog.text
    assert reason in caplog.text
    assert [trial.state for trial in result.trials] == ["finished", "finished"]


def test_a_stack_that_fails_is_continued_one_by_one(tmp_path, monkeypatch, caplog):
    """From the last checkpoints of the members."""
    take = StackedStep.__call__

    def failing(self, step, batches):
        if step == EPOCH + 2:
            raise RuntimeError("the kernel is broken")
        return take(self, step, batches)

    monkeypatch.setattr(StackedStep, "__call__", failing)
    stacked = sweep("mlp-vae", [*SMALL, "train.seed=0,1"], out=tmp_path, name="stacked", stacked=True)
    assert "the kernel is broken" in caplog.text
    assert_agree(stacked, sweep("mlp-vae", [*SMALL, "train.seed=0,1"], out=tmp_path, name="alone"))


def test_trials_of_other_shapes_are_trained_in_stacks_of_their_own(tmp_path, caplog):
    with caplog.at_level("INFO", "zoo"):
        result = sweep("mlp-vae", [*SMALL, "latent_dim=2,3", "train.seed=0,1"], out=tmp_path, stacked=True)
    assert caplog.text.count("Training 2 trials in one stack") == 2
    assert [trial.run.recipe.latent_dim for trial in result.trials] == [2, 2, 3, 3]


@pytest.mark.parametrize(
    ("overrides", "options", "message"),
    [
        (["latent_dim=2,3"], {}, "every value of latent_dim has its own shapes"),
        (["train.batch_size=32,64", "latent_dim=2,3"], {}, "every value of train.batch_size, latent_dim has its own"),
        (["train.optimizer.lr=1e-4..1e-2:log"], {"trials": 2}, "leave out --trials"),
    ],
)
def test_refused_before_any_training(overrides, options, message, tmp_path):
    if options:
        pytest.importorskip("optuna")
    with pytest.raises(zoo.UsageError, match=message):
        sweep("mlp-vae", [*SMALL, *overrides], out=tmp_path, stacked=True, **options)
    assert not list(tmp_path.rglob("trials"))


def test_the_plan_holds_the_flag(tmp_path):
    """A sweep without it does not equal one with it."""
    arguments = [*SMALL, "train.steps=1", "train.seed=0,1"]
    created = Sweep.create("mlp-vae", arguments, out=tmp_path, name="s", stacked=True)
    assert Sweep.open(created.path).plan.stacked
    with pytest.raises(zoo.RunError, match="another sweep"):
        Sweep.create("mlp-vae", arguments, out=tmp_path, name="s")


def test_progress_is_shown(tmp_path, capsys):
    sweep("mlp-vae", [*SMALL, "train.seed=0,1"], out=tmp_path, stacked=True, progress=True)
    lines = [line for line in capsys.readouterr().err.splitlines() if "2 models" in line]
    assert [line.split()[1] for line in lines] == ["1/2", "2/2"]


def test_recorded_draws_equal_those_of_torch():
    """A draw into a row of a tensor gives the numbers of the call."""
    size = torch.zeros(3, 20)
    calls = [
        lambda: torch.rand(3, 20),
        lambda: torch.randn(3, 20),
        lambda: torch.rand_like(size),
        lambda: torch.randperm(30),
        lambda: torch.empty(7).exponential_(2.0),
        lambda: torch.distributions.Normal(size, size + 1).rsample(),
    ]
    for call in calls:
        torch.manual_seed(0)
        with Recording() as recording:
            expected = call()
        (draw,) = recording.draws
        stacked = torch.empty(2, *draw.shape, dtype=draw.dtype)
        torch.manual_seed(0)
        draw.write(stacked[1])
        with Replaying([draw], [stacked[1]]):
            assert torch.equal(call(), expected)


def test_draws_that_differ_from_the_recorded_ones_are_refused():
    values = torch.zeros(3)
    with Replaying([Draw("normal_", (), (3,), torch.float32)], [values]), pytest.raises(CannotStack, match="uniform_"):
        torch.rand(3)
    with Replaying([], []), pytest.raises(CannotStack, match="draws differ"):
        torch.randn(3)


class _Hidden(zoo.get("loss", "elbo")):  # type: ignore[misc]
    """Its weight is neither a number of its own nor a tensor of the module."""

    def forward(self, vae, batch):
        terms = super().forward(vae, batch)
        terms["loss"] = terms["loss"] * self.box[0]
        return terms


def test_a_difference_from_the_model_alone_is_noticed():
    """The first step is compared with that of each model."""
    recipe = zoo.recipe("mlp-vae", [*SMALL])
    dataset = zoo.load_dataset("digits")
    trainers = []
    for weight in (1.0, 2.0):
        vae, _ = zoo.build(recipe, dataset.shape, 0)
        loss = _Hidden()
        loss.box = type("Box", (), {"__getitem__": lambda self, _, weight=weight: weight})()
        trainers.append(zoo.Trainer(vae, loss, dataset, recipe.train))
    with pytest.raises(CannotStack, match="in a stack its term 'loss' differs from that of the model alone"):
        stacked_step(trainers)


class _Annealed(zoo.get("loss", "elbo")):
    """Its weight grows from step to step, with a counter that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def forward(self, vae, batch):
        self.steps += 1
        terms = super().forward(vae, batch)
        return {**terms, "loss": terms["loss"] * min(1.0, self.steps / 1000)}


def test_a_counter_that_a_stack_would_not_advance_is_noticed():
    """The operations of a step are recorded once, with the value of every number."""
    recipe, dataset = zoo.recipe("mlp-vae", [*SMALL]), zoo.load_dataset("digits")
    models = [zoo.build(recipe, dataset.shape, 0)[0] for _ in range(2)]
    trainers = [zoo.Trainer(vae, _Annealed(), dataset, recipe.train) for vae in models]
    with pytest.raises(CannotStack, match=r"_Annealed\.steps changes from step to step and is no tensor"):
        stacked_step(trainers)


def test_the_memory_of_a_stack_is_that_of_its_models():
    """Weights, and the two moments of Adam."""
    recipe = zoo.recipe("mlp-vae", [*SMALL])
    dataset = zoo.load_dataset("digits")
    step = stacked_step([trainer_of(recipe, dataset) for _ in range(5)])
    count = sum(p.numel() for p in step.stack.trainers[0].vae.parameters())
    assert step.stack.weights.shape == (5, count)
    assert step._adam._mean.numel() == step._adam._square.numel() == 5 * count
    pointers = {p.untyped_storage().data_ptr() for t in step.stack.trainers for p in t.vae.parameters()}
    assert pointers == {step.stack.weights.untyped_storage().data_ptr()}
