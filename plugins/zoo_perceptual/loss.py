"""A perceptual term for any loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from zoo import VAE, Batch, ComponentError, ComponentFactory, Loss, Phase, RecordedVAE, at_least_float32, image_shape
from zoo_perceptual.lpips import LPIPS, too_small
from zoo_perceptual.weights import LINEAR_SHA256, VGG_SHA256, linear_file, vgg_file


class Perceptual(Loss):
    """Another loss L plus a perceptual distance between x and its reconstruction (arXiv 2012.09841, section 3.1).

    loss = L + D weight LPIPS(x, x~)

    x~ is the mean of p(x | z) at a sample of q(z | x). D is the number of entries of x, which turns a mean over entries
    into a sum, like every other distortion. The gradient is that of x~ alone; VGG is constant.

    With weight 0 the loss is L, and no weights of VGG are read. The weights are not saved with the loss: to resume a
    training, the files must be present.

    Args:
        data_shape: (C, H, W).
        latent_dim, latent_shape, classes, train_size: passed to L.
        loss: L, any loss that calls `VAE.trace`. If it has several phases, the term is added to the first.
        weight: nats per entry at distance 1; 1 in the paper.
        vgg: file with the weights of torchvision's VGG16 (``.pth``, ``.safetensors``). By default, that in
            torchvision's cache.
        linear: file with the linear weights of LPIPS. By default, that in the package torchmetrics or lpips.
        vgg_sha256, linear_sha256: digests of the files; by default, those of the published weights.

    Raises:
        ComponentError: x is not an image with 1 or 3 channels and 16 pixels per side.
        DataUnavailable: a file does not exist.
        DataError: the digest of a file differs.
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_dim: int,
        latent_shape: tuple[int, ...],
        classes: int = 0,
        train_size: int = 0,
        loss: Callable[..., Loss] = ComponentFactory("loss", "elbo"),
        weight: NonNegativeFloat = 0.0,
        vgg: str | None = None,
        linear: str | None = None,
        vgg_sha256: str = VGG_SHA256,
        linear_sha256: str = LINEAR_SHA256,
    ) -> None:
        super().__init__()
        sizes = {"latent_dim": latent_dim, "latent_shape": latent_shape, "classes": classes, "train_size": train_size}
        self.loss = loss(data_shape=data_shape, **sizes)
        self.cost = weight * math.prod(data_shape)
        self.distance: LPIPS | None = None
        if weight > 0:
            problem = too_small(image_shape(data_shape, "loss 'perceptual'"))
            if problem:
                raise ComponentError(f"{problem}.")
            self.distance = LPIPS(vgg_file(vgg, vgg_sha256).load(), linear_file(linear, linear_sha256).load())

    def forward(self, vae: VAE, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of L with the perceptual term in ``loss``, and ``lpips``, the distance.

        Raises:
            ComponentError: the batch has missing entries, or L does not call `VAE.trace`.
        """
        return self._with_distance(self.loss, vae, batch)

    def phases(self, vae: VAE) -> Sequence[Phase]:
        """The phases of L, the first with the perceptual term."""
        first, *others = self.loss.phases(vae)
        return [replace(first, objective=partial(self._with_distance, first.objective)), *others]

    def _with_distance(
        self, objective: Callable[[VAE, Batch], dict[str, Tensor]], vae: VAE, batch: Batch
    ) -> dict[str, Tensor]:
        if self.distance is None:
            return objective(vae, batch)
        if batch.mask is not None:
            raise ComponentError("The loss 'perceptual' needs complete images; these have missing entries.")
        recorded = RecordedVAE(vae)
        terms = objective(recorded, batch)
        reconstruction = recorded.last.p.mean
        x = at_least_float32(batch.x).expand_as(reconstruction).flatten(0, -4)
        with torch.autocast(x.device.type, enabled=False):
            distance = self.distance(reconstruction.flatten(0, -4), x).mean()
        return {**terms, "loss": terms["loss"] + self.cost * distance, "lpips": distance}
