"""Priors trained with the model, and priors fitted to its aggregate posterior after training."""

from __future__ import annotations

from collections.abc import Iterable

from zoo import Component, hookimpl


@hookimpl
def zoo_components() -> Iterable[Component]:
    """Return the priors."""
    return (
        Component(
            "prior", "mixture", "zoo_priors.mixture:GaussianComponents", "Mixture of Gaussians, trained with the model"
        ),
        Component("prior", "vamp", "zoo_priors.vamp:VampPrior", "Mixture of posteriors at learned pseudo-inputs"),
        Component("prior", "flow", "zoo_priors.flow:Flow", "Normalising flow, trained with the model or afterwards"),
        Component(
            "prior",
            "gaussian-mixture",
            "zoo_priors.gaussian_mixture:GaussianMixture",
            "Mixture of Gaussians, fitted after training",
        ),
        Component("prior", "two-stage", "zoo_priors.two_stage:TwoStage", "A second VAE, fitted after training"),
    )
