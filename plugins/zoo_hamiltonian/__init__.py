"""Hamiltonian VAEs: posterior samples refined by leapfrog steps along the gradient of log p(x, z)."""

from __future__ import annotations

from collections.abc import Iterable

from zoo import Component, hookimpl


@hookimpl
def zoo_components() -> Iterable[Component]:
    """Return the losses. They hold the step sizes, the tempering and the metric."""
    return (
        Component(
            "loss", "hvae", "zoo_hamiltonian.hvae:HamiltonianELBO", "Negative ELBO after tempered leapfrog steps"
        ),
        Component(
            "loss",
            "rhvae",
            "zoo_hamiltonian.rhvae:RiemannianELBO",
            "Negative ELBO after leapfrog steps with a learned Riemannian metric",
        ),
    )
