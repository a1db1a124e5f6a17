"""Disentanglement: losses, metrics, and data sets with known generative factors."""

from __future__ import annotations

from collections.abc import Iterable

from zoo import Component, hookimpl


@hookimpl
def zoo_components() -> Iterable[Component]:
    """Return the losses, metrics and data sets."""
    return (
        Component(
            "loss",
            "capacity",
            "zoo_disentanglement.capacity:AnnealedCapacity",
            "ELBO with the rate held at an increasing capacity",
        ),
        Component(
            "loss",
            "beta-tc",
            "zoo_disentanglement.total_correlation:BetaTC",
            "ELBO with separate weights for the three parts of the rate",
        ),
        Component(
            "loss",
            "factor",
            "zoo_disentanglement.factor:FactorLoss",
            "ELBO plus the total correlation, estimated by a discriminator",
        ),
        Component(
            "loss",
            "dip-i",
            "zoo_disentanglement.dip:MeanCovariance",
            "ELBO plus a penalty on the covariance of the posterior means",
        ),
        Component(
            "loss",
            "dip-ii",
            "zoo_disentanglement.dip:AggregateCovariance",
            "ELBO plus a penalty on the covariance of the aggregate posterior",
        ),
        Component("metric", "mig", "zoo_disentanglement.mig:MutualInformationGap", "Mutual information gap"),
        Component(
            "metric", "sap", "zoo_disentanglement.sap:SeparatedPredictability", "Separated attribute predictability"
        ),
        Component("metric", "dci", "zoo_disentanglement.dci:DCI", "Disentanglement, completeness and informativeness"),
        Component(
            "metric",
            "factor-vae-score",
            "zoo_disentanglement.factor_score:FactorScore",
            "Accuracy of predicting a fixed factor from the latent of least variance",
        ),
        Component(
            "dataset", "shapes", "zoo_disentanglement.shapes:shapes", "4608 synthetic shapes, 32x32, with five factors"
        ),
        Component(
            "dataset",
            "dsprites",
            "zoo_disentanglement.dsprites:dsprites",
            "737280 sprites, 64x64, with five factors; needs the downloaded file",
        ),
    )
