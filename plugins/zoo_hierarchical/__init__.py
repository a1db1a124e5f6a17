"""Several levels of latents: the two-level VAE and the ladder VAE."""

from __future__ import annotations

from collections.abc import Iterable

from zoo import Component, hookimpl


@hookimpl
def zoo_components() -> Iterable[Component]:
    """Encoders, their priors, the decoder that sees the lowest level alone, and the loss that tells levels apart."""
    return (
        Component(
            "encoder",
            "two-level",
            "zoo_hierarchical.two_level:TwoLevelEncoder",
            "Any encoder for the lower level, and a network from there to the upper one",
        ),
        Component(
            "prior",
            "two-level",
            "zoo_hierarchical.two_level:TwoLevelPrior",
            "Standard normal above, a network from there to the lower level",
        ),
        Component(
            "encoder",
            "ladder",
            "zoo_hierarchical.ladder:LadderEncoder",
            "Top-down inference that corrects the prior of each level",
        ),
        Component(
            "prior", "ladder", "zoo_hierarchical.ladder:LadderPrior", "The top-down network of the ladder encoder"
        ),
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
            "decoder", "lowest-level", "zoo_hierarchical.levels:LowestLevel", "Any decoder, on the lowest level alone"
        ),
        Component(
            "loss", "levels", "zoo_hierarchical.loss:LevelledELBO", "Evidence lower bound with a rate for each level"
        ),
    )
