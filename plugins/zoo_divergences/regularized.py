"""Deterministic autoencoders, plain and regularised."""

from __future__ import annotations

from abc import abstractmethod

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from zoo import VAE, Batch, Loss, Trace, at_least_float32


class Reconstruction(Loss):
    """The distortion alone: with a deterministic posterior, the autoencoder.

    loss = E_q[-log p(x | z)]
    """

    def forward(self, vae: VAE, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss`` and ``distortion``, which are the same, in nats per example."""
        distortion = -vae.trace(batch).log_px.mean()
        return {"loss": distortion, "distortion": distortion}


class Regularized(Loss):
    """The regularised autoencoder (arXiv 1903.12436, section 3): a small code and a smooth decoder, without noise.

    loss = -log p(x | z) + beta 1/2 |z|^2 + weight * penalty,  z the code of x

    The paper's cost is the squared error, ``likelihood: squared-error``. No prior takes part: one is fitted to the
    codes after training (ex-post density estimation), and before that samples from the prior are of no use.

    Args:
        beta: weight of the code.
        weight: lambda, of the penalty on the decoder.
    """

    def __init__(self, beta: NonNegativeFloat, weight: NonNegativeFloat) -> None:
        super().__init__()
        self.beta = beta
        self.weight = weight

    @abstractmethod
    def penalty(self, vae: VAE, trace: Trace) -> Tensor:
        """What the decoder has to pay for being rough."""

    def forward(self, vae: VAE, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss`` and ``distortion`` in nats per example, ``code`` and ``penalty``."""
        trace = vae.trace(batch)
        distortion = -trace.log_px.mean()
        code = 0.5 * trace.z.flatten(1).square().sum(1).mean()
        penalty = self.penalty(vae, trace)
        loss = distortion + self.beta * code + self.weight * penalty
        return {"loss": loss, "distortion": distortion, "code": code, "penalty": penalty}


class WeightRegularized(Regularized):
    """RAE-L2 (arXiv 1903.12436, section 3): the penalty is |theta|^2, over all parameters of the decoder.

    Args:
        beta, weight: as in the loss. By default about what the paper's authors took for MNIST, in terms of a squared
            error that is summed over pixels and not averaged.
    """

    def __init__(self, beta: NonNegativeFloat = 0.01, weight: NonNegativeFloat = 1e-4) -> None:
        super().__init__(beta, weight)

    def penalty(self, vae: VAE, trace: Trace) -> Tensor:
        """|theta|^2."""
        return torch.stack([at_least_float32(parameter).square().sum() for parameter in vae.decoder.parameters()]).sum()


class GradientRegularized(Regularized):
    """RAE-GP (arXiv 1903.12436, section 3): the penalty is |dD/dz|^2, the decoder's mean image by the code.

    The squared norm of the Jacobian J is the mean of |v J|^2 over images v of random signs: so one backward pass, along
    one such image for each code, is an unbiased estimate of it.

    Args:
        beta, weight: as in the loss.
    """

    def __init__(self, beta: NonNegativeFloat = 0.01, weight: NonNegativeFloat = 0.01) -> None:
        super().__init__(beta, weight)

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # what is compiled cannot be differentiated twice
    def penalty(self, vae: VAE, trace: Trace) -> Tensor:
        """|dD/dz|^2 at the codes of the batch, estimated, averaged over the batch."""
        trained = torch.is_grad_enabled()
        with torch.enable_grad():
            z = trace.z if trace.z.requires_grad else trace.z.detach().requires_grad_()
            image = vae.decode(z, trace.condition).mean
            (slope,) = torch.autograd.grad(image, z, torch.randn_like(image).sign(), create_graph=trained)
        return at_least_float32(slope).flatten(1).square().sum(1).mean()
