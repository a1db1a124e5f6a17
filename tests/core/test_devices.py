"""Devices: by whatever name torch knows, and with a sentence where there is none of that name."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import zoo
from resuming import run_main
from zoo.model.context import reseed, seeded
from zoo.model.devices import device_name, float64, resolve_device
from zoo.training.distributed import local_device


@pytest.fixture
def mps(monkeypatch):
    """One device of a kind that is not here, as far as names go; its generator is a number."""
    state = {"seed": 0}
    module = SimpleNamespace(
        manual_seed=lambda seed: state.update(seed=seed),
        get_rng_state=lambda device: torch.tensor(state["seed"]),
        set_rng_state=lambda new, device: state.update(seed=int(new)),
    )
    original = torch.get_device_module
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("mps"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    monkeypatch.setattr(torch.accelerator, "set_device_index", lambda index: None)
    monkeypatch.setattr(
        torch, "get_device_module", lambda d: module if torch.device(d).type == "mps" else original(d)
    )  # fmt: skip
    return state


@pytest.fixture
def nothing_but_a_cpu(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 0)


@pytest.mark.parametrize(("name", "expected"), [("auto", "mps"), ("mps", "mps"), ("mps:0", "mps:0"), ("cpu", "cpu")])
def test_any_accelerator_has_its_name(name, expected, mps):
    assert resolve_device(name) == torch.device(expected)
    assert local_device(resolve_device(name)).type == torch.device(expected).type


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cuda", "There is no device 'cuda'. Available: auto, cpu, mps:0."),
        ("mps:7", "There is no device 'mps:7'. Available: auto, cpu, mps:0."),
        ("meta", "There is no device 'meta'. Available: auto, cpu, mps:0."),
        ("gpu", "There is no device 'gpu'. Available: auto, cpu, mps:0."),
        ("", "There is no device ''."),
        ("cuda:x", "There is no device 'cuda:x'."),
    ],
)
def test_a_device_that_is_not_here_is_refused(name, message, mps):
    with pytest.raises(zoo.UsageError) as error:
        resolve_device(name)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("name", ["mps", "cuda", "cuda:7", "xpu", "gpu", "cdua"])
@pytest.mark.parametrize(
    "command",
    [["train", "mlp-vae"], ["sweep", "mlp-vae", "latent_dim=2,3"], ["evaluate", "RUN"], ["encode", "RUN"],
     ["report", "RUN"], ["fit-prior", "RUN", "gaussian-mixture"]],
    ids=lambda command: command[0],
)  # fmt: skip
def test_every_command_says_so(command, name, digits_run, nothing_but_a_cpu, capsys, tmp_path, monkeypatch):
    """Issue 10, item 29: an unexpected error."""
    monkeypatch.chdir(tmp_path)
    arguments = [str(digits_run) if argument == "RUN" else argument for argument in command]
    arguments += ["data=digits"] if command[0] in ("train", "sweep") else []
    assert run_main(*arguments, "--device", name) == 2
    assert "Available: auto, cpu." in " ".join(capsys.readouterr().err.split())


@pytest.mark.skipif(torch.accelerator.is_available(), reason="torch seeds the accelerator that is here as well")
def test_draws_are_seeded_on_any_device_and_its_generator_is_put_back(mps):
    mps["seed"] = 5
    with seeded(3, "mps"):
        reseed(11, torch.device("mps"))
        assert mps["seed"] == 11
    assert mps["seed"] == 5


def test_numbers_that_a_device_does_not_have_are_those_of_the_cpu():
    class Narrow(torch.Tensor):
        def double(self):
            raise TypeError("the MPS framework doesn't support float64")

        def cpu(self):
            return self.as_subclass(torch.Tensor)

    value = float64(torch.full((2,), 0.5).as_subclass(Narrow))
    assert (value.dtype, value.tolist()) == (torch.float64, [0.5, 0.5])


def test_the_name_of_a_device(mps):
    assert (device_name(torch.device("cpu")), device_name(torch.device("mps"))) == ("cpu", "mps")


@pytest.mark.parametrize("capabilities", [{"avx512_bf16": False, "avx2": True}, {"amx_bf16": True}])
def test_a_processor_without_bfloat16_is_reported_and_recorded(capabilities, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    small = ["train.precision=bfloat16", "train.steps=1", "encoder.hidden=[4]", "decoder.hidden=[4]"]
    run = zoo.train("mlp-vae", small, data="digits", device="cpu", out=tmp_path, figures=False)
    has_instructions = "amx_bf16" in capabilities
    assert run.environment["bfloat16_instructions"] is has_instructions
    assert run.recipe.train.precision == "bfloat16"
    assert ("no bfloat16 instructions" in caplog.text) is not has_instructions
    zoo.train("mlp-vae", small[1:], data="digits", device="cpu", out=tmp_path / "float32", figures=False)
    assert caplog.text.count("no bfloat16 instructions") == (not has_instructions)
