"""Means of p(x | z) at latents of a file, such as samples of a diffusion model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import zoo
from zoo import RunError, UsageError, evaluating, evaluation_batch_size, resolve_device
from zoo_export.standardization import standardization

BATCH = 100


@torch.no_grad()
def decode(
    run: str | Path | zoo.Run,
    z: NDArray[Any],
    labels: NDArray[Any] | None = None,
    *,
    scaled: bool = False,
    data_dir: Path | str | None = None,
    device: str = "auto",
) -> NDArray[Any]:
    """The means of p(x | z).

    Args:
        run: as in `zoo.load`.
        z: latents (N, *latent_shape).
        labels: int64 (N,), for a model that is conditional on labels.
        scaled: whether `z` is (z - shift) scale; see `standardization`.
        data_dir, device: as in `zoo.train`.

    Returns:
        Float32 (N, *data_shape).

    Raises:
        RunError: there is no such run.
        UsageError: the latents have another shape, or entries that are not finite.
        DataError: `scaled` is set, nothing is stored in the run, and its data are not available.
    """
    run = run if isinstance(run, zoo.Run) else zoo.Run.open(run)
    target = resolve_device(device)
    vae = run.load(prior="original").to(target)
    values = torch.from_numpy(np.asarray(z))
    if tuple(values.shape[1:]) != vae.latent_shape or not len(values):
        expected = ", ".join(map(str, vae.latent_shape))
        raise UsageError(f"The latents of {run} have shape (N, {expected}); these have {tuple(values.shape)}.")
    if values.is_floating_point():
        values = values.float()
        if not values.isfinite().all():
            raise UsageError("The latents have entries that are not finite.")
    if labels is not None and len(labels) != len(values):
        raise UsageError(f"There are {len(labels)} labels for {len(values)} latents.")
    if scaled:
        values = standardization(run, data_dir=data_dir, device=device).invert(values)
    size = evaluation_batch_size(run.data_shape, BATCH)
    parts = torch.split(values, size)
    conditions = [None] * len(parts) if labels is None else torch.split(torch.from_numpy(np.asarray(labels)), size)
    with evaluating(vae):
        means = [
            vae.decode(part.to(target), None if condition is None else condition.to(target)).mean
            for part, condition in zip(parts, conditions, strict=True)
        ]
    return torch.cat([mean.cpu() for mean in means]).numpy()


def decode_file(run: zoo.Run, path: Path, array: str = "mean", **options: Any) -> NDArray[Any]:
    """As `decode`, with latents and labels from an ``.npy``, ``.npz`` or ``.safetensors`` file.

    Args:
        run: the run.
        path: the file.
        array: name of the array of latents in a file with several. If it has one, that is used.
        options: of `decode`.

    Raises:
        UsageError: the file cannot be read, or has no such array.
    """
    arrays = _arrays(path)
    latents = next(iter(arrays.values())) if len(arrays) == 1 else arrays.get(array)
    if latents is None:
        raise UsageError(f"{path} has no array {array!r}. Choose with --array from: {', '.join(sorted(arrays))}.")
    return decode(run, latents, arrays.get("labels") if run.classes else None, **options)


def write(x: NDArray[Any], path: Path) -> None:
    """Write an array to an ``.npy`` file, atomically.

    Raises:
        RunError: the file cannot be written.
    """
    try:
        with zoo.atomic_write(path) as file:
            np.save(file, x)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror or error}") from error


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        if path.suffix == ".safetensors":
            return dict(load(path.read_bytes()))
        content = np.load(path, allow_pickle=False)
        return {"": content} if isinstance(content, np.ndarray) else dict(content)
    except (OSError, ValueError, SafetensorError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
