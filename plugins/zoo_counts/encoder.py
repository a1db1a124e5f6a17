"""The encoder of counts: q(z, log l | x) from log(1 + x)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from zoo import ComponentError, ComponentFactory, Encoder, Gaussian, at_least_float32


class CountEncoder(Encoder):
    """q(z | x) q(log l | x): an encoder of log(1 + x), with the logarithm of the library size l as the last latent
    dimension (arXiv 1709.02082, section 3.2).

    Args:
        data_shape: event shape of x, which holds counts.
        latent_dim: number of dimensions of z; the latent has one more.
        classes: number of labels.
        library: ``latent`` has q(log l | x) = N(log n + a(x), exp(2 b(x)) / n), where n is the total count of x (at
            least 1), and a and b are a network with one hidden layer. ``observed`` has a = b = 0, which is about the
            posterior of a Poisson total under a flat prior.
        library_hidden: width of the hidden layer of that network.
        encoder: any encoder with a diagonal Gaussian posterior of shape (latent_dim,).

    Raises:
        ComponentError: the posterior is another distribution.
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_dim: int,
        classes: int = 0,
        library: Literal["latent", "observed"] = "latent",
        library_hidden: PositiveInt = 128,
        encoder: Callable[..., Encoder] = ComponentFactory("encoder", "mlp", hidden=[128]),
    ) -> None:
        super().__init__()
        self.encoder = encoder(data_shape=data_shape, latent_dim=latent_dim, classes=classes)
        self.library = None
        if library == "latent":
            output = nn.Linear(library_hidden, 2)
            nn.init.normal_(output.weight, std=1e-3)
            nn.init.zeros_(output.bias)
            layers = (nn.Flatten(), nn.Linear(math.prod(data_shape), library_hidden), nn.ReLU(), output)
            self.library = nn.Sequential(*layers)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Distribution:
        """Map counts x (N, *data_shape) to q(z, log l | x) over (latent_dim + 1,)."""
        logs = x.clamp_min(0).log1p()
        q = self.encoder(logs, condition)
        z = q.base_dist if isinstance(q, Independent) else q
        if not isinstance(z, Normal) or len(q.event_shape) != 1:
            raise ComponentError(
                "The encoder 'counts' needs a diagonal Gaussian posterior of shape (latent_dim,), to which it appends "
                f"the library size; got a {type(z).__name__} with event shape {tuple(q.event_shape)}."
            )
        log_scale = z.log_scale if isinstance(z, Gaussian) else z.scale.log()
        log_total = at_least_float32(x).flatten(1).sum(1, keepdim=True).clamp_min(1).log()
        if self.library is None:
            mean_l, log_scale_l = log_total, -log_total / 2
        else:
            shift, log_scale_l = at_least_float32(self.library(logs)).chunk(2, dim=-1)
            # With a scale of 1 / sqrt(n) at the start, the decoder learns from libraries close to the totals.
            mean_l, log_scale_l = log_total + shift, log_scale_l - log_total / 2
        joint = Gaussian(torch.cat([z.loc, mean_l], -1), torch.cat([log_scale, log_scale_l], -1))
        return Independent(joint, 1, validate_args=False)
