"""The tensors of a spatial model under their names in `diffusers.AutoencoderKL`."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from zoo_images.layers import Middle, ResidualBlock, SelfAttention
from zoo_images.spatial import SpatialDecoder, SpatialEncoder

ATTENTION = {"norm": "group_norm", "query": "to_q", "key": "to_k", "value": "to_v", "output": "to_out.0"}


def tensors(encoder: SpatialEncoder, decoder: SpatialDecoder) -> dict[str, Tensor]:
    """The parameters of both networks, those of the model itself, by their names in diffusers."""
    named = dict(_modules(encoder, decoder))
    return {f"{name}.{key}": value for name, module in named.items() for key, value in module.named_parameters()}


def _modules(encoder: SpatialEncoder, decoder: SpatialDecoder) -> Iterator[tuple[str, nn.Module]]:
    yield "encoder.conv_in", encoder.input
    for i, stage in enumerate(encoder.stages):
        yield from _stage(f"encoder.down_blocks.{i}", "downsamplers.0.conv", stage)
    yield from _middle("encoder.mid_block", encoder.middle)
    yield "encoder.conv_norm_out", encoder.output[0]
    yield "encoder.conv_out", encoder.output[2]
    yield "quant_conv", encoder.posterior.get_submodule("linear")
    yield "post_quant_conv", decoder.post_quant
    yield "decoder.conv_in", decoder.input
    yield from _middle("decoder.mid_block", decoder.middle)
    for i, stage in enumerate(decoder.stages):
        yield from _stage(f"decoder.up_blocks.{i}", "upsamplers.0.conv", stage)
    yield "decoder.conv_norm_out", decoder.output[0]
    yield "decoder.conv_out", decoder.output[2]


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
