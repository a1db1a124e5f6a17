"""Two levels with bottom-up inference (model: arXiv 1401.4082; inference: arXiv 1602.02282, section 2.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.distributions import Distribution

from zoo import ComponentError, ComponentFactory, Encoder, Prior
from zoo_hierarchical.levels import Levels, ToGaussian, gaussian, upper_size


class TwoLevelEncoder(Encoder):
    """q(z_1, z_2 | x) = q(z_1 | x) q(z_2 | z_1). The event is the concatenation of both, (latent_dim + upper,).

    Args:
        data_shape: event shape of x.
        latent_dim: size of z_1.
        classes: number of labels, for a conditional encoder.
        upper: size of z_2.
        hidden: widths of the hidden layers from z_1 to z_2.
        encoder: any encoder with event shape (latent_dim,), for q(z_1 | x).
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_dim: int,
        classes: int,
        upper: PositiveInt = 20,
        hidden: Sequence[PositiveInt] = (100,),
        encoder: Callable[..., Encoder] = ComponentFactory("encoder", "mlp"),
    ) -> None:
        super().__init__()
        self.sizes = (latent_dim, upper)
        self.lower = encoder(data_shape=data_shape, latent_dim=latent_dim, classes=classes)
        self.upper = ToGaussian(latent_dim, upper, hidden)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Distribution:
        """Map x (N, *data_shape) to q(z_1, z_2 | x).

        Raises:
            ComponentError: the event shape of q(z_1 | x) is not (latent_dim,).
        """
        lower = self.lower(x, condition)
        if tuple(lower.event_shape) != self.sizes[:1] or not lower.has_rsample:
            raise ComponentError(
                f"The encoder inside 'two-level' must have reparameterised samples and a latent of shape "
                f"{self.sizes[:1]}; got {type(lower).__name__} over {tuple(lower.event_shape)}."
            )
        return Levels(lower, [self.upper], self.sizes, downward=False)


class TwoLevelPrior(Prior):
    """p(z_1, z_2) = p(z_1 | z_2) p(z_2), with p(z_2) standard normal.

    Args:
        latent_dim: size of z_1.
        latent_shape: event shape of both levels together.
        hidden: widths of the hidden layers from z_2 to z_1.

    Raises:
        ComponentError: the latent has no second level.
    """

    top: Tensor

    def __init__(self, latent_dim: int, latent_shape: tuple[int, ...], hidden: Sequence[PositiveInt] = (100,)) -> None:
        super().__init__()
        upper = upper_size("prior 'two-level'", latent_shape, latent_dim, "two-level")
        self.sizes = (latent_dim, upper)
        self.lower = ToGaussian(upper, latent_dim, hidden)
        self.register_buffer("top", torch.zeros(upper), persistent=False)

    def forward(self, encoder: Encoder, condition: Tensor | None = None) -> Distribution:
        """Return the distribution over both levels, with batch shape ()."""
        return Levels(gaussian(self.top, torch.ones_like(self.top)), [self.lower], self.sizes, downward=True)
