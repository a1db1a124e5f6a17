"""Building blocks shared by several families of components."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Normal, register_kl
from torch.types import _size

from zoo.errors import ComponentError
from zoo.model.parts import Scheduled


class WarmUp(nn.Module, Scheduled):
    """A scalar that rises linearly from 0 to `final` and then stays constant.

    Args:
        final: final value.
        epochs: length of the warm-up; 0 for a constant.

    >>> beta = WarmUp(4.0, epochs=10)
    >>> beta.schedule(step=0, epoch=2.5)
    >>> beta()
    tensor(1.)
    """

    value: Tensor

    def __init__(self, final: float, epochs: float) -> None:
        super().__init__()
        self.final = final
        self.epochs = epochs
        self.register_buffer("value", torch.tensor(float(final)))

    def schedule(self, step: int, epoch: float) -> None:
        """Set the value; `epoch` may be fractional."""
        if self.epochs > 0:
            self.value.fill_(self.final * min(1.0, epoch / self.epochs))

    def forward(self) -> Tensor:
        """The current value, 0-d."""
        return self.value


class Gaussian(Normal):
    """N(mean, exp(log_scale)^2), with density and KL divergence computed from the log-scale.

    `torch.distributions.Normal` squares the scale: in float32, below a scale of 1e-23, its density is NaN and its KL
    divergence infinite. Here both are accurate, gradients included, for log-scales from -87 to 87.

    Args:
        mean, log_scale: parameters, broadcast against each other.

    >>> from torch.distributions import kl_divergence
    >>> kl_divergence(Gaussian(torch.zeros(()), torch.tensor(-55.0)), Normal(0.0, 1.0))
    tensor(54.5000)
    """

    def __init__(self, mean: Tensor, log_scale: Tensor) -> None:
        super().__init__(mean, log_scale.exp(), validate_args=False)
        self.log_scale = log_scale.expand(self.batch_shape)

    def expand(self, batch_shape: _size, _instance: object = None) -> Gaussian:
        """Return the distribution with its parameters expanded to `batch_shape`."""
        return Gaussian(self.loc.expand(batch_shape), self.log_scale.expand(batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density, in nats."""
        deviation: Tensor = (value - self.loc) * (-self.log_scale).exp()
        return -deviation.square() / 2 - self.log_scale - math.log(2 * math.pi) / 2


@register_kl(Gaussian, Gaussian)  # type: ignore[no-untyped-call, untyped-decorator]
@register_kl(Gaussian, Normal)  # type: ignore[no-untyped-call, untyped-decorator]
@register_kl(Normal, Gaussian)  # type: ignore[no-untyped-call, untyped-decorator]
def _gaussian_kl(q: Normal, p: Normal) -> Tensor:
    """KL(q || p) = (s_q^2 / s_p^2 - 1) / 2 - log(s_q / s_p) + (m_q - m_p)^2 / 2 s_p^2."""
    log_ratio = _log_scale(q) - _log_scale(p)
    shift = (q.loc - p.loc) * (-_log_scale(p)).exp()
    return torch.expm1(2 * log_ratio) / 2 - log_ratio + shift.square() / 2


def _log_scale(distribution: Normal) -> Tensor:
    return distribution.log_scale if isinstance(distribution, Gaussian) else distribution.scale.log()


class GatedDense(nn.Module):
    """h = (W x + b) * sigmoid(V x + c), a linear layer whose outputs are gated (arXiv 1612.08083, eq. 1).

    Args:
        width_in, width_out: units before and after.
    """

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width_in, width_out)
        self.gate = nn.Linear(width_in, width_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., width_in) to (..., width_out)."""
        h: Tensor = self.linear(x) * torch.sigmoid(self.gate(x))
        return h


Init = Literal["torch", "xavier-uniform", "kaiming-normal"]


def initialize_linear(module: nn.Module, init: Init) -> None:
    """Draw the weights of every linear layer in a module anew, and set the biases to 0.

    Args:
        module: the module, changed in place.
        init: ``xavier-uniform`` (Glorot and Bengio, 2010) or ``kaiming-normal`` (arXiv 1502.01852), as in
            `torch.nn.init`; ``torch`` leaves the layers as torch made them.

    >>> layer = nn.Linear(4, 2)
    >>> initialize_linear(layer, "xavier-uniform")
    >>> layer.weight.abs().max().item() <= 1.0, layer.bias.tolist()
    (True, [0.0, 0.0])
    """
    if init == "torch":
        return
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            if init == "xavier-uniform":
                nn.init.xavier_uniform_(layer.weight)
            else:
                nn.init.kaiming_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def merge_leading(network: Callable[[Tensor], Tensor], z: Tensor, event_dims: int) -> Tensor:
    """Apply a network that expects one batch dimension, as convolutions do, to (K..., N, *event).

    >>> merge_leading(nn.Flatten(), torch.zeros(5, 4, 3, 2), event_dims=2).shape
    torch.Size([5, 4, 6])
    """
    leading = z.shape[: z.ndim - event_dims]
    y = network(z.reshape(-1, *z.shape[len(leading) :]))
    return y.reshape(*leading, *y.shape[1:])


def image_shape(data_shape: tuple[int, ...], component: str) -> tuple[int, int, int]:
    """Return `data_shape` as (C, H, W), or refuse data that are not images.

    Args:
        data_shape: event shape of x.
        component: name of the component in the message, such as ``"encoder 'conv'"``.

    Raises:
        ComponentError: the data are not images.

    >>> image_shape((3, 8, 8), "encoder 'conv'")
    (3, 8, 8)
    """
    if len(data_shape) != 3:
        raise ComponentError(f"{component} needs images of shape (C, H, W); data_shape is {tuple(data_shape)}.")
    channels, height, width = data_shape
    return channels, height, width


def halved_sizes(data_shape: tuple[int, ...], times: int) -> list[tuple[int, int]]:
    """Return height and width of images (C, H, W) before and after each halving, which maps n to ceil(n / 2).

    >>> halved_sizes((1, 28, 21), 3)
    [(28, 21), (14, 11), (7, 6), (4, 3)]
    """
    height, width = data_shape[-2:]
    sizes = [(height, width)]
    for _ in range(times):
        height, width = -(-height // 2), -(-width // 2)
        sizes.append((height, width))
    return sizes
