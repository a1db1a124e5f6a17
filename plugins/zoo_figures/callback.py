"""The figures that a training leaves in its run folder."""

from __future__ import annotations

import contextlib

import torch

from zoo import Callback, Run, Training, UsageError
from zoo_figures import figures


class DrawFigures(Callback):
    """Draws the training curves, reconstructions and samples of a finished training, and the manifold of a 2-D latent.

    Args:
        run: the run; the figures go into its folder.
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
        drawn = {
            "curves": figures.curves(trainer.history, title),
            "reconstructions": figures.reconstructions(vae, images.x, f"{title}: test images", images.condition),
            "samples": figures.samples(vae, 64, f"{title}: samples from the prior"),
        }
        if vae.latent_shape == (2,):
            with contextlib.suppress(UsageError):  # a prior over which no grid can be laid
                drawn["manifold"] = figures.manifold(vae, title=f"{title}: the latent space, decoded")
        for name, figure in drawn.items():
            figures.save(figure, self.run.figures / f"{name}.png")
