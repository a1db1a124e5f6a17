"""Posteriors as functions of their parameters: draws with common noise, and the optimum for each example."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal, constraints, transform_to

from zoo import VAE, Batch, ComponentError, NotApplicable, base_measure, observed_log_prob, seeded

EUCLIDEAN = "density on the real numbers"
REAL_PARAMETERS = {"mean", "log_scale"}
"""Constructor parameters of `zoo.Gaussian`, which its `arg_constraints` does not name."""

Rebuild = Callable[[Mapping[str, Tensor]], Distribution]


def posterior(vae: VAE, batch: Batch) -> Distribution:
    """q(z | x) of the observed entries of a batch."""
    return vae.encode(batch.x, batch.condition, batch.mask)


def draw(q: Distribution, samples: int) -> tuple[Tensor, Tensor]:
    """Draw from q(z | x) and evaluate log q(z | x).

    Gaussian posteriors use the same noise for each example, so the draws of an example depend only on its posterior
    and on torch's generator, not on the rest of the batch.

    Args:
        q: the posterior, with batch shape (N,).
        samples: K.

    Returns:
        z (K, N, *latent_shape), and log q(z | x) (K, N), in nats.

    Raises:
        NotApplicable: the posterior has no density.
    """
    shape = torch.Size([samples])
    if hasattr(q, "rsample_and_log_prob"):
        z, log_qz = q.rsample_and_log_prob(shape)
        return z, log_qz
    z = _draw_normal(q, samples)
    z = q.rsample(shape) if z is None else z
    return z, log_density(q, z)


def log_density(q: Distribution, z: Tensor) -> Tensor:
    """log q(z | x), (K..., N), in nats.

    Raises:
        NotApplicable: the posterior has no density.
    """
    try:
        return q.log_prob(z)
    except (NotImplementedError, ComponentError) as error:
        raise NotApplicable(f"the posterior, a {_name(q)}, has no density") from error


def _draw_normal(q: Distribution, samples: int) -> Tensor | None:
    """Draws of a normal with the same noise for each example; None for any other distribution."""
    base = _base(q)
    if not isinstance(base, Normal | MultivariateNormal):
        return None
    loc = base.loc
    noise = torch.randn(samples, 1, *loc.shape[1:], dtype=loc.dtype, device=loc.device)
    if isinstance(base, Normal):
        return loc + base.scale * noise
    return loc + (base.scale_tril @ noise.unsqueeze(-1)).squeeze(-1)


def optimize(
    vae: VAE,
    batch: Batch,
    q: Distribution | None = None,
    *,
    steps: int = 200,
    lr: float = 0.1,
    samples: int = 8,
    seed: int = 0,
) -> Distribution:
    """Maximize the ELBO of each example over the parameters of its own posterior (arXiv 1801.03558, section 3).

    Adam with cosine decay of the learning rate starts from the encoder's posterior. All examples are optimized at once:
    the parameters of one do not affect another. The location moves in units of the initial standard deviation. The
    density of the draws is differentiated through the draws alone (arXiv 1703.09194), so the gradient has no variance
    at an exact posterior.

    Args:
        vae: the model, which does not change.
        batch: N examples.
        q: the initial posterior; by default that of the encoder.
        steps, lr: number of steps and initial learning rate.
        samples: draws per example and step.
        seed: seed of the draws.

    Returns:
        A posterior of the same family with batch shape (N,).

    Raises:
        NotApplicable: the posterior is not determined by reparameterizable parameters; see `parametrize`.
    """
    with torch.no_grad():
        q = posterior(vae, batch) if q is None else q
        prior = vae.prior(vae.encoder, batch.condition)
    initial, rebuild = parametrize(q)
    with torch.inference_mode(False), torch.enable_grad(), seeded(seed, batch.x.device):
        units = _units(q, initial)
        offsets = {name: torch.zeros_like(value, requires_grad=True) for name, value in initial.items()}
        optimizer = torch.optim.Adam(offsets.values(), lr=lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

        def current() -> dict[str, Tensor]:
            return {name: value + units[name] * offsets[name] for name, value in initial.items()}

        for _ in range(steps):
            parameters = current()
            z, _ = draw(rebuild(parameters), samples)
            log_qz = rebuild({name: value.detach() for name, value in parameters.items()}).log_prob(z)
            log_px = observed_log_prob(vae.decode(z, batch.condition), batch.x, batch.mask)
            objective = (log_px + prior.log_prob(z) - log_qz).mean(0).sum()
            gradients = torch.autograd.grad(-objective, [*offsets.values()])
            for offset, gradient in zip(offsets.values(), gradients, strict=True):
                offset.grad = gradient.nan_to_num(0.0)  # an example without a finite density keeps its posterior
            optimizer.step()
            schedule.step()
        return rebuild({name: value.detach() for name, value in current().items()})


def parametrize(q: Distribution) -> tuple[dict[str, Tensor], Rebuild]:
    """The parameters of a posterior, and the function from parameters to the posterior.

    Parameters are the tensors that the constructor takes, mapped to unconstrained ones by
    `torch.distributions.transform_to`; everything else that it takes is constant.

    Args:
        q: the posterior, with batch shape (N,).

    Returns:
        Unconstrained parameters by name, each (N, ...), and the function.

    Raises:
        NotApplicable: the latent is not a vector of real numbers, the draws are not reparameterized, or the
            distribution is not determined by its constructor's tensors; the message names it.

    >>> from torch.distributions import Independent, Normal
    >>> parameters, rebuild = parametrize(Independent(Normal(torch.zeros(5, 2), 1.0), 1))
    >>> {name: value.shape for name, value in parameters.items()}
    {'loc': torch.Size([5, 2]), 'scale': torch.Size([5, 2])}
    >>> rebuild(parameters).mean.shape
    torch.Size([5, 2])
    """
    base, name = _base(q), _name(q)
    if not q.has_rsample:
        raise NotApplicable(f"draws from the posterior, a {name}, are not reparameterized")
    with torch.no_grad():
        z, log_qz = draw(q, 1)
    if base_measure(q) != EUCLIDEAN:
        raise NotApplicable(f"the posterior, a {name}, is a {base_measure(q)}, not a {EUCLIDEAN}")
    tensors: dict[str, Tensor] = {}
    maps: dict[str, Any] = {}
    constant: dict[str, Any] = {}
    try:
        for argument, value in _arguments(base).items():
            constraint = constraints.real if argument in REAL_PARAMETERS else base.arg_constraints.get(argument)
            if isinstance(value, Tensor) and value.shape[:1] == q.batch_shape and constraint is not None:
                maps[argument] = transform_to(constraint)
                tensors[argument] = maps[argument].inv(value.detach()).clone()
            else:
                constant[argument] = value

        def rebuild(parameters: Mapping[str, Tensor]) -> Distribution:
            rebuilt = type(base)(**constant, **{name: maps[name](value) for name, value in parameters.items()})
            for dims in reversed(_independent_dims(q)):
                rebuilt = Independent(rebuilt, dims, validate_args=False)
            return rebuilt

        with torch.no_grad():
            reproduced = bool(tensors) and torch.allclose(rebuild(tensors).log_prob(z), log_qz, rtol=1e-3, atol=1e-3)
    except (TypeError, ValueError, NotImplementedError, RuntimeError, AttributeError):
        reproduced = False
    if not reproduced:
        raise NotApplicable(f"the posterior, a {name}, is not determined by parameters of each example")
    return tensors, rebuild


def _arguments(base: Distribution) -> dict[str, Any]:
    """The arguments that the constructor of a distribution was called with, read from its attributes."""
    if isinstance(base, MultivariateNormal):  # its other attributes are computed when they are read
        return {"loc": base.loc, "scale_tril": base.scale_tril, "validate_args": False}
    values: dict[str, Any] = {}
    for name, parameter in inspect.signature(type(base)).parameters.items():
        if name == "validate_args":
            values[name] = False
        elif name in vars(base):
            values[name] = vars(base)[name]
        elif parameter.default is inspect.Parameter.empty:
            values[name] = getattr(base, name)
    return values


def _units(q: Distribution, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The unit in which each parameter moves: the standard deviation for a location of its shape, else 1."""
    try:
        deviation = q.stddev.detach()
    except (NotImplementedError, AttributeError):
        deviation = None
    return {
        name: deviation
        if deviation is not None and name in ("loc", "mean", "location") and deviation.shape == value.shape
        else torch.ones_like(value)
        for name, value in parameters.items()
    }


def _base(q: Distribution) -> Distribution:
    while isinstance(q, Independent):
        q = q.base_dist
    return q


def _independent_dims(q: Distribution) -> list[int]:
    dims = []
    while isinstance(q, Independent):
        dims.append(q.reinterpreted_batch_ndims)
        q = q.base_dist
    return dims


def _name(q: Distribution) -> str:
    return type(_base(q)).__name__
