"""The layers of the spatial networks, those of the autoencoder of latent diffusion (arXiv 2112.10752, appendix E).

A block has the layers of the block of the same name in `diffusers.AutoencoderKL`, so that weights can be exchanged.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention, silu
from torch.utils.checkpoint import checkpoint

EPS = 1e-6
"""Added to the variance by every group norm."""


def group_norm(channels: int, groups: int) -> nn.GroupNorm:
    """Normalize channels within an image, in `groups` groups, or in the greatest common divisor of both numbers."""
    return nn.GroupNorm(math.gcd(channels, groups), channels, eps=EPS)


class ResidualBlock(nn.Module):
    """shortcut(x) + f(x), with two pre-activated 3x3 convolutions in f (arXiv 1603.05027, fig. 1b). The shortcut is a
    1x1 convolution if the number of channels changes.

    Args:
        c_in, c_out: number of input and output channels.
        groups: of the group norm.
    """

    def __init__(self, c_in: int, c_out: int, groups: int) -> None:
        super().__init__()
        self.norm1 = group_norm(c_in, groups)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm2 = group_norm(c_out, groups)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.shortcut = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, c_in, h, w) to (N, c_out, h, w)."""
        h = self.conv1(silu(self.norm1(x)))
        y: Tensor = self.shortcut(x) + self.conv2(silu(self.norm2(h)))
        return y


class SelfAttention(nn.Module):
    """x + attention over all positions, with one head (arXiv 1706.03762).

    The weights are computed explicitly if gradients are: the kernels of `scaled_dot_product_attention`, whose memory is
    linear in the number of positions, have no second derivative, which losses with a gradient penalty take.

    Args:
        channels: number of input and output channels.
        groups: of the group norm.
    """

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = group_norm(channels, groups)
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, h, w) to the same shape."""
        positions = self.norm(x).flatten(2).mT  # (N, h w, channels)
        query, key, value = self.query(positions), self.key(positions), self.value(positions)
        if torch.is_grad_enabled():
            values = (query / math.sqrt(query.shape[-1]) @ key.mT).softmax(-1) @ value
        else:
            values = scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])[:, 0]
        y: Tensor = x + self.output(values).mT.unflatten(2, x.shape[2:])
        return y


class Downsample(nn.Module):
    """A 3x3 convolution with stride 2, padded on the right and at the bottom. It halves even sizes.

    Args:
        channels: number of input and output channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, 2h, 2w) to (N, channels, h, w)."""
        y: Tensor = self.conv(pad(x, (0, 1, 0, 1)))
        return y


class Upsample(nn.Module):
    """Repeat every pixel twice in both directions, then convolve 3x3.

    Args:
        channels: number of input and output channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, h, w) to (N, channels, 2h, 2w)."""
        n, channels, height, width = x.shape
        # Equals nn.Upsample(scale_factor=2); its gradient is deterministic on every device.
        x = x[..., None, :, None].expand(n, channels, height, 2, width, 2).reshape(n, channels, 2 * height, 2 * width)
        y: Tensor = self.conv(x)
        return y


class Middle(nn.Sequential):
    """A residual block, self-attention if there is any, and another residual block, at the size of the latent.

    Args:
        channels: number of input and output channels.
        groups: of the group norm.
        attention: whether there is self-attention.
    """

    def __init__(self, channels: int, groups: int, attention: bool) -> None:
        layers: list[nn.Module] = [ResidualBlock(channels, channels, groups) for _ in range(2)]
        if attention:
            layers.insert(1, SelfAttention(channels, groups))
        super().__init__(*layers)


def in_sequence(layers: Iterable[nn.Module], x: Tensor, gradient_checkpointing: bool) -> Tensor:
    """Apply layers in turn.

    Args:
        layers: deterministic layers.
        x: the input of the first layer.
        gradient_checkpointing: keep only the input of each layer for the gradient, and compute its activations again
            in the backward pass (arXiv 1604.06174).
    """
    if not (gradient_checkpointing and torch.is_grad_enabled()):
        for layer in layers:
            x = layer(x)
        return x
    for layer in layers:
        # The layers draw nothing, so the state of the generators does not matter; reading it would break CUDA graphs.
        x = checkpoint(layer, x, use_reentrant=False, preserve_rng_state=False)
    return x


def extended(x: Tensor, height: int, width: int) -> Tensor:
    """Extend images (N, C, H, W) to (N, C, height, width) by repeating their last row and column.

    >>> extended(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), 2, 3)[0, 0]
    tensor([[1., 2., 2.],
            [3., 4., 4.]])
    """
    if x.shape[-2] != height:
        x = x[..., torch.arange(height, device=x.device).clamp_max(x.shape[-2] - 1), :]
    if x.shape[-1] != width:
        x = x[..., torch.arange(width, device=x.device).clamp_max(x.shape[-1] - 1)]
    return x
