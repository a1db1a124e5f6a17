"""Metrics of trained models: bounds, likelihoods, reconstructions, latents and samples."""

from __future__ import annotations

from collections.abc import Iterable

from zoo import Component, hookimpl


@hookimpl
def zoo_components() -> Iterable[Component]:
    """Return the metrics, the cheapest first."""
    return (
        Component(
            "metric", "elbo", "zoo_metrics.bounds:EvidenceBound", "ELBO, distortion, rate and bits per dimension"
        ),
        Component(
            "metric",
            "reconstruction",
            "zoo_metrics.reconstruction:Reconstruction",
            "Squared error at the posterior mean and at a sample",
        ),
        Component("metric", "active-units", "zoo_metrics.latents:ActiveUnits", "Number of active latent dimensions"),
        Component(
            "metric",
            "information",
            "zoo_metrics.latents:Information",
            "Rate split into mutual information and KL of the aggregate posterior",
        ),
        Component(
            "metric", "linear-probe", "zoo_metrics.probe:LinearProbe", "Accuracy of a linear classifier on the latent"
        ),
        Component(
            "metric",
            "log-likelihood",
            "zoo_metrics.bounds:LogLikelihood",
            "log p(x) by importance sampling; slow",
        ),
        Component(
            "metric",
            "frechet",
            "zoo_metrics.frechet:FrechetDistance",
            "Frechet distance between samples and images, with your own feature extractor",
        ),
        Component(
            "metric",
            "kernel-distance",
            "zoo_metrics.kernel:KernelDistance",
            "Kernel distance (as KID) between samples and images, with your own feature extractor",
        ),
        Component(
            "metric",
            "image-similarity",
            "zoo_metrics.similarity:ImageSimilarity",
            "PSNR and SSIM of reconstructions",
        ),
    )
