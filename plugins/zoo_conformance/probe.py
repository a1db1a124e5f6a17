"""Probes: the distributions that a component returns, and their means and log-densities."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from zoo import VAE, Batch, Loss, ZooError, evaluating, in_support, seeded
from zoo_conformance.candidate import FEATURES, SHAPE, Candidate, images
from zoo_conformance.check import CheckFailed

TOLERANCE = 1e-4

Inputs = tuple[Tensor | None, ...]


@dataclass(frozen=True)
class Probe:
    """A component as a function from a batch of inputs to distributions.

    Attributes:
        call: the function.
        inputs: tensors with N inputs along their first dimension.
        event: event shape of the distributions.
        x: images at which a distribution over images is evaluated.
        leading: inputs of a decoder or a likelihood with leading sample dimensions (2, 3); else None.
    """

    call: Callable[..., Distribution]
    inputs: Inputs
    event: tuple[int, ...]
    x: Tensor | None = None
    leading: Inputs | None = None

    def at(self, *rows: int | slice) -> Distribution:
        """The distribution at some of the inputs."""
        return self.call(*(None if value is None else value[rows] for value in self.inputs))

    def points(self, distribution: Distribution) -> Tensor:
        """The points at which its density is evaluated: the images, or its draws."""
        if self.x is None:
            with seeded(3):
                return drawn(distribution)
        return self.x if in_support(distribution, self.x) else self.x.round()


def probe(candidate: Candidate, x: Tensor | None = None, data_shape: tuple[int, int, int] = SHAPE) -> Probe:
    """Probe an encoder, a decoder or a prior inside its model, or a head alone, in evaluation mode.

    Args:
        candidate: the component.
        x: images (N, C, H, W); by default random ones. A head receives N random features.
        data_shape: (C, H, W) of the default images.
    """
    x = images(5, data_shape) if x is None else x
    condition = torch.arange(len(x)) % 10
    if candidate.kind == "posterior":
        head = candidate.make(features=FEATURES, latent_dim=4, data_shape=data_shape).eval()
        with seeded(1):
            features = torch.randn(len(x), FEATURES)
        return Probe(head, (features,), tuple(head(features).event_shape))
    if candidate.kind == "likelihood":
        head = candidate.make(data_shape=data_shape).eval()
        with seeded(1):
            maps = torch.randn(2, 3, len(x), *data_shape, head.parameters_per_entry)
        return Probe(head, (maps[1, 2],), data_shape, x, (maps,))
    vae, _ = candidate.build(data_shape=data_shape)
    vae.eval()
    if candidate.kind == "encoder":
        return Probe(vae.encoder, (x, condition), tuple(vae.prior(vae.encoder, condition).event_shape))
    if candidate.kind == "prior":
        event = tuple(vae.encoder(x, condition).event_shape)
        return Probe(lambda labels: vae.prior(vae.encoder, labels), (condition,), event)
    with seeded(1):
        z = drawn(vae.encode(x, condition), 2, 3)
    return Probe(vae.decoder, (z[1, 2], condition), data_shape, x, (z, condition))


def drawn(distribution: Distribution, *shape: int) -> Tensor:
    """Draw without gradients, by `rsample_and_log_prob` or `sample`."""
    size = torch.Size(shape)
    with torch.no_grad():
        if hasattr(distribution, "rsample_and_log_prob"):
            z: Tensor = distribution.rsample_and_log_prob(size)[0]
            return z
        return distribution.sample(size)


def readings(distribution: Distribution, points: Tensor) -> dict[str, Tensor]:
    """The mean of a distribution and its log-density at some points, if it has them."""
    values = {}
    with contextlib.suppress(NotImplementedError, ZooError):
        values["mean"] = distribution.mean
    with contextlib.suppress(NotImplementedError, ZooError):
        values["log_prob"] = distribution.log_prob(points)
    return values


def outputs(candidate: Candidate, vae: VAE, loss: Loss, batch: Batch) -> dict[str, Tensor]:
    """The outputs of a model that depend on the candidate, in evaluation mode and with one seed."""
    values: dict[str, Tensor] = {}
    kind = candidate.kind
    with seeded(5, batch.x.device), evaluating(vae, loss):
        if kind in ("loss", "model"):
            values |= {f"loss: {name}": value for name, value in loss(vae, batch).items()}
        if kind == "loss":
            return values
        trace = vae.trace(batch)
        if kind in ("encoder", "posterior", "model"):
            values |= {"z": trace.z, **{f"q(z | x): {n}": v for n, v in readings(trace.q, trace.z).items()}}
        if kind in ("decoder", "likelihood", "model"):
            z = (
                trace.z.to(batch.x.dtype) if kind != "model" else trace.z
            )  # do not blame the decoder for the encoder's dtype
            values |= {f"p(x | z): {n}": v for n, v in readings(vae.decode(z, batch.condition), batch.x).items()}
        if kind in ("prior", "model"):
            values |= {f"p(z): {n}": v for n, v in readings(trace.prior, trace.z).items()}
    return values


def agree(actual: Tensor, expected: Tensor, message: str) -> None:
    """Fail the check unless two tensors are close."""
    try:
        torch.testing.assert_close(actual, expected, rtol=TOLERANCE, atol=TOLERANCE)
    except AssertionError as error:
        detail = next((line for line in str(error).splitlines() if line.startswith("Greatest absolute")), str(error))
        raise CheckFailed(f"{message}: {detail}") from error
