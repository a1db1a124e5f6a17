"""Evaluate a trained model with metrics selected by name or by default."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from zoo.errors import ComponentError, NotApplicable, ZooError, error_summary
from zoo.evaluation.metric import EvaluationContext, Measurement, Metric
from zoo.model.context import derive_seed, evaluating, seeded
from zoo.plugins.registry import registry
from zoo.recipes.components import construct
from zoo.recipes.schema import ComponentSpec

METRIC = 14  # random stream of a metric


@dataclass(frozen=True)
class Evaluation:
    """The measurements of a model.

    Attributes:
        protocol: settings that every measurement depends on: split, number of images, binarization and seed.
        measurements: measurements by metric.
        left_out: reasons by default metric that was not measured.
    """

    protocol: dict[str, object]
    measurements: dict[str, tuple[Measurement, ...]]
    left_out: dict[str, str]

    def __getitem__(self, name: str) -> Measurement:
        """The measurement with a name."""
        for measurements in self.measurements.values():
            for measurement in measurements:
                if measurement.name == name:
                    return measurement
        raise KeyError(name)

    @property
    def how(self) -> str:
        """The protocol in one line.

        >>> Evaluation({"split": "test", "images": 1000, "binarize": "none", "seed": 0}, {}, {}).how
        '1000 test images, binarize none, seed 0'
        """
        prior = f", prior {self.protocol['prior']}" if "prior" in self.protocol else ""
        return "{images} {split} images, binarize {binarize}, seed {seed}".format(**self.protocol) + prior

    def to_json(self) -> dict[str, Any]:
        """Convert to plain mappings and lists, each measurement with its full protocol."""
        return {
            "protocol": self.protocol,
            "measurements": [
                {"metric": metric, **vars(m), "protocol": {**self.protocol, **m.protocol}}
                for metric, measurements in self.measurements.items()
                for m in measurements
            ],
            "left_out": self.left_out,
        }


def measure(
    context: EvaluationContext,
    specs: Sequence[ComponentSpec] = (),
    by_default: bool = True,
    announce: Callable[[str], None] | None = None,
) -> Evaluation:
    """Measure a model.

    Args:
        context: the model and its data.
        specs: metrics and their settings. An error in one of them is raised.
        by_default: first measure the metrics that are inexpensive. Those that fail are left out, with the reason.
        announce: called with the name of each metric before it is measured.

    Raises:
        ZooError: a metric in `specs` is unknown, does not apply, or is not finite.
    """
    metrics = {spec.use: _metric(spec) for spec in specs}
    announce = announce or (lambda name: None)
    measurements: dict[str, tuple[Measurement, ...]] = {}
    left_out: dict[str, str] = {}
    for name in _metrics_with("by_default", unknown=True) if by_default else ():
        if name in metrics:
            continue
        announce(name)
        try:
            measurements[name] = _measured(name, _metric(ComponentSpec(use=name)), context)
        except Exception as error:
            left_out[name] = error_summary(error)
    for name, metric in metrics.items():
        announce(name)
        try:
            measurements[name] = _measured(name, metric, context)
        except NotApplicable as error:
            raise NotApplicable(f"{name} cannot be measured: {error}.") from error
    return Evaluation(context.protocol, measurements, left_out)


def importance_sampled() -> list[str]:
    """The metrics to measure if a number of importance samples is given."""
    return _metrics_with("importance_sampled", unknown=False)


def _metrics_with(attribute: str, unknown: bool) -> list[str]:
    """The metrics whose class sets an attribute; `unknown` stands for one that cannot be imported."""

    def value(name: str) -> bool:
        try:
            return bool(getattr(registry().get("metric", name), attribute, False))
        except Exception:  # of the attribute too
            return unknown

    return [name for name in registry().names("metric").matching() if value(name)]


def _metric(spec: ComponentSpec) -> Metric:
    metric = construct("metric", spec, {})
    if not isinstance(metric, Metric):
        raise ComponentError(f"metric {spec.use!r} is a {type(metric).__name__}, not a zoo.Metric")
    return metric


def _measured(name: str, metric: Metric, context: EvaluationContext) -> tuple[Measurement, ...]:
    with torch.no_grad(), evaluating(context.vae), seeded(derive_seed(context.seed, METRIC), context.device):
        measurements = tuple(metric(context))
    for measurement in measurements:
        if not isinstance(measurement, Measurement):
            raise ComponentError(f"metric {name!r} returned a {type(measurement).__name__}, not a zoo.Measurement")
        if not math.isfinite(measurement.value):
            raise ZooError(f"{measurement.name} is {measurement.value}: the output of the model is not finite")
    return measurements
