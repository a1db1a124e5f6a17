"""Integrators of Hamilton's equations. Positions and momenta are (N, *latent_shape)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from zoo import VAE, Trace, observed_log_prob
from zoo_hamiltonian.metric import Metric

Force = Callable[[Tensor], Tensor]


def force_of(vae: VAE, trace: Trace) -> Force:
    """The force at z: the gradient in z of log p(x, z), which is the negative potential energy."""
    differentiable = torch.is_grad_enabled()

    def force(z: Tensor) -> Tensor:
        # The gradient in z is wanted in evaluation too, where no other is.
        with torch.enable_grad():
            z = z if z.requires_grad else z.detach().requires_grad_()
            p = vae.decode(z, trace.condition)
            log_joint = observed_log_prob(p, trace.x, trace.mask) + trace.prior.log_prob(z)
            (gradient,) = torch.autograd.grad(log_joint.sum(), z, create_graph=differentiable)
        return gradient

    return force


def leapfrog(force: Force, z: Tensor, momentum: Tensor, step: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """One leapfrog step for each of the `factors`, which the momentum is multiplied by after it.

    Args:
        step: step sizes, (*latent_shape).
        factors: (K,); ones for Hamiltonian dynamics without tempering.
    """
    pull = force(z)
    for factor in factors:
        half = momentum + step / 2 * pull
        z = z + step * half
        pull = force(z)
        momentum = factor * (half + step / 2 * pull)
    return z, momentum


def generalized_leapfrog(
    force: Force, metric: Metric, z: Tensor, momentum: Tensor, step: Tensor, factors: Tensor, iterations: int
) -> tuple[Tensor, Tensor]:
    """The same where the kinetic energy depends on z (arXiv 2010.11518; Girolami and Calderhead 2011).

    The first half step of the momentum and the step of z are implicit equations. Fixed-point iteration solves them, up
    to a factor of the order of the step size for each iteration; volume is preserved and time reversible as far as they
    are solved.

    Args:
        iterations: of each implicit equation.
    """
    pull = force(z)
    for factor in factors:
        half = momentum
        for _ in range(iterations):
            half = momentum + step / 2 * (pull - metric.kinetic_gradient(z, half))
        start, velocity = z, metric.velocity(z, half)
        for _ in range(iterations):
            z = start + step / 2 * (velocity + metric.velocity(z, half))
        pull = force(z)
        momentum = factor * (half + step / 2 * (pull - metric.kinetic_gradient(z, half)))
    return z, momentum
