"""The adversarial autoencoder (arXiv 1511.05644)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.nn.functional import logsigmoid

from zoo import VAE, Batch, Loss, Phase
from zoo_adversarial.discriminators import LatentDiscriminator, prior_samples


class AdversarialAutoencoder(Loss):
    """The adversarial autoencoder: distortion, and a game that matches q(z) to the prior (arXiv 1511.05644, section 2).

    reconstruction:  min over encoder, decoder   E_q[-log p(x | z)]
    discriminator:   min over D                  -E_p(z)[log D(z)] - E_q(z)[log(1 - D(z))]    (arXiv 1406.2661, eq. 1)
    encoder:         min over encoder            -E_q(z)[log D(z)]

    The encoder's loss is the non-saturating generator loss (arXiv 1406.2661, section 3). Parameters of the prior are
    not trained.

    Args:
        latent_shape: event shape of the latent.
        hidden: widths of the discriminator's hidden layers.
    """

    def __init__(self, latent_shape: tuple[int, ...], hidden: Sequence[PositiveInt] = (256, 256)) -> None:
        super().__init__()
        self.discriminator = LatentDiscriminator(latent_shape, hidden)

    def forward(self, vae: VAE, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss``, which equals ``distortion``, and the losses of discriminator and encoder, in nats per
        example.
        """
        return {
            **self.reconstruction_loss(vae, batch),
            "discriminator.loss": self.discriminator_loss(vae, batch)["loss"],
            "encoder.loss": self.generator_loss(vae, batch)["loss"],
        }

    def phases(self, vae: VAE) -> Sequence[Phase]:
        """Reconstruction, discriminator and encoder, in the order of the paper."""
        encoder, decoder = list(vae.encoder.parameters()), list(vae.decoder.parameters())
        return [
            Phase("reconstruction", [*encoder, *decoder], self.reconstruction_loss),
            Phase("discriminator", list(self.discriminator.parameters()), self.discriminator_loss),
            Phase("encoder", encoder, self.generator_loss),
        ]

    def reconstruction_loss(self, vae: VAE, batch: Batch) -> dict[str, Tensor]:
        """The distortion, for encoder and decoder."""
        distortion = -vae.trace(batch).log_px.mean()
        return {"loss": distortion, "distortion": distortion}

    def discriminator_loss(self, vae: VAE, batch: Batch) -> dict[str, Tensor]:
        """The cross-entropy of the discriminator between samples of the prior (real) and of q(z) (fake)."""
        with torch.no_grad():
            fake, real = vae.trace(batch).z, prior_samples(vae, batch)
        loss = -logsigmoid(self.discriminator(real)).mean() - logsigmoid(-self.discriminator(fake)).mean()
        return {"loss": loss}

    def generator_loss(self, vae: VAE, batch: Batch) -> dict[str, Tensor]:
        """The non-saturating generator loss, for the encoder."""
        return {"loss": -logsigmoid(self.discriminator(vae.trace(batch).z)).mean()}
