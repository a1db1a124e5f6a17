"""Latent spaces on manifolds: the sphere and the Poincare ball."""

from __future__ import annotations

from collections.abc import Iterable

from zoo import Component, hookimpl


@hookimpl
def zoo_components() -> Iterable[Component]:
    """Return a posterior and a prior for each manifold, and a decoder for the Poincare ball."""
    return (
        Component(
            "decoder",
            "gyroplane",
            "zoo_manifolds.gyroplane:GyroplaneDecoder",
            "Distances from hyperplanes of the Poincare ball, then dense layers",
        ),
        Component(
            "posterior",
            "von-mises-fisher",
            "zoo_manifolds.sphere:VonMisesFisherPosterior",
            "Von Mises-Fisher, on the unit sphere",
        ),
        Component("prior", "uniform-sphere", "zoo_manifolds.sphere:UniformSpherePrior", "Uniform on the unit sphere"),
        Component(
            "posterior",
            "wrapped-normal",
            "zoo_manifolds.poincare:WrappedNormalPosterior",
            "Wrapped normal, on the Poincare ball",
        ),
        Component(
            "prior",
            "wrapped-normal",
            "zoo_manifolds.poincare:WrappedNormalPrior",
            "Wrapped normal at the origin of the Poincare ball",
        ),
    )
