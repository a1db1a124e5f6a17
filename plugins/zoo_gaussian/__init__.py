"""The Gaussian VAE: multilayer perceptrons, diagonal Gaussian posterior, common likelihoods and the ELBO."""

from __future__ import annotations

from collections.abc import Iterable

from zoo import Component, hookimpl


@hookimpl
def zoo_components() -> Iterable[Component]:
    """Return the encoder, decoder, posterior, likelihoods, prior and losses."""
    return (
        Component("encoder", "mlp", "zoo_gaussian.mlp:MLPEncoder", "MLP on the flattened input"),
        Component("decoder", "mlp", "zoo_gaussian.mlp:MLPDecoder", "MLP from the flattened latent"),
        Component(
            "posterior", "gaussian", "zoo_gaussian.posterior:DiagonalGaussian", "Gaussian with diagonal covariance"
        ),
        Component(
            "likelihood", "bernoulli", "zoo_gaussian.likelihoods:BernoulliLikelihood", "Bernoulli, for binary data"
        ),
        Component(
            "likelihood",
            "continuous-bernoulli",
            "zoo_gaussian.likelihoods:ContinuousBernoulliLikelihood",
            "Continuous Bernoulli, for values in [0, 1]",
        ),
        Component(
            "likelihood",
            "gaussian",
            "zoo_gaussian.likelihoods:GaussianLikelihood",
            "Gaussian with a fixed, learned or optimal scale",
        ),
        Component(
            "likelihood",
            "discretized-logistic",
            "zoo_gaussian.discretized:DiscretizedLogisticLikelihood",
            "Discretized logistic, for 256 grey values",
        ),
        Component(
            "likelihood",
            "discretized-logistic-mixture",
            "zoo_gaussian.logistic_mixture:DiscretizedLogisticMixture",
            "Mixture of discretized logistics, with coupled colours, for 8-bit images",
        ),
        Component("prior", "standard-normal", "zoo_gaussian.prior:StandardNormal", "Standard normal"),
        Component("loss", "elbo", "zoo_gaussian.losses:ELBO", "Negative ELBO with a beta weight and warm-up"),
        Component("loss", "mse", "zoo_gaussian.losses:SquaredError", "Squared error of the decoder mean plus beta KL"),
    )
