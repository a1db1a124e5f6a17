"""Wasserstein and other divergences on the aggregate posterior, deterministic autoencoders and image energies."""

from __future__ import annotations

from collections.abc import Iterable

from zoo import Component, hookimpl


@hookimpl
def zoo_components() -> Iterable[Component]:
    """Return the posterior, likelihoods and losses."""
    return (
        Component(
            "posterior", "deterministic", "zoo_divergences.posterior:Deterministic", "Point mass, without a density"
        ),
        Component(
            "likelihood",
            "squared-error",
            "zoo_divergences.energies:SquaredErrorEnergy",
            "Squared error summed over entries; an energy, not a density",
        ),
        Component(
            "likelihood",
            "ms-ssim",
            "zoo_divergences.ms_ssim:MultiScaleSSIM",
            "Multi-scale structural similarity; an energy, not a density",
        ),
        Component(
            "likelihood",
            "log-cosh",
            "zoo_divergences.log_cosh:LogCoshLikelihood",
            "Log hyperbolic cosine of the error, between Gaussian and Laplace",
        ),
        Component("loss", "reconstruction", "zoo_divergences.regularized:Reconstruction", "Distortion only"),
        Component(
            "loss",
            "rae-l2",
            "zoo_divergences.regularized:WeightRegularized",
            "Distortion plus penalties on the latent and the decoder's weights",
        ),
        Component(
            "loss",
            "rae-gp",
            "zoo_divergences.regularized:GradientRegularized",
            "Distortion plus penalties on the latent and the decoder's gradient",
        ),
        Component(
            "loss",
            "wae-mmd",
            "zoo_divergences.mmd:WassersteinMMD",
            "Distortion plus the MMD between aggregate posterior and prior",
        ),
        Component(
            "loss",
            "info-vae",
            "zoo_divergences.mmd:InfoVAE",
            "ELBO plus the MMD between aggregate posterior and prior",
        ),
        Component(
            "loss",
            "swae",
            "zoo_divergences.sliced:SlicedWasserstein",
            "Distortion plus the sliced Wasserstein distance between aggregate posterior and prior",
        ),
    )
