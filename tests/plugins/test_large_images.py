"""Whatever needs no gradient computes large images a few at a time, since a network needs many times their memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from zoo_export.decoding import decode
from zoo_export.shards import encode_shards
from zoo_images.layers import SelfAttention

SHAPE = (3, 256, 256)
AT_ONCE = 5
"""2^20 entries have 5 of these images."""


@pytest.fixture
def computed(monkeypatch) -> list[int]:
    """The number of images of each call of an encoder or a decoder."""
    sizes: list[int] = []
    encode, decode = zoo.VAE.encode, zoo.VAE.decode

    def encoded(vae: zoo.VAE, x: Tensor, *rest):
        sizes.append(len(x))
        return encode(vae, x, *rest)

    def decoded(vae: zoo.VAE, z: Tensor, *rest):
        sizes.append(z.shape[: -len(vae.latent_shape)].numel())
        return decode(vae, z, *rest)

    monkeypatch.setattr(zoo.VAE, "encode", encoded)
    monkeypatch.setattr(zoo.VAE, "decode", decoded)
    return sizes


def test_large_images_are_computed_a_few_at_a_time(computed, tmp_path):
    images = torch.randint(256, (16, *SHAPE), dtype=torch.uint8)
    data = zoo.Dataset(zoo.Split(images[:4]), zoo.Split(images[4:]))
    small = {"encoder.hidden": [2], "decoder.hidden": [2], "latent_dim": 2, "train.batch_size": 2}
    run = zoo.train("mlp-vae-mse", small, data=data, epochs=1, folder=tmp_path / "run", figures=False, device="cpu")
    trained = computed.copy()
    zoo.evaluate(run, ["elbo", "log-likelihood"], {"log-likelihood": {"samples": 12}}, data=data, device="cpu")
    encode_shards(run, images, tmp_path / "latents", device="cpu")
    decoded = decode(run, torch.zeros(12, 2).numpy(), device="cpu")
    assert decoded.shape == (12, *SHAPE)
    for sizes in (trained, computed[len(trained) :]):
        assert max(sizes) == AT_ONCE


def test_many_large_samples_and_reconstructions_are_computed_in_parts(computed):
    hidden = {"hidden": [2]}
    small: dict[str, Any] = {"encoder": hidden, "decoder": hidden, "data_shape": SHAPE, "latent_dim": 2}
    vae, x = zoo.create_model("mlp-vae", **small), torch.rand(12, *SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(vae.reconstruct(x)[7:8], vae.decode(vae.encode(x[7:8]).mean).mean)
        assert vae.sample(12).shape == (12, *SHAPE)
        nested = {part: {part: small[part]} for part in ("encoder", "decoder")}
        conditional = zoo.create_model("cvae", classes=3, **(small | nested))
        assert conditional.sample(12, mean=True).shape == (12, *SHAPE)
        assert conditional.sample(4, torch.arange(3)).shape == (4, 3, *SHAPE)
    assert max(computed) == AT_ONCE


def test_attention_without_gradients_is_the_same_and_needs_less_memory():
    attention, x = SelfAttention(8, 2), torch.randn(2, 8, 5, 7)
    expected = attention(x)
    with torch.no_grad():
        torch.testing.assert_close(attention(x), expected, rtol=1e-5, atol=1e-6)
        with torch.profiler.profile(profile_memory=True) as profile:
            attention(torch.randn(1, 8, 64, 64))
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert largest < 4096**2, "the weights between 64 x 64 positions have 4096^2 entries"


def test_the_number_of_samples_at_once_does_not_change_an_estimate():
    vae = zoo.create_model("mlp-vae", data_shape=(1, 64, 128), encoder={"hidden": [4]}, decoder={"hidden": [4]})
    x = torch.bernoulli(torch.full((2, 1, 64, 128), 0.5))
    by_default, at_once = (vae.log_likelihood(x, 300, seed=0, chunk_size=size) for size in (None, 300))
    torch.testing.assert_close(by_default, at_once, rtol=1e-6, atol=0.0)
