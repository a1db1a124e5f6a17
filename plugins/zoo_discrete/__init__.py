"""Discrete latents: relaxed categories, vector and scalar quantisers, and priors over their codes."""

from __future__ import annotations

from collections.abc import Iterable

from zoo import Component, hookimpl


@hookimpl
def zoo_components() -> Iterable[Component]:
    """Posteriors, priors and losses."""
    return (
        Component(
            "posterior",
            "gumbel-softmax",
            "zoo_discrete.categorical:GumbelSoftmax",
            "Categorical, relaxed with Gumbel noise during training",
        ),
        Component(
            "posterior", "joint", "zoo_discrete.joint:JointPosterior", "A continuous and a discrete posterior in one"
        ),
        Component(
            "posterior",
            "vector-quantized",
            "zoo_discrete.vector:VectorQuantized",
            "Nearest vectors of a codebook, or of several in turn; needs vector-quantize-pytorch",
        ),
        Component(
            "posterior",
            "finite-scalar",
            "zoo_discrete.scalar:FiniteScalar",
            "Each number rounded to one of a few levels; needs vector-quantize-pytorch",
        ),
        Component("prior", "uniform-categorical", "zoo_discrete.categorical:UniformCategorical", "Uniform categories"),
        Component("prior", "joint", "zoo_discrete.joint:JointPrior", "A prior for each part of a joint posterior"),
        Component("prior", "uniform-codes", "zoo_discrete.codes:UniformCodes", "Uniform over a quantiser's codes"),
        Component(
            "prior",
            "autoregressive-codes",
            "zoo_discrete.codes:AutoregressiveCodes",
            "Each of a quantiser's codes given those before; fitted after training",
        ),
        Component("loss", "vq", "zoo_discrete.losses:VQ", "Distortion, rate, and the commitment of encoder to codes"),
        Component(
            "loss",
            "joint-capacity",
            "zoo_discrete.losses:JointCapacity",
            "Distortion, with continuous and discrete rates held at capacities that rise",
        ),
    )
