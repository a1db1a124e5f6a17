"""Figures of trained models and data sets. The functions are in `zoo_figures.figures`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from zoo import Command, hookimpl

if TYPE_CHECKING:
    from zoo import Callback, Run


@hookimpl
def zoo_commands() -> Iterable[Command]:
    """The commands of this plugin."""
    return (
        Command("reconstruct", "Draw test images above their reconstructions.", "zoo_figures.cli:reconstruct"),
        Command("sample", "Decode samples of the prior, or latent points.", "zoo_figures.cli:sample"),
        Command("traverse", "Vary one latent dimension at a time.", "zoo_figures.cli:traverse"),
        Command("interpolate", "Interpolate between two test images in latent space.", "zoo_figures.cli:interpolate"),
        Command("latent", "Plot test images in the latent space.", "zoo_figures.cli:latent"),
        Command("preview", "Draw some images of a data set.", "zoo_figures.cli:preview"),
    )


@hookimpl
def zoo_callbacks(run: Run, figures: bool) -> Iterable[Callback]:
    """Draw the figures of a finished training."""
    if figures:
        from zoo_figures.callback import DrawFigures

        yield DrawFigures(run)
