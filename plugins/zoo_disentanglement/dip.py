"""The losses of DIP-VAE-I and DIP-VAE-II (arXiv 1711.00848)."""

from __future__ import annotations

import torch
from pydantic import NonNegativeFloat
from torch import Tensor
from torch.distributions import Distribution, Independent

from zoo import VAE, Batch, ComponentError, Loss


class MeanCovariance(Loss):
    """DIP-VAE-I (arXiv 1711.00848): the negative ELBO with a penalty on C = Cov_x[E_q[z | x]].

    loss = E_q[-log p(x | z)] + KL(q(z | x) || p(z)) + off_diagonal sum_{i != j} C_ij^2 + diagonal sum_i (C_ii - 1)^2

    C is the biased estimate from the batch (each microbatch).

    Args:
        off_diagonal: lambda_od.
        diagonal: lambda_d; ten times lambda_od in the paper.
    """

    def __init__(self, off_diagonal: NonNegativeFloat = 10.0, diagonal: NonNegativeFloat = 100.0) -> None:
        super().__init__()
        self.off_diagonal = off_diagonal
        self.diagonal = diagonal

    def covariance(self, q: Distribution) -> Tensor:
        """Return C (d, d) for a batch of posteriors q(z | x).

        Raises:
            ComponentError: the posterior has no mean.
        """
        try:
            mean = q.mean.flatten(1)
        except NotImplementedError as error:
            raise ComponentError(
                f"The losses dip-i and dip-ii need a posterior with a mean; {type(q).__name__} has none."
            ) from error
        deviation = mean - mean.mean(0)
        # Not a matrix product, which autocast would compute in bfloat16.
        return (deviation.unsqueeze(2) * deviation.unsqueeze(1)).mean(0)

    def forward(self, vae: VAE, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss``, ``distortion``, ``rate`` and ``covariance`` (the weighted penalty), in nats per example."""
        trace = vae.trace(batch)
        distortion = -trace.log_px.mean()
        rate = trace.kl.mean()
        c = self.covariance(trace.q)
        variances = c.diagonal()
        off_diagonal = (c - torch.diag(variances)).square().sum()
        penalty = self.off_diagonal * off_diagonal + self.diagonal * (variances - 1).square().sum()
        return {"loss": distortion + rate + penalty, "distortion": distortion, "rate": rate, "covariance": penalty}


class AggregateCovariance(MeanCovariance):
    """DIP-VAE-II (arXiv 1711.00848): `MeanCovariance` with the covariance of the aggregate posterior q(z).

    C = Cov_q(z)[z] = E_x[Cov_q[z | x]] + Cov_x[E_q[z | x]]

    Args:
        off_diagonal: lambda_od.
        diagonal: lambda_d; equal to lambda_od in the paper.
    """

    def __init__(self, off_diagonal: NonNegativeFloat = 10.0, diagonal: NonNegativeFloat = 10.0) -> None:
        super().__init__(off_diagonal, diagonal)

    def covariance(self, q: Distribution) -> Tensor:
        """Return C (d, d) for a batch of posteriors q(z | x).

        Raises:
            ComponentError: the posterior has no known covariance.
        """
        if isinstance(q, Independent) and not q.base_dist.event_shape:
            mean_covariance = torch.diag(q.variance.flatten(1).mean(0))
        elif hasattr(q, "covariance_matrix"):
            mean_covariance = q.covariance_matrix.mean(0)
        else:
            raise ComponentError(
                f"The loss 'dip-ii' needs the covariance of the posterior; that of {type(q).__name__} is not known. "
                "Use loss=dip-i."
            )
        return mean_covariance + super().covariance(q)
