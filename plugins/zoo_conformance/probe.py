"""What a component says when it is asked: its distributions at inputs of any kind, and numbers read off them."""

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
        inputs: N of them along the first dimension of each tensor.
        leading: those of a decoder or a likelihood with sample dimensions (2, 3) before; else None.
        event: of the distributions.
        x: images, at which a distribution over images is read.
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
        """Where its density is read: at the images, or at draws of its own."""
        if self.x is None:
            with seeded(3):
                return drawn(distribution)
        return self.x if in_support(distribution, self.x) else self.x.round()


def probe(candidate: Candidate, x: Tensor | None = None, data_shape: tuple[int, int, int] = SHAPE) -> Probe:
    """Ask an encoder, a decoder or a prior inside its model, and a head on its own, in evaluation mode.

    Args:
        x: images (N, C, H, W); random ones by default. Heads get features of as many.
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
    """Draws without a gradient, from whatever a distribution offers to draw by."""
    size = torch.Size(shape)
    with torch.no_grad():
        if hasattr(distribution, "rsample_and_log_prob"):
            z: Tensor = distribution.rsample_and_log_prob(size)[0]
            return z
        return distribution.sample(size)


def readings(distribution: Distribution, points: Tensor) -> dict[str, Tensor]:
    """The mean of a distribution and its log-density at some points, as far as it has them."""
    found = {}
    with contextlib.suppress(NotImplementedError, ZooError):
        found["mean"] = distribution.mean
    with contextlib.suppress(NotImplementedError, ZooError):
        found["log_prob"] = distribution.log_prob(points)
    return found


def outputs(candidate: Candidate, vae: VAE, loss: Loss, batch: Batch) -> dict[str, Tensor]:
    """The numbers that depend on the candidate in a model, its draws made from one seed, in evaluation mode."""
    found: dict[str, Tensor] = {}
    kind = candidate.kind
    with seeded(5, batch.x.device), evaluating(vae, loss):
        if kind in ("loss", "model"):
            found |= {f"loss: {name}": value for name, value in loss(vae, batch).items()}
        if kind == "loss":
            return found
        trace = vae.trace(batch)
        if kind in ("encoder", "posterior", "model"):
            found |= {"z": trace.z, **{f"q(z | x): {n}": v for n, v in readings(trace.q, trace.z).items()}}
        if kind in ("decoder", "likelihood", "model"):
            z = trace.z.to(batch.x.dtype) if kind != "model" else trace.z  # an encoder's fault is not the decoder's
            found |= {f"p(x | z): {n}": v for n, v in readings(vae.decode(z, batch.condition), batch.x).items()}
        if kind in ("prior", "model"):
            found |= {f"p(z): {n}": v for n, v in readings(trace.prior, trace.z).items()}
    return found


def agree(found: Tensor, expected: Tensor, what: str) -> None:
    """Fail the check unless two tensors are as good as equal."""
    try:
        torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE)
    except AssertionError as error:
        detail = next((line for line in str(error).splitlines() if line.startswith("Greatest absolute")), str(error))
        raise CheckFailed(f"{what}: {detail}") from error
