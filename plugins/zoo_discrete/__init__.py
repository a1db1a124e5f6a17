"""Discrete latents: relaxed categorical variables, vector and scalar quantisers, and priors over their codes."""

from __future__ import annotations

from collections.abc import Iterable

from zoo import Component, hookimpl


@hookimpl
def zoo_components() -> Iterable[Component]:
    """Return the posteriors, priors and losses, and the metric."""
    return (
        Component(
            "posterior",
            "gumbel-softmax",
            "zoo_discrete.categorical:GumbelSoftmax",
            "Categorical, with a Gumbel-softmax relaxation during training",
        ),
        Component(
            "posterior", "joint", "zoo_discrete.joint:JointPosterior", "A continuous and a discrete posterior combined"
        ),
        Component(
            "posterior",
            "vector-quantized",
            "zoo_discrete.vector:VectorQuantized",
            "Nearest codebook vectors, optionally residual; needs vector-quantize-pytorch",
        ),
        Component(
            "posterior",
            "finite-scalar",
            "zoo_discrete.scalar:FiniteScalar",
            "Values rounded to a few levels; needs vector-quantize-pytorch",
        ),
        Component("prior", "uniform-categorical", "zoo_discrete.categorical:UniformCategorical", "Uniform categorical"),
        Component("prior", "joint", "zoo_discrete.joint:JointPrior", "Product of a continuous and a discrete prior"),
        Component("prior", "uniform-codes", "zoo_discrete.codes:UniformCodes", "Uniform over a quantiser's codes"),
        Component(
            "prior",
            "autoregressive-codes",
            "zoo_discrete.codes:AutoregressiveCodes",
            "Recurrent network over a quantiser's codes, fitted after training",
        ),
        Component("loss", "vq", "zoo_discrete.losses:VQ", "Distortion, rate and commitment loss of the VQ-VAE"),
        Component(
            "loss",
            "joint-capacity",
            "zoo_discrete.losses:JointCapacity",
            "ELBO with continuous and discrete rates held at increasing capacities",
        ),
        Component("metric", "codebook", "zoo_discrete.codebook:CodebookUse", "Perplexity and use of discrete codes"),
    )
