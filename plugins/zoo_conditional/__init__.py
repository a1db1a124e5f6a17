"""Conditional models: encoder, decoder and prior given the label (Sohn et al., NeurIPS 2015)."""

from __future__ import annotations

from collections.abc import Iterable

from zoo import Component, hookimpl


@hookimpl
def zoo_components() -> Iterable[Component]:
    """Return the encoder and decoder, which wrap any other, and the prior."""
    return (
        Component(
            "encoder",
            "conditional",
            "zoo_conditional.networks:ConditionalEncoder",
            "Any encoder, with the label as an additional channel",
        ),
        Component(
            "decoder",
            "conditional",
            "zoo_conditional.networks:ConditionalDecoder",
            "Any decoder, with the label appended to the latent",
        ),
        Component(
            "prior", "conditional-normal", "zoo_conditional.prior:ConditionalNormal", "A Gaussian for each label"
        ),
    )
