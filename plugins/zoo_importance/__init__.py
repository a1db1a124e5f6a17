"""Importance-weighted lower bounds on log p(x)."""

from __future__ import annotations

from collections.abc import Iterable

from zoo import Component, hookimpl


@hookimpl
def zoo_components() -> Iterable[Component]:
    """Return the losses; they work with any encoder, decoder and prior."""
    return (
        Component("loss", "iwae", "zoo_importance.losses:IWAE", "Importance-weighted bound with K samples"),
        Component("loss", "miwae", "zoo_importance.losses:MIWAE", "Mean of M importance-weighted bounds"),
        Component("loss", "ciwae", "zoo_importance.losses:CIWAE", "Convex combination of IWAE and ELBO"),
        Component(
            "loss", "piwae", "zoo_importance.losses:PIWAE", "MIWAE for the encoder, IWAE for the decoder and prior"
        ),
    )
