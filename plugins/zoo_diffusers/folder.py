"""Write a folder of `diffusers.AutoencoderKL`: ``config.json`` and ``diffusion_pytorch_model.safetensors``.

Pixels are in [0, 1] here and in [-1, 1] in diffusers. The encoder of the zoo maps them to [-1, 1] itself; the last
convolution of the decoder is multiplied by 2 and shifted by -1, which is exact up to rounding.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

import zoo
from zoo import VAE, ExportError, UsageError, evaluating
from zoo_diffusers.names import CONV_OUT, decoder_tensors, encoder_tensors, is_mean
from zoo_diffusers.stored import CONFIG, WEIGHTS
from zoo_images.layers import ResidualBlock, SelfAttention
from zoo_images.spatial import SpatialDecoder, SpatialEncoder

FIXED = {"act_fn": "silu"}


def save_folder(vae: VAE, folder: Path | str, shift: float = 0.0, scale: float = 1.0) -> None:
    """Write a model as a folder that ``AutoencoderKL.from_pretrained`` reads.

    Args:
        vae: a model with the encoder and the decoder `spatial`, such as `autoencoder-kl`.
        folder: the folder; created if it does not exist.
        shift, scale: ``shift_factor`` and ``scaling_factor``: a diffusion model is trained on (z - shift) scale.

    Raises:
        ExportError: the model has no counterpart in diffusers; the message gives the reason.
        UsageError: the folder cannot be written.
    """
    config = configuration(vae) | {"shift_factor": shift, "scaling_factor": scale}
    encoder, decoder = vae.encoder, vae.decoder
    assert isinstance(encoder, SpatialEncoder)
    assert isinstance(decoder, SpatialDecoder)
    weights = {
        name: value.detach().cpu().float()
        for name, value in (encoder_tensors(encoder) | decoder_tensors(decoder)).items()
    }
    weights["quant_conv.weight"] = weights["quant_conv.weight"][..., None, None]
    weights[f"{CONV_OUT}.weight"] = 2 * weights[f"{CONV_OUT}.weight"]
    weights[f"{CONV_OUT}.bias"] = 2 * weights[f"{CONV_OUT}.bias"] - 1
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


def configuration(vae: VAE) -> dict[str, Any]:
    """The configuration of a model in diffusers.

    Raises:
        ExportError: there is none; the message gives the reason.
    """
    encoder, decoder = vae.encoder, vae.decoder
    if not isinstance(encoder, SpatialEncoder) or not isinstance(decoder, SpatialDecoder):
        raise ExportError("The format diffusers is for the encoder and the decoder 'spatial', as in autoencoder-kl.")
    assert vae.latent_shape is not None
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
        "the likelihood needs one parameter per entry, its mean, such as `gaussian`": is_mean(decoder),
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
