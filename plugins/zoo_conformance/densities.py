"""Checks of the distributions that a component returns: shapes, densities, draws."""

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
"""Colours, and sides that are odd and differ."""
DRAWS = 1000
DEVIATIONS = 7
"""Standard errors that a Monte Carlo estimate may be off."""
NEGATIVE = math.log(1e9) / DRAWS
"""What an estimate of a KL divergence may lie below zero: since E_q[p / q] = 1, more has a probability below 1e-9."""


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
            _check_terms(found, f"for {n} images")
            require(n == 1 or found["loss"].requires_grad, "its loss is detached from the model")


def _check_terms(terms: object, when: str) -> None:
    require(isinstance(terms, dict) and "loss" in terms, f"{when} it must return a dict with a term 'loss'")
    for name, value in terms.items():  # type: ignore[attr-defined]
        require(isinstance(value, Tensor) and value.ndim == 0, f"{when} the term {name!r} must be a scalar tensor")


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
        require(
            mean > -NEGATIVE - 1e-4 * (1 + abs(mean)),
            f"its estimate from {DRAWS} draws is {mean:.4f} nats: log q - log p cannot be densities",
        )
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
    """exp(log_prob) is the density, or the mass, of the draws, and so integrates to one (two latents, or a pixel)."""
    with torch.no_grad():
        distribution = _single_pixels(candidate) if candidate.kind == "likelihood" else _planar(candidate)
        if not getattr(distribution, "normalized", True):
            skip("it says that it is no normalised density")
        try:
            _skip_if_estimated(distribution)
            support = distribution.support
            if support is None:
                skip("it does not say what its support is")
            check_density(distribution, support)
        except (ZooError, NotImplementedError) as error:
            skip(str(error) or "it has no log_prob, no sample or no support")


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
    """Draws are fixed by the seed of torch's generator and by nothing else: not by Python's or NumPy's."""
    from zoo_conformance.state import stirred_generators

    if candidate.kind == "model":
        vae, _ = candidate.build()
        vae.eval()

        def draw() -> Tensor:
            return vae.sample(4, candidate.batch(4).condition, mean=True)
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
