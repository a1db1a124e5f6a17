"""Posterior heads more flexible than a diagonal Gaussian."""

from __future__ import annotations

from collections.abc import Iterable

from zoo import Component, hookimpl

NO_MEAN = {"exports": "a flow has no closed-form mean, so its posterior cannot be exported as a tensor"}


@hookimpl
def zoo_components() -> Iterable[Component]:
    """Return the posteriors. ``iaf`` needs the package zuko: ``pip install 'vae-zoo[flows]'``."""
    return (
        Component(
            "posterior",
            "full-covariance",
            "zoo_flows.gaussian:FullCovarianceGaussian",
            "Gaussian with full covariance",
        ),
        Component(
            "posterior",
            "planar",
            "zoo_flows.planar:PlanarFlow",
            "Planar flow with amortised parameters",
            expected_failures=NO_MEAN,
        ),
        Component(
            "posterior",
            "iaf",
            "zoo_flows.iaf:InverseAutoregressiveFlow",
            "Inverse autoregressive flow; needs zuko",
            expected_failures=NO_MEAN,
        ),
    )
