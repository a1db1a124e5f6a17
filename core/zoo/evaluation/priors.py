"""Fit a prior to the aggregate posterior of a trained model, and store it in the run folder."""

from __future__ import annotations

import contextlib
import hashlib
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.data.columns import Column
from zoo.data.loader import Loader
from zoo.errors import RunError, TrainingError, UsageError, ZooError
from zoo.model.context import evaluating
from zoo.model.devices import float64
from zoo.model.parts import Encoder, ExPostPrior, Prior
from zoo.model.vae import VAE
from zoo.plugins.registry import registry
from zoo.recipes.building import build_prior
from zoo.recipes.schema import ComponentSpec, Recipe
from zoo.storage.checkpoints import load_weights, serialized
from zoo.storage.files import MANIFEST, read_manifest, sealed, sha256, verify_files, write_bytes

ROWS = 1024


def require_fittable(block: ComponentSpec) -> None:
    """Check that a prior can be fitted after training.

    Raises:
        UnknownName, NameConflict, ComponentError: the prior cannot be imported.
        UsageError: it is not an `ExPostPrior`; the message lists those that are.
    """
    if not _fittable(block.use):
        names = []
        for name in registry().names("prior").matching():
            with contextlib.suppress(ZooError):
                names += [name] if _fittable(name) else []
        raise UsageError(
            f"prior {block.use!r} cannot be fitted after training. These can: {', '.join(names) or 'none'}."
        )


def _fittable(name: str) -> bool:
    target = registry().get("prior", name)
    return isinstance(target, type) and issubclass(target, ExPostPrior)


def fit(
    prior: Prior, vae: VAE, train: Loader, test: Loader, samples_per_image: int = 1, seed: int = 0
) -> dict[str, Any]:
    """Fit a prior to draws from q(z | x) of the training images.

    Args:
        prior: an `ExPostPrior` on the model's device.
        vae: the model.
        train, test: images, binarized as in training.
        samples_per_image: number of draws per image.
        seed: seed of the order of the images. The draws use torch's global generator.

    Returns:
        The settings, and the mean log p(z) in nats at draws of the training and test images, under the fitted prior and
        under the model's own prior (None if it has no density).

    Raises:
        UsageError: the draws cannot be fitted.
        TrainingError: the density of the fitted prior is not finite.
    """
    assert isinstance(prior, ExPostPrior)
    with evaluating(vae):
        z, original = posterior_draws(vae, train, samples_per_image, seed)
        z_test, original_test = posterior_draws(vae, test, samples_per_image, seed)
        prior.train()
        prior.fit(z, vae.encoder)
        prior.eval()
        fitted = {"train": mean_log_prob(prior, z, vae.encoder), "test": mean_log_prob(prior, z_test, vae.encoder)}
    if not math.isfinite(fitted["train"]):
        raise TrainingError(f"The mean log p(z) of the fitted prior is {fitted['train']} on the training images.")
    return {
        "images": len(train.x),
        "samples_per_image": samples_per_image,
        "seed": seed,
        "log_likelihood": fitted,
        "original": {"train": original, "test": original_test},
    }


@torch.no_grad()
def posterior_draws(vae: VAE, batches: Loader, samples_per_image: int, seed: int) -> tuple[Tensor, float | None]:
    """Draw from q(z | x), and compute the mean log p(z) under the model's prior.

    Returns:
        Draws (N samples_per_image, *latent_shape), with shuffled images and the draws of an image adjacent; and the
        mean in nats, None if the prior has no density.
    """
    draws, log_pz = [], []
    for index in batches.shuffled(seed, 0):
        trace = vae.trace(batches[index], samples_per_image)
        draws.append(trace.z.transpose(0, 1).flatten(0, 1))
        try:
            log_pz.append(float64(trace.log_pz).flatten())
        except NotImplementedError:
            continue
    return torch.cat(draws), torch.cat(log_pz).mean().item() if log_pz else None


@torch.no_grad()
def mean_log_prob(prior: Prior, z: Tensor, encoder: Encoder) -> float:
    """The mean of log p(z) over draws (N, *latent_shape), in nats."""
    distribution = prior(encoder)
    return torch.cat([float64(distribution.log_prob(part)) for part in torch.split(z, ROWS)]).mean().item()


class FittedPrior:
    """The folder of a fitted prior: its ``manifest.json`` and its state.

    The file of the state is named after its digest and the manifest is renamed into place last, so replacing a fitted
    prior is atomic.

    Args:
        folder: the folder, which may not exist yet.
        weights: weights of the model that the prior belongs to.
    """

    def __init__(self, folder: Path, weights: Path) -> None:
        self.folder = folder
        self._model = weights

    @property
    def exists(self) -> bool:
        """Whether there is a fitted prior."""
        return (self.folder / MANIFEST).exists()

    @property
    def name(self) -> str:
        """The name of the prior; raises like `manifest`."""
        return str(self.manifest()["prior"]["use"])

    def manifest(self) -> dict[str, Any]:
        """Read the manifest: ``prior`` is the spec of the component, ``fitted`` the result of `fit`.

        Raises:
            RunError: it is missing or damaged.
        """
        manifest = read_manifest(self.folder)
        try:
            ComponentSpec.model_validate(manifest["prior"])
            _ = manifest["fitted"], manifest["model"]
            (_,) = manifest["sha256"]
        except (KeyError, ValueError) as error:
            raise RunError(f"{self.folder / MANIFEST} is not the manifest of a fitted prior.") from error
        return manifest

    def save(self, block: ComponentSpec, prior: Prior, fitted: dict[str, Any]) -> None:
        """Save a fitted prior and delete the previous one.

        Raises:
            TrainingError: the disk is full. The previous prior is intact.
        """
        content = serialized(prior.state_dict())
        state = self.folder / f"state-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
        try:
            self.folder.mkdir(exist_ok=True)
            write_bytes(content, state)
            model = sha256(self._model)
            manifest = sealed(self.folder, [state.name], prior=block.model_dump(), fitted=fitted, model=model)
            write_bytes(manifest, self.folder / MANIFEST)
        except OSError as error:
            raise TrainingError(
                f"{self.folder} could not be written: {error}. The previous prior is intact."
            ) from error
        for old in self.folder.glob("*.safetensors"):
            if old != state:
                old.unlink(missing_ok=True)

    def load(
        self,
        recipe: Recipe,
        encoder: Encoder,
        data_shape: tuple[int, ...],
        classes: int = 0,
        columns: tuple[Column, ...] = (),
    ) -> Prior:
        """Build the prior and load its state.

        Raises:
            RunError: a file is missing or damaged, or the prior was fitted to other weights.
            UnknownName, NameConflict, RecipeError, ComponentError: the prior cannot be imported or built.
        """
        manifest = self.manifest()
        (name,) = manifest["sha256"]
        if Path(name).name != name:
            raise RunError(f"{self.folder / MANIFEST} refers to a file outside its folder: {name!r}.")
        verify_files(self.folder, manifest["sha256"], [name])
        if not self._model.exists() or sha256(self._model) != manifest["model"]:
            raise RunError(
                f"The prior in {self.folder} was fitted to other weights than those in {self._model.name}. "
                "Fit it again, or use the original prior."
            )
        spec = ComponentSpec.model_validate(manifest["prior"])
        prior = build_prior(spec, recipe, encoder, data_shape, classes, columns)
        try:
            prior.load_state_dict(load_weights(self.folder / name))
        except RuntimeError as error:
            raise RunError(f"{self.folder / name} is not a state of this prior: {error}") from error
        return prior
