"""Posteriors of images as arrays: their parameters and samples, with labels and indices."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution, Independent

import zoo
from zoo import (
    VAE,
    DataError,
    Dataset,
    Loader,
    Split,
    UsageError,
    derive_seed,
    evaluating,
    load_data,
    recipe_for,
    resolve_device,
    seeded,
)
from zoo_export.standardization import standardization

# Random streams: of the samples, separate from that of binarisation; and of the other splits, if all are encoded.
DRAWS, TRAIN, VALIDATION = 2, 3, 6
BATCH = 500


def parameters(distribution: Distribution) -> dict[str, Tensor]:
    """The mean of a distribution, if it has one, and its parameters by their names in torch.

    A Gaussian has ``mean`` and ``scale``, a Bernoulli ``mean`` and ``logits``. Parameters that equal the mean or are
    shared by the whole batch are left out.

    >>> from torch.distributions import Bernoulli, Normal
    >>> list(parameters(Normal(torch.zeros(3), torch.ones(3)))), list(parameters(Bernoulli(logits=torch.zeros(3))))
    (['mean', 'scale'], ['mean', 'logits'])
    """
    batch = distribution.batch_shape
    values = {}
    with contextlib.suppress(NotImplementedError):
        values["mean"] = distribution.mean
    for name, value in _constructor_parameters(distribution).items():
        if value is not values.get("mean") and value.shape[: len(batch)] == batch:
            values[name] = value
    return values


def parameter(distribution: Distribution, name: str) -> Tensor:
    """One of the `parameters`, without reading shapes, which may be symbolic while tracing."""
    return distribution.mean if name == "mean" else _constructor_parameters(distribution)[name]


def unwrapped(distribution: Distribution) -> Distribution:
    """The base distribution of nested `Independent` distributions."""
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return distribution


def _constructor_parameters(distribution: Distribution) -> dict[str, Tensor]:
    base = unwrapped(distribution)
    # `vars` does not compute parameters that were not passed, such as `probs` from `logits`.
    values = {name: vars(base).get(name) for name in base.arg_constraints}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


@torch.no_grad()
def codes(vae: VAE, images: Loader, *, samples: int = 0, seed: int = 0) -> dict[str, NDArray[Any]]:
    """The posterior q(z | x) of every image, as NumPy arrays.

    Args:
        vae: the model, on the device of `images`.
        images: N images.
        samples: number K of samples from each posterior.
        seed: of dynamic binarisation and of the samples. The binarisation does not depend on the number of samples.

    Returns:
        ``index`` int64 (N,), the index in the split; ``labels`` int64 (N,), if there are any; the `parameters` of the
        posteriors, such as ``mean`` and ``scale`` (N, *latent_shape); ``samples`` (K, N, *latent_shape), if K > 0.
    """
    gathered: dict[str, list[Tensor]] = {}
    with evaluating(vae), seeded(seed, images.device):
        for position, batch in enumerate(images.in_order()):
            q = vae.encode(batch.x, batch.condition, batch.mask)
            arrays = parameters(q)
            if batch.condition is not None:
                arrays["labels"] = batch.condition
            for name, value in arrays.items():
                gathered.setdefault(name, []).append(value.cpu())
            if samples:
                with seeded(derive_seed(seed, DRAWS, position), images.device):
                    gathered.setdefault("samples", []).append(q.sample(torch.Size([samples])).cpu())
    merged = {name: torch.cat(values, dim=1 if name == "samples" else 0) for name, values in gathered.items()}
    merged["index"] = torch.arange(len(images.x))
    return {name: value.numpy() for name, value in merged.items()}


def codes_of(
    vae: VAE,
    dataset: Dataset,
    split: str,
    *,
    binarize: str = "none",
    device: torch.device | str = "cpu",
    samples: int = 0,
    seed: int = 0,
) -> dict[str, NDArray[Any]]:
    """The `codes` of one split or of all images, with their origin.

    Args:
        split: ``train``, ``test`` or ``all``.
        binarize, device: as in `Loader`.
        samples, seed: as in `codes`.

    Returns:
        As `encode`.
    """

    def encode_split(name: str, seed: int) -> dict[str, NDArray[Any]]:
        images: Split = getattr(dataset, name)
        arrays = codes(vae, Loader.for_evaluation(images, BATCH, binarize, device), samples=samples, seed=seed)
        if images.paths:
            arrays["path"] = np.array(images.paths)
        if images.index is not None:
            arrays["index"] = images.index.numpy()
        return arrays

    if split != "all":
        return encode_split(split, seed)
    seeds = {"train": derive_seed(seed, TRAIN), "validation": derive_seed(seed, VALIDATION), "test": seed}
    parts = {name: encode_split(name, seeds[name]) for name in dataset.splits}
    shared = [name for name in parts["train"] if all(name in part for part in parts.values())]
    merged = {
        name: np.concatenate([part[name] for part in parts.values()], axis=1 if name == "samples" else 0)
        for name in shared
    }
    merged["split"] = np.repeat(list(parts), [len(part["index"]) for part in parts.values()])
    order = _order(dataset, merged)
    return {name: array[:, order] if name == "samples" else array[order] for name, array in merged.items()}


def _order(dataset: Dataset, arrays: dict[str, NDArray[Any]]) -> NDArray[Any]:
    """Indices into the concatenated splits that list every image once, in the order of the source."""
    if "path" in arrays:
        return np.argsort(arrays["path"], kind="stable")
    if dataset.train.index is not None and dataset.test.index is not None:
        return np.argsort(arrays["index"], kind="stable")
    if dataset.train.index is not None:  # images that are repeated within an epoch
        _, first = np.unique(dataset.train.index.numpy(), return_index=True)
        return np.concatenate([np.sort(first), np.arange(len(dataset.train), len(arrays["index"]))])
    return np.arange(len(arrays["index"]))


def encode(
    run: str | Path | zoo.Run,
    data: object = None,
    *,
    split: Literal["train", "test", "all"] | None = None,
    samples: int = 0,
    scaled: bool = False,
    seed: int | None = None,
    data_dir: Path | str | None = None,
    device: str = "auto",
) -> dict[str, NDArray[Any]]:
    """The posterior q(z | x) of every image, as ``zoo encode`` writes it.

    Args:
        run: as in `zoo.load`.
        data: a data set by name or path, with images of the same shape; by default that of the run. Images in a folder
            are scaled and cropped to the shape. They are binarised as for the run.
        split: by default ``all`` with `data`, and ``test`` without.
        samples: number K of samples from each posterior.
        scaled: whether to return posteriors of (z - shift) scale instead of z; see `standardization`.
        seed: of the samples and of dynamic binarisation; by default that of the run.
        data_dir, device: as in `zoo.train`.

    Returns:
        ``path`` str (N,), relative to the folder, for image files; ``index`` int64 (N,), the index in the file of
        arrays or in the split; ``split`` str (N,), for ``all``; ``labels`` int64 (N,), if there are any; ``mean``
        (N, *latent_shape), if the posterior has one, and its other parameters by their names in torch, such as
        ``scale``; ``samples`` (K, N, *latent_shape), if K > 0. ``all`` lists each image once, in the order of the paths
        or of the file.

    Raises:
        RunError: there is no such run.
        UsageError: there is no such split, or the latents cannot be scaled.
        DataError: the data are not available, or their images have another shape.
    """
    run = run if isinstance(run, zoo.Run) else zoo.Run.open(run)
    part, dataset, _ = images_of(run, data, split, data_dir)
    factors = standardization(run, data_dir=data_dir, device=device) if scaled else None
    target = resolve_device(device)
    arrays = codes_of(
        *(run.load().to(target), dataset, part),
        binarize=run.recipe.binarize,
        device=target,
        samples=samples,
        seed=run.recipe.train.seed if seed is None else seed,
    )
    return arrays if factors is None else factors.apply_to(arrays)


def images_of(
    run: zoo.Run, data: object = None, split: str | None = None, data_dir: Path | str | None = None
) -> tuple[str, Dataset, str]:
    """The split to encode, the data with the shape of the run, and the name of the data set; see `encode`."""
    split = split or ("test" if data is None else "all")
    if split not in ("train", "test", "all"):
        raise UsageError(f"There is no split {split!r}. Choose from: train, test, all.")
    choices = run.recipe.data if data is None else recipe_for(data, run.recipe).data
    shape = None if data is None else run.data_shape
    root = None if data_dir is None else Path(data_dir)
    loaded = load_data(choices, root, shape, source=None if isinstance(data, str | os.PathLike) else data)
    dataset = loaded.dataset
    if dataset.shape != run.data_shape:
        shapes = ["x".join(map(str, shape)) for shape in (run.data_shape, dataset.shape)]
        raise DataError(f"{run.path} was trained on images of shape {shapes[0]}; these have shape {shapes[1]}.")
    return split, dataset, loaded.spec.use
