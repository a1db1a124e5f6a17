"""Deeper networks: residual convolutional networks and gated dense layers."""

from __future__ import annotations

from collections.abc import Iterable

from zoo import Component, hookimpl


@hookimpl
def zoo_components() -> Iterable[Component]:
    """Return the encoders and decoders."""
    return (
        Component("encoder", "resnet", "zoo_deep.resnet:ResNetEncoder", "Residual blocks and strided convolutions"),
        Component("decoder", "resnet", "zoo_deep.resnet:ResNetDecoder", "Residual blocks and upsampling"),
        Component("encoder", "gated", "zoo_deep.gated:GatedEncoder", "Gated dense layers on the flattened input"),
        Component("decoder", "gated", "zoo_deep.gated:GatedDecoder", "Gated dense layers from the flattened latent"),
    )
