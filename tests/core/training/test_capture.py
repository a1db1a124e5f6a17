"""Capture: the checks that do not need a GPU, and those that do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import zoo
from resuming import TINY, assert_same, essence, stopped
from zoo.training.capture import NotCapturable, Snapshot, agree

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


def test_a_number_that_changes_from_step_to_step_is_found_and_restored():
    """A graph would neither change it nor read it again, as a counter that anneals a weight."""

    class Annealed(nn.Module):
        steps, weight, training_set = 0, 0.5, "digits"

        def __init__(self):
            super().__init__()
            self.steps = 3

    module = Annealed()
    snapshot = Snapshot([], [module])
    snapshot.require_constant_numbers()
    module.steps += 1
    with pytest.raises(NotCapturable, match=r"Annealed\.steps changes from step to step and is no tensor"):
        snapshot.require_constant_numbers()
    snapshot.restore()
    assert module.steps == 3


def eager(monkeypatch, *arguments, **options):
    """A training whose steps are not captured."""
    with monkeypatch.context() as context:
        context.setattr("zoo.training.step.capture", lambda *_: None)
        return zoo.train(*arguments, **options)


ADAM, SGD = "{use: Adam, lr: 0.003}", "{use: SGD, lr: 0.001, momentum: 0.9}"
SCHEDULES = ["{use: StepLR, step_size: 1, gamma: 0.3}", "{use: OneCycleLR, max_lr: 0.01, total_steps: 40}"]


@needs_cuda
@pytest.mark.parametrize("optimizer", [ADAM, SGD], ids=["Adam", "SGD"])
@pytest.mark.parametrize("setting", [*(f"train.scheduler={use}" for use in SCHEDULES), "train.warmup_steps=20"])
def test_captured_steps_follow_the_learning_rate_and_resume_with_it(setting, optimizer, tmp_path, monkeypatch):
    """A graph keeps every number that is no tensor, also after a checkpoint was loaded."""
    overrides = [*TINY, "train.epochs=3", f"train.optimizer={optimizer}", setting]
    overrides += ["train.scheduler_unit=step"] if "scheduler" in setting else []
    captured = zoo.train("mlp-vae", overrides, device="cuda", out=tmp_path / "captured")
    expected = eager(monkeypatch, "mlp-vae", overrides, device="cuda", out=tmp_path / "eager")
    losses = [[epoch.train["loss"] for epoch in run.epochs()] for run in (captured, expected)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    again = zoo.resume(stopped("mlp-vae", overrides, 17, tmp_path / "stopped"))
    assert_same(essence(again), essence(captured))


@needs_cuda
@pytest.mark.parametrize(("first", "second"), [("cuda", "cpu"), ("cpu", "cuda")])
def test_a_run_resumes_on_another_device_with_a_warning(first, second, tmp_path, caplog):
    overrides = [*TINY, "train.scheduler={use: StepLR, step_size: 1}"]
    run = zoo.train("mlp-vae", [*overrides, "train.epochs=1"], device=first, out=tmp_path)
    longer = zoo.resume(run, epochs=3, device=second)
    assert f"The run was trained on {first} and resumes on {second}: the result will not be" in caplog.text
    expected = zoo.train("mlp-vae", [*overrides, "train.epochs=3"], device=second, out=tmp_path / "other")
    assert longer.result()["test"]["loss"] == pytest.approx(expected.result()["test"]["loss"], rel=0.05)


@needs_cuda
@pytest.mark.parametrize("failure", ["terms['loss'].item()", "torch.zeros(3).cuda(non_blocking=True)"])
def test_a_phase_that_is_not_captured_leaves_the_graph_of_another_as_it_is(failure, install, tmp_path, monkeypatch):
    """The second phase aborts its capture; the first draws what its eager steps draw, and resumes exactly."""
    install(
        "acme-vae",
        "import zoo\n@zoo.hookimpl\ndef zoo_components():\n"
        "    yield zoo.Component('loss', 'adversary', 'acme_losses:Adversary')\n",
        acme_losses__py=f"""
            import torch, zoo
            class Adversary(zoo.get('loss', 'elbo')):
                def __init__(self):
                    super().__init__()
                    self.critic = torch.nn.Linear(2, 1)
                def criticize(self, vae, batch):
                    terms = {{"loss": (self.critic(vae.trace(batch).z) - 1).square().mean()}}
                    {failure}
                    return terms
                def phases(self, vae):
                    return [zoo.Phase("autoencoder", list(vae.parameters()), self),
                            zoo.Phase("critic", list(self.critic.parameters()), self.criticize)]
        """,
    )
    overrides = [*TINY, "loss=adversary", "train.epochs=2"]
    captured = zoo.train("mlp-vae", overrides, device="cuda", out=tmp_path / "captured")
    expected = eager(monkeypatch, "mlp-vae", overrides, device="cuda", out=tmp_path / "eager")
    assert captured.epochs()[-1].train["loss"] == pytest.approx(expected.epochs()[-1].train["loss"], rel=1e-4)
    again = zoo.resume(stopped("mlp-vae", overrides, 17, tmp_path / "stopped"))
    assert_same(essence(again), essence(captured))


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
