"""The convolutional family: strided nets for images of any size and any number of channels."""

from __future__ import annotations

from collections.abc import Iterable

from zoo import Component, hookimpl


@hookimpl
def zoo_components() -> Iterable[Component]:
    """Encoder and decoder."""
    return (
        Component("encoder", "conv", "zoo_conv.conv:ConvEncoder", "Strided convolutions, each halving the image"),
        Component("decoder", "conv", "zoo_conv.conv:ConvDecoder", "Transposed convolutions, each doubling the image"),
    )
