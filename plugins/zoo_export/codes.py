"""What a model makes of images, as plain arrays: the parameters of their posteriors, draws, labels."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution, Independent

import zoo
from zoo.api import recipe_for, resolve_device
from zoo.data.loader import Loader
from zoo.errors import DataError
from zoo.model.context import derive_seed, evaluating, seeded
from zoo.model.vae import VAE
from zoo.recipes.datasets import load_data

# The stream of random numbers that draws are made from, apart from the one that binarises images.
DRAWS = 2


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
            q = vae.encode(*batch)
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


def encode(
    run: str | Path | zoo.Run,
    data: str | None = None,
    *,
    split: Literal["train", "test"] = "test",
    samples: int = 0,
    seed: int | None = None,
    data_dir: Path | str | None = None,
    device: str = "auto",
) -> dict[str, NDArray[Any]]:
    """The posterior q(z | x) of every image of a split: what ``zoo encode`` writes.

    Args:
        run: as in `load`.
        data: another data set than the run's own, by name or path, of images of the same shape. They are binarised as
            the run's were.
        split: of the data.
        samples: K, draws of each posterior.
        seed: of the draws and of a dynamic binarisation; by default the run's.
        data_dir, device: as in `train`.

    Returns:
        ``index`` int64 (N,), the place in the split; ``labels`` int64 (N,) where there are any; ``mean``
        (N, *latent_shape) where the posterior has one, and its other parameters by their names in torch, such as
        ``scale``; ``samples`` (K, N, *latent_shape) if asked.

    Raises:
        RunError: there is no such run.
        DataError: the data cannot be had here, or their images have another shape.
    """
    run = run if isinstance(run, zoo.Run) else zoo.Run.open(run)
    choices = run.recipe.data if data is None else recipe_for(data, run.recipe).data
    dataset = load_data(choices, None if data_dir is None else Path(data_dir)).dataset
    if dataset.shape != run.data_shape:
        shapes = ["x".join(map(str, shape)) for shape in (run.data_shape, dataset.shape)]
        raise DataError(f"{run.path} was trained on images of {shapes[0]}, these are {shapes[1]}.")
    target = resolve_device(device)
    images = Loader(dataset.train if split == "train" else dataset.test, 500, run.recipe.binarize, target)
    return codes(run.load().to(target), images, samples=samples, seed=run.recipe.train.seed if seed is None else seed)
