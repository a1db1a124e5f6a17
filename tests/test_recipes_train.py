"""Trainings from end to end, and combinations of components. What each promises by itself is in test_conformance.py."""

from __future__ import annotations

import itertools
import os
import random
import socket
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import zoo
from zoo.recipes.datasets import load_data
from zoo.recipes.schema import ComponentSpec

SHAPE = (1, 8, 8)
ON_DIGITS = ("data=digits", "train.epochs=1")


@pytest.fixture(scope="module")
def batch() -> zoo.Batch:
    """A training batch of digits."""
    images = load_data([ComponentSpec(use="digits")]).dataset.train
    return zoo.Batch(images.x[:64] / 255, images.labels[:64])


def weights(vae: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in vae.state_dict().items()}


def differ(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    assert one.keys() == other.keys()
    return any(not torch.equal(one[name], other[name]) for name in one)


def trained(model: str, out: Path, seed: int) -> tuple[zoo.Run, dict[str, Tensor]]:
    run = zoo.train(model, ON_DIGITS, seed=seed, device="cpu", out=out)
    return run, load_file(run.path / "model.safetensors")


@pytest.mark.parametrize("model", ["mlp-vae", "conv-vae"])
def test_a_seed_fixes_a_training_bit_for_bit(model, tmp_path):
    """Whatever state the global generator is in before."""
    torch.manual_seed(1)
    first, start = trained(model, tmp_path, seed=3)
    torch.manual_seed(2)
    second, again = trained(model, tmp_path, seed=3)
    assert first.path != second.path
    assert not differ(start, again)
    for one, two in zip(first.epochs(), second.epochs(), strict=True):
        assert (one.curve, one.train, one.test) == (two.curve, two.train, two.test)
    _, other = trained(model, tmp_path, seed=4)
    assert differ(start, other)


def test_training_moves_the_weights_that_a_seed_fixes(tmp_path):
    run, after = trained("mlp-vae", tmp_path, seed=3)
    torch.manual_seed(3)
    before = weights(zoo.create_model(run.recipe, data_shape=SHAPE))
    assert all(not torch.equal(before[name], after[name]) for name in before)


COMBINATIONS = list(
    itertools.product(
        ("mlp", "conv"),
        ("gaussian",),
        ("mlp", "conv"),
        ("bernoulli", "continuous-bernoulli", "gaussian"),
        ("standard-normal",),
        ("elbo", "mse"),
    )
)


@pytest.mark.parametrize(("encoder", "posterior", "decoder", "likelihood", "prior", "loss"), COMBINATIONS, ids="/".join)
def test_everything_goes_with_everything(encoder, posterior, decoder, likelihood, prior, loss, batch):
    """Any encoder with any posterior, decoder, likelihood, prior and loss, in a loop of one's own: two steps, so that
    the second meets what the first has changed.
    """
    recipe = zoo.recipe(
        "mlp-vae",
        [
            f"encoder={{use: {encoder}, posterior: {posterior}}}",
            f"decoder={{use: {decoder}, likelihood: {likelihood}}}",
            f"prior={prior}",
            f"loss={loss}",
            "latent_dim=3",
        ],
    )
    assert (recipe.encoder.parameters["posterior"], recipe.decoder.parameters["likelihood"]) == (posterior, likelihood)
    torch.manual_seed(0)
    vae, objective = zoo.create_model(recipe, data_shape=SHAPE), zoo.create_loss(recipe, data_shape=SHAPE)
    before = weights(vae)
    phases = [(phase, torch.optim.Adam(phase.parameters)) for phase in objective.phases(vae)]
    for step in range(2):
        objective.schedule(step, step / 10)
        for phase, optimizer in phases:
            terms = phase.objective(vae, batch)
            optimizer.zero_grad()
            torch.autograd.backward(terms["loss"], inputs=list(phase.parameters))
            optimizer.step()
            for name, value in terms.items():
                assert value.ndim == 0, name
                assert torch.isfinite(value), name
    assert differ(before, weights(vae))
    assert vae.sample(2).shape == (2, *SHAPE)


def process_state() -> dict[str, object]:
    """What a training could leave behind in its process, as far as others would notice."""
    import matplotlib as mpl

    return {
        "torch generator": torch.get_rng_state().tolist(),
        "numpy generator": str(np.random.get_state()),
        "random generator": random.getstate(),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "gradients": torch.is_grad_enabled(),
        "anomaly detection": torch.is_anomaly_enabled(),
        "deterministic": (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic),
        "matmul precision": torch.get_float32_matmul_precision(),
        "denormals": torch.tensor(1e-40).mul(1).item(),
        "working directory": Path.cwd(),
        "environment": dict(os.environ),
        "warning filters": list(warnings.filters),
        "socket timeout": socket.getdefaulttimeout(),
        "running threads": threading.active_count(),
        "matplotlib": (mpl.get_backend(), dict(mpl.rcParams)),
    }


@pytest.mark.parametrize("model", ["mlp-vae", "conv-vae"])
def test_a_training_leaves_no_trace_in_the_process(model, tmp_path):
    zoo.train(model, ON_DIGITS, out=tmp_path)  # what is only imported once is imported now
    # pytest sets a variable of its own for the phase of the test; it is the same before and after.
    torch.manual_seed(5)
    before = process_state()
    zoo.train(model, ON_DIGITS, out=tmp_path)
    after = process_state()
    for name, value in before.items():
        assert after[name] == value, name


def test_a_training_that_is_refused_leaves_no_trace_either(tmp_path):
    torch.manual_seed(5)
    before = process_state()
    with pytest.raises(zoo.ZooError):
        zoo.train("mlp-vae", [*ON_DIGITS, "train.optimizer.lr=1e20"], out=tmp_path)
    with pytest.raises(zoo.RecipeError):
        zoo.train("mlp-vae", [*ON_DIGITS, "latent_dim=0"], out=tmp_path)
    after = process_state()
    for name, value in before.items():
        assert after[name] == value, name


def test_a_recipe_that_is_trained_is_not_altered(tmp_path):
    recipe = zoo.recipe("mlp-vae", data="digits")
    before = recipe.to_raw()
    zoo.train(recipe, epochs=1, seed=9, out=tmp_path)
    assert recipe.to_raw() == before
    assert recipe == zoo.recipe("mlp-vae", data="digits")
