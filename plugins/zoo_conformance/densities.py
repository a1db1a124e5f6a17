"""Checks of distributions: shapes, densities and draws."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, kl_divergence

from zoo import Batch, ZooError, evaluating, seeded
from zoo_conformance.bridge import check_density
from zoo_conformance.candidate import FEATURES, SHAPE, Candidate
from zoo_conformance.check import check, require, skip
from zoo_conformance.probe import Probe, agree, drawn, probe, readings

DISTRIBUTIONS = ("encoder", "posterior", "decoder", "likelihood", "prior")
OTHER_SHAPE = (3, 9, 7)
"""In colour, with odd and different sides."""
DRAWS = 1000
DEVIATIONS = 7
"""The largest error of a Monte Carlo estimate, in standard errors."""
NEGATIVE = math.log(1e9) / DRAWS
"""The largest negative estimate of a KL divergence. As E_q[p / q] = 1, its probability is below 1e-9."""


@check(*DISTRIBUTIONS)
def shapes(candidate: Candidate) -> None:
    """Batch and event shapes are correct for one image and for several, for other sizes and in colour."""
    for data_shape in (SHAPE, OTHER_SHAPE) if candidate.kind in ("encoder", "decoder", "likelihood") else (SHAPE,):
        try:
            result = probe(candidate, data_shape=data_shape)
        except ZooError as error:
            if data_shape == SHAPE or not isinstance(error.__cause__, ZooError | None):
                raise
            continue  # the component refuses such images
        for n in (1, 5):
            distribution = result.at(slice(n))
            _require_shape(candidate, distribution, n, result.event, f"{n} images of {data_shape}")


def _require_shape(candidate: Candidate, distribution: object, n: int, event: tuple[int, ...], what: str) -> None:
    if not isinstance(distribution, Distribution):
        require(False, f"returned a {type(distribution).__name__}, not a torch.distributions.Distribution")
        return
    # A prior that ignores labels has no batch.
    batches = ((n,), ()) if candidate.kind == "prior" else ((n,),)
    actual = tuple(distribution.batch_shape), tuple(distribution.event_shape)
    require(
        actual[0] in batches and actual[1] == tuple(event),
        f"for {what}: batch shape {actual[0]} and event shape {actual[1]}, expected {batches[0]} and {tuple(event)}",
    )
    if candidate.kind in ("encoder", "posterior", "prior"):
        z = drawn(distribution, 2)
        require(z.shape == (2, *actual[0], *event), f"for {what}: two draws have shape {tuple(z.shape)}")
        for name, value in readings(distribution, z).items():
            expected = (*actual[0], *event) if name == "mean" else (2, *actual[0])
            require(value.shape == expected, f"for {what}: {name} has shape {tuple(value.shape)}, expected {expected}")


@check("loss", "model")
def terms(candidate: Candidate) -> None:
    """The loss returns named scalars, including ``loss``, for several images and, unless it refuses, for one."""
    vae, loss = candidate.build()
    for n in (1, 5):
        try:
            result = loss(vae, candidate.batch(n))
        except ZooError:
            if n > 1:
                raise
        else:
            _check_terms(result, f"for {n} images")
            require(n == 1 or result["loss"].requires_grad, "its loss is detached from the model")


def _check_terms(terms: object, when: str) -> None:
    require(isinstance(terms, dict) and "loss" in terms, f"{when}, it must return a dict with a term 'loss'")
    for name, value in terms.items():  # type: ignore[attr-defined]
        require(isinstance(value, Tensor) and value.ndim == 0, f"{when}, the term {name!r} must be a scalar tensor")


@check("decoder", "likelihood")
def sample_dimensions(candidate: Candidate) -> None:
    """With leading sample dimensions, the result at [i, j] equals that of the input at [i, j] alone."""
    result = probe(candidate)
    assert result.leading is not None
    first, *rest = result.leading
    assert first is not None
    together = result.call(first, *rest)
    n = len(result.inputs[0]) if result.inputs[0] is not None else 0
    shape = tuple(together.batch_shape)
    require(shape == (2, 3, n), f"latents of shape (2, 3, {n}, ...) give the batch shape {shape}")
    points = result.points(together)
    values = readings(together, points)
    for i in range(2):
        for j in range(3):
            alone = readings(result.call(first[i, j], *rest), points)
            for name, value in values.items():
                agree(
                    value[i, j],
                    alone[name],
                    f"{name} at [{i}, {j}] differs from that of the latents at [{i}, {j}] alone",
                )


@check("encoder", "posterior", "decoder", "likelihood")
def batch_independence(candidate: Candidate) -> None:
    """In evaluation mode, the result for an image does not depend on the rest of its batch."""
    result = probe(candidate)
    together = result.at(slice(None))
    points = result.points(together)
    values = readings(together, points)
    if not values:
        skip("its distribution has neither a mean nor a density")
    for i in range(len(points)):
        alone = readings(result.at(slice(i, i + 1)), points[i : i + 1])
        for name, value in values.items():
            agree(alone[name][0], value[i], f"{name} of image {i} alone differs from that in a batch of {len(points)}")


@check(*DISTRIBUTIONS, "loss")
def finite(candidate: Candidate) -> None:
    """Draws, means, log-densities and terms are finite for images and features of zeros, ones and noise."""
    for what, x in _extremes(torch.rand(4, *SHAPE)).items():
        if candidate.kind == "loss":
            vae, loss = candidate.build()
            values = loss(vae, Batch(x, candidate.batch(4).condition))
        else:
            result = probe(candidate, x)
            for name, inputs in _inputs(candidate, result).items():
                distribution = result.call(*inputs)
                points = result.points(distribution)
                values = {"draw": points, **readings(distribution, points)}
                _require_finite(values, f"{what}, {name}" if name else what)
            continue
        _require_finite(values, what)


def _inputs(candidate: Candidate, result: Probe) -> dict[str, tuple[Tensor | None, ...]]:
    """The inputs to probe: extreme features for a head, the inputs from the model for other components."""
    if candidate.kind in ("posterior", "likelihood") and result.inputs[0] is not None:
        return {f"features of {what}": (value,) for what, value in _extremes(result.inputs[0]).items()}
    return {"": result.inputs}


def _extremes(noise: Tensor) -> dict[str, Tensor]:
    return {"zeros": torch.zeros_like(noise), "ones": torch.ones_like(noise), "noise": noise}


def _require_finite(values: dict[str, Tensor], what: str) -> None:
    for name, value in values.items():
        require(bool(torch.isfinite(value).all()), f"{name} is not finite on {what}")


@check("encoder", "posterior", "prior", "model")
def kl(candidate: Candidate) -> None:
    """KL(q || p) is not negative, and its closed form agrees with a Monte Carlo estimate."""
    vae, _ = candidate.build()
    _perturb(vae.encoder)
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
        require(
            mean > -NEGATIVE - 1e-4 * (1 + abs(mean)),
            f"its estimate from {DRAWS} draws is {mean:.4f} nats: log q or log p is not a log-density",
        )
        if closed is not None:
            value = closed[i].item()
            require(value > -1e-4, f"it is {value:.4f} nats")
            require(
                abs(value - mean) < slack,
                f"in closed form it is {value:.4f} nats, estimated from {DRAWS} draws {mean:.4f} +- {deviation[i]:.4f}",
            )


def _perturb(module: nn.Module) -> None:
    """Perturb the initial weights, so that the posterior differs from the prior."""
    with seeded(7), torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * parameter.square().mean().sqrt())


@check("encoder", "posterior", "likelihood", "prior")
def density(candidate: Candidate) -> None:
    """exp(log_prob) is the density, or the mass, of the draws (tested for two latents or one pixel)."""
    with torch.no_grad():
        distribution = _single_pixels(candidate) if candidate.kind == "likelihood" else _planar(candidate)
        if not getattr(distribution, "normalized", True):
            skip("it declares that its density is not normalised")
        try:
            _skip_if_estimated(distribution)
            support = distribution.support
            if support is None:
                skip("it has no support")
            check_density(distribution, support)
        except (ZooError, NotImplementedError) as error:
            skip(str(error) or "it has no log_prob, no sample or no support")


def _skip_if_estimated(distribution: Distribution) -> None:
    """Skip a density that is a random estimate, whose integral is not exactly one."""
    point = drawn(distribution)
    first, second = (readings(distribution, point).get("log_prob") for _ in range(2))
    if first is not None and second is not None and not torch.equal(first, second):
        skip("its log_prob is a random estimate")


def _single_pixels(candidate: Candidate) -> Distribution:
    try:
        head = candidate.make(data_shape=(1, 1, 1)).double().eval()
    except ZooError as error:
        skip(error)
    with seeded(1):
        p: Distribution = head(torch.randn(3, 1, 1, 1, head.parameters_per_entry, dtype=torch.float64))
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
    x, condition, _ = candidate.batch(3)
    if candidate.kind == "prior":
        return vae.prior(vae.encoder, condition)  # type: ignore[no-any-return]
    return vae.encode(x.double(), condition)


@check(*DISTRIBUTIONS, "model")
def reproducible(candidate: Candidate) -> None:
    """Draws depend only on the seed of torch's generator, not on the generators of Python and NumPy."""
    from zoo_conformance.state import reseed_generators

    if candidate.kind == "model":
        vae, _ = candidate.build()
        vae.eval()

        def draw() -> Tensor:
            return vae.sample(4, candidate.batch(4).condition, mean=True)
    else:
        result = probe(candidate)

        def draw() -> Tensor:
            return drawn(result.at(slice(None)), 3)

    draws = []
    for _ in range(2):
        reseed_generators()
        with seeded(11), torch.no_grad():
            try:
                draws.append(draw())
            except NotImplementedError:
                skip("it cannot be sampled")
    require(torch.equal(*draws), "two draws with the same seed differ")
