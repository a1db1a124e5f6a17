"""The figures of a run, drawn at the end of its training."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from zoo import Callback, Run, Training, UsageError, error_summary
from zoo_figures import figures, views

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger("zoo")


ROWS = 2000
"""Test examples that the figures of a view show."""


class DrawFigures(Callback):
    """Draws the loss curves, reconstructions and samples of a finished training, and the manifold of a 2-D latent.

    Args:
        run: the run, whose folder the figures are written to.
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    def on_train_end(self, trainer: Training, finished: bool) -> None:
        """Draw and write the figures."""
        if not finished:
            return
        test, vae = trainer.test, trainer.model
        images = test[torch.arange(min(2 * figures.COLUMNS, len(test.x)), device=test.device)]
        title = self.run.title
        drawings: dict[str, Callable[[], Figure]] = {"curves": lambda: figures.curves(trainer.history, title)}
        is_image = self.run.environment["data"].get("modality", "image") == "image"
        if is_image:
            drawings["reconstructions"] = lambda: figures.reconstructions(
                vae, images.x, f"{title}: test images", images.condition
            )
            drawings["samples"] = lambda: figures.samples(
                vae, 64, f"{title}: means of p(x | z) at samples from the prior"
            )
        if is_image and vae.latent_shape == (2,):
            drawings["manifold"] = lambda: figures.manifold(vae, title=f"{title}: the latent space, decoded")
        drawings |= views.drawings(vae, test[torch.arange(min(ROWS, len(test.x)), device=test.device)], self.run)
        for name, draw in drawings.items():
            path = self.run.figures / f"{name}.png"
            try:
                figures.save(draw(), path)
            except UsageError:  # the prior has no quantiles for a grid
                continue
            except Exception as error:
                log.warning(
                    "%s is finished, but %s could not be written: %s", self.run.path, path.name, error_summary(error)
                )
