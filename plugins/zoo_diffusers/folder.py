"""Write and read a folder of `diffusers.AutoencoderKL`: ``config.json`` and ``diffusion_pytorch_model.safetensors``.

Pixels are in [0, 1] here and in [-1, 1] in diffusers. The encoder of the zoo maps them to [-1, 1] itself; the last
convolution of the decoder is multiplied by 2 and shifted by -1, which is exact up to rounding.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

import zoo
from zoo import VAE, ExportError, UsageError, evaluating, seeded
from zoo_diffusers.names import tensors
from zoo_images.layers import ResidualBlock, SelfAttention
from zoo_images.spatial import SpatialDecoder, SpatialEncoder

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
CONV_OUT = "decoder.conv_out"
FIXED = {"act_fn": "silu"}
MEASURED = 1000
"""Largest number of images on which latents are measured."""
SIZE = 64
"""Images per batch when latents are measured."""


def export_run(run: zoo.Run, folder: Path | None = None) -> Path:
    """Write the model of a run, as ``zoo export RUN --format diffusers`` does. Latents are measured on its training
    images, at most 1000.

    Args:
        run: the run.
        folder: by default ``export-diffusers`` in the run.

    Returns:
        The folder.

    Raises:
        ExportError: the model has no counterpart in diffusers.
        UsageError: the folder cannot be written.
        DataError: the data of the run are not available.
    """
    folder = run.output / "export-diffusers" if folder is None else folder
    x = run.loaded().dataset.train.x[:MEASURED]
    save_folder(run.load(), folder, x / 255 if x.dtype == torch.uint8 else x)
    return folder


def save_folder(vae: VAE, folder: Path | str, images: Tensor | None = None) -> None:
    """Write a model as a folder that ``AutoencoderKL.from_pretrained`` reads.

    Args:
        vae: a model with the encoder and the decoder `spatial`, such as `autoencoder-kl`.
        folder: the folder; created if it does not exist.
        images: (N, C, H, W) in [0, 1], from whose latents ``shift_factor``, their mean, and ``scaling_factor``, the
            inverse of their standard deviation, are measured. Without them the factors are 0 and 1.

    Raises:
        ExportError: the model has no counterpart in diffusers; the message gives the reason.
    """
    encoder, decoder = vae.encoder, vae.decoder
    if not isinstance(encoder, SpatialEncoder) or not isinstance(decoder, SpatialDecoder):
        raise ExportError("The format diffusers is for the encoder and the decoder 'spatial', as in autoencoder-kl.")
    config = _config(vae, encoder, decoder)
    weights = {name: value.detach().cpu().float() for name, value in tensors(encoder, decoder).items()}
    weights["quant_conv.weight"] = weights["quant_conv.weight"][..., None, None]
    weights[f"{CONV_OUT}.weight"] = 2 * weights[f"{CONV_OUT}.weight"]
    weights[f"{CONV_OUT}.bias"] = 2 * weights[f"{CONV_OUT}.bias"] - 1
    shift, scale = (0.0, 1.0) if images is None else latent_factors(vae, images)
    config |= {"shift_factor": shift, "scaling_factor": scale}
    folder = Path(folder)
    contents = {
        CONFIG: json.dumps(config, indent=2).encode() + b"\n",
        WEIGHTS: save({name: value.contiguous() for name, value in weights.items()}, {"format": "pt"}),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            with zoo.atomic_write(folder / name) as file:
                file.write(content)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror or error}") from error


@torch.no_grad()
def latent_factors(vae: VAE, images: Tensor) -> tuple[float, float]:
    """Mean and inverse standard deviation of all entries of draws from q(z | x). A diffusion model is trained on
    (z - shift) scale.

    Args:
        vae: the model.
        images: (N, C, H, W) in [0, 1].
    """
    with evaluating(vae), seeded(0, images.device):
        z = torch.cat([vae.encode(x).sample() for x in images.split(SIZE)]).double()  # type: ignore[no-untyped-call]
    return z.mean().item(), 1 / z.std().item()


def load_folder(folder: Path | str, size: tuple[int, int] | None = None) -> VAE:
    """Read a folder of `diffusers.AutoencoderKL` as a trainable model, with a Gaussian likelihood with the optimal
    scale and a standard normal prior.

    Args:
        folder: with ``config.json`` and ``diffusion_pytorch_model.safetensors``.
        size: height and width of the images; by default ``sample_size`` of the configuration.

    Raises:
        UsageError: a file is missing or damaged, or the network is not that of an `AutoencoderKL`.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        weights = load_file(folder / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise UsageError(f"{folder} is not a folder of diffusers.AutoencoderKL: {error}") from error
    vae = _model(folder, config, size)
    latents = config["latent_channels"]
    for name, channels in (("quant_conv", 2 * latents), ("post_quant_conv", latents)):
        if not config.get(f"use_{name}", True):
            weights[f"{name}.weight"] = torch.eye(channels)[..., None, None]
            weights[f"{name}.bias"] = torch.zeros(channels)
    encoder, decoder = vae.encoder, vae.decoder
    assert isinstance(encoder, SpatialEncoder)
    assert isinstance(decoder, SpatialDecoder)
    targets = tensors(encoder, decoder)
    if targets.keys() != weights.keys():
        different = sorted(targets.keys() ^ weights.keys())
        raise UsageError(f"{folder / WEIGHTS} does not match its configuration: {', '.join(different[:3])}, ...")
    weights[f"{CONV_OUT}.weight"] = weights[f"{CONV_OUT}.weight"] / 2
    weights[f"{CONV_OUT}.bias"] = (weights[f"{CONV_OUT}.bias"] + 1) / 2
    with torch.no_grad():
        for name, target in targets.items():
            if weights[name].numel() != target.numel():
                raise UsageError(
                    f"{folder / WEIGHTS} does not match its configuration: {name} has shape "
                    f"{tuple(weights[name].shape)}, not {tuple(target.shape)}."
                )
            target.copy_(weights[name].view(target.shape))
    return vae


def _model(folder: Path, config: Mapping[str, Any], size: tuple[int, int] | None) -> VAE:
    """An untrained model of a configuration."""
    kinds = {
        "down_block_types": {"DownEncoderBlock2D"},
        "up_block_types": {"UpDecoderBlock2D"},
        "act_fn": {"silu"},
        "_class_name": {"AutoencoderKL"},
    }
    for key, expected in kinds.items():
        values = config.get(key, next(iter(expected)))
        if not set([values] if isinstance(values, str) else values) <= expected:
            raise UsageError(f"{folder / CONFIG}: {key} must be {', '.join(expected)}, not {values}.")
    try:
        channels, blocks = list(config["block_out_channels"]), config["layers_per_block"]
        side = config.get("sample_size", 32)
        common = {"groups": config["norm_num_groups"], "attention": config.get("mid_block_add_attention", True)}
        likelihood = {"use": "gaussian", "scale": "optimal"}
        return zoo.create_model(
            "autoencoder-kl",
            data_shape=(config["in_channels"], *(size or (side, side))),
            latent_dim=config["latent_channels"],
            encoder={"use": "spatial", "channels": channels, "blocks": blocks, **common},
            decoder={
                **{"use": "spatial", "channels": channels[::-1], "blocks": blocks + 1, **common},
                "likelihood": likelihood,
            },
        )
    except KeyError as error:
        raise UsageError(f"{folder / CONFIG} has no {error}.") from error


def _config(vae: VAE, encoder: SpatialEncoder, decoder: SpatialDecoder) -> dict[str, Any]:
    """The configuration of a model in diffusers.

    Raises:
        ExportError: there is none.
    """
    latent_dim = vae.latent_shape[-1]
    up, down = ([_blocks(stage) for stage in part.stages] for part in (decoder, encoder))
    channels = [blocks[0].conv1.out_channels for blocks in down]
    norms = {module.num_groups for module in vae.modules() if isinstance(module, nn.GroupNorm)}
    attention = {any(isinstance(layer, SelfAttention) for layer in part.middle) for part in (encoder, decoder)}
    requirements = {
        "the decoder needs the channels of the encoder in reverse order": (
            [blocks[0].conv1.out_channels for blocks in up] == channels[::-1]
        ),
        "the decoder needs one block per stage more than the encoder": len(up[0]) == len(down[0]) + 1,
        "encoder and decoder need the same `attention`": len(attention) == 1,
        "all group norms need the same number of groups; `groups` must divide all `channels`": len(norms) == 1,
        "the encoder needs `features: null`": encoder.output.get_parameter("2.bias").numel() == 2 * latent_dim,
        "the posterior must be a Gaussian with `scale: exp`": _is_diagonal_gaussian(vae, encoder, latent_dim),
        "the likelihood needs one parameter per entry, its mean, such as `gaussian`": _is_mean(vae, decoder),
    }
    for requirement, holds in requirements.items():
        if not holds:
            raise ExportError(f"The model has no counterpart in diffusers: {requirement}.")
    return {
        "_class_name": "AutoencoderKL",
        **FIXED,
        "in_channels": encoder.input.in_channels,
        "out_channels": encoder.input.in_channels,
        "down_block_types": ["DownEncoderBlock2D"] * len(channels),
        "up_block_types": ["UpDecoderBlock2D"] * len(channels),
        "block_out_channels": channels,
        "layers_per_block": len(down[0]),
        "latent_channels": latent_dim,
        "norm_num_groups": norms.pop(),
        "sample_size": max(encoder.size),
        "mid_block_add_attention": attention.pop(),
        "use_quant_conv": True,
        "use_post_quant_conv": True,
    }


def _blocks(stage: nn.Module) -> list[ResidualBlock]:
    return [layer for layer in stage.children() if isinstance(layer, ResidualBlock)]


@torch.no_grad()
def _is_diagonal_gaussian(vae: VAE, encoder: SpatialEncoder, latent_dim: int) -> bool:
    """Whether the head splits a linear layer into mean and log-variance."""
    linear = getattr(encoder.posterior, "linear", None)
    if not isinstance(linear, nn.Linear) or linear.out_features != 2 * latent_dim:
        return False
    features = torch.linspace(-1, 1, linear.in_features, device=linear.weight.device, dtype=linear.weight.dtype)
    with evaluating(vae):
        q = encoder.posterior(features.view(1, 1, 1, -1))
    mean, log_variance = linear(features).chunk(2)
    try:
        return torch.allclose(q.mean.flatten(), mean) and torch.allclose(
            q.variance.flatten(), log_variance.exp(), rtol=1e-4
        )
    except NotImplementedError:
        return False


@torch.no_grad()
def _is_mean(vae: VAE, decoder: SpatialDecoder) -> bool:
    """Whether the mean of the likelihood is the output of the network."""
    if decoder.likelihood.parameters_per_entry != 1:
        return False
    device = decoder.input.weight.device
    channels = decoder.output.get_parameter("2.bias").numel()
    parameters = torch.linspace(-2, 2, channels * decoder.height * decoder.width, device=device)
    parameters = parameters.view(1, channels, decoder.height, decoder.width, 1)
    with evaluating(vae):
        return torch.equal(decoder.likelihood(parameters).mean, parameters[..., 0])
