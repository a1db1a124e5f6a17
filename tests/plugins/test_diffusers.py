"""Folders of `diffusers.AutoencoderKL`, against diffusers where it is installed."""

from __future__ import annotations

import json
import math
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import zoo
from resuming import When, assert_same, run_main, send
from zoo_diffusers.folder import save_folder
from zoo_diffusers.names import decoder_tensors, encoder_tensors
from zoo_diffusers.reference import require_equal
from zoo_export.standardization import standardization

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


def stored(folder: Path, shape: tuple[int, ...] = (3, 16, 16), latent_dim: int = 2, **decoder: object) -> zoo.VAE:
    """The model of a folder."""
    part = {"use": "diffusers", "folder": str(folder)}
    return zoo.create_model(
        "autoencoder-kl", data_shape=shape, latent_dim=latent_dim, encoder=part, decoder={**part, **decoder}
    )


def test_a_folder_is_read_as_it_was_written(tmp_path):
    vae = model((3, 12, 16))
    save_folder(vae, tmp_path / "kl")
    loaded = stored(tmp_path / "kl", (3, 12, 16)).eval()
    x = torch.rand(2, 3, 12, 16)
    torch.testing.assert_close(loaded.encode(x).mean, vae.encode(x).mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loaded.encode(x).stddev, vae.encode(x).stddev, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loaded.reconstruct(x), vae.reconstruct(x), rtol=1e-5, atol=1e-5)


def test_every_parameter_has_a_name():
    vae = model()
    for part, named in ((vae.encoder, encoder_tensors(vae.encoder)), (vae.decoder, decoder_tensors(vae.decoder))):
        owned = {id(parameter) for parameter in part.parameters()}
        assert {id(parameter) for parameter in named.values()} == owned
        assert len(named) == len(owned)


@pytest.mark.parametrize("attention", [True, False])
def test_diffusers_computes_the_same(attention, tmp_path):
    """Posterior and reconstruction to 1e-5, of images in [0, 1] here and in [-1, 1] there."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    parts = {name: {**part, "attention": attention} for name, part in SMALL.items()}
    vae = model(**parts)
    save_folder(vae, tmp_path / "kl", shift=0.25, scale=0.5)
    theirs = diffusers.AutoencoderKL.from_pretrained(tmp_path / "kl").eval()
    x = torch.rand(3, 3, 16, 16)
    with torch.no_grad():
        q, p = vae.encode(x), theirs.encode(2 * x - 1).latent_dist
        torch.testing.assert_close(q.mean, p.mean.movedim(1, -1), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(q.stddev, p.std.movedim(1, -1), rtol=1e-5, atol=1e-5)
        z = torch.randn(3, 4, 4, 2)
        decoded = theirs.decode(z.movedim(-1, 1)).sample
        torch.testing.assert_close(vae.decode(z).mean, (decoded + 1) / 2, rtol=1e-5, atol=1e-5)
    assert (theirs.config.shift_factor, theirs.config.scaling_factor) == (0.25, 0.5)


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
    vae = stored(tmp_path / "kl", (3, 8, 8), latent_dim=4).eval()
    x = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        p = theirs.encode(2 * x - 1).latent_dist
        torch.testing.assert_close(vae.encode(x).mean, p.mean.movedim(1, -1), rtol=1e-5, atol=1e-5)
        decoded = theirs.decode(p.mean).sample
        torch.testing.assert_close(vae.reconstruct(x), (decoded + 1) / 2, rtol=1e-5, atol=1e-5)
    vae.train()(x).log_px.sum().backward()
    assert all(parameter.grad is not None for parameter in vae.decoder.parameters())


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"act_fn": "relu"}, "act_fn in config.json: input should be 'silu', and is 'relu'"),
        ({"down_block_types": ["AttnDownEncoderBlock2D"]}, "down_block_types in config.json: input should be 'Down"),
        ({"_class_name": "AutoencoderTiny"}, "_class_name in config.json: input should be 'AutoencoderKL'"),
        ({"norm_num_groups": None}, "norm_num_groups in config.json"),
        ({"out_channels": 1}, "out_channels in config.json should be in_channels, 3"),
        ({"layers_per_block": 2}, "does not match its configuration: encoder.down_blocks"),
        ({"block_out_channels": [4, 12, 12]}, r"conv1.weight has shape \(8, 4, 3, 3\), not \(12, 4, 3, 3\)"),
        ({"latent_channels": 4}, "latent_channels in .*/config.json is 4. Set latent_dim=4."),
    ],
)
def test_a_folder_that_the_networks_cannot_represent_is_refused(change, message, tmp_path):
    save_folder(model(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(zoo.ZooError, match=message):
        stored(tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(zoo.RecipeError, match="encoder.folder: expected a folder of diffusers.AutoencoderKL"):
        stored(tmp_path)
    save_folder(model(), tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"0" * 100)
    with pytest.raises(zoo.RecipeError, match="decoder.folder: expected a folder of diffusers.AutoencoderKL"):
        stored(tmp_path)


def test_other_images_and_likelihoods_are_refused(tmp_path):
    save_folder(model(), tmp_path)
    with pytest.raises(zoo.ComponentError, match="images with 3 channels, in_channels in .*; these have 1"):
        stored(tmp_path, (1, 16, 16))
    for likelihood in ("bernoulli", "discretized-logistic"):
        with pytest.raises(zoo.ComponentError, match="needs one parameter per entry, the mean, such as gaussian"):
            stored(tmp_path, likelihood=likelihood)


def test_former_names_and_half_precision_are_read(tmp_path):
    """Folders of diffusers before 0.15 have other names in the attention, whose layers may be 1x1 convolutions."""
    vae = model()
    save_folder(vae, tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    former = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for now, before in former.items():
        for part in ("encoder", "decoder"):
            for kind in ("weight", "bias"):
                value = weights.pop(f"{part}.mid_block.attentions.0.{now}.{kind}")
                value = value[..., None, None] if kind == "weight" else value
                weights[f"{part}.mid_block.attentions.0.{before}.{kind}"] = value
    save_file({name: value.half().contiguous() for name, value in weights.items()}, file)
    loaded = stored(tmp_path).encoder.middle[1].query.weight
    assert torch.equal(loaded, vae.encoder.middle[1].query.weight.half().float())


TINY = {"encoder": {"channels": [4, 4], "blocks": 1, "groups": 2}, "decoder": {"channels": [4, 4], "groups": 2}}
DIGITS = ["data=digits", "latent_dim=2"]


@pytest.fixture
def digits_folder(tmp_path):
    """The folder of a small model of digits."""
    save_folder(model((1, 8, 8), **TINY), tmp_path / "kl")
    return tmp_path / "kl"


def trained(start: Path, **changes: object) -> zoo.Run:
    part = {"use": "diffusers", "folder": str(start)}
    return zoo.train("autoencoder-kl", DIGITS, encoder=part, decoder=part, **changes, out=start.parent, device="cpu")


def test_a_run_is_loaded_and_resumed_without_the_folder(digits_folder):
    """The weights after training differ from those of the folder; a resumed run equals an uninterrupted one."""
    initial = stored(digits_folder, (1, 8, 8))
    run = trained(digits_folder, train={"steps": 3})
    longer = trained(digits_folder, train={"steps": 30, "epochs": 1})
    half = zoo.Run(longer.path.parent / "half")
    stop = [When(5, send(signal.SIGTERM))]
    with pytest.raises(zoo.Interrupted):
        trained(digits_folder, train={"steps": 30, "epochs": 1}, folder=half.path, callbacks=stop)
    shutil.rmtree(digits_folder)
    loaded = zoo.load(run.path)
    difference = loaded.encoder.input.weight - initial.encoder.input.weight
    assert 0 < difference.abs().max() < 0.01, "three steps of Adam with a learning rate of 0.001"
    assert_same(zoo.resume(half.path).load().state_dict(), zoo.load(longer.path).state_dict())
    with pytest.raises(zoo.UsageError, match="which is missing or was changed. Restore the file"):
        zoo.train(str(run.path / "recipe.yaml"), out=digits_folder.parent)


def test_training_from_a_folder_starts_at_its_values(digits_folder):
    """Frozen, both parts are those of the folder. Other weights at the path are not those of the run's recipe."""
    initial = stored(digits_folder, (1, 8, 8))
    run = trained(digits_folder, train={"steps": 2, "freeze": ["encoder", "decoder"]}, prior="mixture")
    assert_same(dict(run.load().encoder.named_parameters()), dict(initial.encoder.named_parameters()))
    save_folder(run.load(), digits_folder, scale=2.0)
    weights = load_file(digits_folder / "diffusion_pytorch_model.safetensors")
    save_file(
        {name: 2 * value for name, value in weights.items()}, digits_folder / "diffusion_pytorch_model.safetensors"
    )
    assert_same(dict(zoo.load(run.path).decoder.named_parameters()), dict(initial.decoder.named_parameters()))
    with pytest.raises(zoo.UsageError, match="which is missing or was changed"):
        zoo.train(str(run.path / "recipe.yaml"), out=digits_folder.parent)


def test_other_losses_train_it(digits_folder):
    for loss in ("adversarial", {"use": "iwae", "samples": 2}):
        run = trained(digits_folder, loss=loss, train={"steps": 1})
        assert math.isfinite(run.epochs()[-1].train["loss"])


def test_a_run_is_exported(tmp_path, capsys):
    """With the shift and the scale of the latents of its training images."""
    run = zoo.train("autoencoder-kl", DIGITS, train={"steps": 2}, **TINY, out=tmp_path, device="cpu")
    assert run_main("export", str(run.path), "--format", "diffusers", "-o", str(tmp_path / "kl")) == 0
    config = json.loads((tmp_path / "kl" / "config.json").read_text())
    measured = standardization(run)
    assert (config["shift_factor"], config["scaling_factor"]) == (measured.shift_factor, measured.scaling_factor)
    assert f"scaling_factor {measured.scaling_factor:.4g}" in capsys.readouterr().out
    loaded = stored(tmp_path / "kl", (1, 8, 8)).eval()
    x = run.test_images(3)
    torch.testing.assert_close(loaded.reconstruct(x), run.load().reconstruct(x), rtol=1e-5, atol=1e-5)
    assert run_main("export", str(run.path), "--format", "diffusers", "--part", "encoder") == 2
    assert "Omit --part" in capsys.readouterr().err
    assert run_main("export", str(run.path), "--format", "torch", "--check") == 2
    assert "--check is for the format diffusers" in capsys.readouterr().err


def test_an_export_is_compared_by_diffusers(tmp_path):
    pytest.importorskip("diffusers", reason="diffusers is not installed")
    vae = model((3, 13, 16))
    save_folder(vae, tmp_path / "kl")
    assert 0 <= require_equal(vae, tmp_path / "kl") < 1e-5
    with torch.no_grad():
        vae.decoder.output[2].bias += 0.01
    with pytest.raises(zoo.ExportError, match="diffusers computes another reconstruction .* difference is 0.01"):
        require_equal(vae, tmp_path / "kl")


def test_the_extra_is_named_where_it_is_needed(tmp_path, monkeypatch, capsys):
    """Only --check imports diffusers."""
    monkeypatch.setitem(sys.modules, "diffusers", None)
    run = zoo.train("autoencoder-kl", DIGITS, train={"steps": 1}, **TINY, out=tmp_path, device="cpu")
    assert run_main("export", str(run.path), "--format", "diffusers", "--check") == 2
    assert "pip install 'vae-zoo[diffusers]'" in capsys.readouterr().err
    assert not (run.path / "export-diffusers").exists()
    assert run_main("export", str(run.path), "--format", "diffusers") == 0
