"""Checks of the distributions that a component returns: shapes, densities, draws."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints, kl_divergence

from zoo.errors import ZooError
from zoo.model.context import evaluating, seeded
from zoo.model.vae import Batch
from zoo.training.preflight import check_terms
from zoo_conformance.candidate import FEATURES, SHAPE, Candidate
from zoo_conformance.check import check, require, skip
from zoo_conformance.probe import Probe, agree, drawn, probe, readings

DISTRIBUTIONS = ("encoder", "posterior", "decoder", "likelihood", "prior")
OTHER_SHAPE = (3, 9, 7)
"""Colours, and sides that are odd and differ."""
DRAWS = 1000
DEVIATIONS = 5
"""Standard errors that a Monte Carlo estimate may be off: once in two million."""
GRID = 81
MASS = 2e-3
"""What an integral over a density may be off."""


@check(*DISTRIBUTIONS)
def shapes(candidate: Candidate) -> None:
    """Batch and event shapes are those of the contract for one image and for several, of any size and in colour."""
    for data_shape in (SHAPE, OTHER_SHAPE) if candidate.kind in ("encoder", "decoder", "likelihood") else (SHAPE,):
        try:
            asked = probe(candidate, data_shape=data_shape)
        except ZooError as error:
            if data_shape == SHAPE or not isinstance(error.__cause__, ZooError | None):
                raise
            continue  # it refuses such images, by name
        for n in (1, 5):
            distribution = asked.at(slice(n))
            _require_shape(candidate, distribution, n, asked.event, f"{n} images of {data_shape}")


def _require_shape(candidate: Candidate, distribution: object, n: int, event: tuple[int, ...], what: str) -> None:
    if not isinstance(distribution, Distribution):
        require(False, f"returned a {type(distribution).__name__}, not a torch.distributions.Distribution")
        return
    # A prior that ignores labels has no batch.
    batches = ((n,), ()) if candidate.kind == "prior" else ((n,),)
    found = tuple(distribution.batch_shape), tuple(distribution.event_shape)
    require(
        found[0] in batches and found[1] == tuple(event),
        f"for {what}: batch shape {found[0]} and event shape {found[1]}, expected {batches[0]} and {tuple(event)}",
    )
    if candidate.kind in ("encoder", "posterior", "prior"):
        z = drawn(distribution, 2)
        require(z.shape == (2, *found[0], *event), f"for {what}: two draws have the shape {tuple(z.shape)}")
        for name, value in readings(distribution, z).items():
            expected = (*found[0], *event) if name == "mean" else (2, *found[0])
            require(value.shape == expected, f"for {what}: {name} has the shape {tuple(value.shape)}, not {expected}")


@check("loss", "model")
def terms(candidate: Candidate) -> None:
    """The loss returns scalars with ``loss`` among them, for one image (or refuses it by name) and for several."""
    vae, loss = candidate.build()
    for n in (1, 5):
        try:
            found = loss(vae, candidate.batch(n))
        except ZooError:
            if n > 1:
                raise
        else:
            check_terms(f"for {n} images it", found)
            require(n == 1 or found["loss"].requires_grad, "its loss is detached from the model")


@check("decoder", "likelihood")
def sample_dimensions(candidate: Candidate) -> None:
    """Any sample dimensions before the batch agree with one at a time: the result at [i, j] is that of [i, j] alone."""
    asked = probe(candidate)
    assert asked.leading is not None
    first, *rest = asked.leading
    assert first is not None
    together = asked.call(first, *rest)
    n = len(asked.inputs[0]) if asked.inputs[0] is not None else 0
    shape = tuple(together.batch_shape)
    require(shape == (2, 3, n), f"latents of ({2}, {3}, {n}, ...) gave the batch shape {shape}")
    points = asked.points(together)
    found = readings(together, points)
    for i in range(2):
        for j in range(3):
            alone = readings(asked.call(first[i, j], *rest), points)
            for name, value in found.items():
                agree(value[i, j], alone[name], f"{name} at [{i}, {j}] is not that of those latents alone")


@check("encoder", "posterior", "decoder", "likelihood")
def batch_independence(candidate: Candidate) -> None:
    """In evaluation mode the result for an image does not depend on what else is in its batch."""
    asked = probe(candidate)
    together = asked.at(slice(None))
    points = asked.points(together)
    found = readings(together, points)
    if not found:
        skip("its distribution has neither a mean nor a density to compare")
    for i in range(len(points)):
        alone = readings(asked.at(slice(i, i + 1)), points[i : i + 1])
        for name, value in found.items():
            agree(alone[name][0], value[i], f"{name} of image {i} alone is not that in a batch of {len(points)}")


@check(*DISTRIBUTIONS, "loss")
def finite(candidate: Candidate) -> None:
    """Finite on images of zeros, of ones and of noise, and on such features: draws, means, log-densities, terms."""
    for what, x in _extremes(torch.rand(4, *SHAPE)).items():
        if candidate.kind == "loss":
            vae, loss = candidate.build()
            found = loss(vae, Batch(x, candidate.batch(4).condition))
        else:
            asked = probe(candidate, x)
            for name, inputs in _inputs(candidate, asked).items():
                distribution = asked.call(*inputs)
                points = asked.points(distribution)
                found = {"draw": points, **readings(distribution, points)}
                _require_finite(found, f"{what}, {name}" if name else what)
            continue
        _require_finite(found, what)


def _inputs(candidate: Candidate, asked: Probe) -> dict[str, tuple[Tensor | None, ...]]:
    """A head is asked at extreme features as well; what has a model around it gets what that makes of the images."""
    if candidate.kind in ("posterior", "likelihood") and asked.inputs[0] is not None:
        return {f"features of {what}": (value,) for what, value in _extremes(asked.inputs[0]).items()}
    return {"": asked.inputs}


def _extremes(noise: Tensor) -> dict[str, Tensor]:
    return {"zeros": torch.zeros_like(noise), "ones": torch.ones_like(noise), "noise": noise}


def _require_finite(found: dict[str, Tensor], what: str) -> None:
    for name, value in found.items():
        require(bool(torch.isfinite(value).all()), f"{name} is not finite on {what}")


@check("encoder", "posterior", "prior", "model")
def kl(candidate: Candidate) -> None:
    """KL(q || p) is not negative, and in closed form equals its Monte Carlo estimate within its standard error."""
    vae, _ = candidate.build()
    _stir(vae.encoder)
    with torch.no_grad(), evaluating(vae):
        trace = vae.trace(candidate.batch(2), samples=DRAWS)
        try:
            difference = trace.log_qz.double() - trace.log_pz.double()
        except (ZooError, NotImplementedError) as error:
            skip(str(error) or "the posterior or the prior has no density")
        try:
            closed = kl_divergence(trace.q, trace.prior)
        except NotImplementedError:
            closed = None
    estimate, deviation = difference.mean(0), difference.std(0) / math.sqrt(DRAWS)
    for i in range(len(estimate)):
        mean, slack = estimate[i].item(), DEVIATIONS * deviation[i].item() + 1e-4 * (1 + abs(estimate[i].item()))
        require(mean > -slack, f"its estimate from {DRAWS} draws is {mean:.4f} nats: log q - log p cannot be densities")
        if closed is not None:
            value = closed[i].item()
            require(value > -1e-4, f"it is {value:.4f} nats")
            require(
                abs(value - mean) < slack,
                f"in closed form it is {value:.4f} nats, estimated from {DRAWS} draws {mean:.4f} +- {deviation[i]:.4f}",
            )


def _stir(module: nn.Module) -> None:
    """Move the weights away from where they start, so that a posterior is not all but the prior."""
    with seeded(7), torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * parameter.square().mean().sqrt())


@check("encoder", "posterior", "likelihood", "prior")
def density(candidate: Candidate) -> None:
    """exp(log_prob) integrates to one: by quadrature over two latent dimensions, or over the values of one pixel."""
    with torch.no_grad():
        if candidate.kind == "likelihood":
            distribution, event = _single_pixels(candidate), torch.Size((1, 1, 1))
        else:
            distribution, event = _planar(candidate), torch.Size((2,))
        if distribution.event_shape != event:
            skip(f"a latent of two dimensions has the shape {tuple(distribution.event_shape)} here")
        if not getattr(distribution, "normalized", True):
            skip("it says that it is no normalised density")
        axis, weights = _axis(distribution)
        _skip_if_estimated(distribution)
        axes = [axis] * math.prod(event)
        points = torch.cartesian_prod(*axes).reshape(-1, *event)
        weight = torch.cartesian_prod(*[weights] * len(axes)).reshape(len(points), -1).prod(-1)
        batch = tuple(distribution.batch_shape)
        total = torch.zeros(batch, dtype=torch.float64)
        try:
            for some, mass in zip(torch.split(points, 4096), torch.split(weight, 4096), strict=True):
                value = some.reshape(len(some), *(1 for _ in batch), *event).expand(len(some), *batch, *event)
                total += torch.tensordot(mass, distribution.log_prob(value).double().exp(), dims=1)
        except (ZooError, NotImplementedError) as error:
            skip(str(error) or "it has no log_prob")
    worst = total.flatten()[(total - 1).abs().argmax()].item()
    require(abs(worst - 1) < MASS, f"its integral is {worst:.4f}")


def _skip_if_estimated(distribution: Distribution) -> None:
    """Leave out a density that is known only in expectation: no sum of estimates is exactly one."""
    point = drawn(distribution)
    one, other = (readings(distribution, point).get("log_prob") for _ in range(2))
    if one is not None and other is not None and not torch.equal(one, other):
        skip("its log_prob is a random estimate")


def _single_pixels(candidate: Candidate) -> Distribution:
    try:
        head = candidate.make(data_shape=(1, 1, 1)).double().eval()
    except ZooError as error:
        skip(error)
    with seeded(1):
        p: Distribution = head(torch.randn(5, head.parameters_per_pixel, 1, 1, 1, dtype=torch.float64))
    return p


def _planar(candidate: Candidate) -> Distribution:
    """A distribution over two latent dimensions."""
    if candidate.kind == "posterior":
        head = candidate.make(features=FEATURES, latent_dim=2, data_shape=SHAPE).double().eval()
        with seeded(1):
            q: Distribution = head(torch.randn(3, FEATURES, dtype=torch.float64))
        return q
    vae, _ = candidate.build(latent_dim=2)
    vae.double().eval()
    x, condition = candidate.batch(3)
    if candidate.kind == "prior":
        return vae.prior(vae.encoder, condition)  # type: ignore[no-any-return]
    return vae.encode(x.double(), condition)


def _axis(distribution: Distribution) -> tuple[Tensor, Tensor]:
    """Points along each dimension that cover the distribution, and their weights in an integral."""
    try:
        support: Any = distribution.support
    except NotImplementedError:
        skip("it does not say what its support is")
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    if support is constraints.boolean:
        return torch.tensor([0.0, 1.0], dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    if getattr(support, "is_discrete", False):
        skip(f"its support is {support}")
    if support in (constraints.real, constraints.real_vector) or support is None:
        draws = drawn(distribution, DRAWS).double().reshape(-1, *distribution.event_shape)
        low, high = draws.min().item(), draws.max().item()
        low, high = low - (high - low) / 2, high + (high - low) / 2
    elif hasattr(support, "lower_bound") and hasattr(support, "upper_bound"):
        low, high = float(support.lower_bound), float(support.upper_bound)
    else:
        skip(f"its support is {support}")
    axis = torch.linspace(low, high, GRID if distribution.event_shape == (2,) else 20_001, dtype=torch.float64)
    weights = torch.full_like(axis, (high - low) / (len(axis) - 1))
    weights[0] /= 2
    weights[-1] /= 2
    return axis, weights


@check(*DISTRIBUTIONS, "model")
def reproducible(candidate: Candidate) -> None:
    """Draws are fixed by the seed of torch's generator and by nothing else: not by Python's or NumPy's."""
    from zoo_conformance.state import stirred_generators

    if candidate.kind == "model":
        vae, _ = candidate.build()
        vae.eval()

        def draw() -> Tensor:
            return vae.sample(4, candidate.batch(4).condition)
    else:
        asked = probe(candidate)

        def draw() -> Tensor:
            return drawn(asked.at(slice(None)), 3)

    found = []
    for _ in range(2):
        stirred_generators()
        with seeded(11), torch.no_grad():
            try:
                found.append(draw())
            except NotImplementedError:
                skip("nothing can be drawn from it")
    require(torch.equal(*found), "two draws under one seed differ")
