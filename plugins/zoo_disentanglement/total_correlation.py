"""The rate in three parts, and a weight of its own for each (arXiv 1802.04942)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from zoo import VAE, Batch, ComponentError, Loss
from zoo_disentanglement.factorised import log_density_of_dimensions

Estimator = Literal["weighted", "stratified"]


class BetaTC(Loss):
    """The beta-TCVAE (arXiv 1802.04942, eq. 2 and 4). The rate, averaged over the N training images n, is the sum of

    - the mutual information  I(n; z) = E[log q(z | n) - log q(z)],
    - the total correlation   KL(q(z) || prod_d q(z_d)), and
    - the dimension-wise KL   E[log prod_d q(z_d) - log p(z)], which is sum_d KL(q(z_d) || p(z_d)) for such a prior,

    where q(z) is the mean of q(z | n), and

    loss = E_q[-log p(x | z)] + alpha I(n; z) + beta TC + gamma KL

    q(z) and q(z_d) are estimated from the batch, at one draw z for each image: see `mixture_weights`. The log of an
    estimate is biased even where the estimate is not, and so are the three parts; their sum is the rate at the draws
    whatever the estimate. An accumulated batch is the mean over its parts.

    Args:
        train_size: N.
        alpha, beta, gamma: weights of the three parts; all 1 give the bound, and the paper raises beta alone.
        estimator: of q(z), ``weighted`` as in the paper's experiments. The ``stratified`` one is without bias for q(z),
            but where N is much larger than the batch its logarithm is far too low, and more so for all dimensions
            together than for one: a large beta then learns to make the estimate of TC negative, and not TC small.
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
        """Return ``loss``, ``distortion``, ``rate`` (at the draws), and its parts ``mutual_information``,
        ``total_correlation`` and ``dimension_kl``, in nats per example.

        Raises:
            ComponentError: the dimensions of the posterior depend on each other, or the prior depends on the label.
        """
        trace = vae.trace(batch)
        if trace.prior.batch_shape:
            raise ComponentError(
                "The loss 'beta-tc' compares q(z), the mean over all images, with one prior for all of them, and this "
                "model has a prior for each label: take prior=standard-normal, or loss=elbo."
            )
        log_densities = log_density_of_dimensions(trace.z, trace.q)
        log_weights = mixture_weights(self.estimator, self.train_size, len(trace.z)).log().to(log_densities)
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


def mixture_weights(estimator: Estimator, train_size: int, batch_size: int) -> Tensor:
    """The weights w of an estimate of q(z_i) = 1/N sum_n q(z_i | n) from a batch: sum_j w_ij q(z_i | n_j).

    ``weighted`` (arXiv 1802.04942, eq. 3): 1/B for each of the B images of the batch, so that the image that z_i was
    drawn for counts for N/B times its share. The paper has a further factor 1/N, which adds a multiple of log N to each
    of the parts, (d - 1) log N to TC, and changes no gradient; without it a batch of all images gives q(z) itself.

    ``stratified`` (its appendix C): that image counts for itself alone, 1/N, and the M others of the batch for all the
    rest: 1/M, but one of them, here the next one, (N - M) / (N M). The mean over all batches is q(z_i).

    Args:
        train_size: N; a batch that is larger is itself the whole.
        batch_size: B = M + 1.

    Returns:
        (B, B); each row adds up to 1.
    """
    n, others = max(train_size, batch_size), batch_size - 1
    if estimator == "weighted" or others == 0:
        return torch.full((batch_size, batch_size), 1 / batch_size)
    weights = torch.full((batch_size, batch_size), 1 / others)
    rows = torch.arange(batch_size)
    weights[rows, rows] = 1 / n
    weights[rows, (rows + 1) % batch_size] = (n - others) / (n * others)
    return weights
