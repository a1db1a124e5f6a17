"""Hierarchical latents: the two-level VAE and the ladder VAE."""

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
            "Any encoder for the upper level, gated layers from there and from x to the lower one",
        ),
        Component(
            "prior",
            "top-down",
            "zoo_hierarchical.top_down:TopDownPrior",
            "Any prior for the upper level, gated layers from there to the lower one",
        ),
        Component(
            "decoder", "all-levels", "zoo_hierarchical.top_down:AllLevels", "Gated layers on two levels together"
        ),
        Component(
            "loss", "levels", "zoo_hierarchical.loss:LevelledELBO", "Negative ELBO that reports the rate of each level"
        ),
    )
