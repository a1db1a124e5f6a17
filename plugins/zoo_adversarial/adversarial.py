"""An adversarial term for any loss: the patch discriminator and the adaptive weight of VQGAN (arXiv 2012.09841)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import relu

from zoo import VAE, Batch, ComponentError, ComponentFactory, Decoder, Loss, Phase, RecordedVAE, evaluating
from zoo_adversarial.discriminators import PatchDiscriminator

DELTA = 1e-6
MAX_WEIGHT = 1e4


class Adversarial(Loss):
    """Another loss L plus an adversarial term, with the adaptive weight of VQGAN (arXiv 2012.09841, section 3.1).

    autoencoder:    min   L + D weight lambda L_G,   L_G = -E[Dis(x~)]
    discriminator:  min   E[max(0, 1 - Dis(x))] / 2 + E[max(0, 1 + Dis(x~))] / 2     (arXiv 1705.02894, section 2)

    lambda = |grad L / D| / (|grad L_G| + 1e-6), at most 10000                       (eq. 7)

    x~ is the mean of p(x | z) at a sample of q(z | x), and Dis(x) averages over patches. D is the number of entries of
    x, which turns a mean over entries into a sum, like every other distortion. The gradients are those with respect to
    the weight of the decoder's last layer, where the rate of L has none; to z if the decoder is frozen. lambda is a
    constant in the gradient.

    The paper states the cross-entropy (eq. 5); the authors' code uses the hinge loss. As in the paper,
    lambda is 0 before the step `start`; the discriminator trains from the first step.

    Evaluated outside of training, ``loss`` is L: the adversarial term compares neither models nor epochs.

    Args:
        data_shape: (C, H, W).
        latent_dim, latent_shape, classes, train_size: passed to L.
        loss: L, any loss that calls `VAE.trace`. If it has several phases, the term is added to the first.
        channels: output channels of the discriminator's strided layers; each halves height and width.
        weight: a factor of the adversarial term; 0.8 in the authors' configurations.
        adaptive: use lambda; otherwise it is 1.
        start: number of training steps without the adversarial term.
        last_layer: name of the parameter of the decoder in eq. 7. By default, the weight of its last linear or
            convolutional layer.

    Raises:
        ComponentError: x is not an image, or it is too small for the discriminator.
    """

    active: Tensor

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_dim: int,
        latent_shape: tuple[int, ...],
        classes: int = 0,
        train_size: int = 0,
        loss: Callable[..., Loss] = ComponentFactory("loss", "elbo"),
        channels: Sequence[PositiveInt] = (32, 64),
        weight: NonNegativeFloat = 0.8,
        adaptive: bool = True,
        start: NonNegativeInt = 0,
        last_layer: str | None = None,
    ) -> None:
        super().__init__()
        sizes = {"latent_dim": latent_dim, "latent_shape": latent_shape, "classes": classes, "train_size": train_size}
        self.loss = loss(data_shape=data_shape, **sizes)
        self.discriminator = PatchDiscriminator(data_shape, channels)
        self.weight = weight
        self.adaptive = adaptive
        self.start = start
        self.last_layer = last_layer
        self.entries = math.prod(data_shape)
        self.register_buffer("active", torch.tensor(float(start == 0)))

    def schedule(self, step: int, epoch: float) -> None:
        """Switch the adversarial term on at the step `start`."""
        self.active.fill_(float(step >= self.start))

    def forward(self, vae: VAE, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of L, ``adversarial``, which is L_G, and ``discriminator.loss``.

        Raises:
            ComponentError: the batch has missing entries, or L does not call `VAE.trace`.
        """
        recorded = RecordedVAE(vae)
        terms = self.loss(recorded, batch)
        reconstruction = self._reconstruction(recorded, batch)
        return {
            **terms,
            "adversarial": -self.discriminator(reconstruction).mean(),
            "discriminator.loss": self._hinge(batch.x, reconstruction.detach()),
        }

    def phases(self, vae: VAE) -> Sequence[Phase]:
        """The phases of L, the first with the adversarial term, and the discriminator."""
        first, *others = self.loss.phases(vae)
        autoencoder = replace(first, objective=partial(self.autoencoder_loss, first.objective))
        discriminator = Phase("discriminator", list(self.discriminator.parameters()), self.discriminator_loss)
        return [autoencoder, *others, discriminator]

    def autoencoder_loss(
        self, objective: Callable[[VAE, Batch], dict[str, Tensor]], vae: VAE, batch: Batch
    ) -> dict[str, Tensor]:
        """An objective plus the adversarial term, with ``adversarial`` and its weight ``adversarial_weight``.

        Raises:
            ComponentError: see `forward`; or the decoder's last layer is unknown.
        """
        recorded = RecordedVAE(vae)
        terms = objective(recorded, batch)
        adversarial = -self.discriminator(self._reconstruction(recorded, batch)).mean()
        weight = self.active * self.weight
        layer = self._layer(recorded) if self.adaptive else None
        if layer is not None:
            weight = weight * adaptive_weight(terms["loss"] / self.entries, adversarial, layer)
        loss = terms["loss"] + self.entries * weight * adversarial
        return {**terms, "loss": loss, "adversarial": adversarial, "adversarial_weight": weight}

    def discriminator_loss(self, vae: VAE, batch: Batch) -> dict[str, Tensor]:
        """The hinge loss. The model is in evaluation mode, so that no codebook or running average changes."""
        with torch.no_grad(), evaluating(vae):
            fake = vae.trace(batch).p.mean
        return {"loss": self._hinge(batch.x, fake)}

    def _layer(self, recorded: RecordedVAE) -> Tensor | None:
        """The tensor in whose gradients lambda compares the terms; None if no gradient reaches it."""
        layer: Tensor = last_layer(recorded.decoder, self.last_layer)
        if not layer.requires_grad:
            layer = recorded.last.z
        return layer if layer.requires_grad else None

    def _hinge(self, x: Tensor, fake: Tensor) -> Tensor:
        return 0.5 * (relu(1 - self.discriminator(x)).mean() + relu(1 + self.discriminator(fake)).mean())

    def _reconstruction(self, recorded: RecordedVAE, batch: Batch) -> Tensor:
        """The mean of p(x | z) of a recorded pass, (K N, C, H, W)."""
        if batch.mask is not None:
            raise ComponentError("The loss 'adversarial' needs complete images; these have missing entries.")
        reconstruction: Tensor = recorded.last.p.mean
        return reconstruction.flatten(0, -4)


def adaptive_weight(loss: Tensor, adversarial: Tensor, layer: Tensor) -> Tensor:
    """lambda of arXiv 2012.09841, eq. 7: a detached 0-d tensor.

    Args:
        loss: the loss without the adversarial term.
        adversarial: the adversarial term.
        layer: the weight of the decoder's last layer, or another tensor that both depend on.
    """
    gradients = (torch.autograd.grad(term, layer, retain_graph=True)[0] for term in (loss, adversarial))
    norm, adversarial_norm = (gradient.norm() for gradient in gradients)
    weight: Tensor = norm / (adversarial_norm + DELTA)
    return weight.clamp(max=MAX_WEIGHT).detach()


def last_layer(decoder: Decoder, name: str | None = None) -> nn.Parameter:
    """The weight of the last linear or convolutional layer of a decoder, or its parameter with a name.

    Raises:
        ComponentError: there is none.
    """
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)
    weights = [f"{path}.weight" for path, module in decoder.named_modules() if isinstance(module, kinds)]
    parameters = dict(decoder.named_parameters())
    name = name or next((weight for weight in reversed(weights) if weight in parameters), None)
    if name not in parameters:
        raise ComponentError(
            f"The adaptive weight needs a parameter of the decoder's last layer; got {name!r}. Set loss.last_layer to "
            f"one of {', '.join(parameters)}, or loss.adaptive=false."
        )
    return parameters[name]
