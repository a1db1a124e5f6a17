"""Disentanglement, completeness and informativeness (Eastwood and Williams, OpenReview By-7dz-AZ)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import PositiveInt
from torch import Tensor

from zoo import EvaluationContext, Measurement, Metric, NotApplicable
from zoo_disentanglement.factors import varying_factors, varying_train_factors


class Importances(Metric):
    """How much each latent matters for each factor (OpenReview By-7dz-AZ), by random forests that are
    fitted to the codes of training images, one for each factor.

    With R_ij the importance of latent i for factor j: disentanglement is 1 less the entropy of each row of R in units
    of log F, the mean over the rows weighted by their share of R; completeness is 1 less the entropy of each column in
    units of log d, their mean. Informativeness is the accuracy of the forests on the images that are measured. (The
    paper's forests predict numbers, with an error; these predict values, as is usual since arXiv 1811.12359.)

    Args:
        images: the forests are fitted to the first so many training images.
        trees: of each forest.
    """

    by_default = False

    def __init__(self, images: PositiveInt = 5000, trees: PositiveInt = 20) -> None:
        self.images = images
        self.trees = trees

    def __call__(self, subject: EvaluationContext) -> Sequence[Measurement]:
        """Measure `dci-disentanglement`, `dci-completeness` and `dci-informativeness`.

        Raises:
            NotApplicable: the factors are not known, or none varies.
        """
        from sklearn.ensemble import RandomForestClassifier

        n = min(self.images, len(subject.train.x))
        train_factors = varying_train_factors(subject, n)
        factors = {name: values for name, values in varying_factors(subject).items() if name in train_factors}
        if not factors:
            raise NotApplicable(f"no factor that varies in these images varies in the first {n} training images")
        train, codes = subject.train_posterior_mean[:n].flatten(1).numpy(), subject.posterior_mean.flatten(1).numpy()
        columns, accuracies = [], []
        for name, values in subject.track(factors.items(), len(factors)):
            seed = int(torch.randint(2**31, ()))
            # All latents are looked at for every split: otherwise the best is often passed over for a useless one.
            forest = RandomForestClassifier(self.trees, max_features=None, random_state=seed)
            forest.fit(train, train_factors[name].numpy())
            columns.append(torch.from_numpy(forest.feature_importances_))
            accuracies.append(float(forest.score(codes, values.numpy())))
        importances = torch.stack(columns, dim=1)
        protocol = {
            "factors": list(factors),
            "representation": subject.representation,
            "fitted to": f"{n} training images",
            "trees": self.trees,
        }
        note = "measured on images that it was fitted to" if subject.split == "train" else ""
        return [
            Measurement("dci-disentanglement", disentanglement(importances), protocol=protocol),
            Measurement("dci-completeness", completeness(importances), protocol=protocol),
            Measurement("dci-informativeness", sum(accuracies) / len(accuracies), "accuracy", protocol, note=note),
        ]


def disentanglement(importances: Tensor) -> float:
    """1 if each latent matters for one factor alone: (d, F) to a number in [0, 1]. One factor cannot be mixed up."""
    share = importances.sum(1) / importances.sum().clamp(min=1e-300)
    return float((share * (1 - _normalized_entropy(importances))).sum())


def completeness(importances: Tensor) -> float:
    """1 if one latent alone matters for each factor: (d, F) to a number in [0, 1]."""
    return float((1 - _normalized_entropy(importances.T)).mean())


def _normalized_entropy(rows: Tensor) -> Tensor:
    """Of each row, once it adds up to 1, in units of its greatest possible; 1 for a row of zeros."""
    n = rows.shape[1]
    total = rows.sum(1, keepdim=True)
    p = torch.where(total > 0, rows / total.clamp(min=1e-300), 1 / n)
    entropy: Tensor = -torch.special.xlogy(p, p).sum(1)
    return entropy / math.log(max(n, 2))
