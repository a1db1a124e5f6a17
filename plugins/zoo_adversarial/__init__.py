"""Adversarial losses: discriminators of latents, of images and of patches of images."""

from __future__ import annotations

from collections.abc import Iterable

from zoo import Component, hookimpl


@hookimpl
def zoo_components() -> Iterable[Component]:
    """Return the losses. Each contains its discriminator and has one phase per player."""
    return (
        Component(
            "loss",
            "aae",
            "zoo_adversarial.aae:AdversarialAutoencoder",
            "Distortion, and a discriminator that matches q(z) to the prior",
        ),
        Component(
            "loss",
            "vae-gan",
            "zoo_adversarial.vae_gan:VAEGAN",
            "Rate, and an image discriminator whose features measure the distortion",
        ),
        Component(
            "loss",
            "adversarial",
            "zoo_adversarial.adversarial:Adversarial",
            "Another loss plus an adversarial term with an adaptive weight",
        ),
    )
