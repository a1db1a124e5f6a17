"""Hierarchical latents: two-level VAEs, the ladder VAE and the very deep VAE."""

from __future__ import annotations

from collections.abc import Iterable

from zoo import Component, hookimpl


@hookimpl
def zoo_components() -> Iterable[Component]:
    """Return the encoders, priors, decoder and loss."""
    return (
        Component(
            "encoder",
            "two-level",
            "zoo_hierarchical.two_level:TwoLevelEncoder",
            "Bottom-up inference: any encoder for z_1, an MLP from z_1 to z_2",
        ),
        Component(
            "prior",
            "two-level",
            "zoo_hierarchical.two_level:TwoLevelPrior",
            "Standard normal p(z_2), an MLP for p(z_1 | z_2)",
        ),
        Component(
            "encoder",
            "ladder",
            "zoo_hierarchical.ladder:LadderEncoder",
            "Top-down inference that combines the prior of each level with evidence from x",
        ),
        Component(
            "prior",
            "ladder",
            "zoo_hierarchical.ladder:LadderPrior",
            "Prior given by the top-down network of the ladder encoder",
        ),
        Component("decoder", "lowest-level", "zoo_hierarchical.levels:LowestLevel", "Any decoder, applied to z_1"),
        Component(
            "encoder",
            "top-down",
            "zoo_hierarchical.top_down:TopDownEncoder",
            "Top-down inference: any encoder for z_2, gated layers for q(z_1 | x, z_2)",
        ),
        Component(
            "prior",
            "top-down",
            "zoo_hierarchical.top_down:TopDownPrior",
            "Any prior p(z_2), gated layers for p(z_1 | z_2)",
        ),
        Component("decoder", "all-levels", "zoo_hierarchical.top_down:AllLevels", "Gated layers on z_1 and z_2"),
        Component(
            "encoder",
            "very-deep",
            "zoo_hierarchical.very_deep:VeryDeepEncoder",
            "Residual networks with many levels of spatial latents, inferred from the top down",
        ),
        Component(
            "prior",
            "very-deep",
            "zoo_hierarchical.very_deep:VeryDeepPrior",
            "Prior given by the top-down network of the very deep encoder",
        ),
        Component(
            "decoder",
            "very-deep",
            "zoo_hierarchical.very_deep:VeryDeepDecoder",
            "Top-down network of the very deep encoder, with an output layer",
        ),
        Component(
            "loss", "levels", "zoo_hierarchical.loss:LevelledELBO", "Negative ELBO that reports the rate of each level"
        ),
    )
