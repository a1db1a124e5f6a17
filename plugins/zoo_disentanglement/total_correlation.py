"""The loss of the beta-TCVAE (arXiv 1802.04942)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from zoo import VAE, Batch, ComponentError, Loss
from zoo_disentanglement.per_dimension import log_prob_per_dimension

Estimator = Literal["weighted", "stratified"]


class BetaTC(Loss):
    """The beta-TCVAE (arXiv 1802.04942, eq. 2 and 4): the rate in three parts, each with its own weight.

    loss = E_q[-log p(x | z)] + alpha MI + beta TC + gamma DKL, where q(z) is the mean of q(z | n) over N images n and

    - MI = E[log q(z | n) - log q(z)] is the mutual information I(n; z),
    - TC = E[log q(z) - log prod_d q(z_d)] is the total correlation,
    - DKL = E[log prod_d q(z_d) - log p(z)] is the dimension-wise KL, sum_d KL(q(z_d) || p(z_d)) if p(z) factorises.

    q(z) and q(z_d) are estimated from the batch (each microbatch) with one sample per image, see `mixture_weights`. The
    three parts are biased, being logarithms of estimates; their sum is the unbiased estimate of the rate.

    Args:
        train_size: N.
        alpha, beta, gamma: weights of MI, TC and DKL; all 1 give the ELBO, and the paper varies beta only.
        estimator: estimator of q(z); ``weighted`` in the paper's experiments. ``stratified`` is unbiased for q(z), but
            for N much larger than the batch it underestimates log q(z), by more than sum_d log q(z_d): a large beta
            then drives the estimate of TC below zero instead of reducing TC.
    """

    def __init__(
        self,
        train_size: int,
        alpha: NonNegativeFloat = 1.0,
        beta: NonNegativeFloat = 6.0,
        gamma: NonNegativeFloat = 1.0,
        estimator: Estimator = "weighted",
    ) -> None:
        super().__init__()
        self.train_size = train_size
        self.alpha = alpha
        self.beta = beta
        self.gamma = gamma
        self.estimator: Estimator = estimator

    def forward(self, vae: VAE, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss``, ``distortion``, ``rate`` and its parts ``mutual_information``, ``total_correlation`` and
        ``dimension_kl``, in nats per example.

        Raises:
            ComponentError: the dimensions of the posterior are not independent, or the prior is conditional.
        """
        trace = vae.trace(batch)
        if trace.prior.batch_shape:
            raise ComponentError(
                "The loss 'beta-tc' needs the same prior for all images; this one is conditional on the label. "
                "Use prior=standard-normal or loss=elbo."
            )
        log_densities = log_prob_per_dimension(trace.z, trace.q)
        weights = mixture_weights(self.estimator, self.train_size, len(trace.z), trace.z.device)
        log_weights = weights.log().to(log_densities)
        log_qz = (log_weights + log_densities.sum(2)).logsumexp(1)
        log_qz_product = (log_weights.unsqueeze(2) + log_densities).logsumexp(1).sum(1)

        distortion = -trace.log_px.mean()
        mutual_information = (trace.log_qz - log_qz).mean()
        total_correlation = (log_qz - log_qz_product).mean()
        dimension_kl = (log_qz_product - trace.log_pz).mean()
        weighted = self.alpha * mutual_information + self.beta * total_correlation + self.gamma * dimension_kl
        return {
            "loss": distortion + weighted,
            "distortion": distortion,
            "rate": mutual_information + total_correlation + dimension_kl,
            "mutual_information": mutual_information,
            "total_correlation": total_correlation,
            "dimension_kl": dimension_kl,
        }


def mixture_weights(
    estimator: Estimator, train_size: int, batch_size: int, device: torch.device | None = None
) -> Tensor:
    """Weights w_ij of the estimate q(z_i) = sum_j w_ij q(z_i | n_j) from a batch of B = M + 1 images.

    ``weighted`` (arXiv 1802.04942, eq. 3): w_ij = 1/B. The paper has a further factor 1/N, which adds a constant to
    each part ((d - 1) log N to TC) and changes no gradient; without it, a batch of all images gives q(z) exactly.

    ``stratified`` (appendix C): w_ii = 1/N, w_ij = (N - M) / (N M) for one other image, here the next, and 1/M for the
    rest. The expectation over batches is q(z_i).

    Args:
        estimator: which of the two.
        train_size: N; B if the batch is larger.
        batch_size: B.
        device: of the result.

    Returns:
        (B, B), with rows that sum to 1.
    """
    n, m = max(train_size, batch_size), batch_size - 1
    if estimator == "weighted" or m == 0:
        return torch.full((batch_size, batch_size), 1 / batch_size, device=device)
    weights = torch.full((batch_size, batch_size), 1 / m, device=device)
    rows = torch.arange(batch_size, device=device)
    weights[rows, rows] = 1 / n
    weights[rows, (rows + 1) % batch_size] = (n - m) / (n * m)
    return weights
