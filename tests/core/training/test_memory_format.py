"""`train.memory_format=channels-last`: another layout in memory, and the same model up to rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import zoo
from resuming import assert_same, essence, perturb_generators, stopped
from zoo_sweep.draws import CannotStack
from zoo_sweep.stacked import stacked_step, trainer_of

OVERRIDES = ["encoder.channels=[3,4]", "decoder.channels=[4,3]", "latent_dim=2", "train.epochs=3", "train.batch_size=8"]
CHANNELS_LAST = [*OVERRIDES, "train.memory_format=channels-last"]
IMAGES = torch.rand(22, 3, 8, 8, generator=torch.Generator().manual_seed(0))
OPTIONS: dict[str, Any] = {"data": IMAGES, "figures": False}


def test_the_same_model_up_to_rounding(tmp_path):
    expected = zoo.train("resnet-vae", OVERRIDES, out=tmp_path, **OPTIONS)
    run = zoo.train("resnet-vae", CHANNELS_LAST, out=tmp_path, **OPTIONS)
    assert run.recipe.train.memory_format == "channels-last"
    assert expected.recipe.train.memory_format == "contiguous"
    weights = expected.load().state_dict()
    for name, value in run.load().state_dict().items():
        torch.testing.assert_close(value, weights[name], rtol=1e-3, atol=1e-4)
    for ours, theirs in zip(run.epochs(), expected.epochs(), strict=True):
        assert ours.train == pytest.approx(theirs.train, rel=1e-4)


def test_a_stopped_training_resumes_to_the_same_bits(tmp_path):
    """In the middle of an epoch, with averaged weights."""
    overrides = [*CHANNELS_LAST, "train.ema_decay=0.5", "data.validation=4"]
    undisturbed = essence(zoo.train("resnet-vae", overrides, out=tmp_path / "undisturbed", **OPTIONS))
    run = stopped("resnet-vae", overrides, 3, tmp_path, **OPTIONS)
    perturb_generators()
    assert_same(essence(zoo.resume(run.path, **OPTIONS)), undisturbed)


def test_convolutions_and_their_activations_have_the_format():
    """The batch is contiguous; the first convolution returns channels-last, and the other layers keep the format."""
    recipe = zoo.recipe("resnet-vae", {"train.memory_format": "channels-last", "data": "digits"})
    trainer = trainer_of(recipe, zoo.Dataset(zoo.Split(IMAGES), zoo.Split(IMAGES)))
    strides = {}
    for name, layer in trainer.vae.encoder.named_modules():
        if isinstance(layer, torch.nn.Conv2d):
            assert layer.weight.is_contiguous(memory_format=torch.channels_last)
            layer.register_forward_hook(lambda _, __, y, name=name: strides.update({name: y.stride(1)}))
    trainer.train_epoch()
    assert len(strides) > 2
    assert set(strides.values()) == {1}


def test_it_cannot_be_stacked():
    recipe = zoo.recipe("conv-vae", {"train.memory_format": "channels-last", "data": "digits"})
    with pytest.raises(CannotStack, match="train.memory_format=channels-last"):
        stacked_step([trainer_of(recipe, zoo.load_dataset("digits")) for _ in range(2)])
