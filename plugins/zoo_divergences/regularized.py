"""Deterministic autoencoders, plain and regularised."""

from __future__ import annotations

from abc import abstractmethod

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from zoo import VAE, Batch, Loss, Trace, at_least_float32


class Reconstruction(Loss):
    """The distortion only; with a deterministic posterior, the loss of an autoencoder.

    loss = E_q[-log p(x | z)]
    """

    def forward(self, vae: VAE, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss`` and the equal ``distortion``, in nats per example."""
        distortion = -vae.trace(batch).log_px.mean()
        return {"loss": distortion, "distortion": distortion}


class Regularized(Loss):
    """The regularised autoencoder (arXiv 1903.12436, section 3), with z = e(x).

    loss = -log p(x | z) + beta 1/2 |z|^2 + weight penalty(decoder)

    The paper's cost is the squared error, ``likelihood: squared-error``. The prior does not enter the loss; fit one
    after training (ex-post density estimation) before sampling.

    Args:
        beta: weight of the latent's norm.
        weight: lambda, weight of the decoder's penalty.
    """

    def __init__(self, beta: NonNegativeFloat, weight: NonNegativeFloat) -> None:
        super().__init__()
        self.beta = beta
        self.weight = weight

    @abstractmethod
    def penalty(self, vae: VAE, trace: Trace) -> Tensor:
        """Return the penalty on the decoder, a scalar."""

    def forward(self, vae: VAE, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss`` and ``distortion`` in nats per example, ``code`` (1/2 |z|^2) and ``penalty``."""
        trace = vae.trace(batch)
        distortion = -trace.log_px.mean()
        code = 0.5 * trace.z.flatten(1).square().sum(1).mean()
        penalty = self.penalty(vae, trace)
        loss = distortion + self.beta * code + self.weight * penalty
        return {"loss": loss, "distortion": distortion, "code": code, "penalty": penalty}


class WeightRegularized(Regularized):
    """RAE-L2 (arXiv 1903.12436, section 3): the penalty is |theta|^2 over the parameters of the decoder.

    Args:
        beta, weight: see `Regularized`. The defaults are close to the authors' for MNIST, converted to a squared error
            that is summed over pixels instead of averaged.
    """

    def __init__(self, beta: NonNegativeFloat = 0.01, weight: NonNegativeFloat = 1e-4) -> None:
        super().__init__(beta, weight)

    def penalty(self, vae: VAE, trace: Trace) -> Tensor:
        """|theta|^2."""
        return torch.stack([at_least_float32(parameter).square().sum() for parameter in vae.decoder.parameters()]).sum()


class GradientRegularized(Regularized):
    """RAE-GP (arXiv 1903.12436, section 3): the penalty is |dD/dz|^2, with D the decoder mean.

    The squared Frobenius norm of the Jacobian J is E|v J|^2 over vectors v of random signs, estimated without bias from
    one v, and one backward pass, per example.

    Args:
        beta, weight: see `Regularized`.
    """

    def __init__(self, beta: NonNegativeFloat = 0.01, weight: NonNegativeFloat = 0.01) -> None:
        super().__init__(beta, weight)

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # compiled code has no second derivatives
    def penalty(self, vae: VAE, trace: Trace) -> Tensor:
        """An estimate of |dD/dz|^2, averaged over the batch."""
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            z = trace.z if trace.z.requires_grad else trace.z.detach().requires_grad_()
            mean = vae.decode(z, trace.condition).mean
            (vjp,) = torch.autograd.grad(mean, z, torch.randn_like(mean).sign(), create_graph=differentiable)
        return at_least_float32(vjp).flatten(1).square().sum(1).mean()
