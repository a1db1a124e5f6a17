"""The reconstruction of an image file of any size."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from zoo import Loader, Run, Split, UsageError, seeded
from zoo_datasets.decoding import decode_image
from zoo_images.tiling import reconstruct_tiled


def write_reconstruction(run: Run, file: Path, path: Path) -> None:
    """Reconstruct an image at its size, in tiles of the size of the training images, and write it as an image file.

    The image is binarized as in the training.

    Args:
        run: a run of a model of images.
        file: an image file.
        path: file to write.

    Raises:
        DataError: the file cannot be decoded.
        UsageError: the model is not one of grey or RGB images.
        OSError, ValueError: the result cannot be written.
    """
    channels = run.data_shape[0]
    if len(run.data_shape) != 3 or channels not in (1, 3):
        raise UsageError(f"--file needs a model of grey or RGB images; this one takes data of shape {run.data_shape}.")
    pixels = torch.from_numpy(decode_image(file, "grey" if channels == 1 else "rgb").copy())
    with seeded(run.recipe.train.seed):
        (batch,) = Loader(Split(pixels[None]), 1, run.recipe.binarize).in_order()
    image = reconstruct_tiled(run.load(), batch.x)[0]
    levels = (image * 255).round().clamp(0, 255).to(torch.uint8).movedim(0, -1)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(levels.squeeze(-1).numpy()).save(path)
