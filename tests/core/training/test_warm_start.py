"""Training from the weights of another run, and with frozen parts."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

import zoo
from resuming import TINY, assert_same, essence, stopped
from zoo.storage.files import sha256

STILL = "train.optimizer={use: SGD, lr: 0.0}"
WIDER = ("data=digits", "latent_dim=2", "encoder.hidden=[8]", "decoder.hidden=[9]")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return zoo.train("mlp-vae", [*TINY, "train.epochs=1"], out=tmp_path_factory.mktemp("source"))


def state_of(run: zoo.Run) -> dict[str, torch.Tensor]:
    return load_file(run.path / "model.safetensors")


def part_of(state: dict[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state.items() if name.startswith(f"{part}.")}


def test_the_weights_of_another_run_are_the_first_ones(source, tmp_path):
    """With a learning rate of 0, the result is the initial model."""
    run = zoo.train("mlp-vae", [*TINY, STILL], init=source, seed=7, epochs=1, out=tmp_path)
    assert_same(state_of(run), state_of(source))
    assert run.environment["init"] == {
        "run": str(source.path),
        "sha256": sha256(source.path / "model.safetensors"),
        "parts": ["encoder", "decoder", "prior"],
        "not_initialized": [],
    }


def test_a_part_alone(source, tmp_path):
    plain = zoo.train("mlp-vae", [*TINY, STILL], seed=7, epochs=1, out=tmp_path / "plain")
    run = zoo.train("mlp-vae", [*TINY, STILL], init=source, init_parts=["encoder"], seed=7, epochs=1, out=tmp_path)
    assert_same(part_of(state_of(run), "encoder"), part_of(state_of(source), "encoder"))
    assert_same(part_of(state_of(run), "decoder"), part_of(state_of(plain), "decoder"))


def test_shapes_that_differ_are_listed_and_refused(source, tmp_path):
    with pytest.raises(zoo.UsageError) as raised:
        zoo.train("mlp-vae", WIDER, init=source, out=tmp_path)
    message = str(raised.value)
    assert "decoder.trunk.1.weight: 9x2 in the model, 8x2 in the run" in message
    assert "encoder" not in message.split("\n", 1)[1].split("Choose")[0]
    assert "--init-part" in message
    assert not list(tmp_path.iterdir())


def test_shapes_that_differ_keep_their_new_values_on_request(source, tmp_path):
    plain = zoo.train("mlp-vae", [*WIDER, STILL], seed=7, epochs=1, out=tmp_path / "plain")
    run = zoo.train("mlp-vae", [*WIDER, STILL], init=source, init_partial=True, seed=7, epochs=1, out=tmp_path)
    assert_same(part_of(state_of(run), "encoder"), part_of(state_of(source), "encoder"))
    skipped = run.environment["init"]["not_initialized"]
    assert "decoder.trunk.1.weight" in skipped
    assert all(torch.equal(state_of(run)[name], state_of(plain)[name]) for name in skipped)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init_parts": ["encodr"]}, r"There is no part 'encodr'\. Did you mean 'encoder'\?"),
        ({"init_parts": ["prior"]}, r"prior of this model has no weights to initialize"),
    ],
)
def test_parts_that_cannot_be_initialized(options, message, source, tmp_path):
    with pytest.raises(zoo.UsageError, match=message):
        zoo.train("mlp-vae", TINY, init=source, out=tmp_path, **options)
    with pytest.raises(zoo.UsageError, match="require --init"):
        zoo.train("mlp-vae", TINY, out=tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_a_warm_start_resumes_to_the_same_bits(source, tmp_path):
    options = {"init": source, "epochs": 2}
    undisturbed = zoo.train("mlp-vae", TINY, out=tmp_path / "whole", **options)
    run = stopped("mlp-vae", [*TINY, "train.epochs=2"], 5, tmp_path, init=source)
    assert run.environment["init"] == undisturbed.environment["init"]
    assert_same(essence(zoo.resume(run)), essence(undisturbed))


FROZEN = ("encoder", "decoder")


@pytest.mark.parametrize("part", FROZEN)
@pytest.mark.parametrize("model", sorted(zoo.list_models()))
def test_a_frozen_part_keeps_every_bit(model, part):
    """Parameters, running means and codebooks are unchanged; the other parts are trained."""
    recipe = zoo.recipe(model, {"data": "digits", "train.steps": 2, "train.freeze": [part], "train.ema_decay": 0.5})
    data = zoo.load_dataset("digits")
    data = zoo.Dataset(data.train.part(0, 64), data.test.part(0, 16))
    torch.manual_seed(0)
    vae, loss = zoo.build(recipe, data.shape, data.classes, len(data.train))
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    trainer = zoo.Trainer(vae, loss, data, recipe.train, binarize=recipe.binarize, progress=False)
    trainer.fit()
    trainer.model.cpu()
    assert_same(part_of(trainer.model.state_dict(), part), part_of(before, part))
    other = next(name for name in FROZEN if name != part)
    moved = part_of(trainer.model.state_dict(), other)
    assert any(not torch.equal(value, before[name]) for name, value in moved.items())
