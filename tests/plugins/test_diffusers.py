"""Folders of `diffusers.AutoencoderKL`, against diffusers where it is installed."""

from __future__ import annotations

import json

import pytest
import torch

import zoo
from resuming import run_main
from zoo_diffusers.folder import latent_factors, load_folder, save_folder
from zoo_diffusers.names import tensors

SMALL = {
    "encoder": {"channels": [4, 8, 8], "blocks": 1, "groups": 4},
    "decoder": {"channels": [8, 8, 4], "blocks": 2, "groups": 4},
}


def model(shape: tuple[int, ...] = (3, 16, 16), **changes: object) -> zoo.VAE:
    """Weights far from their initial values, biases and norms included."""
    torch.manual_seed(0)
    vae = zoo.create_model("autoencoder-kl", data_shape=shape, latent_dim=2, **{**SMALL, **changes}).eval()
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return vae


def test_a_folder_is_read_as_it_was_written(tmp_path):
    vae = model((3, 12, 16))
    save_folder(vae, tmp_path / "kl")
    loaded = load_folder(tmp_path / "kl", size=(12, 16)).eval()
    x = torch.rand(2, 3, 12, 16)
    torch.testing.assert_close(loaded.encode(x).mean, vae.encode(x).mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loaded.encode(x).stddev, vae.encode(x).stddev, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loaded.reconstruct(x), vae.reconstruct(x), rtol=1e-5, atol=1e-5)


def test_every_parameter_has_a_name():
    vae = model()
    named = tensors(vae.encoder, vae.decoder)
    owned = {id(parameter) for part in (vae.encoder, vae.decoder) for parameter in part.parameters()}
    assert {id(parameter) for parameter in named.values()} == owned
    assert len(named) == len(owned)


@pytest.mark.parametrize("attention", [True, False])
def test_diffusers_computes_the_same(attention, tmp_path):
    """Posterior and reconstruction to 1e-5, of images in [0, 1] here and in [-1, 1] there."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    parts = {name: {**part, "attention": attention} for name, part in SMALL.items()}
    vae = model(**parts)
    images = torch.rand(20, 3, 16, 16)
    save_folder(vae, tmp_path / "kl", images)
    theirs = diffusers.AutoencoderKL.from_pretrained(tmp_path / "kl").eval()
    x = torch.rand(3, 3, 16, 16)
    with torch.no_grad():
        q, p = vae.encode(x), theirs.encode(2 * x - 1).latent_dist
        torch.testing.assert_close(q.mean, p.mean.movedim(1, -1), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(q.stddev, p.std.movedim(1, -1), rtol=1e-5, atol=1e-5)
        z = torch.randn(3, 4, 4, 2)
        decoded = theirs.decode(z.movedim(-1, 1)).sample
        torch.testing.assert_close(vae.decode(z).mean, (decoded + 1) / 2, rtol=1e-5, atol=1e-5)
    shift, scale = latent_factors(vae, images)
    assert (theirs.config.shift_factor, theirs.config.scaling_factor) == (shift, scale)


@pytest.mark.parametrize("quant", [True, False])
def test_a_model_of_diffusers_is_read(quant, tmp_path):
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    torch.manual_seed(0)
    theirs = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=8,
        use_quant_conv=quant,
        use_post_quant_conv=quant,
    ).eval()
    theirs.save_pretrained(tmp_path / "kl")
    vae = load_folder(tmp_path / "kl").eval()
    x = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        p = theirs.encode(2 * x - 1).latent_dist
        torch.testing.assert_close(vae.encode(x).mean, p.mean.movedim(1, -1), rtol=1e-5, atol=1e-5)
        decoded = theirs.decode(p.mean).sample
        torch.testing.assert_close(vae.reconstruct(x), (decoded + 1) / 2, rtol=1e-5, atol=1e-5)
    vae.train()(x).log_px.sum().backward()
    assert all(parameter.grad is not None for parameter in vae.decoder.parameters())


def test_latent_factors_standardize_the_latents():
    vae, images = model(), torch.rand(70, 3, 16, 16)
    shift, scale = latent_factors(vae, images)
    with zoo.seeded(0), torch.no_grad():
        z = torch.cat([vae.encode(images[:64]).sample(), vae.encode(images[64:]).sample()])
    standardized = (z.double() - shift) * scale
    assert standardized.mean().item() == pytest.approx(0, abs=1e-6)
    assert standardized.std().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder": {**SMALL["decoder"], "blocks": 1}}, "one block per stage more than the encoder"),
        ({"decoder": {**SMALL["decoder"], "channels": [8, 8, 8]}}, "channels of the encoder in reverse order"),
        ({"decoder": {**SMALL["decoder"], "groups": 2}}, "same number of groups"),
        ({"decoder": {**SMALL["decoder"], "attention": False}}, "same `attention`"),
        ({"encoder": {**SMALL["encoder"], "features": 5}}, "features: null"),
        ({"encoder": {**SMALL["encoder"], "posterior": {"scale": "softplus"}}}, "scale: exp"),
        ({"decoder": {**SMALL["decoder"], "likelihood": "bernoulli"}}, "one parameter per entry, its mean"),
        ({"decoder": {**SMALL["decoder"], "likelihood": "discretized-logistic"}}, "one parameter per entry"),
        ({"encoder": "mlp", "decoder": "mlp"}, "is for the encoder and the decoder 'spatial'"),
    ],
)
def test_what_diffusers_cannot_express_is_refused(changes, message, tmp_path):
    with pytest.raises(zoo.ExportError, match=message):
        save_folder(model(**changes), tmp_path / "kl")
    assert not (tmp_path / "kl").exists()


def test_a_folder_that_is_not_a_model_is_refused(tmp_path):
    with pytest.raises(zoo.UsageError, match="is not a folder of diffusers.AutoencoderKL"):
        load_folder(tmp_path)
    save_folder(model(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change, message in (
        ({"act_fn": "relu"}, "act_fn must be silu, not relu"),
        ({"layers_per_block": 2}, "does not match its configuration"),
        ({"block_out_channels": [4, 8, 16]}, "does not match its configuration"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(zoo.UsageError, match=message):
            load_folder(tmp_path)


def test_a_run_is_exported(tmp_path, capsys):
    """With the shift and the scale of the latents of its training images."""
    changes = {name: {**part, "channels": [4, 4], "groups": 2} for name, part in SMALL.items()}
    run = zoo.train("autoencoder-kl", data="digits", train={"steps": 2}, **changes, out=tmp_path, device="cpu")
    assert run_main("export", str(run.path), "--format", "diffusers", "-o", str(tmp_path / "kl")) == 0
    config = json.loads((tmp_path / "kl" / "config.json").read_text())
    shift, scale = latent_factors(run.load(), run.loaded().dataset.train.x[:1000] / 255)
    assert (config["shift_factor"], config["scaling_factor"]) == (shift, scale)
    assert f"scaling_factor {scale:.4g}" in capsys.readouterr().out
    loaded = load_folder(tmp_path / "kl").eval()
    x = run.test_images(3)
    torch.testing.assert_close(loaded.reconstruct(x), run.load().reconstruct(x), rtol=1e-5, atol=1e-5)
    assert run_main("export", str(run.path), "--format", "diffusers", "--part", "encoder") == 2
