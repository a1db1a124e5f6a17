"""Disentanglement, completeness and informativeness (Eastwood and Williams 2018, OpenReview By-7dz-AZ)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import PositiveInt
from torch import Tensor

from zoo import EvaluationContext, Measurement, Metric, NotApplicable
from zoo_disentanglement.factors import varying_factors, varying_train_factors


class DCI(Metric):
    """Disentanglement, completeness and informativeness (OpenReview By-7dz-AZ), for d latents and F factors.

    A random forest per factor predicts it from the posterior means of training images. R_ij is the importance of
    latent i in the forest of factor j.

    - disentanglement = sum_i w_i (1 - H(R_i.) / log F), with w_i the share of row i in the sum of R
    - completeness = mean_j (1 - H(R_.j) / log d)
    - informativeness = mean accuracy of the forests on the evaluated images

    H is the entropy of a normalised row or column. The forests are classifiers, as in arXiv 1811.12359; the paper uses
    regression.

    Args:
        images: number of training images that the forests are fitted to.
        trees: number of trees per forest.
    """

    by_default = False

    def __init__(self, images: PositiveInt = 5000, trees: PositiveInt = 20) -> None:
        self.images = images
        self.trees = trees

    def __call__(self, context: EvaluationContext) -> Sequence[Measurement]:
        """Measure `dci-disentanglement`, `dci-completeness` and `dci-informativeness`.

        Raises:
            NotApplicable: the data have no factors, or none of them varies.
        """
        from sklearn.ensemble import RandomForestClassifier

        n = min(self.images, len(context.train.x))
        train_factors = varying_train_factors(context, n)
        factors = {name: values for name, values in varying_factors(context).items() if name in train_factors}
        if not factors:
            raise NotApplicable(f"no factor varies both in these images and in the first {n} training images")
        train_z = context.train_posterior_mean[:n].flatten(1).numpy()
        z = context.posterior_mean.flatten(1).numpy()
        columns, accuracies = [], []
        for name, values in context.track(factors.items(), len(factors)):
            seed = int(torch.randint(2**31, ()))
            # Every split considers all latents; a random subset would often lack the informative one.
            forest = RandomForestClassifier(self.trees, max_features=None, random_state=seed)
            forest.fit(train_z, train_factors[name].numpy())
            columns.append(torch.from_numpy(forest.feature_importances_))
            accuracies.append(float(forest.score(z, values.numpy())))
        importances = torch.stack(columns, dim=1)
        protocol = {
            "factors": list(factors),
            "representation": context.representation,
            "fitted to": f"{n} training images",
            "trees": self.trees,
        }
        note = "evaluated on images that it was fitted to" if context.split == "train" else ""
        return [
            Measurement("dci-disentanglement", disentanglement(importances), protocol=protocol),
            Measurement("dci-completeness", completeness(importances), protocol=protocol),
            Measurement("dci-informativeness", sum(accuracies) / len(accuracies), "accuracy", protocol, note=note),
        ]


def disentanglement(importances: Tensor) -> float:
    """Map importances (d, F) to a number in [0, 1]: 1 if each latent is important for a single factor."""
    weights = importances.sum(1) / importances.sum().clamp(min=1e-300)
    return float((weights * (1 - _normalized_entropy(importances))).sum())


def completeness(importances: Tensor) -> float:
    """Map importances (d, F) to a number in [0, 1]: 1 if a single latent is important for each factor."""
    return float((1 - _normalized_entropy(importances.T)).mean())


def _normalized_entropy(rows: Tensor) -> Tensor:
    """The entropy of each row, normalised to sum 1, relative to its maximum; 1 for a row of zeros."""
    n = rows.shape[1]
    total = rows.sum(1, keepdim=True)
    p = torch.where(total > 0, rows / total.clamp(min=1e-300), 1 / n)
    entropy: Tensor = -torch.special.xlogy(p, p).sum(1)
    return entropy / math.log(max(n, 2))
