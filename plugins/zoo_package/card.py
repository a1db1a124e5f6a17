"""The card of trained weights: what was trained on what, under which protocol, and how good it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zoo import VAE, Evaluation, Run

HEADLINES = ("log-likelihood", "elbo", "mse-at-mean")
"""Measurements that a summary may name, the first that was measured."""


def card_of(name: str, run: Run, vae: VAE, evaluation: Evaluation | None) -> dict[str, Any]:
    """The card of a run, in plain values.

    Args:
        name: of the weights, ``MODEL@DATA``.
        run: the run.
        vae: its model.
        evaluation: its metrics, if they were measured.
    """
    environment, epochs, recipe = run.environment, run.epochs(), run.recipe.to_raw()
    data = environment["data"]
    return {
        "name": name,
        "summary": summary_of(run, evaluation),
        "model": run.recipe.name,
        "parameters": sum(parameter.numel() for parameter in vae.parameters()),
        "latent_shape": list(vae.latent_shape),
        "data": {
            "name": run.data_name,
            **{key: data[key] for key in ("shape", "train", "validation", "test", "sha256") if key in data},
        },
        "protocol": {
            "binarize": data["binarize"],
            **{key: value for key, value in recipe["train"].items() if key != "checkpoint" and value is not None},
            "steps": epochs[-1].step,
        },
        "metrics": [] if evaluation is None else [_metric(one) for one in evaluation.to_json()["measurements"]],
        "versions": {"python": environment["python"], **environment["versions"]},
        "device": environment["device"],
    }


def _metric(measurement: Mapping[str, Any]) -> dict[str, Any]:
    """A number with its standard error and its protocol; without the fields that are empty."""
    return {key: value for key, value in measurement.items() if value not in (None, "") and key != "metric"}


def summary_of(run: Run, evaluation: Evaluation | None) -> str:
    """A line for ``zoo list --weights``: the first of `HEADLINES` that was measured, and the summary of the recipe."""
    for name in HEADLINES if evaluation is not None else ():
        try:
            measured = evaluation[name]  # type: ignore[index]
        except KeyError:
            continue
        number = f"{name} {measured.shown.partition(' ')[0]} {measured.unit}"
        return f"{number}; {run.recipe.summary}" if run.recipe.summary else number
    return run.recipe.summary


def table(evaluation: Evaluation) -> str:
    """The metrics as a Markdown table."""
    rows = [
        f"| {one.name} | {one.shown} | {one.unit} | {one.how} |"
        for measurements in evaluation.measurements.values()
        for one in measurements
    ]
    return "\n".join(["| metric | value | unit | how |", "|---|---:|---|---|", *rows])
