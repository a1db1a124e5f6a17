"""Exchange of spatial autoencoders with diffusers, by folders of `diffusers.AutoencoderKL`."""

from __future__ import annotations

from collections.abc import Iterable

from zoo import Component, hookimpl


@hookimpl
def zoo_components() -> Iterable[Component]:
    """Return the encoder and the decoder."""
    return (
        Component("encoder", "diffusers", "zoo_diffusers.parts:DiffusersEncoder", "That of an AutoencoderKL's folder"),
        Component("decoder", "diffusers", "zoo_diffusers.parts:DiffusersDecoder", "That of an AutoencoderKL's folder"),
    )
