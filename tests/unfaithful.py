"""Components that each break one promise of the contract, and keep all others."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, constraints, register_kl

import zoo


def gaussian(mean: Tensor, scale: Tensor | None = None) -> Independent:
    return Independent(Normal(mean, torch.ones_like(mean) if scale is None else scale, validate_args=False), 1)


class Encoder(zoo.Encoder):
    """One that keeps every promise."""

    def __init__(self, data_shape: tuple[int, ...], latent_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(int(np.prod(data_shape)), latent_dim)

    def forward(self, x, condition=None):
        return gaussian(self.linear(x.flatten(1)))


class Decoder(zoo.Decoder):
    """Another."""

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_dim: int,
        likelihood: Callable[..., zoo.Likelihood] = zoo.ComponentFactory("likelihood", "bernoulli"),
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(latent_dim, int(np.prod(data_shape)))
        self.likelihood = likelihood(data_shape=data_shape)
        self.shape = (*data_shape, 1)

    def forward(self, z, condition=None):
        return self.likelihood(self.linear(z).unflatten(-1, self.shape))


class Loss(zoo.Loss):
    """And another."""

    def forward(self, vae, batch):
        trace = vae.trace(batch)
        return {"loss": trace.kl.mean() - trace.log_px.mean()}


class Annotated(Encoder):
    def __init__(self, data_shape: tuple[int, ...], latent_dim: int, width=8) -> None:
        super().__init__(data_shape, latent_dim)


class Yaml(Encoder):
    def __init__(self, data_shape: tuple[int, ...], latent_dim: int, hidden: Sequence[PositiveInt] = (0,)) -> None:
        super().__init__(data_shape, latent_dim)


class UnknownParameters(Encoder):
    def __init__(self, data_shape: tuple[int, ...], latent_dim: int, **options: int) -> None:
        super().__init__(data_shape, latent_dim)


class ArgumentsUntouched(Decoder):
    """Trap 12."""

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_dim: int,
        hidden: list[PositiveInt] = [3, 4],  # noqa: B006
    ) -> None:
        super().__init__(data_shape, latent_dim)
        hidden.reverse()


class UndeclaredEvent(Encoder):
    def forward(self, x, condition=None):
        return super().forward(x).base_dist


class ShapesInColour(Decoder):
    """Trap 7: one channel of 8x8, whatever is asked for."""

    def forward(self, z, condition=None):
        return self.likelihood(self.linear(z)[..., :64].unflatten(-1, (1, 8, 8, 1)))


class Terms(Loss):
    def forward(self, vae, batch):
        return {**super().forward(vae, batch), "distortion": -vae.trace(batch).log_px}


class SampleDimensions(Decoder):
    """The sample dimensions come back in another order."""

    def forward(self, z, condition=None):
        if z.ndim > 2:
            z = z.transpose(0, 1).reshape(z.shape)
        return super().forward(z)


class BatchIndependence(Encoder):
    def forward(self, x, condition=None):
        return super().forward(x - x.mean(0))


class Finite(Encoder):
    def forward(self, x, condition=None):
        return super().forward(x / x.sum((1, 2, 3), keepdim=True))


class WrongKL(Independent):
    pass


@register_kl(WrongKL, Independent)
def _wrong(q, p):
    """Traps 1 and 14: averaged over the dimensions."""
    return 0.5 * (q.variance + q.mean**2 - 1 - q.variance.log()).mean(-1)


class KL(Encoder):
    def forward(self, x, condition=None):
        normal = super().forward(x).base_dist
        return WrongKL(Normal(normal.mean, 0.5 * normal.stddev, validate_args=False), 1)


class Unnormalised(Normal):
    def log_prob(self, value):
        return -((value - self.mean) ** 2)


class Density(zoo.Likelihood):
    def forward(self, parameters):
        mean = parameters.squeeze(-1)
        return Independent(Unnormalised(mean, torch.ones_like(mean), validate_args=False), 3)


class NumpyNormal(Distribution):
    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012
    support = constraints.independent(constraints.real, 1)

    def __init__(self, loc):
        self.normal = gaussian(loc)
        super().__init__(event_shape=loc.shape, validate_args=False)

    def sample(self, sample_shape=()):
        noise = np.random.normal(size=(*sample_shape, *self.event_shape))
        return self.normal.mean + torch.as_tensor(noise).to(self.normal.mean)

    def log_prob(self, value):
        return self.normal.log_prob(value)


class Prior(zoo.Prior):
    """One that keeps every promise."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(latent_dim))

    def forward(self, encoder, condition=None):
        return gaussian(self.loc)


class Reproducible(Prior):
    def forward(self, encoder, condition=None):
        state = np.random.get_state()
        distribution = NumpyNormal(self.loc)
        np.random.set_state(state)
        return distribution


class StateDict(Decoder):
    """Trap 11: what decides the result is not saved."""

    def __init__(self, data_shape: tuple[int, ...], latent_dim: int) -> None:
        super().__init__(data_shape, latent_dim)
        self.gain = torch.rand(()).item()

    def forward(self, z, condition=None):
        return super().forward(z * (1 + self.gain))


class SideEffects(Encoder):
    def forward(self, x, condition=None):
        random.random()
        return super().forward(x)


class InputsUntouched(Encoder):
    def forward(self, x, condition=None):
        return super().forward(x.clamp_(0.1, 0.9))


class Dtype(Decoder):
    def forward(self, z, condition=None):
        return self.likelihood(self.linear(z).unflatten(-1, self.shape).float())


class Device(Prior):
    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.scale = torch.ones(latent_dim)

    def forward(self, encoder, condition=None):
        return gaussian(self.loc, self.scale.to(self.loc.dtype))


class Exports(Encoder):
    def forward(self, x, condition=None):
        return super().forward(x * (2 if x.mean() > 0.3 else 1))


class Gradients(Encoder):
    def __init__(self, data_shape: tuple[int, ...], latent_dim: int) -> None:
        super().__init__(data_shape, latent_dim)
        self.unused = nn.Parameter(torch.zeros(3))


class SeededLoss(Loss):
    def forward(self, vae, batch):
        state = random.getstate()
        factor = 1 + random.random()
        random.setstate(state)
        return {"loss": super().forward(vae, batch)["loss"] * factor}


class Overfits(Loss):
    def forward(self, vae, batch):
        trace = vae.trace(batch)
        return {"loss": 1000 * trace.kl.mean() - trace.log_px.mean()}


class Resume(Loss):
    """Trap 11: a warm-up counted in Python."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def forward(self, vae, batch):
        self.steps += 1
        trace = vae.trace(batch)
        return {"loss": min(1.0, self.steps / 100) * trace.kl.mean() - trace.log_px.mean()}


def images() -> zoo.Dataset:
    """Others each time."""
    pixels = np.random.default_rng().integers(0, 256, (20, 1, 8, 8), dtype=np.uint8)
    one, other = torch.from_numpy(pixels).split(10)
    return zoo.Dataset(zoo.Split(one), zoo.Split(other))


def seeding() -> zoo.Dataset:
    """The same images each time, and the same draws for everybody after them."""
    torch.manual_seed(0)
    one, other = torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8).split(10)
    return zoo.Dataset(zoo.Split(one), zoo.Split(other))


class Measurements(zoo.Metric):
    def __call__(self, subject):
        return [zoo.Measurement("luck", float(np.random.default_rng().random()))]
