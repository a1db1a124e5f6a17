"""The very deep VAE (arXiv 2011.10650): many levels of spatial latents, inferred and generated from the top down."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.distributions import Distribution, kl_divergence
from torch.types import _size

from zoo import (
    ComponentError,
    ComponentFactory,
    Decoder,
    Encoder,
    Likelihood,
    Prior,
    halved_sizes,
    image_shape,
    merge_leading,
)
from zoo_hierarchical.levels import JointLevels
from zoo_hierarchical.residual import Bottleneck, BottomUp, LatentBlock, Size, TopDown


class ResidualLevels(JointLevels):
    """prod_l p(z_l | z_<l) or prod_l q(z_l | z_<l, x), whose conditionals read the features of a top-down network.

    The event is the concatenation of the flattened latents, (d_1 + ... + d_L,), from the coarsest to the finest.

    Args:
        network: the top-down network.
        evidence: the bottom-up features of x at each resolution, for the posterior; None for the prior.
    """

    base_measure = "density on the real numbers"

    def __init__(self, network: TopDown, evidence: Mapping[Size, Tensor] | None = None) -> None:
        n = () if evidence is None else next(iter(evidence.values())).shape[:1]
        super().__init__(torch.Size(n), network.sizes)
        self.network = network
        self.evidence = evidence
        self.names = tuple(str(block.name) for block in network.blocks)
        # The conditionals of posterior and prior in the last pass, and its draw.
        self._pairs: list[tuple[Distribution, Distribution]] = []
        self._drawn: Tensor | None = None

    def rsample_and_log_prob(self, sample_shape: _size = ()) -> tuple[Tensor, Tensor]:
        """Draw samples (K..., N, d_1 + ... + d_L) with their log-densities (K..., N), in one pass."""
        z, log_prob = super().rsample_and_log_prob(sample_shape)
        self._drawn = z
        return z, log_prob

    def rates(self, value: Tensor, prior: JointLevels) -> Tensor:
        """KL(q(z_l | z_<l, x) || p(z_l | z_<l)) of each level at draws (K..., N, D), (L, K..., N), in nats.

        For the last draw of `rsample_and_log_prob`, no further pass is necessary.
        """
        if not isinstance(prior, ResidualLevels) or prior.network is not self.network or prior.evidence is not None:
            return super().rates(value, prior)
        if value is not self._drawn:
            self.log_prob_by_level(value)
        return torch.stack([kl_divergence(q, p).expand(value.shape[:-1]) for q, p in self._pairs])

    def _walk(self, choose: Callable[[Distribution], Tensor]) -> list[Tensor]:
        points, pairs = [], []

        def visit(block: LatentBlock, prior: Distribution, h: Tensor) -> Tensor:
            level = prior if self.evidence is None else block.posterior(h, self.evidence[block.size])
            pairs.append((level, prior))
            points.append(choose(level))
            return points[-1]

        self.network(visit)
        self._pairs, self._drawn = pairs, None
        return points


class VeryDeepEncoder(Encoder):
    """q(z_1, ..., z_L | x) = prod_l q(z_l | z_<l, x), from residual bottom-up and top-down networks.

    It holds the top-down network, which the prior and the decoder ``very-deep`` use. Latents have a grid: z_l is
    (latent_dim, h, w) at the resolution of its block. Each halving maps n pixels per side to ceil(n / 2).

    Args:
        data_shape: (C, H, W).
        latent_dim: channels of each latent.
        blocks: latent blocks at each resolution, from that of x to the coarsest; further halvings of 1x1 are 1x1.
        bottom_up: residual bottom-up blocks at each resolution that has latent blocks.
        width: channels of the features.
        bottleneck: channels of the 3x3 convolutions inside a block.

    Raises:
        ComponentError: x is not an image, or there are no blocks.
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_dim: int,
        blocks: Sequence[NonNegativeInt] = (0, 1, 2, 2),
        bottom_up: PositiveInt = 1,
        width: PositiveInt = 32,
        bottleneck: PositiveInt = 16,
    ) -> None:
        super().__init__()
        channels, *_ = image_shape(data_shape, "encoder 'very-deep'")
        if not any(blocks):
            raise ComponentError(f"The encoder 'very-deep' needs at least one block; got blocks={list(blocks)}.")
        levels: dict[Size, int] = {}
        for size, number in zip(halved_sizes(data_shape, len(blocks) - 1), blocks, strict=True):
            levels[size] = levels.get(size, 0) + number
        evidence = {size: bottom_up * (number > 0) for size, number in levels.items()}
        self.bottom_up = BottomUp(channels, width, bottleneck, evidence)
        self.top_down = TopDown(latent_dim, width, bottleneck, levels)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Distribution:
        """Map images (N, C, H, W) to q(z_1, ..., z_L | x)."""
        return ResidualLevels(self.top_down, self.bottom_up(x))


class VeryDeepPrior(Prior):
    """The prior prod_l p(z_l | z_<l) of the encoder ``very-deep``; it has no parameters."""

    def forward(self, encoder: Encoder, condition: Tensor | None = None) -> Distribution:
        """Return the distribution over all levels, with batch shape ().

        Raises:
            ComponentError: the encoder is not a `VeryDeepEncoder`.
        """
        return ResidualLevels(_top_down(encoder, "prior"))


class VeryDeepDecoder(Decoder):
    """p(x | z_1, ..., z_L): the top-down network of the encoder ``very-deep``, a residual block and a 1x1 convolution.

    Only the last two are parameters of the decoder: the top-down network belongs to the encoder.

    Args:
        data_shape: (C, H, W).
        model_encoder: the encoder of the model.
        bottleneck: channels of the 3x3 convolutions of the residual block.
        likelihood: the head.

    Raises:
        ComponentError: the encoder is not a `VeryDeepEncoder`.
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        model_encoder: Encoder,
        bottleneck: PositiveInt = 8,
        likelihood: Callable[..., Likelihood] = ComponentFactory("likelihood", "bernoulli"),
    ) -> None:
        super().__init__()
        top_down = _top_down(model_encoder, "decoder")
        self._shared = (top_down,)  # in a tuple, so that it is not a submodule, which would be saved twice
        self.likelihood = likelihood(data_shape=data_shape)
        channels, height, width = image_shape(data_shape, "decoder 'very-deep'")
        parameters = (self.likelihood.parameters_per_entry, channels)
        self.output = nn.Sequential(
            Bottleneck(top_down.width, top_down.width, bottleneck, min(height, width), residual=True),
            nn.Conv2d(top_down.width, parameters[0] * channels, 1),
            nn.Unflatten(1, parameters),
        )

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Distribution:
        """Map latents (K..., N, d_1 + ... + d_L) to p(x | z_1, ..., z_L)."""
        (top_down,) = self._shared
        p: Distribution = self.likelihood(merge_leading(self.output, top_down.features(z), 3).movedim(-4, -1))
        return p


def _top_down(encoder: Encoder, kind: str) -> TopDown:
    """The top-down network of an encoder."""
    if not isinstance(encoder, VeryDeepEncoder):
        raise ComponentError(
            f"The {kind} 'very-deep' needs the encoder 'very-deep', whose top-down network it uses; got "
            f"{type(encoder).__name__}. Use encoder=very-deep or another {kind}."
        )
    return encoder.top_down
