"""Images larger than those of the training, in overlapping tiles whose results are blended."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Tensor

from zoo import VAE, UsageError, evaluating
from zoo_images.layers import extended

OVERLAP = 0.25
"""The overlap of neighbouring tiles, as a fraction of their size."""


@torch.no_grad()
def tiled(
    function: Callable[[Tensor], Tensor], x: Tensor, tile: tuple[int, int], grid: tuple[int, int], overlap: float
) -> Tensor:
    """Apply a function of images of one size to larger images, one tile at a time.

    Where tiles overlap, the results are blended: the weight of a tile rises linearly from its border. The last tile of
    a row or a column ends at the border of the image, and overlaps more.

    Args:
        function: maps (N, C, *tile) to (N, D, *grid).
        x: images (N, C, H, W). Smaller ones, and those whose tiles would not start at a position of the grid, are
            extended by repeating their last row and column.
        tile: size of an input of `function`.
        grid: size of its result.
        overlap: of neighbouring tiles, as a fraction of their size, from 0 to below 1.

    Returns:
        (N, D, h, w), where h / H and w / W are those of a tile, rounded up.

    Raises:
        UsageError: the overlap is out of range.

    >>> x = torch.arange(100.0).view(1, 1, 10, 10)
    >>> torch.allclose(tiled(lambda tile: 2 * tile, x, (4, 4), (4, 4), 0.5), 2 * x)
    True
    """
    if not 0 <= overlap < 1:
        raise UsageError(f"The overlap must be at least 0 and below 1; got {overlap}.")
    ratios = [Fraction(out, size) for out, size in zip(grid, tile, strict=True)]
    height, width = x.shape[-2:]
    starts = [
        _starts(length, size, ratio.denominator, overlap)
        for length, size, ratio in zip((height, width), tile, ratios, strict=True)
    ]
    x = extended(x, starts[0][-1] + tile[0], starts[1][-1] + tile[1])
    weight = _ramp(grid[0], overlap)[:, None] * _ramp(grid[1], overlap)
    weight = weight.to(x.device, x.dtype)
    rows, columns = [
        [slice(int(start * ratio), int(start * ratio) + out) for start in own]
        for own, ratio, out in zip(starts, ratios, grid, strict=True)
    ]
    total: Tensor | None = None
    weights = x.new_zeros(rows[-1].stop, columns[-1].stop)
    for top, row in zip(starts[0], rows, strict=True):
        for left, column in zip(starts[1], columns, strict=True):
            y = function(x[..., top : top + tile[0], left : left + tile[1]])
            if total is None:
                total = y.new_zeros(*y.shape[:2], *weights.shape)
            total[..., row, column] += weight * y
            weights[row, column] += weight
    assert total is not None
    h, w = (math.ceil(length * ratio) for length, ratio in zip((height, width), ratios, strict=True))
    return (total / weights)[..., :h, :w]


def reconstruct_tiled(vae: VAE, x: Tensor, overlap: float = OVERLAP) -> Tensor:
    """Reconstruct images of any size with any model of images.

    Each tile has the size of the training images. It is encoded and decoded, and the reconstructions are blended.

    Args:
        vae: a trained model.
        x: images (N, C, H, W).
        overlap: as in `tiled`.

    Returns:
        (N, C, H, W).

    Raises:
        UsageError: the model is not one of images, or x has another number of channels.
    """
    tile = _tile(vae)
    _require_channels(vae, x)
    with evaluating(vae):
        return tiled(vae.reconstruct, x, tile, tile, overlap)


def encode_tiled(vae: VAE, x: Tensor, overlap: float = OVERLAP) -> Tensor:
    """Encode images of any size to the spatial latent of their size: the means of the posteriors of tiles, blended.

    Args:
        vae: a trained model with a spatial latent (h, w, ...).
        x: images (N, C, H, W).
        overlap: as in `tiled`.

    Returns:
        Latents (N, h', w', ...), where h' = ceil(H h / H_training).

    Raises:
        UsageError: the latent is not spatial or consists of codes, whose blend is not a code; or the size of the
            training images is not a multiple of that of the latent.
    """
    tile, grid = _tile(vae), _grid(vae)
    _require_channels(vae, x)
    if hasattr(getattr(vae.encoder, "posterior", None), "indices_of"):
        raise UsageError("Blended codes are not codes: reconstruct the images with reconstruct_tiled.")
    rest = vae.latent_shape[2:]

    def encode(x: Tensor) -> Tensor:
        return vae.posterior_mean(x).flatten(3).movedim(-1, 1)

    with evaluating(vae):
        z = tiled(encode, x, tile, grid, overlap).movedim(1, -1)
        return z.reshape(*z.shape[:-1], *rest)


def decode_tiled(vae: VAE, z: Tensor, overlap: float = OVERLAP) -> Tensor:
    """Decode spatial latents of any size: the means of the likelihoods of tiles, blended.

    Args:
        vae, overlap: as in `encode_tiled`.
        z: latents (N, h', w', ...).

    Returns:
        Images (N, C, H, W), where H = h' H_training / h.

    Raises:
        UsageError: as in `encode_tiled`.
    """
    tile, grid = _tile(vae), _grid(vae)
    rest = vae.latent_shape[2:]

    def decode(z: Tensor) -> Tensor:
        z = z.movedim(1, -1)
        return vae.decode(z.reshape(*z.shape[:-1], *rest)).mean

    with evaluating(vae):
        return tiled(decode, z.flatten(3).movedim(-1, 1), grid, tile, overlap)


def _starts(length: int, size: int, unit: int, overlap: float) -> list[int]:
    """The positions of tiles of a size that cover a length: multiples of `unit`.

    >>> _starts(20, size=8, unit=4, overlap=0.25)
    [0, 4, 8, 12]
    """
    step = max(unit, int(size * (1 - overlap)) // unit * unit)
    last = max(0, -(-(length - size) // unit) * unit)
    return [*range(0, last, step), last]


def _ramp(size: int, overlap: float) -> Tensor:
    """Weights of the entries of a tile along one axis, which rise linearly from both borders.

    >>> _ramp(8, 0.25) * 3
    tensor([1., 2., 3., 3., 3., 3., 2., 1.])
    """
    edge = torch.arange(1, size + 1).minimum(torch.arange(size, 0, -1))
    return (edge / (1 + int(size * overlap))).clamp_max(1)


def _tile(vae: VAE) -> tuple[int, int]:
    """The size of the images that a model was built for."""
    if vae.data_shape is None or len(vae.data_shape) != 3:
        raise UsageError(f"Tiles need a model of images (C, H, W); this one takes data of shape {vae.data_shape}.")
    _, height, width = vae.data_shape
    return height, width


def _grid(vae: VAE) -> tuple[int, int]:
    """The size of a spatial latent, which divides that of the images."""
    tile, shape = _tile(vae), vae.latent_shape
    if len(shape) < 3:
        raise UsageError(f"Tiles need a spatial latent (h, w, ...); this model has {shape}. Use reconstruct_tiled.")
    if tile[0] % shape[0] or tile[1] % shape[1]:
        raise UsageError(
            f"Tiles of {tile[0]}x{tile[1]} pixels are not a multiple of the {shape[0]}x{shape[1]} positions of the "
            "latent. Train with data.size a multiple of f, or use reconstruct_tiled."
        )
    return shape[0], shape[1]


def _require_channels(vae: VAE, x: Tensor) -> None:
    if x.ndim != 4 or vae.data_shape is None or x.shape[1] != vae.data_shape[0]:
        raise UsageError(f"Expected images (N, {(vae.data_shape or '?')[0]}, H, W); got shape {tuple(x.shape)}.")
