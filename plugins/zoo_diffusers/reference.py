"""Comparison of a folder with its model by diffusers, the extra ``diffusers``."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import torch

from zoo import VAE, ExportError, UsageError, evaluating, seeded
from zoo_images.layers import extended
from zoo_images.spatial import SpatialDecoder, SpatialEncoder

TOLERANCE = 1e-4
"""The largest difference from the model, relative to the largest absolute value of an output or to 1."""
IMAGES = 2


def require_diffusers() -> ModuleType:
    """Import diffusers.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import diffusers
    except ImportError as error:
        raise UsageError(f"--check needs diffusers ({error}): pip install 'vae-zoo[diffusers]'.") from error
    module: ModuleType = diffusers
    return module


@torch.no_grad()
def require_equal(vae: VAE, folder: Path | str) -> float:
    """Compare mean and standard deviation of q(z | x), and the mean of p(x | z), on two random images.

    Args:
        vae: the model, on the CPU.
        folder: written by `save_folder`.

    Returns:
        The largest difference.

    Raises:
        UsageError: diffusers is not installed.
        ExportError: an output differs.
    """
    theirs = require_diffusers().AutoencoderKL.from_pretrained(folder, low_cpu_mem_usage=False).eval()
    assert isinstance(vae.encoder, SpatialEncoder)
    assert isinstance(vae.decoder, SpatialDecoder)
    with evaluating(vae), seeded(0):
        x = torch.rand(IMAGES, vae.encoder.input.in_channels, vae.decoder.height, vae.decoder.width)
        q = vae.encode(x)
        p = theirs.encode(extended(2 * x - 1, *vae.encoder.size)).latent_dist
        z = q.mean
        decoded = (theirs.decode(z.movedim(-1, 1)).sample + 1) / 2
        pairs = {
            "mean": (q.mean, p.mean.movedim(1, -1)),
            "standard deviation": (q.stddev, p.std.movedim(1, -1)),
            "reconstruction": (vae.decode(z).mean, decoded[..., : vae.decoder.height, : vae.decoder.width]),
        }
    greatest = 0.0
    for name, (ours, other) in pairs.items():
        difference = (ours - other).abs().max().item()
        if not difference <= TOLERANCE * max(1.0, ours.abs().max().item()):
            raise ExportError(f"diffusers computes another {name} from {folder}: the difference is {difference:g}.")
        greatest = max(greatest, difference)
    return greatest
