"""A linear classifier of labels on the latent."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from pydantic import PositiveFloat, PositiveInt

from zoo import EvaluationContext, Measurement, Metric, NotApplicable


class LinearProbe(Metric):
    """The accuracy of a multinomial logistic regression from posterior means to labels, fitted to the training split.

    Args:
        regularization: inverse regularisation strength, ``C`` in scikit-learn, for standardised posterior means.
        iterations: maximum number of iterations.
    """

    def __init__(self, regularization: PositiveFloat = 1.0, iterations: PositiveInt = 1000) -> None:
        self.regularization = regularization
        self.iterations = iterations

    def __call__(self, context: EvaluationContext) -> Sequence[Measurement]:
        """Measure `linear-probe`.

        Raises:
            NotApplicable: the data have no labels, or all training labels are equal.
        """
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        labels, train_labels = context.labels, context.train_labels
        if bool((train_labels == train_labels[0]).all()):
            raise NotApplicable("every training image has the same label")
        # All solvers have the same optimum; this is the fastest.
        regression = LogisticRegression(C=self.regularization, max_iter=self.iterations, solver="newton-cg")
        probe = make_pipeline(StandardScaler(), regression)
        with warnings.catch_warnings(record=True) as warning_list:
            warnings.simplefilter("always", ConvergenceWarning)
            probe.fit(context.train_posterior_mean.flatten(1).numpy(), train_labels.numpy())
        accuracy = float(probe.score(context.posterior_mean.flatten(1).numpy(), labels.numpy()))
        converged = not any(issubclass(warning.category, ConvergenceWarning) for warning in warning_list)
        notes = [] if converged else [f"the fit did not converge in {self.iterations} iterations"]
        notes += ["evaluated on images that it was fitted to"] if context.split == "train" else []
        protocol = {"representation": context.representation, "fitted to": f"{len(train_labels)} training images"}
        error = (accuracy * (1 - accuracy) / len(labels)) ** 0.5
        return [Measurement("linear-probe", accuracy, "accuracy", protocol, error, "; ".join(notes))]
