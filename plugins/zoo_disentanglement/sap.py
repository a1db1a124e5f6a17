"""Separated attribute predictability (arXiv 1711.00848)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zoo import EvaluationContext, Measurement, Metric
from zoo_disentanglement.factors import gap, varying_factors


class SeparatedPredictability(Metric):
    """The lead of the latent that alone predicts a factor best over the next, in the mean over factors (arXiv
    1711.00848, section 3).

    A factor whose values have an order is predicted by a line: the score is R^2 = Cov(z_i, v)^2 / (Var z_i Var v). One
    whose values are mere names is predicted by thresholds, one less than there are values, and the score is the
    balanced accuracy: the best that is possible is then a lead of 1 - 1/values. Fitted and measured on the same images.

    Args:
        categorical: names of the factors whose values have no order.
    """

    by_default = False

    def __init__(self, categorical: Sequence[str] = ("shape", "color", "label")) -> None:
        self.categorical = tuple(categorical)

    def __call__(self, subject: EvaluationContext) -> Sequence[Measurement]:
        """Measure `sap`.

        Raises:
            NotApplicable: the factors are not known, or none varies.
        """
        factors = varying_factors(subject)
        codes = subject.posterior_mean.double().flatten(1)
        scores = [
            balanced_accuracy(codes, values) if name in self.categorical else explained(codes, values)
            for name, values in factors.items()
        ]
        categorical = [name for name in factors if name in self.categorical]
        protocol = {"factors": list(factors), "categorical": categorical, "representation": subject.representation}
        return [Measurement("sap", gap(torch.stack(scores, dim=1)).mean().item(), protocol=protocol)]


def explained(codes: Tensor, values: Tensor) -> Tensor:
    """R^2 of a line from each column of the codes (N, d) to the values (N,): (d,). That of a constant column is 0."""
    z, v = codes - codes.mean(0), (values - values.double().mean()).unsqueeze(1)
    variances = z.square().mean(0) * v.square().mean(0)
    # The codes come from float32: a spread below its rounding is none, whatever the scale.
    varies = (z.square().mean(0) > 1e-14 * codes.square().mean(0)) & (variances > 0)
    return torch.where(varies, (z * v).mean(0).square() / torch.where(varies, variances, 1.0), 0.0)


def balanced_accuracy(codes: Tensor, values: Tensor) -> Tensor:
    """The mean over the values of how many of their images thresholds on a column of the codes tell right: (d,)."""
    from sklearn.tree import DecisionTreeClassifier

    found, values = torch.unique(values, return_inverse=True)
    labels = values.numpy()
    scores = []
    for column in codes.unbind(1):
        code = column.unsqueeze(1).numpy()
        tree = DecisionTreeClassifier(max_leaf_nodes=len(found), class_weight="balanced", random_state=0)
        right = torch.from_numpy(tree.fit(code, labels).predict(code) == labels).double()
        scores.append(torch.stack([right[values == value].mean() for value in range(len(found))]).mean())
    return torch.stack(scores)
