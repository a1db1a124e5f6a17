"""Convolutional encoder and decoder for images of any size."""

from __future__ import annotations

from collections.abc import Iterable

from zoo import Component, hookimpl


@hookimpl
def zoo_components() -> Iterable[Component]:
    """Return the encoder and the decoder."""
    return (
        Component("encoder", "conv", "zoo_conv.conv:ConvEncoder", "Strided convolutions, each halving the image"),
        Component("decoder", "conv", "zoo_conv.conv:ConvDecoder", "Transposed convolutions, each doubling the image"),
    )
