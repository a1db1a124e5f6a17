"""Networks with spatial latents, for images of any size."""

from __future__ import annotations

from collections.abc import Iterable

from zoo import Component, hookimpl


@hookimpl
def zoo_components() -> Iterable[Component]:
    """Return the encoder and the decoder."""
    return (
        Component("encoder", "spatial", "zoo_images.spatial:SpatialEncoder", "Residual stages to a spatial latent"),
        Component("decoder", "spatial", "zoo_images.spatial:SpatialDecoder", "Residual stages from a spatial latent"),
    )
