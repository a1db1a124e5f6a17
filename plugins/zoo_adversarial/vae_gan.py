"""The VAE/GAN (arXiv 1512.09300)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor
from torch.nn.functional import logsigmoid

from zoo import VAE, Batch, ComponentError, Loss, Phase
from zoo_adversarial.discriminators import ImageDiscriminator, prior_samples


class VAEGAN(Loss):
    """Three players, each with its own objective (arXiv 1512.09300, algorithm 1).

    encoder:        min   KL(q(z | x) || p(z)) + L_features                    (eq. 4, 7)
    decoder:        min   gamma L_features + L_GAN                             (eq. 9)
    discriminator:  max   L_GAN

    L_features = E_q[|Dis_l(x) - Dis_l(x~)|^2] / 2                              (eq. 6 and 7, up to a constant)
    L_GAN = E[log Dis(x) + log(1 - Dis(x~)) + log(1 - Dis(x_p))]                (eq. 10)

    x~ is the decoder mean at a sample of q(z | x), and x_p that at a sample of the prior. The signs follow eq. 5, where
    the discriminator maximises L_GAN; the paper's algorithm has -L_GAN in its updates of decoder and discriminator.

    L_features changes meaning as the discriminator learns, so it compares neither models nor epochs. The ordinary
    distortion is therefore returned as well.

    Args:
        data_shape: (C, H, W).
        gamma: weight of L_features in the decoder's objective.
        channels: output channels of the discriminator's layers.

    Raises:
        ComponentError: x is not an image.
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        gamma: NonNegativeFloat = 1.0,
        channels: Sequence[PositiveInt] = (32, 64),
    ) -> None:
        super().__init__()
        self.gamma = gamma
        self.discriminator = ImageDiscriminator(data_shape, channels)

    def forward(self, vae: VAE, batch: Batch) -> dict[str, Tensor]:
        """Return the encoder's ``loss`` with its parts ``features`` and ``rate``, the ``distortion``, and the losses
        of decoder and discriminator, in nats per example.
        """
        return {
            **self.encoder_loss(vae, batch),
            "decoder.loss": self.decoder_loss(vae, batch)["loss"],
            "discriminator.loss": self.discriminator_loss(vae, batch)["loss"],
        }

    def phases(self, vae: VAE) -> Sequence[Phase]:
        """Encoder, decoder and discriminator. A prior with parameters is trained with the encoder, by the rate."""
        return [
            Phase("encoder", [*vae.encoder.parameters(), *vae.prior.parameters()], self.encoder_loss),
            Phase("decoder", list(vae.decoder.parameters()), self.decoder_loss),
            Phase("discriminator", list(self.discriminator.parameters()), self.discriminator_loss),
        ]

    def encoder_loss(self, vae: VAE, batch: Batch) -> dict[str, Tensor]:
        """Rate plus L_features.

        Raises:
            ComponentError: the batch has missing entries.
        """
        if batch.mask is not None:
            raise ComponentError("The loss 'vae-gan' needs complete images; these have missing entries.")
        trace = vae.trace(batch)
        features, rate = self._features(batch.x, trace.p.mean), trace.kl.mean()
        return {"loss": features + rate, "features": features, "rate": rate, "distortion": -trace.log_px.mean()}

    def decoder_loss(self, vae: VAE, batch: Batch) -> dict[str, Tensor]:
        """gamma L_features + L_GAN."""
        reconstruction, sample = self._fakes(vae, batch)
        features, gan = self._features(batch.x, reconstruction), self._gan(batch.x, reconstruction, sample)
        return {"loss": self.gamma * features + gan, "features": features, "game": gan}

    def discriminator_loss(self, vae: VAE, batch: Batch) -> dict[str, Tensor]:
        """-L_GAN."""
        with torch.no_grad():
            reconstruction, sample = self._fakes(vae, batch)
        return {"loss": -self._gan(batch.x, reconstruction, sample)}

    def _features(self, x: Tensor, reconstruction: Tensor) -> Tensor:
        """L_features."""
        difference = self.discriminator.features(x) - self.discriminator.features(reconstruction)
        return 0.5 * difference.square().sum(-1).mean()

    def _gan(self, x: Tensor, reconstruction: Tensor, sample: Tensor) -> Tensor:
        """L_GAN from logits: log D = logsigmoid(logit) and log(1 - D) = logsigmoid(-logit)."""
        real, *fakes = (self.discriminator(images) for images in (x, reconstruction, sample))
        return logsigmoid(real).mean() + sum(logsigmoid(-fake).mean() for fake in fakes)

    def _fakes(self, vae: VAE, batch: Batch) -> tuple[Tensor, Tensor]:
        """x~ and x_p (N, C, H, W), with gradients in the decoder only."""
        with torch.no_grad():
            z, z_p = vae.trace(batch).z, prior_samples(vae, batch)
        return vae.decode(z, batch.condition).mean, vae.decode(z_p, batch.condition).mean
