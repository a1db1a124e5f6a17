from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import zoo
from resuming import TINY
from zoo.recipes.building import build
from zoo.storage.checkpoints import Checkpoints
from zoo.training.distributed import Group
from zoo.training.history import Epoch
from zoo.training.optimization import OptimizedPhase
from zoo.training.step import TrainingStep
from zoo.training.trainer import Trainer

SGD = "train.optimizer={use: SGD, lr: 0.1}"


def trainer_for(
    *overrides: str, n: int = 10, loss: zoo.Loss | None = None, validation: bool = False, **keywords
) -> Trainer:
    """Ten images of 4x4 pixels in batches of 4: two full ones and one of two."""
    small = ("latent_dim=2", "encoder.hidden=[8]", "decoder.hidden=[8]", "train.batch_size=4", "train.epochs=2")
    recipe = zoo.recipe("mlp-vae", [*small, *overrides])
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, 1, 4, 4), dtype=torch.uint8, generator=generator)
    torch.manual_seed(recipe.train.seed)
    vae, own = build(recipe, (1, 4, 4))
    held_out = zoo.Split(pixels[:5])
    dataset = zoo.Dataset(zoo.Split(pixels), held_out, held_out if validation else None)
    options = {"binarize": recipe.binarize, "device": "cpu", **keywords}
    return Trainer(vae, loss or own, dataset, recipe.train, **options)


def copy_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_bits(module: nn.Module, expected: dict[str, torch.Tensor]) -> None:
    for name, value in module.state_dict().items():
        assert torch.equal(value, expected[name]), name


class Poisoned(torch.autograd.Function):
    """The identity, with a gradient that is not a number."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.nan


class Bad(zoo.Loss):
    """Goes bad at a step, in a way that is named. Deterministic until then."""

    def __init__(self, how: str, step: int) -> None:
        super().__init__()
        self.how = how
        self.bad_at = step
        self.register_buffer("step", torch.tensor(0))
        self.critic = nn.Linear(2, 1)

    def schedule(self, step, epoch):
        self.step.fill_(step)

    def forward(self, vae, batch):
        mean = vae.encode(batch.x).mean
        loss = mean.square().sum(-1).mean() + vae.decode(mean).mean.mean()
        terms = {"loss": loss, "aside": loss.detach() * 0 + 1}
        if not self.training or self.step < self.bad_at:
            return terms
        if self.how == "loss is nan":
            terms["loss"] = loss * math.nan
        elif self.how == "loss is inf":
            terms["loss"] = loss + math.inf
        elif self.how == "term is nan":
            terms["aside"] = terms["aside"] * math.nan
        elif self.how == "term is inf in the second part":
            terms["aside"] = terms["aside"] + (math.inf if len(batch.x) == 1 else 0)
        elif self.how == "gradient is nan":
            terms["loss"] = Poisoned.apply(loss)
        elif self.how == "gradient of a root at zero":
            terms["loss"] = loss + (mean * 0).square().sum().sqrt()
        elif self.how == "gradient is too large":
            terms["loss"] = loss + ((mean - mean.detach()) * 1e30).sum() * 1e30
        return terms

    def criticize(self, vae, batch):
        loss = self.critic(vae.encode(batch.x).mean).square().mean()
        if self.how == "another phase" and self.training and self.step >= self.bad_at:
            loss = Poisoned.apply(loss)
        return {"loss": loss}

    def phases(self, vae):
        first = zoo.Phase("autoencoder", list(vae.parameters()), self)
        return [first, zoo.Phase("critic", list(self.critic.parameters()), self.criticize)]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("loss is nan", "The term 'loss' became nan."),
        ("loss is inf", "The term 'loss' became inf."),
        ("term is nan", "The term 'aside' became nan."),
        ("term is inf in the second part", "The term 'aside' became inf."),
        ("gradient is nan", "The norm of the gradient became nan."),
        ("gradient of a root at zero", "The norm of the gradient became nan."),
        ("gradient is too large", "The norm of the gradient became "),
        ("another phase", "The norm of the gradient became nan."),
    ],
)
@pytest.mark.parametrize("optimizer", [SGD, "train.optimizer=adam"])
@pytest.mark.parametrize("bad_at", [0, 4])
def test_what_is_not_finite_stops_before_the_update(how, message, optimizer, bad_at, tmp_path):
    """Scenario 22. In the first step and in the middle of the second epoch: the parameters are bit-identical to those
    before the step, the message names the term, and no checkpoint has a number that is not finite.
    """
    parts = ["train.batch_size=3", "train.microbatches=2"] if "second part" in how else []
    trainer = trainer_for(
        *(optimizer, "train.checkpoint={epochs: null, steps: 1}", "train.ema_decay=0.5", *parts),
        loss=Bad(how, bad_at),
        checkpoints=Checkpoints(tmp_path, keep=99),
    )
    before: dict[int, tuple[dict[str, torch.Tensor], ...]] = {}
    take_step = trainer.take_step

    def noting(step, *arguments):
        before[step] = (copy_of(trainer.vae), copy_of(trainer.loss.critic), copy_of(trainer.averaged.module))
        return take_step(step, *arguments)

    trainer.take_step = noting
    with pytest.raises(zoo.TrainingError) as error:
        trainer.fit(preflight=False)
    assert message in str(error.value)
    assert "Try a smaller train.optimizer.lr" in str(error.value)
    assert max(before) == trainer.step == bad_at
    vae, critic, average = before[bad_at]
    if how != "another phase":
        assert_bits(trainer.vae, vae)
    assert_bits(trainer.loss.critic, critic)
    assert_bits(trainer.averaged.module, average)

    assert [checkpoint.step for checkpoint in trainer.checkpoints] == list(range(bad_at, 0, -1))
    for checkpoint in trainer.checkpoints:
        checkpoint.verify()
        assert_finite(checkpoint.weights())
        assert_finite({k: v for k, v in checkpoint.state().items() if k != "best"})
    with pytest.raises(zoo.TrainingError):
        trainer.fit(preflight=False)  # it does not go on as if nothing had happened


def assert_finite(value: object) -> None:
    if isinstance(value, torch.Tensor):
        assert torch.isfinite(value).all()
    elif isinstance(value, dict):
        for inner in value.values():
            assert_finite(inner)
    elif isinstance(value, list):
        for inner in value:
            assert_finite(inner)
    elif isinstance(value, float):
        assert math.isfinite(value)


@pytest.mark.parametrize(
    "setting", [[], ["train.max_grad_norm=1"], ["train.ema_decay=0.9"], ["train.precision=bfloat16"]]
)
@pytest.mark.parametrize("lr", ["1e20", "1e38"])
def test_a_learning_rate_out_of_this_world_ends_in_a_clear_failure(lr, setting, tmp_path):
    """Scenario 23."""
    overrides = [*TINY, f"train.optimizer.lr={lr}"]
    with pytest.raises(zoo.TrainingError, match=r"(became (nan|inf|-inf)|is no longer finite)\. Try a smaller"):
        zoo.train("mlp-vae", [*overrides, *setting, "train.checkpoint.steps=1"], out=tmp_path)
    (path,) = (tmp_path / "mlp-vae").iterdir()
    run = zoo.Run(path)
    assert not run.finished
    for checkpoint in run.checkpoints:
        assert_finite(checkpoint.weights())


@pytest.mark.parametrize("lr", ["1e20", "1e38", "1e39"])
def test_a_single_step_out_of_this_world_fails_as_clearly(lr, tmp_path):
    """Scenario 23. The terms and the gradient of the only step are finite; the parameters after it are not."""
    overrides = [*TINY, f"train.optimizer.lr={lr}"]
    with pytest.raises(zoo.TrainingError, match=r"became (nan|inf)\. Try a smaller"):
        zoo.train("mlp-vae", [*overrides, "train.steps=1"], out=tmp_path)
    (path,) = (tmp_path / "mlp-vae").iterdir()
    assert not (path / "checkpoints").exists()
    assert not zoo.Run(path).finished


def test_an_update_that_overflows_is_not_saved(tmp_path):
    """Scenario 22. Every term and every gradient is finite; the parameter after the update is not."""
    trainer = trainer_for(SGD.replace("0.1", "1e39"), "train.checkpoint.steps=1", checkpoints=Checkpoints(tmp_path))
    with pytest.raises(zoo.TrainingError, match=r"The parameter '.*' is no longer finite\. Try a smaller"):
        trainer.fit(preflight=False)
    assert list(trainer.checkpoints) == []


class Smooth(zoo.Loss):
    """Without a draw, and not linear in the weights."""

    def forward(self, vae, batch):
        mean = vae.encode(batch.x).mean
        error = (vae.decode(mean).mean - batch.x).square().sum((1, 2, 3))
        return {"loss": (error + mean.square().sum(-1)).mean(), "error": error.mean()}


@pytest.mark.parametrize(
    ("images", "parts"), [(10, 1), (10, 2), (10, 3), (10, 4), (10, 10), (7, 3), (2, 4), (1, 4), (3, 2)]
)
def test_an_accumulated_gradient_is_that_of_the_whole_batch(images, parts):
    """Scenario 24. Ten images in 3 or 4 parts of unequal size; the last batch has fewer images than there are parts."""
    trainer = trainer_for(
        "train.optimizer={use: SGD, lr: 0.0}", f"train.microbatches={parts}", "train.batch_size=10", loss=Smooth()
    )
    index = torch.randperm(10, generator=torch.Generator().manual_seed(1))[:images]
    whole = trainer.loss(trainer.vae, trainer.train[index])
    expected = torch.autograd.grad(whole["loss"], list(trainer.vae.parameters()))
    shares = trainer._parts(index)
    assert len(shares) == min(parts, images)
    assert sum(part.weight for part in shares) == pytest.approx(1)
    assert sorted(len(part.batch.x) for part in shares)[-1] == -(-images // parts)
    terms = trainer.take_step(0, shares)
    for parameter, correct in zip(trainer.vae.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, correct, rtol=2e-6, atol=1e-7)
    for name, value in whole.items():
        torch.testing.assert_close(terms[name], value.detach(), rtol=1e-6, atol=0)
    norm = torch.cat([gradient.flatten() for gradient in expected]).norm()
    torch.testing.assert_close(terms["gradient_norm"], norm, rtol=1e-5, atol=0)


@pytest.mark.parametrize("batch_size", [10, 4, 3])
def test_an_accumulated_training_is_that_of_the_whole_batches(batch_size):
    """Scenario 24, over two epochs whose last batch is short."""
    runs = []
    for parts in (1, 3):
        trainer = trainer_for(SGD, f"train.microbatches={parts}", f"train.batch_size={batch_size}", loss=Smooth())
        runs.append((trainer.fit(), trainer.vae.state_dict()))
    (one, whole), (other, accumulated) = runs
    for name in whole:
        torch.testing.assert_close(accumulated[name], whole[name], rtol=1e-4, atol=1e-6)
    for first, second in zip(one, other, strict=True):
        for split in ("train", "test"):
            assert getattr(second, split) == pytest.approx(getattr(first, split), rel=1e-5)


def gradients_at(trainer: Trainer, position: int = 0) -> list[torch.Tensor]:
    """The norms of the gradients that the optimizer received, appended during training."""
    norms: list[torch.Tensor] = []
    optimizer = trainer.phases[position].optimizer
    optimizer.register_step_pre_hook(
        lambda opt, *_: norms.append(torch.cat([p.grad.flatten() for p in opt.param_groups[0]["params"]]).norm())
    )
    return norms


@pytest.mark.parametrize("accumulate", [1, 3])
def test_clipping(accumulate):
    """The gradient of the whole batch is clipped once; the recorded norm is that before clipping."""
    free = trainer_for(SGD, f"train.microbatches={accumulate}", loss=Smooth())
    unclipped = gradients_at(free)
    free.fit()
    clip = float(torch.stack(unclipped).max()) * 0.7
    assert float(torch.stack(unclipped).min()) < clip
    trainer = trainer_for(SGD, f"train.microbatches={accumulate}", f"train.max_grad_norm={clip}", loss=Smooth())
    clipped = gradients_at(trainer)
    history = trainer.fit()
    recorded = [norm for epoch in history for norm in epoch.curve["gradient_norm"]]
    assert recorded[0] == pytest.approx(float(unclipped[0]), rel=1e-5)
    for before, after in zip(recorded, clipped, strict=True):
        assert float(after) == pytest.approx(min(before, clip), rel=1e-4)
    assert {before < clip for before in recorded} == {True, False}, "some are clipped, some are not"


class Exploding(Smooth):
    """`Smooth`, with a loss and a gradient that are a million times larger in the third step."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("step", torch.tensor(0))

    def schedule(self, step, epoch):
        self.step.fill_(step)

    def forward(self, vae, batch):
        terms = super().forward(vae, batch)
        return terms | {"loss": terms["loss"] * torch.where(self.training & (self.step == 2), 1e6, 1.0)}


def training_state(trainer: Trainer) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in trainer.phases[0].tensors()]


@pytest.mark.parametrize("optimizer", ["{use: Adam}", "{use: AdamW}", "{use: SGD, lr: 0.1, momentum: 0.9}"])
@pytest.mark.parametrize("microbatches", [1, 3])
@pytest.mark.parametrize("clipping", [[], ["train.max_grad_norm=0.5"]])
def test_an_exploding_update_is_skipped(optimizer, microbatches, clipping):
    """The parameters and the state of the optimizer are bit-identical to those before the step; every other step is
    bit-identical to that of a training without the option. The record has the norm before clipping and the skip.
    """
    options = [f"train.optimizer={optimizer}", f"train.microbatches={microbatches}", *clipping]
    states: dict[bool, list[list[torch.Tensor]]] = {True: [], False: []}

    class Noting(zoo.Callback):
        def __init__(self, skips: bool) -> None:
            self.skips = skips

        def on_step_end(self, trainer):
            states[self.skips].append(training_state(trainer))

    free = trainer_for(*options, loss=Exploding(), callbacks=[Noting(False)])
    (unskipped, _) = free.fit()
    trainer = trainer_for(*options, "train.skip_grad_norm=1e4", loss=Exploding(), callbacks=[Noting(True)])
    first, second = trainer.fit()
    assert first.curve["skipped"] == [0, 0, 1]
    assert second.curve["skipped"] == [0, 0, 0]
    assert first.train["skipped"] == pytest.approx(2 / 10), "the last batch has two of ten images"
    assert first.curve["gradient_norm"] == unskipped.curve["gradient_norm"]
    assert first.curve["gradient_norm"][2] > 1e4 > max(second.curve["gradient_norm"])
    assert "skipped" not in unskipped.curve
    before, after = states[True][1], states[True][2]
    assert len(before) > len(list(trainer.vae.parameters())), "the optimizer has a state"
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    for step in (0, 1):
        assert all(torch.equal(a, b) for a, b in zip(states[True][step], states[False][step], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(states[True][2], states[False][2], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(states[True][3], after, strict=True)), "training continues"


def test_ordinary_steps_are_the_same_with_and_without_skipping():
    plain, skipping = trainer_for(), trainer_for("train.skip_grad_norm=1e9")
    plain.fit()
    history = skipping.fit()
    assert_bits(skipping.vae, plain.vae.state_dict())
    for a, b in zip(training_state(plain), training_state(skipping), strict=True):
        assert torch.equal(a, b)
    assert [value for epoch in history for value in epoch.curve["skipped"]] == [0] * 6


def test_updates_skipped_from_the_start_leave_the_optimizer_without_a_state_and_are_announced(caplog):
    trainer = trainer_for("train.skip_grad_norm=1e-9", "train.steps=2")
    before = copy_of(trainer.vae)
    (epoch,) = trainer.fit()
    (message,) = caplog.messages
    assert message.startswith(
        f"An update is skipped: the norm of its gradient is {epoch.curve['gradient_norm'][0]:.4g}, "
    )
    assert "above train.skip_grad_norm=1e-09" in message
    assert_bits(trainer.vae, before)
    assert trainer.phases[0].optimizer.state == {}


def test_skipping_does_not_hide_a_gradient_that_is_not_finite():
    trainer = trainer_for("train.skip_grad_norm=1", loss=Bad("gradient is too large", 0))
    with pytest.raises(zoo.TrainingError, match="The norm of the gradient became"):
        trainer.fit(preflight=False)


def test_averaged_weights():
    """w0 = v1, w = 0.9 w + 0.1 v, computed by hand from the weights after every step. The averages are evaluated."""
    trainer = trainer_for(SGD, "train.ema_decay=0.9", loss=Smooth())
    history: list[dict[str, torch.Tensor]] = []

    class Noting(zoo.Callback):
        def on_step_end(self, trainer):
            history.append(copy_of(trainer.vae))

    trainer.callbacks = [Noting()]
    (*_, last) = trainer.fit()
    assert len(history) == 6
    for name, value in trainer.model.state_dict().items():
        by_hand = history[0][name].double()
        for weights in history[1:]:
            by_hand = 0.9 * by_hand + 0.1 * weights[name].double()
        torch.testing.assert_close(value.double(), by_hand, rtol=1e-5, atol=1e-7)
        assert not torch.equal(value, history[-1][name])
    images = trainer.test[torch.arange(5)]
    with torch.no_grad():
        assert last.test["loss"] == pytest.approx(float(trainer.loss(trainer.model, images)["loss"]), rel=1e-6)


def lrs_of(trainer: Trainer) -> list[float]:
    """The learning rate of each step, appended during training."""
    lrs: list[float] = []
    trainer.phases[0].optimizer.register_step_pre_hook(lambda opt, *_: lrs.append(float(opt.param_groups[0]["lr"])))
    return lrs


@pytest.mark.parametrize("warmup", [1, 4, 6, 9])
def test_warm_up(warmup):
    """It rises from 1/n of the learning rate to the whole and then stays constant."""
    trainer = trainer_for(SGD, f"train.warmup_steps={warmup}")
    lrs = lrs_of(trainer)
    trainer.fit()
    assert lrs == pytest.approx([0.1 * min(1.0, (step + 1) / warmup) for step in range(6)])
    assert trainer.phases[0].optimizer.param_groups[0]["lr"] == 0.1, "nothing of it stays"


SCHEDULES = {
    "{use: CosineAnnealingLR, T_max: 4}": lambda opt: torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=4),
    "{use: ExponentialLR, gamma: 0.5}": lambda opt: torch.optim.lr_scheduler.ExponentialLR(opt, 0.5),
    "{use: StepLR, step_size: 2}": lambda opt: torch.optim.lr_scheduler.StepLR(opt, 2),
    "{use: OneCycleLR, max_lr: 0.3, total_steps: 12}": lambda opt: torch.optim.lr_scheduler.OneCycleLR(
        opt, 0.3, total_steps=12
    ),
    "LinearLR": lambda opt: torch.optim.lr_scheduler.LinearLR(opt),
}


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning")
@pytest.mark.parametrize("warmup", [0, 5])
@pytest.mark.parametrize("unit", ["epoch", "step"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_is_that_of_torch(schedule, unit, warmup):
    """Compared with torch's scheduler, advanced after each step or epoch; a warm-up scales its learning rate."""
    trainer = trainer_for(
        *(SGD, f"train.scheduler={schedule}", f"train.scheduler_unit={unit}", f"train.warmup_steps={warmup}"),
        "train.epochs=4",
    )
    lrs = lrs_of(trainer)
    trainer.fit()
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    by_hand = SCHEDULES[schedule](optimizer)
    expected = []
    for step in range(12):
        part = min(1.0, (step + 1) / warmup) if warmup else 1.0
        expected.append(optimizer.param_groups[0]["lr"] * part)
        if unit == "step" or step % 3 == 2:
            by_hand.step()
    assert lrs == pytest.approx(expected, rel=1e-12)
    assert len(set(lrs)) > 1


def test_a_plateau_is_one_of_the_selected_term():
    """`ReduceLROnPlateau` compared with torch's, called by hand with the validation terms of the epochs."""
    trainer = trainer_for(
        *(SGD, "train.scheduler={use: ReduceLROnPlateau, factor: 0.5, patience: 1}", "train.epochs=12"),
        *("train.monitor=rate", "train.batch_size=10", "loss={use: elbo, beta: 0.0}"),
        validation=True,
    )
    lrs = lrs_of(trainer)
    history = trainer.fit()
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    by_hand = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
    expected = []
    for epoch in history:
        expected.append(optimizer.param_groups[0]["lr"])
        by_hand.step(epoch.validation["rate"])
    assert lrs == expected
    assert len(set(lrs)) > 1


class TwoPaces(zoo.Loss):
    """A phase in each step, and one in every third."""

    def __init__(self) -> None:
        super().__init__()
        self.slow = nn.Parameter(torch.ones(()))

    def forward(self, vae, batch):
        return {"loss": vae.encode(batch.x).mean.square().mean()}

    def slowly(self, vae, batch):
        return {"loss": self.slow.square()}

    def phases(self, vae):
        return [zoo.Phase("all", list(vae.encoder.parameters()), self), zoo.Phase("slow", [self.slow], self.slowly, 3)]


def test_a_phase_that_takes_a_step_now_and_then():
    """`Phase.every`: steps 0, 3, 6, 9 and 12 of five epochs of 3; slow -> slow (1 - 2 lr)."""
    trainer = trainer_for(SGD, "train.epochs=5", "train.batch_size=4", loss=TwoPaces())
    history = trainer.fit()
    assert trainer.step == 15
    assert trainer.loss.slow.item() == pytest.approx(0.8**5, rel=1e-6)
    assert [len(epoch.curve["loss"]) for epoch in history] == [3] * 5
    values = [epoch.curve["slow.loss"] for epoch in history]
    assert values == [[pytest.approx(0.64**n, rel=1e-6)] for n in range(5)]
    for epoch in history:
        assert epoch.train["slow.loss"] == pytest.approx(epoch.curve["slow.loss"][0])


def test_a_phase_that_is_not_due_in_an_epoch_has_no_terms_in_it():
    """One step per epoch, and a phase in every third step."""
    trainer = trainer_for(SGD, "train.epochs=4", "train.batch_size=10", loss=TwoPaces())
    history: list[Epoch] = trainer.fit()
    assert ["slow.loss" in epoch.train for epoch in history] == [True, False, False, True]


def test_a_step_does_not_depend_on_what_was_drawn_before():
    """Scenario 16: the draws of a step are seeded by the step, the part and the phase only."""
    trainer = trainer_for("train.optimizer={use: SGD, lr: 0.0}", "binarize=dynamic")
    index = torch.arange(4)
    taken = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        taken.append(trainer.take_step(7, trainer._parts(index))["loss"].item())
    assert taken[0] == taken[1]
    assert trainer.take_step(8, trainer._parts(index))["loss"].item() != taken[0]
    settings = trainer.config.model_copy(update={"seed": 1})
    phases = [OptimizedPhase(phase, settings) for phase in trainer.loss.phases(trainer.vae)]
    other = TrainingStep(trainer.vae, trainer.loss, phases, settings, Group(), trainer.device)
    assert other(7, trainer._parts(index))["loss"].item() != taken[0]
