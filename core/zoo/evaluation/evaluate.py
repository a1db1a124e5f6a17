"""Measuring a trained model with metrics that are chosen by name or apply by themselves."""

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

METRIC = 14  # the stream that each metric's draws begin in


@dataclass(frozen=True)
class Evaluation:
    """The numbers of a model.

    Attributes:
        protocol: split, number of images, binarisation and seed, which belong to every number.
        measurements: the numbers, by the metric that measured them.
        left_out: metrics that could not be had, and why.
    """

    protocol: dict[str, object]
    measurements: dict[str, tuple[Measurement, ...]]
    left_out: dict[str, str]

    def __getitem__(self, name: str) -> Measurement:
        """The measurement called `name`."""
        for measurements in self.measurements.values():
            for measurement in measurements:
                if measurement.name == name:
                    return measurement
        raise KeyError(name)

    @property
    def how(self) -> str:
        """What every number depends on, in a line.

        >>> Evaluation({"split": "test", "images": 1000, "binarize": "none", "seed": 0}, {}, {}).how
        '1000 test images, binarize none, seed 0'
        """
        prior = f", prior {self.protocol['prior']}" if "prior" in self.protocol else ""
        return "{images} {split} images, binarize {binarize}, seed {seed}".format(**self.protocol) + prior

    def to_json(self) -> dict[str, Any]:
        """As plain mappings and lists. Every number comes with the whole of its protocol."""
        return {
            "protocol": self.protocol,
            "measurements": [
                {
                    "metric": metric,
                    "name": m.name,
                    "value": m.value,
                    "error": m.error,
                    "unit": m.unit,
                    "protocol": {**self.protocol, **m.protocol},
                    "note": m.note,
                }
                for metric, measurements in self.measurements.items()
                for m in measurements
            ],
            "left_out": self.left_out,
        }


def measure(
    subject: EvaluationContext,
    asked: Sequence[ComponentSpec] = (),
    by_default: bool = True,
    announce: Callable[[str], None] | None = None,
) -> Evaluation:
    """Measure `subject`.

    Args:
        asked: metrics and their settings. That one of them cannot be had is an error.
        by_default: also measure what costs little, before; what cannot be had is left out, with the reason.
        announce: called with the name of each metric before it begins.

    Raises:
        ZooError: a metric that was asked for is unknown, cannot be had, or is not finite.
    """
    metrics = [(block.use, _metric(block)) for block in asked]
    measurements: dict[str, tuple[Measurement, ...]] = {}
    left_out: dict[str, str] = {}
    announce = announce or (lambda name: None)
    for name in _default_names() if by_default else ():
        if any(name == other for other, _ in metrics):
            continue
        announce(name)
        try:
            measurements[name] = _measured(name, _metric(ComponentSpec(use=name)), subject)
        except Exception as error:
            left_out[name] = error_summary(error)
    for name, metric in metrics:
        announce(name)
        try:
            measurements[name] = _measured(name, metric, subject)
        except NotApplicable as error:
            raise NotApplicable(f"{name} cannot be measured: {error}.") from error
    return Evaluation(subject.protocol, measurements, left_out)


def _metric(spec: ComponentSpec) -> Metric:
    metric = construct("metric", spec, {})
    if not isinstance(metric, Metric):
        raise ComponentError(f"metric {spec.use!r} is a {type(metric).__name__}, not a zoo.Metric")
    return metric


def importance_sampled() -> list[str]:
    """The metrics that a number of importance samples asks for."""
    return _declaring("importance_sampled", unknown=False)


def _default_names() -> list[str]:
    """The metrics that are measured when none is asked for. One that cannot be imported is reported when it is made."""
    return _declaring("by_default", unknown=True)


def _declaring(attribute: str, unknown: bool) -> list[str]:
    """The metrics whose class says so; `unknown` is for one that cannot be imported."""

    def declares(name: str) -> bool:
        try:
            return bool(getattr(registry().get("metric", name), attribute, False))
        except Exception:  # also what the class itself raises
            return unknown

    return [name for name in registry().names("metric").matching() if declares(name)]


def _measured(name: str, metric: Metric, subject: EvaluationContext) -> tuple[Measurement, ...]:
    with torch.no_grad(), evaluating(subject.vae), seeded(derive_seed(subject.seed, METRIC), subject.device):
        found = tuple(metric(subject))
    for one in found:
        if not isinstance(one, Measurement):
            raise ComponentError(f"metric {name!r} returned a {type(one).__name__}, not a zoo.Measurement")
        if not math.isfinite(one.value):
            raise ZooError(f"{one.name} is {one.value}: the model puts out numbers that are not finite")
    return found
