from __future__ import annotations

import json
import logging
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import zoo
import zoo.api
from resuming import TINY, When, assert_same, essence, perturb_generators, send, stopped
from zoo.recipes.building import build
from zoo.recipes.optimizers import optimizers, schedulers
from zoo.recorder import RunRecorder
from zoo.storage.checkpoints import Checkpoints
from zoo.training.trainer import Trainer

EPOCH = 12  # steps, on digits without repetition


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """Figures take longer than everything else and are not resumed."""
    monkeypatch.setattr("zoo_figures.callback.DrawFigures.on_train_end", lambda *_, **__: None)


def resumed(run: zoo.Run) -> zoo.Run:
    """Draws from any global generator in between have no effect."""
    perturb_generators()
    again = zoo.resume(run.path)
    assert again.path == run.path
    assert again.finished
    return again


@pytest.mark.parametrize("step", [1, EPOCH - 1, EPOCH, EPOCH + 1, 3 * EPOCH - 1])
def test_stopped_by_a_signal_and_resumed_to_the_same_bits(step, tmp_path):
    """Scenarios 12 and 16. SIGTERM in the first step, around the end of an epoch and in the last step but one. Before
    resuming, the state of every global generator differs.
    """
    overrides = [*TINY, "train.epochs=3"]
    undisturbed = essence(zoo.train("mlp-vae", overrides, out=tmp_path / "undisturbed"))
    run = stopped("mlp-vae", overrides, step, tmp_path)
    assert len(run.epochs()) == step // EPOCH
    assert_same(essence(resumed(run)), undisturbed)


def test_a_stop_in_the_last_step_ends_the_training_as_planned(tmp_path):
    """Scenario 12: no step remains."""
    observer = When(2 * EPOCH, send(signal.SIGTERM))
    run = zoo.train("mlp-vae", [*TINY, "train.epochs=2"], out=tmp_path, callbacks=[observer])
    assert run.finished
    assert_same(essence(run), essence(zoo.train("mlp-vae", [*TINY, "train.epochs=2"], out=tmp_path)))


def test_stopped_between_the_last_step_and_the_result(tmp_path, monkeypatch):
    """Scenario 12: SIGINT after the last step, before the result is written."""
    overrides = [*TINY, "train.epochs=2"]
    # A shell that runs the tests in the background makes them ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(RunRecorder, "finish", lambda recorder: send(signal.SIGINT)())
            with pytest.raises(KeyboardInterrupt):
                zoo.train("mlp-vae", overrides, out=tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    (path,) = (tmp_path / "mlp-vae").iterdir()
    run = zoo.Run(path)
    assert not run.finished
    assert run.checkpoints.newest().step == 2 * EPOCH
    taken = []
    observer = When(None, lambda: None)
    observer.on_step_end = lambda trainer: taken.append(trainer.step)
    zoo.resume(run, callbacks=[observer])
    assert taken == []
    assert_same(essence(run), essence(zoo.train("mlp-vae", overrides, out=tmp_path)))


def test_stopped_twice_and_resumed_twice(tmp_path):
    """Scenario 12. The second signal arrives in the same epoch as the first."""
    overrides = [*TINY, "train.epochs=3"]
    run = stopped("mlp-vae", overrides, EPOCH + 3, tmp_path)
    perturb_generators()
    with pytest.raises(zoo.Interrupted):
        zoo.resume(run, callbacks=[When(EPOCH + 5, send(signal.SIGINT))])
    assert run.checkpoints.newest().step == EPOCH + 5
    assert_same(essence(resumed(run)), essence(zoo.train("mlp-vae", overrides, out=tmp_path)))


def test_a_finished_run_is_resumed_without_a_step(tmp_path):
    """Scenario 12."""
    run = zoo.train("mlp-vae", [*TINY, "train.epochs=2"], out=tmp_path)
    before, result, metrics = essence(run), run.result(), (run.path / "metrics.jsonl").read_bytes()
    saved = {path: path.stat().st_mtime_ns for path in (run.path / "checkpoints").rglob("*")}
    again = zoo.resume(run)
    assert_same(essence(again), before)
    assert again.result() == result
    assert (run.path / "metrics.jsonl").read_bytes() == metrics
    assert {path: path.stat().st_mtime_ns for path in (run.path / "checkpoints").rglob("*")} == saved


@pytest.mark.parametrize("model", ["conv-vae", "beta-vae"])
def test_other_models_resume_to_the_same_bits(model, tmp_path):
    """Scenarios 13 and 16: stopped in the middle of an epoch. The remaining models are resumed in
    test_conformance.py.
    """
    overrides = ["data=[{use: digits}]", "train.epochs=2", "train.batch_size=256"]
    run = stopped(model, overrides, 8, tmp_path)
    assert_same(essence(resumed(run)), essence(zoo.train(model, overrides, out=tmp_path)))


# The rate rises from the first epoch on, which is therefore the best one.
RISING = ("train.monitor=rate", "loss={use: elbo, beta: 0.1}", "train.optimizer.lr=0.01", "data.validation=29")

SETTINGS = {
    "averaged weights": ["train.ema_decay=0.9"],
    "early stopping": [*RISING, "train.patience=2"],
    "accumulation": ["train.microbatches=3"],
    "mixed precision": ["train.precision=bfloat16"],
    "cosine annealing by epoch": ["train.scheduler={use: CosineAnnealingLR, T_max: 4}"],
    "one cycle by step": [
        f"train.scheduler={{use: OneCycleLR, max_lr: 0.01, total_steps: {4 * EPOCH}}}",
        "train.scheduler_unit=step",
    ],
    "reduced on a plateau": [
        "train.scheduler={use: ReduceLROnPlateau, factor: 0.5, patience: 0}",
        *("train.monitor=rate", "data.validation=29"),
    ],
    "warm-up of the learning rate": ["train.warmup_steps=20"],
    "warm-up and a schedule": ["train.warmup_steps=20", "train.scheduler={use: ExponentialLR, gamma: 0.8}"],
    "clipping": ["train.max_grad_norm=0.5"],
    "skipped updates": ["train.skip_grad_norm=3.95"],
    "warm-up of beta": ["loss={use: elbo, beta: 2.0, warmup_epochs: 3}"],
    "dynamic binarisation": ["binarize=dynamic"],
    "dynamic binarisation in parts": ["binarize=dynamic", "train.microbatches=2"],
    "only deterministic algorithms": ["train.deterministic=true"],
    "momentum": ["train.optimizer={use: SGD, lr: 0.001, momentum: 0.9, nesterov: true}"],
    "a learned scale": ["decoder.likelihood={use: gaussian}"],
    "saving each step": ["train.checkpoint={epochs: null, steps: 1, keep: 1}"],
    "everything": [
        *("train.ema_decay=0.9", "train.microbatches=3", "train.precision=bfloat16", "train.max_grad_norm=0.5"),
        *("train.warmup_steps=20", "train.scheduler={use: StepLR, step_size: 2}", "binarize=dynamic"),
        *("loss={use: elbo, warmup_epochs: 3}", "train.patience=3", "data.validation=29"),
    ],
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_setting_resumes_to_the_same_bits(setting, tmp_path):
    """Scenarios 14, 15 and 16: stopped in the middle and at the end of an epoch."""
    overrides = [*TINY, "train.epochs=4", *SETTINGS[setting]]
    undisturbed = zoo.train("mlp-vae", overrides, out=tmp_path)
    if setting == "early stopping":
        assert len(undisturbed.epochs()) == 3
    if setting == "skipped updates":
        assert {skipped for epoch in undisturbed.epochs() for skipped in epoch.curve["skipped"]} == {0, 1}
    for step in (EPOCH + 5, 2 * EPOCH):
        run = stopped("mlp-vae", overrides, step, tmp_path)
        assert_same(essence(resumed(run)), essence(undisturbed))


ADVERSARY = """
    import torch, zoo

    @zoo.hookimpl
    def zoo_components():
        yield zoo.Component("loss", "adversary", "acme_adversary:Adversary")

    class Adversary(zoo.Loss):
        def __init__(self, latent_dim: int) -> None:
            super().__init__()
            self.critic = torch.nn.Sequential(
                torch.nn.Linear(latent_dim, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1)
            )
            self.register_buffer("strength", torch.tensor(0.0))

        def schedule(self, step: int, epoch: float) -> None:
            self.strength.fill_(min(1.0, epoch / 2))

        def forward(self, vae, batch):
            trace = vae.trace(batch)
            fooled = self.critic(trace.z).mean()
            return {"loss": trace.kl.mean() - trace.log_px.mean() + self.strength * fooled, "fooled": fooled}

        def criticize(self, vae, batch):
            z = vae.trace(batch).z
            return {"loss": (self.critic(z) - 1).square().mean() + self.critic(torch.randn_like(z)).square().mean()}

        def phases(self, vae):
            return [
                zoo.Phase("autoencoder", list(vae.parameters()), self),
                zoo.Phase("critic", list(self.critic.parameters()), self.criticize, every=2),
            ]
"""


@pytest.mark.parametrize("step", [EPOCH + 5, EPOCH + 6, 2 * EPOCH])
@pytest.mark.parametrize("more", [(), ("train.ema_decay=0.9", "train.scheduler={use: StepLR, step_size: 1}")])
def test_two_optimizers_resume_to_the_same_bits(step, more, install, tmp_path):
    """Scenario 14: an adversary whose optimizer takes every second step, stopped before each kind of step and at the
    end of an epoch.
    """
    install("acme-adversary", ADVERSARY)
    overrides = [*TINY, "train.epochs=3", "loss=adversary", *more]
    undisturbed = zoo.train("mlp-vae", overrides, out=tmp_path / "undisturbed")
    curves = undisturbed.epochs()[1].curve
    assert (len(curves["loss"]), len(curves["critic.loss"])) == (EPOCH, EPOCH // 2)
    run = stopped("mlp-vae", overrides, step, tmp_path)
    assert len(run.checkpoints.newest().state()["phases"]) == 2
    assert_same(essence(resumed(run)), essence(undisturbed))


def toy_trainer(*overrides: str) -> Trainer:
    recipe = zoo.recipe("mlp-vae", [*TINY, "train.batch_size=4", "train.epochs=4", *overrides])
    generator = torch.Generator().manual_seed(0)
    images = zoo.Split(torch.randint(0, 256, (10, 1, 4, 4), dtype=torch.uint8, generator=generator))
    torch.manual_seed(0)
    return Trainer(
        *build(recipe, (1, 4, 4)), zoo.Dataset(images, images, images), recipe.train, binarize=recipe.binarize
    )


# These want a closure, sparse gradients, or matrices alone.
NOT_FOR_A_RECIPE = {"LBFGS", "SparseAdam", "Muon"}


def check_resumed_half_way(tmp_path: Path, *overrides: str) -> None:
    undisturbed = toy_trainer(*overrides)
    undisturbed.fit()
    first = toy_trainer(*overrides, "train.epochs=2", "train.checkpoint={epochs: null, steps: 1}")
    first.checkpoints = Checkpoints(tmp_path)
    first.fit()
    checkpoint = first.checkpoints.newest()
    second = toy_trainer(*overrides)
    second.load_state_dict(checkpoint.weights(), checkpoint.state())
    assert second.step == 6
    second.fit()
    assert_same(dict(second.vae.state_dict()), dict(undisturbed.vae.state_dict()))
    assert [epoch.curve for epoch in second.history] == [epoch.curve for epoch in undisturbed.history]


@pytest.mark.parametrize("optimizer", sorted(set(optimizers()) - NOT_FOR_A_RECIPE))
def test_every_optimizer_goes_through_a_checkpoint(optimizer, tmp_path):
    """Scenario 14: its state requires no pickle, and training resumes bit-identically."""
    check_resumed_half_way(tmp_path, f"train.optimizer={{use: {optimizer}, lr: 0.001}}")


ARGUMENTS = {
    "StepLR": "step_size: 1",
    "MultiStepLR": "milestones: [1, 3]",
    "ExponentialLR": "gamma: 0.5",
    "CosineAnnealingLR": "T_max: 4",
    "CosineAnnealingWarmRestarts": "T_0: 3",
    "CyclicLR": "base_lr: 0.0001, max_lr: 0.01, cycle_momentum: false",
    "OneCycleLR": "max_lr: 0.01, total_steps: 20",
    "PiecewiseConstantLR": "milestones: [1, 3], factors: [0.5, 0.1]",
}


@pytest.mark.parametrize("unit", ["epoch", "step"])
@pytest.mark.parametrize("schedule", sorted(schedulers()))
def test_every_schedule_goes_through_a_checkpoint(schedule, unit, tmp_path):
    """Scenario 14."""
    if (schedule, unit) == ("ReduceLROnPlateau", "step"):
        pytest.skip("there is no score after a step")
    block = ", ".join([f"use: {schedule}", *([ARGUMENTS[schedule]] if schedule in ARGUMENTS else [])])
    check_resumed_half_way(tmp_path, f"train.scheduler={{{block}}}", f"train.scheduler_unit={unit}")


def test_a_plateau_is_watched_by_the_epoch_alone():
    """Without a score, the recipe is refused before the first step."""
    with pytest.raises(zoo.RecipeError, match=r"train\.scheduler_unit: .*'epoch'"):
        toy_trainer("train.scheduler=ReduceLROnPlateau", "train.scheduler_unit=step")


DATA = """
    from pathlib import Path
    import torch, zoo

    @zoo.hookimpl
    def zoo_components():
        yield zoo.Component("dataset", "mine", "acme_data:mine")

    def mine(root: Path) -> zoo.Dataset:
        images = zoo.Split(torch.load(root / "pixels.pt", weights_only=True))
        return zoo.Dataset(images, images)
"""


def test_changed_data_are_refused(install, tmp_path):
    """Data in another folder are accepted. If one pixel differs, they are refused and nothing is written."""
    install("acme-data", DATA)
    pixels = torch.arange(10 * 16).view(10, 1, 4, 4).to(torch.uint8)
    roots = [tmp_path / name for name in ("first", "moved", "changed")]
    for root in roots:
        root.mkdir()
        torch.save(pixels, root / "pixels.pt")
        pixels[7, 0, 2, 1] += root.name == "moved"
    overrides = [*TINY[1:], "data=mine", "train.epochs=3", "train.batch_size=4"]
    callbacks = [When(4, send(signal.SIGTERM))]
    with pytest.raises(zoo.Interrupted) as caught:
        zoo.train("mlp-vae", overrides, data_dir=roots[0], out=tmp_path / "runs", callbacks=callbacks)
    run = zoo.Run(caught.value.run)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    with pytest.raises(zoo.RunError, match=r"The data are not those that .* was trained on: their SHA-256 differs"):
        zoo.resume(run, data_dir=roots[2])
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
    assert zoo.resume(run, data_dir=roots[1]).finished


def test_a_number_of_processes_that_has_changed_is_announced(tmp_path, caplog):
    """Scenario 17. (test_distributed.py uses two real processes.)"""
    run = stopped("mlp-vae", TINY, 3, tmp_path)
    with caplog.at_level(logging.WARNING, "zoo"):
        caplog.clear()
        shutil.copytree(run.path, tmp_path / "copy")
        zoo.resume(run)
        assert caplog.messages == [], "the number has not changed"
        copy = zoo.Run(tmp_path / "copy")
        checkpoint = copy.checkpoints.newest()
        weights, state = checkpoint.weights(), {**checkpoint.state(), "processes": 4}
        shutil.rmtree(checkpoint.path)
        copy.checkpoints.save(checkpoint.step, weights, state)
        zoo.resume(copy)
    expected = "The run was trained by 4 processes and resumes with 1: the result will not be bit-identical."
    assert caplog.messages == [expected]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("{}", [12, 36, 48]),
        ("{keep: 1}", [12, 48]),
        ("{keep: 99}", [12, 24, 36, 48]),
        ("{epochs: 2, keep: 99}", [12, 24, 48]),
        ("{epochs: 3, keep: 99}", [12, 36, 48]),
        ("{epochs: null, keep: 99}", [12, 48]),
        ("{epochs: null, steps: 9, keep: 99}", [9, 12, 18, 27, 36, 45, 48]),
        ("{epochs: null, steps: 12, keep: 99}", [12, 24, 36, 48]),
        ("{epochs: 1, steps: 20, keep: 2}", [12, 40, 48]),
        ("{epochs: null, minutes: 1e-9, keep: 99}", list(range(1, 49))),
        ("{epochs: null, minutes: 60, keep: 99}", [12, 48]),
    ],
)
def test_when_the_state_is_saved(settings, expected, tmp_path):
    """Scenario 8, and "whichever comes first": the best and the last checkpoint are always saved."""
    overrides = [*TINY, *RISING, "train.epochs=4", f"train.checkpoint={settings}"]
    run = zoo.train("mlp-vae", overrides, out=tmp_path)
    assert [checkpoint.step for checkpoint in run.checkpoints][::-1] == expected
    rates = [epoch.validation["rate"] for epoch in run.epochs()]
    assert min(rates) == rates[0]
    best = run.checkpoints.best()
    assert (best.step, best.score) == (12, rates[0])


def test_the_best_and_the_last_weights(tmp_path):
    run = zoo.train("mlp-vae", [*TINY, *RISING, "train.epochs=3"], out=tmp_path)
    weights: dict[int, dict[str, torch.Tensor]] = {}
    for which, step in (("best", 12), ("last", 36)):
        vae = zoo.load(run.path, which=which)
        assert not vae.training
        expected = load_file(run.path / "checkpoints" / f"step-{step}" / "model.safetensors")
        assert_same(dict(vae.state_dict()), {name: expected[name] for name in vae.state_dict()})
        weights[step] = expected
    assert not torch.equal(weights[12]["encoder.trunk.1.weight"], weights[36]["encoder.trunk.1.weight"])
    assert_same(dict(zoo.load(run.path).state_dict()), dict(zoo.load(run.path, which="best").state_dict()))


def test_the_best_survives_a_stop_at_the_end_of_its_epoch(tmp_path):
    """Scenarios 8 and 12: one step is saved both as the best and because of the signal."""
    run = stopped("mlp-vae", [*TINY, *RISING, "train.epochs=4"], EPOCH, tmp_path)
    (epoch,) = run.epochs()
    best = run.checkpoints.best()
    assert (best.step, best.score) == (EPOCH, epoch.validation["rate"])
    resumed(run)
    assert run.checkpoints.best().step == EPOCH


FICKLE = """
    import math, zoo

    @zoo.hookimpl
    def zoo_components():
        yield zoo.Component("loss", "fickle", "acme_fickle:Fickle")

    class Fickle(zoo.Loss):
        def __init__(self, values: list[float | str]) -> None:
            super().__init__()
            self.values = [float(value) for value in values]

        def forward(self, vae, batch):
            trace = vae.trace(batch)
            loss = trace.kl.mean() - trace.log_px.mean()
            value = self.values.pop(0) if not self.training and len(batch.x) == 29 else 1.0  # of the validation split
            return {"loss": loss, "metric": loss.detach() * 0 + value}
"""


@pytest.mark.parametrize(
    ("values", "best"),
    [
        (["3", "nan", "2", "nan"], 3),
        (["nan", "5", "6", "nan"], 2),
        (["nan", "nan", "nan", "1"], 4),
        (["2", "inf", "-1", "nan"], 3),
        (["inf", "nan", "7", "7"], 3),
    ],
)
def test_a_metric_that_is_not_a_number_never_becomes_the_best(values, best, install, tmp_path):
    """Scenario 23."""
    install("acme-fickle", FICKLE)
    overrides = [*TINY, "train.epochs=4", f"loss={{use: fickle, values: {json.dumps(values)}}}"]
    run = zoo.train("mlp-vae", [*overrides, "train.monitor=metric", "data.validation=29"], out=tmp_path)
    metrics = [epoch.validation["metric"] for epoch in run.epochs()]
    assert [str(metric) for metric in metrics] == [str(float(value)) for value in values]
    checkpoint = run.checkpoints.best()
    assert (checkpoint.step, checkpoint.score) == (best * EPOCH, float(values[best - 1]))
    assert_same(load_file(run.path / "model.safetensors"), checkpoint.weights())


def test_a_training_without_one_finite_metric_fails(install, tmp_path):
    """Scenario 23: there is no best model."""
    install("acme-fickle", FICKLE)
    overrides = [*TINY, "train.epochs=3", "loss={use: fickle, values: ['nan', 'nan', 'inf']}"]
    with pytest.raises(zoo.TrainingError, match=r"The term 'metric' became inf\. Try a smaller"):
        zoo.train("mlp-vae", [*overrides, "train.monitor=metric", "data.validation=29"], out=tmp_path)
    (path,) = (tmp_path / "mlp-vae").iterdir()
    assert not zoo.Run(path).finished


def test_the_test_terms_are_those_of_the_final_beta(tmp_path):
    """Trap 14: with a beta that rises during training, the first epochs would look best."""
    overrides = [*TINY, "train.epochs=3", "loss={use: elbo, beta: 3.0, warmup_epochs: 2}"]
    run = zoo.train("mlp-vae", overrides, out=tmp_path)
    for epoch in run.epochs():
        assert epoch.test["loss"] == pytest.approx(epoch.test["distortion"] + 3 * epoch.test["rate"], rel=1e-5)
        betas = [
            (loss - distortion) / rate
            for loss, distortion, rate in zip(*(epoch.curve[n] for n in ("loss", "distortion", "rate")), strict=True)
        ]
        steps = range(epoch.step - EPOCH, epoch.step)
        assert betas == pytest.approx([3 * min(1.0, step / (2 * EPOCH)) for step in steps], abs=2e-3)


def test_resume_goes_on_in_the_metrics_file_from_its_checkpoint(tmp_path):
    """Epochs after the checkpoint, half a line included, are trained again and written once."""
    overrides = [*TINY, "train.epochs=3", "train.checkpoint.keep=99"]
    run = zoo.train("mlp-vae", overrides, out=tmp_path)
    before = essence(run)
    for checkpoint in list(run.checkpoints)[:2]:
        shutil.rmtree(checkpoint.path)
    (run.path / "model.safetensors").unlink()
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "st')
    assert_same(essence(resumed(run)), before)
