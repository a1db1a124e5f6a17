"""The residual networks of the very deep VAE (arXiv 2011.10650, fig. 3): bottom-up and top-down."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import chain

import torch
from torch import Tensor, nn
from torch.distributions import Independent
from torch.nn import functional

from zoo import Gaussian, at_least_float32, match_dtype, merge_leading

SMALL = 2
"""Largest resolution at which convolutions have 1x1 kernels, since most of a 3x3 kernel would see padding."""

Size = tuple[int, int]
Visit = Callable[["LatentBlock", Independent[Gaussian], Tensor], Tensor]


class Bottleneck(nn.Module):
    """Four convolutions, each after a GELU: 1x1 to a narrower width, twice 3x3, 1x1 to the output.

    Args:
        channels_in, channels_out: before and after.
        bottleneck: channels of the 3x3 convolutions.
        resolution: pixels per side, which determine the kernel.
        gain: factor on the initial weights of the last convolution.
        residual: add the input to the output.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        bottleneck: int,
        resolution: int,
        *,
        gain: float = 1.0,
        residual: bool = False,
    ) -> None:
        super().__init__()
        kernel = 1 if resolution <= SMALL else 3
        middle = [nn.Conv2d(bottleneck, bottleneck, kernel, padding=kernel // 2) for _ in range(2)]
        last = nn.Conv2d(bottleneck, channels_out, 1)
        convolutions = [nn.Conv2d(channels_in, bottleneck, 1), *middle, last]
        self.network = nn.Sequential(*chain.from_iterable((nn.GELU(), layer) for layer in convolutions))
        self.residual = residual
        with torch.no_grad():
            for parameter in last.parameters():
                parameter.mul_(gain)

    def forward(self, x: Tensor) -> Tensor:
        """Map (K..., N, channels_in, H, W) to (K..., N, channels_out, H, W)."""
        y = merge_leading(self.network, x, 3)
        return x + y if self.residual else y


class BottomUp(nn.Module):
    """The deterministic pass over x: residual blocks, with average pooling between the resolutions.

    Args:
        channels: of x.
        width: channels at every resolution.
        bottleneck: channels of the 3x3 convolutions inside a block.
        blocks: residual blocks at each resolution (height, width), from that of x to the coarsest.
    """

    def __init__(self, channels: int, width: int, bottleneck: int, blocks: Mapping[Size, int]) -> None:
        super().__init__()
        self.input = nn.Conv2d(channels, width, 3, padding=1)
        gain = sum(blocks.values()) ** -0.5
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(Bottleneck(width, width, bottleneck, min(size), gain=gain, residual=True) for _ in range(number))
            )
            for size, number in blocks.items()
        )

    def forward(self, x: Tensor) -> dict[Size, Tensor]:
        """Map (N, channels, H, W) to the features (N, width, h, w) at each resolution."""
        h: Tensor = self.input(x)
        features: dict[Size, Tensor] = {}
        for stage in self.stages:
            if features:
                h = functional.avg_pool2d(h, 2, ceil_mode=True)  # a window at an odd edge averages what it covers
            h = stage(h)
            features[h.shape[-2], h.shape[-1]] = h
        return features


class LatentBlock(nn.Module):
    """One level of the hierarchy: p(z_l | z_<l), q(z_l | z_<l, x) and the update of the features h by z_l.

    Args:
        name: such as ``14x14_2``.
        size: height and width of z_l.
        channels: of z_l.
        width: channels of h.
        bottleneck: channels of the 3x3 convolutions.
        gain: factor on the initial weights of the projection of z_l and of the residual network.
        first: whether it is the first block at its resolution, which adds a learned bias to h.
    """

    def __init__(
        self,
        name: str,
        size: Size,
        channels: int,
        width: int,
        bottleneck: int,
        *,
        gain: float,
        first: bool,
    ) -> None:
        super().__init__()
        self.name = name
        self.size = size
        self.channels = channels
        self.bias = nn.Parameter(0.01 * torch.randn(width, *size)) if first else None
        resolution = min(size)
        # The prior starts close to N(0, 1), whatever the features.
        self.prior_network = Bottleneck(width, 2 * channels + width, bottleneck, resolution, gain=0.01)
        self.posterior_network = Bottleneck(2 * width, 2 * channels, bottleneck, resolution)
        self.projection = nn.Conv2d(channels, width, 1)
        self.residual = Bottleneck(width, width, bottleneck, resolution, gain=gain, residual=True)
        with torch.no_grad():
            self.projection.weight.mul_(gain)

    def enter(self, h: Tensor | None) -> Tensor:
        """Bring the features of the previous block to this resolution, by nearest neighbours, and add the bias."""
        if h is None:
            assert self.bias is not None
            return self.bias
        h = upsampled(h, self.size)
        return h if self.bias is None else h + self.bias

    def prior(self, h: Tensor) -> tuple[Independent[Gaussian], Tensor]:
        """Return p(z_l | z_<l) and an increment of the features, from h (K..., N, width, height, width)."""
        parameters, increment = self.prior_network(h).split([2 * self.channels, h.shape[-3]], dim=-3)
        return _gaussian(parameters), increment

    def posterior(self, h: Tensor, evidence: Tensor) -> Independent[Gaussian]:
        """Return q(z_l | z_<l, x) from h and the bottom-up features (N, width, height, width) of this resolution."""
        leading = torch.broadcast_shapes(h.shape[:-3], evidence.shape[:-3])  # type: ignore[no-untyped-call]
        both = [features.expand(*leading, *features.shape[-3:]) for features in (h, evidence)]
        return _gaussian(self.posterior_network(torch.cat(both, dim=-3)))

    def update(self, h: Tensor, z: Tensor) -> Tensor:
        """Add the projection of z_l (K..., N, d_l) to the features, and apply the residual network."""
        z = match_dtype(z, self.projection)
        z = z.reshape(*z.shape[:-1], self.channels, *self.size)
        updated: Tensor = self.residual(h + merge_leading(self.projection, z, 3))
        return updated


class TopDown(nn.Module):
    """The generative network: latent blocks from the coarsest resolution to that of x.

    Args:
        channels: of each latent.
        width: channels of the features.
        bottleneck: channels of the 3x3 convolutions.
        blocks: latent blocks at each resolution (height, width), from that of x to the coarsest.

    Attributes:
        sizes: number of dimensions of each latent, from the coarsest to the finest.
    """

    def __init__(self, channels: int, width: int, bottleneck: int, blocks: Mapping[Size, int]) -> None:
        super().__init__()
        self.width = width
        self.size = next(iter(blocks))
        gain = sum(blocks.values()) ** -0.5
        self.blocks = nn.ModuleList(
            LatentBlock(f"{h}x{w}_{i + 1}", (h, w), channels, width, bottleneck, gain=gain, first=i == 0)
            for (h, w), number in list(blocks.items())[::-1]
            for i in range(number)
        )
        self.sizes = tuple(channels * math.prod(block.size) for block in self._blocks())

    def forward(self, visit: Visit) -> tuple[Tensor, Tensor]:
        """Run through the blocks. At each, `visit` maps the block, its prior and its input to z_l (K..., N, d_l).

        Returns:
            The features of the last block before its latent is added, and this latent.
        """
        h: Tensor | None = None
        previous: LatentBlock | None = None
        z = torch.empty(0)
        for block in self._blocks():
            h = block.enter(h if h is None or previous is None else previous.update(h, z))
            p, increment = block.prior(h)
            z = visit(block, p, h)
            h, previous = h + increment, block
        assert h is not None
        return h, z

    def features(self, z: Tensor) -> Tensor:
        """Map the concatenation of all latents (K..., N, D) to features at the resolution of x."""
        points = iter(torch.split(z, list(self.sizes), dim=-1))
        h, last = self(lambda block, p, h: next(points))
        *_, block = self._blocks()
        return upsampled(block.update(h, last), self.size)

    def _blocks(self) -> Iterator[LatentBlock]:
        for block in self.blocks:
            assert isinstance(block, LatentBlock)
            yield block


def upsampled(h: Tensor, size: Size) -> Tensor:
    """Resize features (K..., N, C, h, w) by nearest neighbours."""
    return h if h.shape[-2:] == size else merge_leading(nn.Upsample(size=size), h, 3)


def _gaussian(parameters: Tensor) -> Independent[Gaussian]:
    """Means and log-scales (..., 2 C, h, w) to a Gaussian over C h w dimensions."""
    mean, log_scale = at_least_float32(parameters).chunk(2, dim=-3)
    return Independent(Gaussian(mean.flatten(-3), log_scale.flatten(-3)), 1, validate_args=False)
