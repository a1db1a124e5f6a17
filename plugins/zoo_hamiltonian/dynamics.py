"""Leapfrog integrators of Hamilton's equations. Positions z and momenta are (N, *latent_shape)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from zoo import VAE, Trace, observed_log_prob
from zoo_hamiltonian.metric import Metric

Force = Callable[[Tensor], Tensor]


def make_force(vae: VAE, trace: Trace) -> Force:
    """Return the function from z to the gradient of log p(x, z) in z, with x from the trace."""
    differentiable = torch.is_grad_enabled()

    def force(z: Tensor) -> Tensor:
        with torch.enable_grad():  # needed in evaluation as well
            z = z if z.requires_grad else z.detach().requires_grad_()
            p = vae.decode(z, trace.condition)
            log_joint = observed_log_prob(p, trace.x, trace.mask) + trace.prior.log_prob(z)
            (gradient,) = torch.autograd.grad(log_joint.sum(), z, create_graph=differentiable)
        return gradient

    return force


def leapfrog(force: Force, z: Tensor, momentum: Tensor, step: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """Take K leapfrog steps with kinetic energy |momentum|^2 / 2, scaling the momentum by a factor after each.

    Args:
        force: see `make_force`.
        z: initial positions.
        momentum: initial momenta.
        step: step sizes (*latent_shape).
        factors: tempering factors (K,); ones for no tempering.

    Returns:
        Final positions and momenta.
    """
    gradient = force(z)
    for factor in factors:
        half = momentum + step / 2 * gradient
        z = z + step * half
        gradient = force(z)
        momentum = factor * (half + step / 2 * gradient)
    return z, momentum


def generalized_leapfrog(
    force: Force, metric: Metric, z: Tensor, momentum: Tensor, step: Tensor, factors: Tensor, iterations: int
) -> tuple[Tensor, Tensor]:
    """Take K generalised leapfrog steps, with a kinetic energy that depends on z (arXiv 2010.11518; Girolami and
    Calderhead 2011).

    The first half step of the momentum and the step of z are implicit equations, solved by fixed-point iteration. Each
    iteration reduces the error by a factor of the order of the step size; the steps preserve volume and are reversible
    up to this error.

    Args:
        force, z, momentum, step, factors: see `leapfrog`.
        metric: metric of the kinetic energy.
        iterations: fixed-point iterations per implicit equation.

    Returns:
        Final positions and momenta.
    """
    gradient = force(z)
    for factor in factors:
        half = momentum
        for _ in range(iterations):
            half = momentum + step / 2 * (gradient - metric.kinetic_gradient(z, half))
        start, velocity = z, metric.velocity(z, half)
        for _ in range(iterations):
            z = start + step / 2 * (velocity + metric.velocity(z, half))
        gradient = force(z)
        momentum = factor * (half + step / 2 * (gradient - metric.kinetic_gradient(z, half)))
    return z, momentum
