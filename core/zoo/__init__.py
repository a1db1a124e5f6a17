"""vae-zoo: a plugin-based model zoo for variational autoencoders.

Everything public is here. Names are imported on first use, so that ``import zoo`` alone does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from zoo.errors import (
    ComponentError,
    DataError,
    DataUnavailable,
    ExportError,
    NameConflict,
    NotApplicable,
    RecipeError,
    RunError,
    TrainingError,
    UnknownName,
    UsageError,
    ZooError,
)
from zoo.plugins.hookspecs import KINDS, OBJECT, Component, hookimpl

if TYPE_CHECKING:
    from zoo.api import (
        create_loss,
        create_model,
        encode,
        evaluate,
        export,
        fit_prior,
        get,
        list_components,
        list_models,
        load,
        load_dataset,
        recipe,
        resume,
        survey_data,
        train,
    )
    from zoo.data.cache import cached_images
    from zoo.data.dataset import Dataset, Split
    from zoo.distributions import AllowsEmptySamples
    from zoo.evaluation.evaluate import Evaluation
    from zoo.evaluation.metric import EvaluationContext, Measurement, Metric
    from zoo.measures import base_measure
    from zoo.model.layers import Gaussian, WarmUp, halved_sizes, merge_leading
    from zoo.model.loss import Loss, Phase
    from zoo.model.parts import Conditional, Decoder, Encoder, ExPostPrior, Likelihood, Posterior, Prior, Scheduled
    from zoo.model.vae import VAE, Batch, Trace
    from zoo.precision import KeepsFloat32, at_least_float32, match_dtype
    from zoo.recipes.components import ComponentFactory
    from zoo.recipes.schema import Recipe
    from zoo.run import Run
    from zoo.training.history import Epoch
    from zoo.training.signals import Interrupted
    from zoo_figures import figures
    from zoo_report.report import Report, report
    from zoo_sweep.comparison import Comparison, compare
    from zoo_sweep.sweep import Sweep, sweep

_HOMES = {
    "zoo.api": (
        "create_loss",
        "create_model",
        "encode",
        "export",
        "evaluate",
        "fit_prior",
        "get",
        "list_components",
        "list_models",
        "load",
        "load_dataset",
        "recipe",
        "resume",
        "survey_data",
        "train",
    ),
    "zoo.data.cache": ("cached_images",),
    "zoo.data.dataset": ("Dataset", "Split"),
    "zoo.distributions": ("AllowsEmptySamples",),
    "zoo.evaluation": ("figures",),
    "zoo.evaluation.evaluate": ("Evaluation",),
    "zoo.model.parts": (
        "Conditional",
        "Decoder",
        "Encoder",
        "ExPostPrior",
        "Likelihood",
        "Posterior",
        "Prior",
        "Scheduled",
    ),
    "zoo.model.layers": ("Gaussian", "WarmUp", "folded", "halved"),
    "zoo.model.loss": ("Loss", "Phase"),
    "zoo.measures": ("base_measure",),
    "zoo.evaluation.metric": ("Measurement", "Metric", "EvaluationContext"),
    "zoo.precision": ("KeepsFloat32", "at_least_float32", "match_dtype"),
    "zoo.recipes.components": ("ComponentFactory",),
    "zoo.recipes.schema": ("Recipe",),
    "zoo.run": ("Run",),
    "zoo_sweep.comparison": ("Comparison", "compare"),
    "zoo_report.report": ("Report", "report"),
    "zoo_sweep.sweep": ("Sweep", "sweep"),
    "zoo.training.history": ("Epoch",),
    "zoo.training.signals": ("Interrupted",),
    "zoo.model.vae": ("VAE", "Batch", "Trace"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "KINDS",
    "OBJECT",
    "VAE",
    "AllowsEmptySamples",
    "Batch",
    "ComponentFactory",
    "Comparison",
    "Component",
    "ComponentError",
    "Conditional",
    "DataError",
    "DataUnavailable",
    "Dataset",
    "Decoder",
    "Encoder",
    "Epoch",
    "Evaluation",
    "ExPostPrior",
    "ExportError",
    "Gaussian",
    "Split",
    "Interrupted",
    "KeepsFloat32",
    "Likelihood",
    "Loss",
    "Measurement",
    "Metric",
    "NameConflict",
    "NotApplicable",
    "Phase",
    "Posterior",
    "Prior",
    "Recipe",
    "RecipeError",
    "Report",
    "Run",
    "RunError",
    "Scheduled",
    "EvaluationContext",
    "Sweep",
    "Trace",
    "TrainingError",
    "UnknownName",
    "UsageError",
    "WarmUp",
    "ZooError",
    "at_least_float32",
    "base_measure",
    "cached_images",
    "compare",
    "create_loss",
    "create_model",
    "encode",
    "evaluate",
    "export",
    "figures",
    "fit_prior",
    "folded",
    "get",
    "halved",
    "hookimpl",
    "list_components",
    "list_models",
    "load",
    "load_dataset",
    "match_dtype",
    "recipe",
    "report",
    "resume",
    "survey_data",
    "sweep",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
