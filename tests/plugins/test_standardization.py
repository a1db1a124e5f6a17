"""The shift and the scale of the latents of a run, and both directions of their use."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Independent, Normal

import zoo
from resuming import run_main
from toys import GivenPosterior, linear_gaussian_vae
from zoo.storage.files import sha256
from zoo_export.codes import encode
from zoo_export.decoding import decode, decode_file
from zoo_export.standardization import Standardization, measure, standardization


@pytest.fixture
def run(digits_run, tmp_path) -> zoo.Run:
    """A run of a test's own."""
    return zoo.Run(shutil.copytree(digits_run, tmp_path / "run"))


def test_the_latents_of_all_examples_are_measured():
    """Latents 3 x + 1 without noise: the shift is 3 mean(x) + 1, the scale 1 / (3 std(x))."""
    vae, x = linear_gaussian_vae(pixels=4), torch.randn(150, 1, 1, 4)
    vae.encoder = GivenPosterior(lambda x: Independent(Normal(3 * x.flatten(1) + 1, 1e-9), 1))
    measured = measure(vae, zoo.Loader(zoo.Split(x), 64), 150)
    assert measured.shift_factor == pytest.approx(3 * x.double().mean().item() + 1, rel=1e-6)
    assert measured.scaling_factor == pytest.approx(1 / (3 * x.double().std().item()), rel=1e-6)
    loader = zoo.Loader(zoo.Split(x), 64)
    part = 3 * x[loader.order(5, 0)[:70]].double() + 1
    assert measure(vae, loader, 70, seed=5).shift_factor == pytest.approx(part.mean().item(), rel=1e-6)


def test_latents_without_a_scale_are_refused():
    vae, images = linear_gaussian_vae(pixels=4), zoo.Loader(zoo.Split(torch.rand(5, 1, 1, 4)), 3)
    vae.encoder = GivenPosterior(lambda x: Independent(Categorical(logits=torch.zeros(len(x), 2, 3)), 1))
    with pytest.raises(zoo.UsageError, match="The latents are discrete"):
        measure(vae, images, 5)
    vae.encoder = GivenPosterior(lambda x: Independent(Normal(torch.ones(len(x), 2), 0.0, validate_args=False), 1))
    with pytest.raises(zoo.UsageError, match="The standard deviation of the latents is 0"):
        measure(vae, images, 5)


def test_both_directions_are_inverse():
    factors, z = Standardization(-0.75, 0.125), np.linspace(-3, 3, 7)
    np.testing.assert_allclose(factors.apply(z), (z + 0.75) / 8)
    np.testing.assert_allclose(factors.invert(factors.apply(z)), z)
    arrays = {"mean": z, "scale": z**2, "samples": z[None], "labels": np.arange(7)}
    scaled = factors.apply_to(arrays)
    np.testing.assert_allclose(scaled["mean"], (z + 0.75) / 8)
    np.testing.assert_allclose(scaled["scale"], z**2 / 8)
    np.testing.assert_allclose(scaled["samples"], (z[None] + 0.75) / 8)
    np.testing.assert_array_equal(scaled["labels"], np.arange(7))
    with pytest.raises(zoo.UsageError, match="the parameter 'logits' cannot be scaled"):
        factors.apply_to({"logits": z})


def test_the_factors_are_measured_once(run, monkeypatch):
    """They belong to the weights; other weights are measured again."""
    factors = standardization(run)
    content = json.loads((run.path / "latents.json").read_text())
    assert content == {
        "shift_factor": factors.shift_factor,
        "scaling_factor": factors.scaling_factor,
        "examples": 10_000,
        "weights_sha256": sha256(run.path / "model.safetensors"),
    }
    (run.path / "latents.json").write_text(json.dumps(content | {"weights_sha256": "0", "shift_factor": 7}))
    assert standardization(run) == factors
    (run.path / "latents.json").write_text("{")
    assert standardization(run) == factors
    monkeypatch.setattr(zoo.Run, "loaded", None)
    assert standardization(zoo.Run(run.path)) == factors
    zoo.Run(run.path).verify()


def test_scaled_latents_have_mean_0_and_variance_1(run):
    """1438 training images in 2 dimensions, 2 draws of each; the measured draws are others."""
    z, scaled = (encode(run, split="train", samples=2, scaled=scaled) for scaled in (False, True))
    factors = standardization(run)
    np.testing.assert_allclose(
        scaled["samples"], (z["samples"] - factors.shift_factor) * factors.scaling_factor, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(scaled["scale"], z["scale"] * factors.scaling_factor, rtol=1e-6)
    assert abs(scaled["samples"].mean()) < 0.03
    assert abs(scaled["samples"].std() - 1) < 0.03


@torch.no_grad()
def test_scaled_latents_are_decoded_to_the_same_images(run, tmp_path, capsys):
    expected = run.load().decode(torch.from_numpy(encode(run)["mean"])).mean.numpy()
    np.testing.assert_allclose(decode(run, encode(run)["mean"]), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        decode(run, encode(run, scaled=True)["mean"], scaled=True), expected, rtol=1e-4, atol=1e-5
    )
    codes, images = tmp_path / "codes.npz", tmp_path / "images.npy"
    assert run_main("encode", str(run.path), "--scaled", "-o", str(codes)) == 0
    assert run_main("decode", str(run.path), str(codes), "--scaled", "-o", str(images)) == 0
    np.testing.assert_allclose(np.load(images), expected, rtol=1e-4, atol=1e-5)
    assert "float32 (359, 1, 8, 8)" in capsys.readouterr().out
    np.save(tmp_path / "z.npy", encode(run)["mean"])
    np.testing.assert_allclose(decode_file(run, tmp_path / "z.npy"), expected, rtol=1e-5, atol=1e-6)


def test_labels_are_decoded_with_a_conditional_model(tmp_path):
    run = zoo.train("cvae", ["data=digits", "latent_dim=2"], train={"steps": 1}, out=tmp_path, device="cpu")
    z, labels = np.zeros((3, 2), np.float32), np.array([0, 1, 1])
    x = decode(run, z, labels)
    np.testing.assert_array_equal(x[1], x[2])
    assert np.abs(x[0] - x[1]).max() > 1e-4
    with pytest.raises(zoo.UsageError, match="There are 2 labels for 3 latents"):
        decode(run, z, labels[:2])


def test_latents_that_cannot_be_decoded_are_refused(run, tmp_path):
    with pytest.raises(zoo.UsageError, match=r"have shape \(N, 2\); these have \(4, 3\)"):
        decode(run, np.zeros((4, 3)))
    with pytest.raises(zoo.UsageError, match="not finite"):
        decode(run, np.full((4, 2), np.nan))
    np.savez(tmp_path / "z.npz", a=np.zeros((1, 2)), b=np.ones((1, 2)))
    with pytest.raises(zoo.UsageError, match="has no array 'mean'. Choose with --array from: a, b"):
        decode_file(run, tmp_path / "z.npz")
    (tmp_path / "z.safetensors").write_bytes(b"0")
    with pytest.raises(zoo.UsageError, match="cannot be read"):
        decode_file(run, tmp_path / "z.safetensors")
