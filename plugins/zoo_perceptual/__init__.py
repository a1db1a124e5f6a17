"""Perceptual distances between images: LPIPS as a term of a loss and as a metric."""

from __future__ import annotations

from collections.abc import Iterable

from zoo import Component, hookimpl


@hookimpl
def zoo_components() -> Iterable[Component]:
    """Return the loss and the metric. Both read the weights of VGG from a local file."""
    return (
        Component(
            "loss", "perceptual", "zoo_perceptual.loss:Perceptual", "Another loss plus LPIPS; needs the weights of VGG"
        ),
        Component(
            "metric",
            "lpips",
            "zoo_perceptual.metric:PerceptualDistance",
            "LPIPS of reconstructions; needs the weights of VGG",
        ),
    )
