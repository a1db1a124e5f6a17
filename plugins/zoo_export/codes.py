"""What a model makes of images, as plain arrays: the parameters of their posteriors, draws, labels."""

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

# The streams of random numbers: for draws, apart from the one that binarises images; for the training split, where both
# splits are encoded.
DRAWS, TRAIN = 2, 3
BATCH = 500


def parameters(distribution: Distribution) -> dict[str, Tensor]:
    """The mean of a distribution where it has one, and what it was made from, by its names in torch.

    A Gaussian has ``mean`` and ``scale``, a Bernoulli ``mean`` and ``logits``. Left out is a parameter that is the mean
    itself, and one that the whole batch shares.

    >>> from torch.distributions import Bernoulli, Normal
    >>> list(parameters(Normal(torch.zeros(3), torch.ones(3)))), list(parameters(Bernoulli(logits=torch.zeros(3))))
    (['mean', 'scale'], ['mean', 'logits'])
    """
    batch = distribution.batch_shape
    found = {}
    with contextlib.suppress(NotImplementedError):
        found["mean"] = distribution.mean
    for name, value in _made_from(distribution).items():
        if value is not found.get("mean") and value.shape[: len(batch)] == batch:
            found[name] = value
    return found


def parameter(distribution: Distribution, name: str) -> Tensor:
    """One of the `parameters`, without a look at any shape: a traced one may depend on the batch."""
    return distribution.mean if name == "mean" else _made_from(distribution)[name]


def unwrapped(distribution: Distribution) -> Distribution:
    """The distribution of one dimension that an `Independent` joins into an event."""
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return distribution


def _made_from(distribution: Distribution) -> dict[str, Tensor]:
    base = unwrapped(distribution)
    # `vars`, since a Bernoulli that was given logits would work its `probs` out if it were asked for them.
    given = {name: vars(base).get(name) for name in base.arg_constraints}
    return {name: value for name, value in given.items() if isinstance(value, Tensor)}


@torch.no_grad()
def codes(vae: VAE, images: Loader, *, samples: int = 0, seed: int = 0) -> dict[str, NDArray[Any]]:
    """The posterior q(z | x) of every image, as arrays of numpy.

    Args:
        vae: on the device of `images`.
        images: N of them.
        samples: K, draws of each posterior.
        seed: of a dynamic binarisation, and of the draws. However many they are, the binarisation is the same.

    Returns:
        ``index`` int64 (N,), the place in the split; ``labels`` int64 (N,) where there are any; the `parameters` of the
        posteriors, such as ``mean`` and ``scale`` (N, *latent_shape); ``samples`` (K, N, *latent_shape) if asked.
    """
    gathered: dict[str, list[Tensor]] = {}
    with evaluating(vae), seeded(seed, images.device):
        for position, batch in enumerate(images.in_order()):
            q = vae.encode(batch.x, batch.condition)
            arrays = parameters(q)
            if batch.condition is not None:
                arrays["labels"] = batch.condition
            for name, value in arrays.items():
                gathered.setdefault(name, []).append(value.cpu())
            if samples:
                with seeded(derive_seed(seed, DRAWS, position), images.device):
                    gathered.setdefault("samples", []).append(q.sample(torch.Size([samples])).cpu())
    joined = {name: torch.cat(values, dim=1 if name == "samples" else 0) for name, values in gathered.items()}
    joined["index"] = torch.arange(len(images.x))
    return {name: value.numpy() for name, value in joined.items()}


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
    """The `codes` of one split, or of all images, with where each comes from.

    Args:
        split: ``train``, ``test`` or ``all``.
        binarize, device: as in `Loader`.
        samples, seed: as in `codes`.

    Returns:
        As `zoo.encode`.
    """

    def encoded(name: str, seed: int) -> dict[str, NDArray[Any]]:
        images: Split = getattr(dataset, name)
        arrays = codes(vae, Loader(images, BATCH, binarize, device), samples=samples, seed=seed)
        if images.paths:
            arrays["path"] = np.array(images.paths)
        if images.index is not None:
            arrays["index"] = images.index.numpy()
        return arrays

    if split != "all":
        return encoded(split, seed)
    parts = {"train": encoded("train", derive_seed(seed, TRAIN)), "test": encoded("test", seed)}
    shared = [name for name in parts["train"] if name in parts["test"]]
    joined = {
        name: np.concatenate([part[name] for part in parts.values()], axis=1 if name == "samples" else 0)
        for name in shared
    }
    joined["split"] = np.repeat(list(parts), [len(part["index"]) for part in parts.values()])
    order = _order(dataset, joined)
    return {name: array[:, order] if name == "samples" else array[order] for name, array in joined.items()}


def _order(dataset: Dataset, arrays: dict[str, NDArray[Any]]) -> NDArray[Any]:
    """Where the images lie among those of both splits: once each, in the order of their source."""
    if "path" in arrays:
        return np.argsort(arrays["path"], kind="stable")
    if dataset.train.index is not None and dataset.test.index is not None:
        return np.argsort(arrays["index"], kind="stable")
    if dataset.train.index is not None:  # images that a training goes through several times in an epoch
        _, first = np.unique(dataset.train.index.numpy(), return_index=True)
        return np.concatenate([np.sort(first), np.arange(len(dataset.train), len(arrays["index"]))])
    return np.arange(len(arrays["index"]))


def encode(
    run: str | Path | zoo.Run,
    data: object = None,
    *,
    split: Literal["train", "test", "all"] | None = None,
    samples: int = 0,
    seed: int | None = None,
    data_dir: Path | str | None = None,
    device: str = "auto",
) -> dict[str, NDArray[Any]]:
    """The posterior q(z | x) of every image: what ``zoo encode`` writes.

    Args:
        run: as in `zoo.load`.
        data: another data set than the run's own, by name or path, of images of the same shape; photographs in a folder
            are scaled and cropped to it. They are binarised as the run's were.
        split: of the data. By default ``all`` where `data` are given, and ``test`` of the run's own.
        samples: K, draws of each posterior.
        seed: of the draws and of a dynamic binarisation; by default the run's.
        data_dir, device: as in `zoo.train`.

    Returns:
        ``path`` str (N,), below the folder, where the images are files; ``index`` int64 (N,), the place in the file of
        arrays, otherwise in the split; ``split`` str (N,), where both are encoded; ``labels`` int64 (N,) where there
        are any; ``mean`` (N, *latent_shape) where the posterior has one, and its other parameters by their names in
        torch, such as ``scale``; ``samples`` (K, N, *latent_shape) if asked. Of all images, each comes once, in the
        order of the paths or of the file.

    Raises:
        RunError: there is no such run.
        UsageError: there is no such split.
        DataError: the data cannot be had here, or their images have another shape.
    """
    run = run if isinstance(run, zoo.Run) else zoo.Run.open(run)
    split = split or ("test" if data is None else "all")
    if split not in ("train", "test", "all"):
        raise UsageError(f"There is no split {split!r}: write train, test or all.")
    choices = run.recipe.data if data is None else recipe_for(data, run.recipe).data
    shape = None if data is None else run.data_shape
    root = None if data_dir is None else Path(data_dir)
    dataset = load_data(choices, root, shape, source=None if isinstance(data, str | os.PathLike) else data).dataset
    if dataset.shape != run.data_shape:
        shapes = ["x".join(map(str, shape)) for shape in (run.data_shape, dataset.shape)]
        raise DataError(f"{run.path} was trained on images of {shapes[0]}, these are {shapes[1]}.")
    target = resolve_device(device)
    return codes_of(
        *(run.load().to(target), dataset, split),
        binarize=run.recipe.binarize,
        device=target,
        samples=samples,
        seed=run.recipe.train.seed if seed is None else seed,
    )
