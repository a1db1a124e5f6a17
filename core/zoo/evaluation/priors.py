"""Priors that are fitted to the aggregate posterior of a trained model, and how a run folder keeps one."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.data.loader import Loader
from zoo.errors import RunError, TrainingError, UsageError, ZooError
from zoo.model.context import evaluating
from zoo.model.devices import float64
from zoo.model.parts import Encoder, ExPostPrior, Prior
from zoo.model.vae import VAE
from zoo.plugins.registry import registry
from zoo.recipes.components import build_prior
from zoo.recipes.schema import ComponentSpec, Recipe
from zoo.storage.checkpoints import load_weights, serialized
from zoo.storage.files import MANIFEST, read_manifest, sealed, sha256, verify_files, write_bytes

ROWS = 1024


def require_fittable(block: ComponentSpec) -> None:
    """See that a prior can be fitted after training.

    Raises:
        UnknownName, NameConflict, ComponentError: it cannot be had.
        UsageError: it has no `fit`; the message names those that have one.
    """
    if not _fittable(block.use):
        names = [name for name in registry().names("prior").matching() if _fittable(name, strict=False)]
        raise UsageError(
            f"prior {block.use!r} cannot be fitted after training. These can: {', '.join(names) or 'none'}."
        )


def _fittable(name: str, strict: bool = True) -> bool:
    try:
        target = registry().get("prior", name)
    except ZooError:
        if strict:
            raise
        return False
    return isinstance(target, type) and issubclass(target, ExPostPrior)


def fit(
    prior: Prior, vae: VAE, train: Loader, test: Loader, samples_per_image: int = 1, seed: int = 0
) -> dict[str, Any]:
    """Fit a prior to draws from q(z | x), one or more for each training image.

    Args:
        prior: an `ExPostPrior` on the model's device.
        vae: the model, whose own prior is looked at for comparison.
        train, test: the images, as the model met them.
        samples_per_image: draws for each image.
        seed: of the order of the images. The draws come from torch's global generator.

    Returns:
        What it was fitted to, and the mean log p(z) in nats at the draws and at draws of the test images, under it and
        under the model's own prior (None where that has no log-density).

    Raises:
        UsageError: the prior refused the draws.
        TrainingError: the fit gave no finite density.
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
        raise TrainingError(f"The fitted prior has a mean log p(z) of {fitted['train']} at the draws it was fitted to.")
    return {
        "images": len(train.x),
        "samples_per_image": samples_per_image,
        "seed": seed,
        "log_likelihood": fitted,
        "original": {"train": original, "test": original_test},
    }


@torch.no_grad()
def posterior_draws(vae: VAE, batches: Loader, samples_per_image: int, seed: int) -> tuple[Tensor, float | None]:
    """Draws from q(z | x), and the mean of log p(z) at them under the model's prior, in nats, where it has one.

    Returns:
        (N samples_per_image, *latent_shape): the images in a random order, the draws of an image side by side.
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
    """The mean of log p(z) at draws (N, *latent_shape), in nats."""
    distribution = prior(encoder)
    return torch.cat([float64(distribution.log_prob(part)) for part in torch.split(z, ROWS)]).mean().item()


class FittedPrior:
    """The folder of a fitted prior: ``manifest.json`` says what it is and what it was fitted to, its state is beside.

    The state's file is named by its digest, and the manifest is put in place last, in one move: a fit that takes the
    place of another is there as a whole or not at all.

    Args:
        folder: where it lies, or is to lie.
        weights: of the model that it belongs to.
    """

    def __init__(self, folder: Path, weights: Path) -> None:
        self.folder = folder
        self._model = weights

    @property
    def exists(self) -> bool:
        """Whether a prior was fitted."""
        return (self.folder / MANIFEST).exists()

    @property
    def name(self) -> str:
        """What the prior is called; otherwise as `said`."""
        return str(self.said()["prior"]["use"])

    def said(self) -> dict[str, Any]:
        """The manifest: ``prior`` is the component's block, ``fitted`` what it was fitted to.

        Raises:
            RunError: it is missing or damaged.
        """
        manifest = read_manifest(self.folder)
        try:
            ComponentSpec.model_validate(manifest["prior"])
            _ = manifest["fitted"], manifest["model"]
            (_,) = manifest["sha256"]
        except (KeyError, ValueError) as error:
            raise RunError(f"{self.folder / MANIFEST} is no manifest of a fitted prior.") from error
        return manifest

    def save(self, block: ComponentSpec, prior: Prior, fitted: dict[str, Any]) -> None:
        """Put a prior in place of the one before, if there was one.

        Raises:
            TrainingError: the disk is full. The one before is intact.
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
            raise TrainingError(f"{self.folder} could not be written: {error}. What was there is intact.") from error
        for old in self._states():
            if old != state:
                old.unlink(missing_ok=True)

    def _states(self) -> Iterable[Path]:
        return self.folder.glob("*.safetensors")

    def load(self, recipe: Recipe, encoder: Encoder, data_shape: tuple[int, ...], classes: int = 0) -> Prior:
        """The prior, made anew from its block and its state.

        Raises:
            RunError: a file is missing or damaged, or it was fitted to other weights of the model.
            UnknownName, NameConflict, RecipeError, ComponentError: the component cannot be had here.
        """
        said = self.said()
        ((name, _),) = said["sha256"].items()
        if Path(name).name != name:
            raise RunError(f"{self.folder / MANIFEST} names a file outside its folder: {name!r}.")
        verify_files(self.folder, said["sha256"], [name])
        if not self._model.exists() or sha256(self._model) != said["model"]:
            raise RunError(
                f"{self.folder} holds a prior that was fitted to other weights than those in {self._model.name}. "
                "Fit it again, or ask for the original prior."
            )
        prior = build_prior(ComponentSpec.model_validate(said["prior"]), recipe, encoder, data_shape, classes)
        try:
            prior.load_state_dict(load_weights(self.folder / name))
        except RuntimeError as error:
            raise RunError(f"{self.folder / name} is not the state of its prior: {error}") from error
        return prior
