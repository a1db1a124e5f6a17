"""Missing values: bounds on the likelihood of the observed entries, models of the missingness, and imputation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from zoo import Command, Component, hookimpl

if TYPE_CHECKING:
    from zoo_missing.imputation import Imputation as Imputation
    from zoo_missing.imputation import impute as impute
else:

    def __getattr__(name):  # imports torch, which loading a plugin must not
        if name in ("Imputation", "impute"):
            from zoo_missing import imputation

            return getattr(imputation, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@hookimpl
def zoo_components() -> Iterable[Component]:
    """Return the losses, the model of missingness, the Student's t distributions, the data set and the metric."""
    return (
        Component("loss", "miwae-impute", "zoo_missing.losses:MIWAE", "Importance-weighted bound on observed entries"),
        Component("loss", "not-miwae", "zoo_missing.losses:NotMIWAE", "The same with a model of the missingness"),
        Component(
            "decoder",
            "missing-not-at-random",
            "zoo_missing.missingness:MissingNotAtRandom",
            "Any decoder, with a model of which entries are missing",
        ),
        Component("likelihood", "student-t", "zoo_missing.student:StudentTLikelihood", "Student's t, for real values"),
        Component("posterior", "student-t", "zoo_missing.student:StudentTPosterior", "Independent Student's t"),
        Component(
            "dataset",
            "breast-cancer",
            "zoo_missing.breast_cancer:breast_cancer",
            "569 tumours, 30 measurements, inside scikit-learn, half of them hidden",
        ),
        Component("metric", "imputation-error", "zoo_missing.metric:ImputationError", "Error of imputed values; slow"),
    )


@hookimpl
def zoo_commands() -> Iterable[Command]:
    """The command of this plugin."""
    return (Command("impute", "Fill in missing values.", "zoo_missing.cli:impute_"),)
