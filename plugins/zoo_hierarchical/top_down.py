"""Two levels that are generated and inferred from the top down, with gated layers (arXiv 1705.07120, section 4)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from zoo import (
    ComponentError,
    ComponentFactory,
    Decoder,
    Encoder,
    GatedDense,
    Gaussian,
    Init,
    Likelihood,
    Prior,
    at_least_float32,
    initialize_linear,
    match_dtype,
)
from zoo_hierarchical.levels import Levels, upper_size

Clip = tuple[float, float]


class TopDownEncoder(Encoder):
    """q(z_2 | x) q(z_1 | x, z_2). The event is z_1 and z_2 side by side, (latent_dim + upper,).

    Args:
        data_shape: event shape of x.
        latent_dim: size of z_1.
        classes: number of labels, for a conditional encoder.
        upper: size of z_2.
        width: units of the gated layers of q(z_1 | x, z_2): one on x, one on z_2, one on both.
        clip: bounds of the log-variance of z_1.
        encoder: any with a vector as its latent, for q(z_2 | x).
        init: of the weights of q(z_1 | x, z_2); see `zoo.initialize_linear`.
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_dim: int,
        classes: int,
        upper: PositiveInt = 40,
        width: PositiveInt = 300,
        clip: Clip = (-6.0, 2.0),
        encoder: Callable[..., Encoder] = ComponentFactory("encoder", "mlp"),
        init: Init = "torch",
    ) -> None:
        super().__init__()
        self.sizes = (latent_dim, upper)
        self.top = encoder(data_shape=data_shape, latent_dim=upper, classes=classes)
        self.lower = nn.ModuleDict(
            {
                "x": GatedDense(math.prod(data_shape), width),
                "z": GatedDense(upper, width),
                "joint": GatedDense(2 * width, width),
                "head": GaussianHead(width, latent_dim, clip),
            }
        )
        initialize_linear(self.lower, init)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Distribution:
        """Map x (N, *data_shape) to q(z_1, z_2 | x).

        Raises:
            ComponentError: the latent of the nested encoder is not a vector of the size `upper`.
        """
        top = self.top(x, condition)
        if tuple(top.event_shape) != self.sizes[1:] or not top.has_rsample:
            raise ComponentError(
                f"The encoder in 'top-down' must have a reparameterised latent of shape {self.sizes[1:]}, not a "
                f"{type(top).__name__} of shape {tuple(top.event_shape)}."
            )
        seen = self.lower["x"](x.flatten(1))

        def below(z: Tensor) -> Distribution:
            upper = self.lower["z"](match_dtype(z, self.lower))
            joint = self.lower["joint"](torch.cat([seen.expand_as(upper), upper], dim=-1))
            q: Distribution = self.lower["head"](joint)
            return q

        return Levels(top, [below], self.sizes, downward=True)


class TopDownPrior(Prior):
    """p(z_1 | z_2) p(z_2), p(z_1 | z_2) from two gated layers.

    Args:
        data_shape: event shape of x.
        latent_dim: size of z_1.
        latent_shape: event shape of both side by side.
        classes: number of labels, for a conditional prior.
        width: units of the gated layers.
        clip: bounds of the log-variance of z_1.
        top: p(z_2); ``vamp`` takes its components from q(z_2 | x).
        init: of the weights of p(z_1 | z_2); see `zoo.initialize_linear`.
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_dim: int,
        latent_shape: tuple[int, ...],
        classes: int,
        width: PositiveInt = 300,
        clip: Clip = (-6.0, 2.0),
        top: Callable[..., Prior] = ComponentFactory("prior", "standard-normal"),
        init: Init = "torch",
    ) -> None:
        super().__init__()
        upper = upper_size("prior 'top-down'", latent_shape, latent_dim, "top-down")
        self.sizes = (latent_dim, upper)
        self.top = top(data_shape=data_shape, latent_dim=upper, latent_shape=(upper,), classes=classes)
        self.lower = nn.Sequential(
            GatedDense(upper, width), GatedDense(width, width), GaussianHead(width, latent_dim, clip)
        )
        initialize_linear(self.lower, init)

    def forward(self, encoder: Encoder, condition: Tensor | None = None) -> Distribution:
        """The distribution over both levels, batch shape ().

        Raises:
            ComponentError: the encoder is not ``top-down``.
        """
        if not isinstance(encoder, TopDownEncoder):
            raise ComponentError(
                f"The prior 'top-down' needs the encoder 'top-down', not a {type(encoder).__name__}: use "
                "encoder=top-down, or another prior."
            )
        return Levels(self.top(encoder.top, condition), [self._below], self.sizes, downward=True)

    def _below(self, z: Tensor) -> Distribution:
        p: Distribution = self.lower(match_dtype(z, self.lower))
        return p


class AllLevels(Decoder):
    """p(x | z_1, z_2) from gated layers: one on each level, one on both.

    Args:
        data_shape: event shape of x.
        latent_dim: size of z_1.
        latent_shape: event shape of both levels side by side.
        width: units of the gated layers.
        likelihood: the head.
        init: of the weights; see `zoo.initialize_linear`.
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_dim: int,
        latent_shape: tuple[int, ...],
        width: PositiveInt = 300,
        likelihood: Callable[..., Likelihood] = ComponentFactory("likelihood", "bernoulli"),
        init: Init = "torch",
    ) -> None:
        super().__init__()
        self.sizes = (latent_dim, upper_size("decoder 'all-levels'", latent_shape, latent_dim, "top-down or two-level"))
        self.likelihood = likelihood(data_shape=data_shape)
        self.data_dims = len(data_shape)
        parameters_shape = (self.likelihood.parameters_per_entry, *data_shape)
        self.branches = nn.ModuleList(GatedDense(size, width) for size in self.sizes)
        self.trunk = nn.Sequential(
            GatedDense(2 * width, width),
            nn.Linear(width, math.prod(parameters_shape)),
            nn.Unflatten(-1, parameters_shape),
        )
        initialize_linear(self, init)

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Distribution:
        """Map latents (K..., N, latent_dim + upper) to p(x | z_1, z_2)."""
        levels = torch.split(z, list(self.sizes), dim=-1)
        features = torch.cat([branch(level) for branch, level in zip(self.branches, levels, strict=True)], dim=-1)
        p: Distribution = self.likelihood(self.trunk(features).movedim(-1 - self.data_dims, -1))
        return p


class GaussianHead(nn.Module):
    """A Gaussian whose mean and log-variance are linear in the features, the log-variance clipped.

    Args:
        width_in, width_out: of the features and of the latent.
        clip: bounds of the log-variance.
    """

    def __init__(self, width_in: int, width_out: int, clip: Clip) -> None:
        super().__init__()
        self.linear = nn.Linear(width_in, 2 * width_out)
        self.clip = clip

    def forward(self, features: Tensor) -> Independent[Gaussian]:
        """Map features (..., width_in) to an event (width_out,)."""
        mean, log_variance = at_least_float32(self.linear(features)).chunk(2, dim=-1)
        return Independent(Gaussian(mean, log_variance.clamp(*self.clip) / 2), 1, validate_args=False)
