"""Discriminators. Each returns the logit of D(.), the probability that its input is real."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from pydantic import PositiveInt
from torch import Tensor, nn

from zoo import VAE, Batch, ComponentError, at_least_float32, draw, image_shape, match_dtype


class LatentDiscriminator(nn.Module):
    """A multilayer perceptron on the flattened latent (arXiv 1511.05644, section 2).

    Args:
        latent_shape: event shape of the latent.
        hidden: widths of the hidden layers.
    """

    def __init__(self, latent_shape: tuple[int, ...], hidden: Sequence[PositiveInt]) -> None:
        super().__init__()
        widths = [math.prod(latent_shape), *hidden]
        layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.LeakyReLU(0.2))]
        self.layers = nn.Sequential(nn.Flatten(), *layers, nn.Linear(widths[-1], 1), nn.Flatten(0))

    def forward(self, z: Tensor) -> Tensor:
        """Map latents (N, *latent_shape) to logits (N,)."""
        return at_least_float32(self.layers(match_dtype(z, self)))


class ImageDiscriminator(nn.Module):
    """Strided convolutions and a linear output; Dis_l is the last convolutional layer (arXiv 1512.09300, eq. 6).

    Every layer but the first is normalised per image, which fixes the scale of feature distances, as batch
    normalisation does in the paper, and makes the output independent of the other images in the batch.

    Args:
        data_shape: (C, H, W).
        channels: output channels of each layer; each halves height and width.

    Raises:
        ComponentError: x is not an image.
    """

    def __init__(self, data_shape: tuple[int, ...], channels: Sequence[PositiveInt]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        colours, height, width = image_shape(data_shape, "loss 'vae-gan'")
        for index, (c_in, c_out) in enumerate(pairwise([colours, *channels])):
            layers.append(nn.Conv2d(c_in, c_out, 3, stride=2, padding=1))
            if index:
                layers.append(nn.GroupNorm(1, c_out))
            layers.append(nn.LeakyReLU(0.2))
            height, width = -(-height // 2), -(-width // 2)
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.output = nn.Linear([colours, *channels][-1] * height * width, 1)

    def features(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to Dis_l(x) (N, features)."""
        return at_least_float32(self.layers(match_dtype(x, self)))

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N,)."""
        return at_least_float32(self.output(self.layers(match_dtype(x, self))).squeeze(-1))


class PatchDiscriminator(nn.Module):
    """A logit for each of many overlapping patches (PatchGAN; arXiv 1611.07004, section 3.2.2).

    Convolutions of 4x4 pixels with stride 2, and one of 3x3 pixels to the logits. Layers but the first and the last are
    normalised per image; the batch normalisation of the paper would couple the images of a batch. With three strided
    layers a patch has 38 pixels, with four 78.

    Args:
        data_shape: (C, H, W).
        channels: output channels of the strided layers; each halves height and width.

    Raises:
        ComponentError: x is not an image, or it is too small for so many layers.
    """

    def __init__(self, data_shape: tuple[int, ...], channels: Sequence[PositiveInt]) -> None:
        super().__init__()
        colours, height, width = image_shape(data_shape, "loss 'adversarial'")
        if min(height, width) < 2 ** len(channels):
            raise ComponentError(
                f"The discriminator has {len(channels)} layers, each of which halves the image, and the images have "
                f"{height}x{width} pixels. Set loss.channels to a shorter list."
            )
        layers: list[nn.Module] = []
        for index, (c_in, c_out) in enumerate(pairwise([colours, *channels])):
            layers.append(nn.Conv2d(c_in, c_out, 4, stride=2, padding=1))
            if index:
                layers.append(nn.GroupNorm(1, c_out))
            layers.append(nn.LeakyReLU(0.2))
        # In a bias, the two halves of the hinge loss cancel until a logit exceeds its margin.
        self.layers = nn.Sequential(*layers, nn.Conv2d([colours, *channels][-1], 1, 3, padding=1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) in [0, 1] to logits (N, h, w)."""
        return at_least_float32(self.layers(match_dtype(2 * x - 1, self)).squeeze(1))


def prior_samples(vae: VAE, batch: Batch) -> Tensor:
    """Draw one sample of p(z) per example, (N, *latent_shape), without a gradient."""
    prior = vae.prior(vae.encoder, batch.condition)
    return draw(prior, () if prior.batch_shape else (len(batch.x),))
