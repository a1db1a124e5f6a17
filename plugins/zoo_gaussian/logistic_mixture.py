"""Mixtures of discretized logistic distributions, the likelihood of PixelCNN++ (arXiv 1701.05517)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, constraints
from torch.nn.functional import one_hot
from torch.types import _size

from zoo import ComponentError, Likelihood, at_least_float32
from zoo_gaussian.discretized import LEVELS, DiscretizedLogistic

LOG_SCALES = (-7.0, 7.0)
"""Bounds of the log-scales for pixels in [-1, 1]. The lower one is that of the published code."""
UNIT = (LEVELS - 1) / LEVELS / 2
"""A distance of 1 between pixels in [-1, 1], where neighbouring grey values are 2/255 apart, in the units of
`DiscretizedLogistic`, where they are 1/256 apart.
"""


class DiscretizedLogisticMixture(Likelihood):
    """P(x) = sum_k w_k P_k(x), where each P_k is a logistic distribution rounded to 256 grey values (arXiv 1701.05517,
    section 2.1). The first and the last grey value also have the mass below and above them.

    With coupled channels, the three colours of a pixel have common weights, and in each component the mean of green is
    linear in red, and that of blue in red and green (section 2.2):

        m_g = mean_g + a x_r,  m_b = mean_b + b x_r + c x_g,  a, b, c = tanh of the parameters

    Means and log-scales are those of pixels in [-1, 1]; log-scales are clamped to [-7, 7]. The density factorizes over
    pixels but not over colours, so data with missing entries need independent channels.

    Args:
        data_shape: event shape of x, whose entries are multiples of 1/255 in [0, 1].
        components: number of components K.
        channels: ``coupled`` for images with three channels, or with one, which is then a plain mixture;
            ``independent`` for a mixture per entry, of data of any shape.

    Raises:
        ComponentError: coupled channels of data that are not images with one or three channels.
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        components: PositiveInt = 10,
        channels: Literal["coupled", "independent"] = "coupled",
    ) -> None:
        super().__init__()
        if channels == "coupled" and (len(data_shape) != 3 or data_shape[0] not in (1, 3)):
            raise ComponentError(
                "likelihood 'discretized-logistic-mixture' couples the channels of images of shape (1, H, W) or "
                f"(3, H, W); data_shape is {tuple(data_shape)}. Set channels=independent."
            )
        self.coupled = channels == "coupled" and data_shape[0] == 3
        self.event_dims = len(data_shape)
        self.components = components
        self.parameters_per_entry = (4 if self.coupled else 3) * components

    def forward(self, parameters: Tensor) -> Distribution:
        """Map logits of the weights, means, log-scales and, if the channels are coupled, coefficients
        (..., *data_shape, 3 K or 4 K) to a distribution over data_shape. The logits of the three channels are added.
        """
        logits, mean, log_scale, *coefficients = torch.split(at_least_float32(parameters), self.components, dim=-1)
        log_scale = log_scale.clamp(*LOG_SCALES)
        if self.coupled:
            return CoupledMixture(logits.sum(-4), mean, log_scale, coefficients[0].tanh())
        return Independent(LogisticMixture(logits, mean, log_scale), self.event_dims, validate_args=False)


class LogisticMixture(Distribution):
    """A mixture of K discretized logistic distributions for each entry.

    Args:
        logits: of the weights, (..., K).
        mean, log_scale: of the components, (..., K), for values in [-1, 1].
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = DiscretizedLogistic.support
    has_rsample = False

    def __init__(self, logits: Tensor, mean: Tensor, log_scale: Tensor) -> None:
        self.log_weights = logits.log_softmax(-1)
        self.components = discretized_logistic(mean, log_scale)
        super().__init__(mean.shape[:-1], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The mean of the grey values in [0, 1]."""
        return (self.log_weights.exp() * self.components.mean).sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-probability of grey values i / 255, in nats."""
        return (self.log_weights + self.components.log_prob(value.unsqueeze(-1))).logsumexp(-1)

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draws of grey values i / 255."""
        k = component_index(self.log_weights, sample_shape)
        location, log_scale = (selected(x, k) for x in (self.components.location, self.components.log_scale))
        return DiscretizedLogistic(location, log_scale).sample()


class CoupledMixture(Distribution):
    """A mixture of K distributions of the three colours of a pixel; see `DiscretizedLogisticMixture`.

    Args:
        logits: of the weights, (..., H, W, K).
        mean, log_scale: of the components, (..., 3, H, W, K), for values in [-1, 1].
        coefficients: a, b and c in the place of red, green and blue, (..., 3, H, W, K).
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.independent(DiscretizedLogistic.support, 3)  # type: ignore[no-untyped-call]
    has_rsample = False

    def __init__(self, logits: Tensor, mean: Tensor, log_scale: Tensor, coefficients: Tensor) -> None:
        self.log_weights = logits.log_softmax(-1)
        self.parameters = torch.stack([mean, log_scale, coefficients])
        super().__init__(mean.shape[:-4], mean.shape[-4:-1], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The mean of the grey values in [0, 1], (..., 3, H, W).

        In each component, green is evaluated at the mean of red, and blue at the means of red and green. This is exact
        where no mass is rounded or clipped to a grey value.
        """
        means: list[Tensor] = []
        for colour in range(3):
            means.append(colour_given(self.parameters, colour, means).mean)
        return (self.log_weights.exp().unsqueeze(-4) * torch.stack(means, -4)).sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-probability of grey values i / 255 (..., 3, H, W), summed over pixels, in nats."""
        colours = value.unsqueeze(-1).unbind(-4)
        total = self.log_weights
        for colour in range(3):
            total = total + colour_given(self.parameters, colour, colours[:colour]).log_prob(colours[colour])
        return total.logsumexp(-1).sum((-2, -1))

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draws of grey values i / 255, (*sample_shape, ..., 3, H, W)."""
        k = component_index(self.log_weights, sample_shape).unsqueeze(-3)
        parameters = torch.stack([selected(x, k) for x in self.parameters])
        parameters = parameters.unsqueeze(-1)
        draws: list[Tensor] = []
        for colour in range(3):
            draws.append(colour_given(parameters, colour, draws).sample())
        return torch.stack(draws, -4).squeeze(-1)


def colour_given(parameters: Tensor, colour: int, preceding: Sequence[Tensor]) -> DiscretizedLogistic:
    """The distribution of red, green or blue (..., H, W, K) in each component, given the values of those before it.

    Args:
        parameters: means, log-scales and coefficients, (3, ..., 3, H, W, K).
        colour: 0, 1 or 2.
        preceding: values in [0, 1] of the colours before it, which broadcast to (..., H, W, K).
    """
    mean, log_scale, _ = parameters.select(-4, colour)
    coefficients = parameters[2].unbind(-4)[max(0, colour - 1) :]  # a for green; b and c for blue
    for value, coefficient in zip(preceding, coefficients, strict=False):
        mean = mean + coefficient * (2 * value - 1)
    return discretized_logistic(mean, log_scale)


def discretized_logistic(mean: Tensor, log_scale: Tensor) -> DiscretizedLogistic:
    """The distribution with a mean and a log-scale for values in [-1, 1].

    The grey value i is at 2 i / 255 - 1 there, and at (i + 1/2) / 256 in the units of `DiscretizedLogistic`.
    """
    return DiscretizedLogistic(0.5 + UNIT * mean, log_scale + math.log(UNIT))


def component_index(log_weights: Tensor, sample_shape: _size) -> Tensor:
    """Draw components from log-weights (..., K), (*sample_shape, ...)."""
    index: Tensor = Categorical(logits=log_weights, validate_args=False).sample(sample_shape)  # type: ignore[no-untyped-call]
    return index


def selected(parameters: Tensor, k: Tensor) -> Tensor:
    """The parameters (..., K) of the components k, whose shape broadcasts to (...)."""
    return (parameters * one_hot(k, parameters.shape[-1])).sum(-1)
