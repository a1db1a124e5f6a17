"""Models and losses, built from recipes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.distributions import Distribution
from torch.nn import Module

from zoo.data.columns import Column
from zoo.errors import ComponentError, ZooError
from zoo.model.context import evaluating, exclusive
from zoo.model.loss import Loss
from zoo.model.measures import require_same_measure
from zoo.model.memory import bounded
from zoo.model.parts import Encoder, Prior
from zoo.model.vae import VAE
from zoo.recipes.components import construct
from zoo.recipes.schema import ComponentSpec, Recipe
from zoo.recipes.signatures import read_signature


@torch.inference_mode(False)  # parameters created in inference mode could not be trained
def build(
    recipe: Recipe,
    data_shape: tuple[int, ...],
    classes: int = 0,
    train_size: int = 0,
    columns: tuple[Column, ...] = (),
) -> tuple[VAE, Loss]:
    """Build the model and the loss of a recipe. The weights are drawn from torch's global generator.

    Args:
        recipe: a checked recipe.
        data_shape: event shape of x.
        classes: number of labels in the data, 0 if they have none.
        train_size: number of training examples, 0 if it is unknown.
        columns: what the entries of x mean; see `zoo.Dataset`.

    Raises:
        ComponentError: a component failed, or posterior and prior have different base measures (see
            `zoo.base_measure`); the message names them.
        UsageError: the model does not fit into the memory of this machine.
    """
    context = _context(recipe, data_shape, classes, columns)
    with exclusive(), bounded():
        vae = _build_model(recipe, context)
        loss: Loss = construct("loss", recipe.loss, {**context, "train_size": train_size})
    return vae, loss


@torch.inference_mode(False)
def build_model(recipe: Recipe, data_shape: tuple[int, ...], classes: int = 0, columns: tuple[Column, ...] = ()) -> VAE:
    """Build the model of a recipe; see `build`."""
    with exclusive(), bounded():
        return _build_model(recipe, _context(recipe, data_shape, classes, columns))


@torch.inference_mode(False)
def build_loss(
    recipe: Recipe,
    data_shape: tuple[int, ...],
    classes: int = 0,
    train_size: int = 0,
    columns: tuple[Column, ...] = (),
) -> Loss:
    """Build the loss of a recipe; see `build`. The encoder is built only if the loss has a parameter `latent_shape`."""
    context = {**_context(recipe, data_shape, classes, columns), "train_size": train_size}
    with exclusive(), bounded():
        if "latent_shape" in read_signature("loss", recipe.loss.use).injected:
            encoder = construct("encoder", recipe.encoder, context)
            context["latent_shape"] = tuple(_posterior(recipe.encoder.use, encoder, data_shape, classes).event_shape)
        loss: Loss = construct("loss", recipe.loss, context)
    return loss


def _context(recipe: Recipe, data_shape: tuple[int, ...], classes: int, columns: tuple[Column, ...]) -> dict[str, Any]:
    """The values of injected parameters."""
    return {"data_shape": data_shape, "latent_dim": recipe.latent_dim, "classes": classes, "columns": columns}


def _build_model(recipe: Recipe, context: dict[str, Any]) -> VAE:
    """Build encoder, decoder and prior, and add the shape of the latent to the context."""
    encoder = construct("encoder", recipe.encoder, context)
    q = _posterior(recipe.encoder.use, encoder, context["data_shape"], context["classes"])
    context["latent_shape"] = tuple(q.event_shape)
    decoder = construct("decoder", recipe.decoder, {**context, "model_encoder": encoder})
    vae = VAE(encoder, decoder, _prior_of(q, recipe, recipe.prior, encoder, context))
    vae.data_shape, vae.latent_shape = context["data_shape"], context["latent_shape"]
    return vae


@torch.inference_mode(False)
def build_prior(
    spec: ComponentSpec,
    recipe: Recipe,
    encoder: Encoder,
    data_shape: tuple[int, ...],
    classes: int = 0,
    columns: tuple[Column, ...] = (),
) -> Prior:
    """Build another prior for a model of a recipe.

    Raises:
        UnknownName, NameConflict, RecipeError, ComponentError: see `construct` and `build`.
    """
    q = _posterior(recipe.encoder.use, encoder, data_shape, classes)
    context = {**_context(recipe, data_shape, classes, columns), "latent_shape": tuple(q.event_shape)}
    return _prior_of(q, recipe, spec, encoder, context)


def _prior_of(
    q: Distribution, recipe: Recipe, spec: ComponentSpec, encoder: Encoder, context: Mapping[str, Any]
) -> Prior:
    """Build a prior, and compare its base measure with that of the posterior `q`."""
    with exclusive():
        prior: Prior = construct("prior", spec, {**context, "model_encoder": encoder})
    name = f"prior {spec.use!r}"
    p = _distribution(name, "", prior, encoder, modules=(encoder, prior))
    require_same_measure(q, p, f"encoder {recipe.encoder.use!r}", name)
    return prior


def _posterior(name: str, encoder: torch.nn.Module, data_shape: tuple[int, ...], classes: int) -> Distribution:
    """The posterior of one example.

    Raises:
        ComponentError: the encoder fails, or does not return one distribution per example.
    """
    condition = torch.zeros(1, dtype=torch.int64) if classes else None
    x = torch.zeros(1, *data_shape)
    q = _distribution(f"encoder {name!r}", f" on data of shape {data_shape}", encoder, x, condition)
    if len(q.batch_shape) > 1:
        head = type(getattr(encoder, "posterior", q)).__name__
        raise ComponentError(
            f"encoder {name!r} must return a distribution with batch shape (N,), not (N, "
            f"{', '.join(map(str, q.batch_shape[1:]))}): {head} is for flat latents. For a spatial latent, choose a "
            "posterior that acts on each position, such as encoder.posterior=gaussian."
        )
    return q


def _distribution(name: str, where: str, module: Module, *inputs: Any, modules: Sequence[Module] = ()) -> Distribution:
    """What a part of the model returns in evaluation mode.

    Raises:
        ComponentError: it fails, or returns no distribution.
    """
    try:
        with torch.no_grad(), evaluating(*(modules or [module])):
            value = module(*inputs)
    except ZooError:
        raise
    except Exception as error:
        raise ComponentError(f"{name} fails{where}: {type(error).__name__}: {error}") from error
    if not isinstance(value, Distribution):
        raise ComponentError(f"{name} must return a torch.distributions.Distribution, not a {type(value).__name__}")
    return value
