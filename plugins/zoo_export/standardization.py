"""The shift and the scale of the latents of a run, which a diffusion model is trained on as (z - shift) scale."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

import zoo
from zoo import (
    VAE,
    Loader,
    RunError,
    UsageError,
    base_measure,
    derive_seed,
    evaluating,
    resolve_device,
    seeded,
)

FILE = "latents.json"
MEASURED = 10_000
"""Largest number of training examples whose latents are measured."""
BATCH = 64
LATENTS = 4
"""The random stream of the measured latents."""
LOCATIONS, SCALES = ("mean", "samples"), ("scale", "scale_tril")
ORIGIN = ("index", "labels", "path", "split")

Value = TypeVar("Value", Tensor, NDArray[Any])


@dataclass(frozen=True)
class Standardization:
    """An affine map of latents to zero mean and unit variance, over all their entries.

    Attributes:
        shift_factor: the mean of the latents.
        scaling_factor: the reciprocal of their standard deviation. Both have the names of diffusers.

    >>> Standardization(1.0, 0.5).apply(torch.tensor([1.0, 3.0]))
    tensor([0., 1.])
    >>> Standardization(1.0, 0.5).invert(torch.tensor([0.0, 1.0]))
    tensor([1., 3.])
    """

    shift_factor: float
    scaling_factor: float

    def apply(self, z: Value) -> Value:
        """Compute (z - shift) scale."""
        return (z - self.shift_factor) * self.scaling_factor

    def invert(self, z: Value) -> Value:
        """Compute z / scale + shift."""
        return z / self.scaling_factor + self.shift_factor

    def apply_to(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The parameters and samples of the posteriors of (z - shift) scale; see `zoo_export.codes.codes`.

        Raises:
            UsageError: the posterior has parameters other than a mean and a scale.
        """
        scaled = dict(arrays)
        for name, array in arrays.items():
            if name in LOCATIONS:
                scaled[name] = self.apply(array)
            elif name in SCALES:
                scaled[name] = array * self.scaling_factor
            elif name not in ORIGIN:
                raise UsageError(
                    f"Latents whose posterior has the parameter {name!r} cannot be scaled. Omit --scaled, and "
                    f"scale samples with the shift and the scale in {FILE}."
                )
        return scaled


def standardization(run: zoo.Run, *, data_dir: Path | str | None = None, device: str = "auto") -> Standardization:
    """The shift and the scale of a run, measured once and then stored in ``latents.json`` in the run.

    A package of weights may bring that file, so that the training data are not needed.

    They are the mean, and the reciprocal of the standard deviation, of all entries of draws from q(z | x) of training
    examples: of all, or of 10,000 that are drawn with the seed of the run.

    Args:
        run: the run.
        data_dir, device: as in `zoo.train`.

    Raises:
        UsageError: the latents are not real numbers, or are constant.
        DataError: the data of the run are not available.
        RunError: the file cannot be written.
    """
    path, vae = run.output / FILE, run.load(prior="original")
    weights = weights_sha256(vae)
    for file in (path, run.path / FILE):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            stored = json.loads(file.read_bytes())
            if stored["weights_sha256"] == weights:
                return Standardization(float(stored["shift_factor"]), float(stored["scaling_factor"]))
    target = resolve_device(device)
    train = run.loaded(None if data_dir is None else Path(data_dir)).dataset.train
    images = Loader.for_evaluation(train, BATCH, run.recipe.binarize, target)
    count = min(len(train), MEASURED)
    measured = measure(vae.to(target), images, count, run.recipe.train.seed)
    try:
        with zoo.atomic_write(path) as opened:
            content = {**asdict(measured), "examples": count, "weights_sha256": weights}
            opened.write(zoo.to_json(content).encode() + b"\n")
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror or error}") from error
    return measured


@torch.no_grad()
def measure(vae: VAE, images: Loader, count: int, seed: int = 0) -> Standardization:
    """Measure the shift and the scale of latents, in float64 and without keeping them.

    Args:
        vae: the model, on the device of `images`.
        images: the examples.
        count: the number of examples to measure.
        seed: of their choice and of the draws.

    Raises:
        UsageError: the latents are not real numbers, or are constant.
    """
    n, mean, squares = 0, 0.0, 0.0  # squares: the sum of squared differences from the mean
    with evaluating(vae), seeded(derive_seed(seed, LATENTS), images.device):
        for index in torch.split(images.order(seed, 0)[:count], images.batch_size):
            batch = images[index]
            q = vae.encode(batch.x, batch.condition, batch.mask)
            z = q.sample().cpu()
            if not z.is_floating_point() or "probability mass" in (base_measure(q) or ""):
                raise UsageError("The latents are discrete, so they have no shift and scale.")
            z = z.double()
            difference = z.mean().item() - mean
            squares += (z - z.mean()).square().sum().item() + difference**2 * n * z.numel() / (n + z.numel())
            n += z.numel()
            mean += difference * z.numel() / n
    deviation = math.sqrt(squares / (n - 1)) if n > 1 else 0.0
    if not 0 < deviation < math.inf:
        raise UsageError(f"The standard deviation of the latents is {deviation}; expected a positive number.")
    return Standardization(mean, 1 / deviation)


def weights_sha256(vae: VAE) -> str:
    """The SHA-256 of the weights of a model; that of ``model.safetensors`` in its run, whose prior is the original."""
    from safetensors.torch import save

    weights = {name: value.cpu().contiguous() for name, value in vae.state_dict().items()}
    return hashlib.sha256(save(weights, {"format": "pt"})).hexdigest()
