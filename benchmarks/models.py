"""Train every model with several seeds on dynamically binarized MNIST, and write a table and a sheet of samples.

    ZOO_DATA=... python benchmarks/models.py

Each run and its measurements are kept in the output folder. If the command is interrupted, the next start continues:
finished runs are not trained again, and an unfinished run is resumed. A dash in the table marks a quantity that a model
does not have.
"""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import math
import os
import re
import statistics
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torchvision.utils import make_grid

import zoo
from epoch import cpu_model

log = logging.getLogger("zoo")

IMAGES_IN_A_ROW = 12
METRICS = ("elbo", "log-likelihood", "active-units")
FITTED_AFTER = {
    "ae": "gaussian-mixture",
    "rae-gp": "gaussian-mixture",
    "rae-l2": "gaussian-mixture",
    "fsq": "autoregressive-codes",
    "fsq-vae": "autoregressive-codes",
    "rvq-vae": "autoregressive-codes",
    "vq-vae": "autoregressive-codes",
    "vq-vae-mlp": "autoregressive-codes",
}
"""Models without a trained prior, and the prior that is fitted to draw samples (`zoo fit-prior`)."""


def trained(model: str, overrides: Sequence[str], data: str, folder: Path) -> zoo.Run:
    """Train a run, resume it, or open it if it is finished."""
    options: dict[str, Any] = {"device": "cpu", "figures": False}
    if (folder / "recipe.yaml").exists():
        run = zoo.Run(folder)
        if run.finished or run.checkpoints.newest() is not None:
            return zoo.resume(run, **options)
        raise zoo.RunError(f"{folder} was stopped before its first checkpoint. Remove it.")
    return zoo.train(model, overrides, data=data, folder=folder, **options)


def measured(run: zoo.Run, settings: argparse.Namespace) -> dict[str, Any]:
    """Measure a run on the test split, or read its measurements."""
    file = run.path.with_suffix(".json")
    if file.exists():
        values: dict[str, Any] = json.loads(file.read_text())
        return values
    best = run.best_epoch()
    values = {
        "model": run.recipe.name,
        "seed": run.recipe.train.seed,
        "epoch": best.epoch,
        "parameters": sum(parameter.numel() for parameter in zoo.load(run).parameters()),
        "seconds": statistics.median(epoch.seconds for epoch in run.epochs()),
        "loss": best.test["loss"],
    }
    for metric in METRICS:
        options = {"log-likelihood": {"samples": settings.samples}} if metric == "log-likelihood" else {}
        try:
            measurement = zoo.evaluate(run, [metric], options, limit=settings.images)[metric]
        except (zoo.ZooError, KeyError) as error:
            log.info("%s has no %s: %s", run.recipe.name, metric, error)
            continue
        if not measurement.note:
            values[metric] = measurement.value
    with zoo.atomic_write(file) as opened:
        opened.write(zoo.to_json(values).encode())
    return values


def samples(run: zoo.Run) -> torch.Tensor:
    """Samples from the prior of a run; a prior is fitted if the model has none that is trained."""
    prior = FITTED_AFTER.get(run.recipe.name)
    if prior is not None and not run.fitted_prior.exists:
        zoo.fit_prior(run, prior)
    with zoo.seeded(0):
        return zoo.load(run).sample(IMAGES_IN_A_ROW, mean=True)


def table(rows: Sequence[Sequence[dict[str, Any]]], settings: argparse.Namespace) -> str:
    """Format the measurements as Markdown, with the highest log-likelihood first."""

    def values(row: Sequence[dict[str, Any]], key: str) -> list[float]:
        return [measurements[key] for measurements in row if key in measurements]

    def cell(row: Sequence[dict[str, Any]], key: str, digits: int) -> str:
        numbers = values(row, key)
        if not numbers:
            return "-"
        spread = f" ± {statistics.stdev(numbers):.{digits}f}" if len(numbers) > 1 else ""
        return f"{statistics.fmean(numbers):,.{digits}f}{spread}"

    def order(row: Sequence[dict[str, Any]]) -> float:
        numbers = values(row, "log-likelihood")
        return -statistics.fmean(numbers) if numbers else math.inf

    fewer = [f"`{row[0]['model']}` ({len(row)})" for row in rows if len(row) < settings.seeds]
    lines = [
        f"- {datetime.date.today()}, {cpu_model()}, {torch.get_num_threads()} thread(s); torch {torch.__version__}",
        f"- `{settings.data}`, dynamically binarized; {settings.validation} training images held out for validation",
        f"- {settings.epochs} epochs at most, recipes as registered; the epoch with the lowest validation loss",
        f"- mean ± standard deviation over {settings.seeds} seeds; all numbers are of the test split",
        *([f"- fewer seeds: {', '.join(fewer)}"] if fewer else []),
        f"- ELBO, log p(x), active units: first {settings.images} test images, {settings.samples} importance samples",
        "- in nats per image; seconds per epoch include evaluation",
        "",
        "| model | log p(x) | ELBO | active units | test loss | s/epoch | parameters | network | likelihood | paper |",
        "|---|---:|---:|---:|---:|---:|---:|---|---|---|",
    ]
    for row in sorted(rows, key=order):
        recipe = zoo.recipe_for(settings.data, row[0]["model"])
        likelihoods = [spec.use for _, kind, spec in zoo.components_of(recipe) if kind == "likelihood"]
        paper = ", ".join(re.findall(r"arXiv [\d.]+|OpenReview \w+", recipe.summary)) or "-"
        numbers = [cell(row, "log-likelihood", 1), cell(row, "elbo", 1), cell(row, "active-units", 0)]
        numbers += [cell(row, "loss", 1), f"{statistics.median(values(row, 'seconds')):.1f}"]
        parameters = f"{row[0]['parameters']:,}"
        parts = [recipe.encoder.use, likelihoods[0] if likelihoods else "-", paper]
        lines.append(f"| `{recipe.name}` | {' | '.join([*numbers, parameters, *parts])} |")
    return "\n".join(lines) + "\n"


def sheet(images: dict[str, torch.Tensor]) -> Figure:
    """Draw a row of samples for each model, in two columns."""
    lines = math.ceil(len(images) / 2)
    figure = Figure(figsize=(10, 0.42 * lines), layout="constrained")
    cells = figure.subplots(lines, 2, squeeze=False)
    for axes, name in zip_longest(cells.T.flat, images):
        if name is None:
            axes.set_axis_off()
        else:
            draw_row(axes, name, images[name])
    return figure


def draw_row(axes: Axes, name: str, images: torch.Tensor) -> None:
    """Draw images side by side, with a name on the left."""
    grid = make_grid(images.clamp(0, 1), nrow=len(images), padding=2, pad_value=1.0)
    axes.imshow(grid.permute(1, 2, 0).numpy(), interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", help="names, with commas (default: all)")
    parser.add_argument("--measured", action="store_true", help="train nothing; write the table of what is measured")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--validation", type=int, default=5000, help="training images to hold out")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=500, help="test images for the ELBO, log p(x) and active units")
    parser.add_argument("--samples", type=int, default=500, help="importance samples")
    parser.add_argument("--out", type=Path, default=Path("build/models"))
    settings = parser.parse_args()
    os.environ["ZOO_DISABLE_PLUGINS"] = "tensorboard"
    settings.out.mkdir(parents=True, exist_ok=True)
    shared = ["binarize=dynamic", f"data.validation={settings.validation}", f"train.epochs={settings.epochs}"]
    rows: dict[str, list[dict[str, Any]]] = {}
    images: dict[str, torch.Tensor] = {}
    for seed in range(settings.seeds):  # all models with one seed first, so that the table is complete early
        for name in settings.models.split(",") if settings.models else zoo.list_models():
            if settings.measured and not (settings.out / name / f"seed-{seed}.json").exists():
                continue
            try:
                folder = settings.out / name / f"seed-{seed}"
                run = trained(name, [*shared, f"train.seed={seed}"], settings.data, folder)
                rows.setdefault(name, []).append(measured(run, settings))
                if name not in images:
                    images[name] = samples(run)
            except zoo.Interrupted:
                raise
            except zoo.ZooError as error:
                print(f"{name} failed: {error}")
                continue
            print(json.dumps(rows[name][-1]), flush=True)
            (settings.out / "models.md").write_text(table(list(rows.values()), settings))
    sheet(images).savefig(settings.out / "models.png", dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main()
