"""The VAE whose images are compared by a discriminator, and judged by it (arXiv 1512.09300)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor
from torch.nn.functional import logsigmoid

from zoo import VAE, Batch, ComponentError, Loss, Phase
from zoo_adversarial.discriminators import ImageDiscriminator, prior_draws


class VAEGAN(Loss):
    """Three players, each with its own objective (arXiv 1512.09300, algorithm 1).

    encoder:        min   KL(q(z | x) || p(z)) + L_features                    (eq. 4, 7)
    decoder:        min   gamma L_features + L_GAN                             (eq. 9)
    discriminator:  max   L_GAN

    L_features = E_q[|Dis_l(x) - Dis_l(x~)|^2] / 2                              (eq. 6 and 7, up to a constant)
    L_GAN = E[log Dis(x) + log(1 - Dis(x~)) + log(1 - Dis(x_p))]                (eq. 10)

    x~ is the mean image of a code of x, and x_p that of a draw from the prior. The signs are those of the game of
    eq. 5, in which the discriminator maximises L_GAN; the paper's algorithm writes -L_GAN in both lines where it moves
    the two, which is the same game if L_GAN stands for the cross entropy there.

    L_features is a Gaussian log-likelihood of features that change as the discriminator learns, so that it is
    comparable neither between models nor between epochs: the plain distortion is returned as well.

    Args:
        data_shape: (C, H, W).
        gamma: weight of the features in the decoder's objective, against its game.
        channels: channels of the discriminator's layers.
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
        """Return the encoder's ``loss`` and its parts ``features`` and ``rate``, the plain ``distortion``, and the
        losses of the other two players; nats per example.
        """
        return {
            **self.encode(vae, batch),
            "decoder.loss": self.decode(vae, batch)["loss"],
            "discriminator.loss": self.discriminate(vae, batch)["loss"],
        }

    def phases(self, vae: VAE) -> Sequence[Phase]:
        """The three players. A prior that has parameters learns with the encoder: of these terms, the rate has it."""
        return [
            Phase("encoder", [*vae.encoder.parameters(), *vae.prior.parameters()], self.encode),
            Phase("decoder", list(vae.decoder.parameters()), self.decode),
            Phase("discriminator", list(self.discriminator.parameters()), self.discriminate),
        ]

    def encode(self, vae: VAE, batch: Batch) -> dict[str, Tensor]:
        """Rate and distance of features, for the encoder."""
        if batch.mask is not None:
            raise ComponentError("The loss 'vae-gan' compares complete images: it takes no data with missing entries.")
        trace = vae.trace(batch)
        features, rate = self._features(batch.x, trace.p.mean), trace.kl.mean()
        return {"loss": features + rate, "features": features, "rate": rate, "distortion": -trace.log_px.mean()}

    def decode(self, vae: VAE, batch: Batch) -> dict[str, Tensor]:
        """Distance of features and the game, for the decoder."""
        reconstructed, drawn = self._fakes(vae, batch)
        features, game = self._features(batch.x, reconstructed), self._game(batch.x, reconstructed, drawn)
        return {"loss": self.gamma * features + game, "features": features, "game": game}

    def discriminate(self, vae: VAE, batch: Batch) -> dict[str, Tensor]:
        """The game alone, for the discriminator."""
        with torch.no_grad():
            reconstructed, drawn = self._fakes(vae, batch)
        return {"loss": -self._game(batch.x, reconstructed, drawn)}

    def _features(self, x: Tensor, reconstructed: Tensor) -> Tensor:
        """L_features."""
        difference = self.discriminator.features(x) - self.discriminator.features(reconstructed)
        return 0.5 * difference.square().sum(-1).mean()

    def _game(self, x: Tensor, reconstructed: Tensor, drawn: Tensor) -> Tensor:
        """L_GAN, from logits: log D = logsigmoid(logit), and log(1 - D) = logsigmoid(-logit)."""
        real, *fakes = (self.discriminator(images) for images in (x, reconstructed, drawn))
        return logsigmoid(real).mean() + sum(logsigmoid(-fake).mean() for fake in fakes)

    def _fakes(self, vae: VAE, batch: Batch) -> tuple[Tensor, Tensor]:
        """x~ and x_p, (N, C, H, W), with a gradient to the decoder alone."""
        with torch.no_grad():
            codes, draws = vae.trace(batch).z, prior_draws(vae, batch)
        return vae.decode(codes, batch.condition).mean, vae.decode(draws, batch.condition).mean
