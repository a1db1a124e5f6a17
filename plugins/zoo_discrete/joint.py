"""Joint distributions over continuous and discrete latents (arXiv 1804.00104)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.distributions import Distribution, constraints, kl_divergence, register_kl
from torch.types import _size

from zoo import ComponentError, ComponentFactory, Encoder, Posterior, Prior, base_measure


class JointPosterior(Posterior):
    """q(z, c | x) = q(z | x) q(c | x), two heads on the same features.

    The event is the concatenation of the flattened z and c.

    Args:
        features: number of features.
        latent_dim: number of continuous latent dimensions.
        variables: number of discrete latents.
        continuous: head for q(z | x).
        discrete: head for q(c | x).
    """

    def __init__(
        self,
        features: int,
        latent_dim: int,
        variables: PositiveInt = 1,
        continuous: Callable[..., Posterior] = ComponentFactory("posterior", "gaussian"),
        discrete: Callable[..., Posterior] = ComponentFactory("posterior", "gumbel-softmax"),
    ) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            (continuous(features=features, latent_dim=latent_dim), discrete(features=features, latent_dim=variables))
        )
        with torch.no_grad():
            self.event_shapes = [tuple(head.eval()(torch.zeros(1, features)).event_shape) for head in self.heads]
        self.heads.train()

    def forward(self, features: Tensor) -> Distribution:
        """Map features (N, features) to a `Concatenated` distribution over (z, c)."""
        return Concatenated([head(features) for head in self.heads])


class JointPrior(Prior):
    """p(z, c) = p(z) p(c), for a `JointPosterior`.

    Args:
        model_encoder: encoder with the joint posterior, which determines the shapes of z and c.
        continuous: prior p(z).
        discrete: prior p(c).

    Raises:
        ComponentError: the encoder has no joint posterior.
    """

    def __init__(
        self,
        model_encoder: Encoder,
        continuous: Callable[..., Prior] = ComponentFactory("prior", "standard-normal"),
        discrete: Callable[..., Prior] = ComponentFactory("prior", "uniform-categorical"),
    ) -> None:
        super().__init__()
        head = next((module for module in model_encoder.modules() if isinstance(module, JointPosterior)), None)
        if head is None:
            raise ComponentError("The prior 'joint' needs a joint posterior: encoder.posterior=joint.")
        parts = zip((continuous, discrete), head.event_shapes, strict=True)
        self.parts = nn.ModuleList(
            part(model_encoder=model_encoder, latent_shape=shape, latent_dim=shape[0]) for part, shape in parts
        )

    def forward(self, encoder: Encoder, condition: Tensor | None = None) -> Distribution:
        """Return the distribution over (z, c), with batch shape ()."""
        return Concatenated([part(encoder, condition) for part in self.parts])


class Concatenated(Distribution):
    """The product of independent distributions, over the concatenation of their flattened events.

    Args:
        parts: distributions with the same batch shape.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, parts: Sequence[Distribution]) -> None:
        self.parts = tuple(parts)
        self.has_rsample = all(part.has_rsample for part in parts)
        self.sizes = [part.event_shape.numel() for part in parts]
        super().__init__(parts[0].batch_shape, torch.Size([sum(self.sizes)]), validate_args=False)

    def _join(self, values: Sequence[Tensor]) -> Tensor:
        pieces = zip(values, self.parts, strict=True)
        return torch.cat([value.flatten(value.ndim - len(part.event_shape)) for value, part in pieces], dim=-1)

    @property
    def base_measure(self) -> str | None:
        """The base measure of all parts, or those of the parts in order; None if one is None."""
        measures = [base_measure(part) for part in self.parts]
        if None in measures or len(set(measures)) == 1:
            return None if None in measures else measures[0]
        return " and a ".join(str(measure) for measure in measures)

    @property
    def mean(self) -> Tensor:
        """The concatenated means of the parts."""
        return self._join([part.mean for part in self.parts])

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draw samples (*sample_shape, N, size)."""
        return self._join([part.sample(torch.Size(sample_shape)) for part in self.parts])

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Draw reparameterised samples (*sample_shape, N, size)."""
        return self._join([part.rsample(torch.Size(sample_shape)) for part in self.parts])

    def log_prob(self, value: Tensor) -> Tensor:
        """The sum of the log-densities of the parts, in nats."""
        pieces = zip(torch.split(value, self.sizes, dim=-1), self.parts, strict=True)
        log_probs = [part.log_prob(piece.reshape(*piece.shape[:-1], *part.event_shape)) for piece, part in pieces]
        return torch.stack(log_probs).sum(0)


@register_kl(Concatenated, Concatenated)  # type: ignore[no-untyped-call, untyped-decorator]
def _sum_of_kls(q: Concatenated, p: Concatenated) -> Tensor:
    return torch.stack(kls(q, p)).sum(0)


def kls(q: Concatenated, p: Concatenated) -> list[Tensor]:
    """KL(q || p) of each part, in nats."""
    return [kl_divergence(*pair) for pair in zip(q.parts, p.parts, strict=True)]
