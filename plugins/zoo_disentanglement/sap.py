"""Separated attribute predictability (arXiv 1711.00848)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zoo import EvaluationContext, Measurement, Metric
from zoo_disentanglement.factors import gap, varying_factors


class SeparatedPredictability(Metric):
    """Separated attribute predictability (arXiv 1711.00848, section 3): the difference between the scores of the two
    latents that best predict a factor on their own, averaged over factors.

    For an ordinal factor the score is that of a linear regression, R^2 = Cov(z_i, v)^2 / (Var z_i Var v). For a
    categorical factor with V values it is the balanced accuracy of V - 1 thresholds on z_i, so the gap is at most
    1 - 1/V. Predictors are fitted to and evaluated on the same images.

    Args:
        categorical: names of the categorical factors.
    """

    by_default = False

    def __init__(self, categorical: Sequence[str] = ("shape", "color", "label")) -> None:
        self.categorical = tuple(categorical)

    def __call__(self, context: EvaluationContext) -> Sequence[Measurement]:
        """Measure `sap`.

        Raises:
            NotApplicable: the data have no factors, or none of them varies.
        """
        factors = varying_factors(context)
        z = context.posterior_mean.double().flatten(1)
        scores = [
            balanced_accuracy(z, values) if name in self.categorical else r_squared(z, values)
            for name, values in factors.items()
        ]
        categorical = [name for name in factors if name in self.categorical]
        protocol = {"factors": list(factors), "categorical": categorical, "representation": context.representation}
        return [Measurement("sap", gap(torch.stack(scores, dim=1)).mean().item(), protocol=protocol)]


def r_squared(z: Tensor, values: Tensor) -> Tensor:
    """R^2 of the linear regression from each column of z (N, d) to the values (N,), (d,); 0 for a constant column."""
    z_deviation, v_deviation = z - z.mean(0), (values - values.double().mean()).unsqueeze(1)
    z_variance, v_variance = z_deviation.square().mean(0), v_deviation.square().mean(0)
    # z was computed in float32: a spread within its rounding error is no variation.
    varies = (z_variance > 1e-14 * z.square().mean(0)) & (z_variance * v_variance > 0)
    covariance = (z_deviation * v_deviation).mean(0)
    return torch.where(varies, covariance.square() / torch.where(varies, z_variance * v_variance, 1.0), 0.0)


def balanced_accuracy(z: Tensor, values: Tensor) -> Tensor:
    """The balanced accuracy of predicting the values (N,) from thresholds on each column of z (N, d), (d,)."""
    from sklearn.tree import DecisionTreeClassifier

    classes, values = torch.unique(values, return_inverse=True)
    labels = values.numpy()
    scores = []
    for column in z.unbind(1):
        feature = column.unsqueeze(1).numpy()
        tree = DecisionTreeClassifier(max_leaf_nodes=len(classes), class_weight="balanced", random_state=0)
        correct = torch.from_numpy(tree.fit(feature, labels).predict(feature) == labels).double()
        scores.append(torch.stack([correct[values == value].mean() for value in range(len(classes))]).mean())
    return torch.stack(scores)
