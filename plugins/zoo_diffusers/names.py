"""The tensors of a spatial model under their names in `diffusers.AutoencoderKL`, and what the networks compute."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from zoo import evaluating
from zoo_images.layers import Middle, ResidualBlock, SelfAttention
from zoo_images.spatial import SpatialDecoder, SpatialEncoder

ATTENTION = {"norm": "group_norm", "query": "to_q", "key": "to_k", "value": "to_v", "output": "to_out.0"}


FORMER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
CONV_OUT = "decoder.conv_out"


def encoder_tensors(encoder: SpatialEncoder) -> dict[str, Tensor]:
    """The parameters of the encoder, those of the model itself, by their names in diffusers."""
    return _parameters(_encoder(encoder))


def decoder_tensors(decoder: SpatialDecoder) -> dict[str, Tensor]:
    """The parameters of the decoder's network, those of the model itself, by their names in diffusers."""
    return _parameters(_decoder(decoder))


def current(name: str) -> str:
    """The current name of a tensor; those of attention were others before diffusers 0.15.

    >>> current("decoder.mid_block.attentions.0.proj_attn.bias")
    'decoder.mid_block.attentions.0.to_out.0.bias'
    """
    module, _, parameter = name.rpartition(".")
    block, _, layer = module.rpartition(".")
    return f"{block}.{FORMER[layer]}.{parameter}" if layer in FORMER else name


@torch.no_grad()
def is_mean(decoder: SpatialDecoder) -> bool:
    """Whether the mean of the likelihood is the output of the network."""
    if decoder.likelihood.parameters_per_entry != 1:
        return False
    channels = decoder.output.get_parameter("2.bias").numel()
    shape = (1, channels, decoder.height, decoder.width, 1)
    parameters = torch.linspace(-2, 2, shape[1] * shape[2] * shape[3], device=decoder.input.weight.device).view(shape)
    with evaluating(decoder):
        return torch.equal(decoder.likelihood(parameters).mean, parameters[..., 0])


def _parameters(modules: Iterator[tuple[str, nn.Module]]) -> dict[str, Tensor]:
    return {f"{name}.{key}": value for name, module in modules for key, value in module.named_parameters()}


def _encoder(encoder: SpatialEncoder) -> Iterator[tuple[str, nn.Module]]:
    yield "encoder.conv_in", encoder.input
    for i, stage in enumerate(encoder.stages):
        yield from _stage(f"encoder.down_blocks.{i}", "downsamplers.0.conv", stage)
    yield from _middle("encoder.mid_block", encoder.middle)
    yield "encoder.conv_norm_out", encoder.output[0]
    yield "encoder.conv_out", encoder.output[2]
    yield "quant_conv", encoder.posterior.get_submodule("linear")


def _decoder(decoder: SpatialDecoder) -> Iterator[tuple[str, nn.Module]]:
    yield "post_quant_conv", decoder.post_quant
    yield "decoder.conv_in", decoder.input
    yield from _middle("decoder.mid_block", decoder.middle)
    for i, stage in enumerate(decoder.stages):
        yield from _stage(f"decoder.up_blocks.{i}", "upsamplers.0.conv", stage)
    yield "decoder.conv_norm_out", decoder.output[0]
    yield CONV_OUT, decoder.output[2]


def _stage(name: str, resampling: str, stage: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for j, layer in enumerate(stage.children()):
        if isinstance(layer, ResidualBlock):
            yield from _block(f"{name}.resnets.{j}", layer)
        else:
            yield f"{name}.{resampling}", layer.get_submodule("conv")


def _middle(name: str, middle: Middle) -> Iterator[tuple[str, nn.Module]]:
    blocks = [layer for layer in middle if isinstance(layer, ResidualBlock)]
    for j, block in enumerate(blocks):
        yield from _block(f"{name}.resnets.{j}", block)
    for layer in middle:
        if isinstance(layer, SelfAttention):
            for ours, theirs in ATTENTION.items():
                yield f"{name}.attentions.0.{theirs}", layer.get_submodule(ours)


def _block(name: str, block: ResidualBlock) -> Iterator[tuple[str, nn.Module]]:
    for part in ("norm1", "conv1", "norm2", "conv2"):
        yield f"{name}.{part}", block.get_submodule(part)
    if not isinstance(block.shortcut, nn.Identity):
        yield f"{name}.conv_shortcut", block.shortcut
