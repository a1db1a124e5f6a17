"""Gradient checkpointing of the spatial networks: the same numbers with less memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

import zoo
from resuming import stopped
from zoo_sweep.draws import CannotStack
from zoo_sweep.stacked import stacked_step, trainer_of


def recipe(model: str, checkpointing: object, **changes: Any) -> zoo.Recipe:
    """A small recipe; `checkpointing` is set in both networks, or in one of them by its name."""
    encoder: dict[str, Any] = {"channels": [4, 6], "blocks": 1, "groups": 2}
    decoder: dict[str, Any] = {"channels": [6, 4], "blocks": 1, "groups": 2}
    encoder["gradient_checkpointing"] = checkpointing in (True, "encoder")
    decoder["gradient_checkpointing"] = checkpointing in (True, "decoder")
    return zoo.recipe(model, {"data": "digits", "encoder": encoder, "decoder": decoder, **changes})


def pair(recipe: zoo.Recipe, shape: tuple[int, int, int] = (3, 12, 16)) -> tuple[zoo.VAE, zoo.Loss]:
    with zoo.seeded(0):
        return zoo.build(recipe, shape, 0, 100)


def gradients(recipe: zoo.Recipe, precision: str = "float32") -> list[Tensor]:
    """The loss of a batch and its gradients."""
    vae, loss = pair(recipe)
    (phase,) = loss.phases(vae)
    x = torch.rand(4, 3, 12, 16, generator=torch.Generator().manual_seed(1))
    with zoo.seeded(2), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        total = phase.objective(vae, zoo.Batch(x))["loss"]
    parameters = [parameter for parameter in phase.parameters if parameter.requires_grad]
    return [total, *torch.autograd.grad(total, parameters, allow_unused=True)]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", ["photo-vae", "autoencoder-kl", "vq-vae"])
def test_loss_and_gradients_are_bit_identical(model, precision):
    if model == "vq-vae":
        pytest.importorskip("vector_quantize_pytorch")
    expected = gradients(recipe(model, False), precision)
    assert expected[0].isfinite()
    for part in (True, "encoder", "decoder"):
        for ours, theirs in zip(gradients(recipe(model, part), precision), expected, strict=True):
            assert (ours is None) == (theirs is None)
            assert ours is None or torch.equal(ours, theirs)


def test_second_derivatives():
    changes = {"loss": "rae-gp"}
    expected, actual = (gradients(_deterministic(recipe("photo-vae", each, **changes))) for each in (False, True))
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def _deterministic(recipe: zoo.Recipe) -> zoo.Recipe:
    return zoo.recipe(recipe, {"encoder.posterior": "deterministic"})


def bytes_kept(recipe: zoo.Recipe) -> int:
    """Bytes of the activations that the gradient of the reconstruction needs, each storage counted once."""
    vae, _ = pair(recipe, (3, 32, 32))
    weights = {parameter.untyped_storage().data_ptr() for parameter in vae.parameters()}
    kept: dict[int, int] = {}
    tensors = []  # kept alive, so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            tensors.append(tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        vae.decode(vae.encode(torch.rand(2, 3, 32, 32)).rsample())
    return sum(kept.values())


def test_activations_are_not_kept():
    """Of each block, only the input is kept: with two convolutions and two norms, less than a third of the bytes."""
    channels = {"encoder": {"channels": [8, 8], "blocks": 3}, "decoder": {"channels": [8, 8], "blocks": 3}}
    none, encoder, both = (
        bytes_kept(zoo.recipe(recipe("photo-vae", each), {**channels, "encoder.attention": False}))
        for each in (False, "encoder", True)
    )
    assert both < none / 3
    assert both < encoder < none


def test_a_training_is_the_same_and_resumes(tmp_path):
    images = torch.rand(20, 1, 8, 8)
    options: dict[str, Any] = {"data": images, "figures": False}
    overrides = ["encoder.channels=[4,4]", "decoder.channels=[4,4]", "latent_dim=2", "train.epochs=2"]
    overrides.append("train.batch_size=9")  # two steps per epoch
    checkpointed = [*overrides, *(f"{part}.gradient_checkpointing=true" for part in ("encoder", "decoder"))]
    expected = zoo.train("photo-vae", overrides, out=tmp_path / "without", **options).load().state_dict()
    interrupted = stopped("photo-vae", checkpointed, 3, tmp_path / "with", **options)
    resumed = zoo.resume(interrupted.path, **options)
    assert resumed.recipe.encoder.parameters["gradient_checkpointing"] is True
    actual = resumed.load().state_dict()
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], value) for name, value in expected.items())


def test_a_frozen_decoder_passes_the_gradient_on():
    """A frozen part is in evaluation mode, and the encoder is trained through it."""
    grads = []
    for each in (False, True):
        vae, _ = pair(recipe("photo-vae", each))
        vae.decoder.eval().requires_grad_(False)
        with zoo.seeded(1):
            vae.decode(vae.encode(torch.full((2, 3, 12, 16), 0.3)).rsample()).mean.sum().backward()
        grads.append(vae.encoder.input.weight.grad)
    assert grads[0].abs().sum() > 0
    assert torch.equal(*grads)


def test_it_cannot_be_stacked():
    data = zoo.load_dataset("digits")
    with pytest.raises(CannotStack, match="gradient_checkpointing is set"):
        stacked_step([trainer_of(recipe("photo-vae", "decoder"), data) for _ in range(2)])
