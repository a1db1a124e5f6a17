"""How much of the labels can be read off the code."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from pydantic import PositiveFloat, PositiveInt

from zoo import EvaluationContext, Measurement, Metric, NotApplicable


class LinearProbe(Metric):
    """Accuracy of a multinomial logistic regression from code to label, fitted to the training split.

    Args:
        regularization: inverse strength of the penalty on the weights of the standardised codes, scikit-learn's ``C``.
        iterations: of the fit, at most.
    """

    def __init__(self, regularization: PositiveFloat = 1.0, iterations: PositiveInt = 1000) -> None:
        self.regularization = regularization
        self.iterations = iterations

    def __call__(self, subject: EvaluationContext) -> Sequence[Measurement]:
        """Measure `linear-probe`.

        Raises:
            NotApplicable: there are no labels, or only one.
        """
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        labels, train_labels = subject.labels, subject.train_labels
        if bool((train_labels == train_labels[0]).all()):
            raise NotApplicable("every training image has the same label")
        # The optimum is the same for every solver; this one is there first.
        regression = LogisticRegression(C=self.regularization, max_iter=self.iterations, solver="newton-cg")
        probe = make_pipeline(StandardScaler(), regression)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            probe.fit(subject.train_posterior_mean.flatten(1).numpy(), train_labels.numpy())
        accuracy = float(probe.score(subject.posterior_mean.flatten(1).numpy(), labels.numpy()))
        unfinished = any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
        notes = [f"the fit stopped after {self.iterations} iterations"] if unfinished else []
        notes += ["measured on the images that it was fitted to"] if subject.split == "train" else []
        protocol = {"representation": subject.representation, "fitted to": f"{len(train_labels)} training images"}
        error = (accuracy * (1 - accuracy) / len(labels)) ** 0.5
        return [Measurement("linear-probe", accuracy, "accuracy", protocol, error, "; ".join(notes))]
