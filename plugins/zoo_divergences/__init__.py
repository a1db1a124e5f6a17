"""Other divergences than the KL between posterior and prior, and deterministic autoencoders that have none."""

from __future__ import annotations

from collections.abc import Iterable

from zoo import Component, hookimpl


@hookimpl
def zoo_components() -> Iterable[Component]:
    """Losses, the posterior of a deterministic encoder, and likelihoods that are costs between images."""
    return (
        Component(
            "posterior", "deterministic", "zoo_divergences.posterior:Deterministic", "A single point, without a density"
        ),
        Component(
            "likelihood",
            "squared-error",
            "zoo_divergences.energies:SquaredErrorEnergy",
            "Squared error summed over pixels, an energy",
        ),
        Component(
            "likelihood",
            "ms-ssim",
            "zoo_divergences.ms_ssim:MultiScaleSSIM",
            "Multi-scale structural similarity, an energy",
        ),
        Component(
            "likelihood",
            "log-cosh",
            "zoo_divergences.log_cosh:LogCoshLikelihood",
            "Log hyperbolic cosine of the error, between squared and absolute",
        ),
        Component("loss", "reconstruction", "zoo_divergences.regularized:Reconstruction", "The distortion alone"),
        Component(
            "loss",
            "rae-l2",
            "zoo_divergences.regularized:WeightRegularized",
            "Distortion, size of the code, and of the decoder's weights",
        ),
        Component(
            "loss",
            "rae-gp",
            "zoo_divergences.regularized:GradientRegularized",
            "Distortion, size of the code, and of the decoder's gradient",
        ),
        Component(
            "loss",
            "wae-mmd",
            "zoo_divergences.mmd:WassersteinMMD",
            "Distortion, and the maximum mean discrepancy of aggregate posterior and prior",
        ),
        Component(
            "loss", "info-vae", "zoo_divergences.mmd:InfoVAE", "Distortion, rate, and the maximum mean discrepancy"
        ),
        Component(
            "loss",
            "swae",
            "zoo_divergences.sliced:SlicedWasserstein",
            "Distortion, and the sliced Wasserstein distance of aggregate posterior and prior",
        ),
    )
