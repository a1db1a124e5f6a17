"""Train every model briefly on dynamically binarised MNIST, and write a table and a figure of samples.

    ZOO_DATA=... python benchmarks/models.py --epochs 5

A dash marks a number that a model does not have, for example because it has no density. The results of each model are
stored in the output folder; a second start measures only the missing models.
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
import tempfile
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torchvision.utils import make_grid

import zoo
from epoch import cpu_model

IMAGES_IN_A_ROW = 12
METRICS = ("elbo", "log-likelihood", "active-units")
# Models that are trained without a prior to sample from, and the prior fitted afterwards (`zoo fit-prior`).
FITTED_AFTER = {
    "ae": "gaussian-mixture",
    "rae-gp": "gaussian-mixture",
    "rae-l2": "gaussian-mixture",
    "fsq-vae": "autoregressive-codes",
    "rvq-vae": "autoregressive-codes",
    "vq-vae": "autoregressive-codes",
}


def measure(name: str, settings: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Train a model, compute its metrics, and sample from its prior."""
    run = zoo.train(
        name,
        ["binarize=dynamic"],
        data=settings.data,
        epochs=settings.epochs,
        device="cpu",
        out=out,
        seed=settings.seed,
    )
    vae = zoo.load(run)
    epochs = run.epochs()
    row: dict[str, Any] = {
        "model": name,
        "paper": ", ".join(re.findall(r"arXiv [\d.]+|OpenReview \w+", run.recipe.summary)),
        "parameters": sum(parameter.numel() for parameter in vae.parameters()),
        "seconds": statistics.median(epoch.seconds for epoch in epochs),
        "loss": epochs[-1].test["loss"],
    }
    for metric in METRICS:
        parameters = {"log-likelihood": {"samples": settings.samples}} if metric == "log-likelihood" else {}
        try:
            measurement = zoo.evaluate(run, [metric], parameters, limit=settings.images)[metric]
        except (zoo.ZooError, KeyError) as error:
            logging.getLogger("zoo").info("%s has no %s: %s", name, metric, error)
            continue
        if not measurement.note:
            row[metric] = measurement.value
    if name in FITTED_AFTER:
        zoo.fit_prior(run, FITTED_AFTER[name], seed=settings.seed)
        vae = zoo.load(run)
    torch.manual_seed(settings.seed)
    row["images"] = vae.sample(IMAGES_IN_A_ROW)
    return row


def table(rows: list[dict[str, Any]], settings: argparse.Namespace) -> str:
    """Format the rows as Markdown, the highest log-likelihood first and models without one last."""

    def cell(row: dict[str, Any], key: str, digits: int) -> str:
        return f"{row[key]:,.{digits}f}" if key in row else "-"

    lines = [
        f"- {datetime.date.today()}, {cpu_model()}, {torch.get_num_threads()} thread(s); torch {torch.__version__}",
        f"- `{settings.data}`, dynamically binarised; {settings.epochs} epochs, seed {settings.seed}, same recipes",
        f"- ELBO, log p(x), active units: first {settings.images} test images, {settings.samples} importance samples",
        "- in nats; seconds include training and testing",
        "",
        "| model | log p(x) | ELBO | active units | test loss | s/epoch | parameters | network | likelihood | paper |",
        "|---|---:|---:|---:|---:|---:|---:|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: -row.get("log-likelihood", -float("inf"))):
        recipe = zoo.recipe(row["model"], data=settings.data)
        parts = [recipe.encoder.use, likelihood_in(zoo.with_defaults(recipe).decoder.parameters)]
        numbers = [cell(row, "log-likelihood", 1), cell(row, "elbo", 1), cell(row, "active-units", 0)]
        numbers += [cell(row, "loss", 1), cell(row, "seconds", 1), cell(row, "parameters", 0)]
        lines.append(f"| `{row['model']}` | {' | '.join(numbers + parts)} | {row['paper'] or '-'} |")
    return "\n".join(lines) + "\n"


def likelihood_in(parameters: dict[str, Any]) -> str:
    """The likelihood in the parameters of a decoder, at any depth."""
    if "likelihood" in parameters:
        likelihood = parameters["likelihood"]
        return str(likelihood if isinstance(likelihood, str) else likelihood["use"])
    inside = (likelihood_in(value) for value in parameters.values() if isinstance(value, dict))
    return next(filter(None, inside), "")


def sheet(rows: list[dict[str, Any]]) -> Figure:
    """Draw a row of samples for each model, in two columns."""
    lines = math.ceil(len(rows) / 2)
    figure = Figure(figsize=(10, 0.42 * lines), layout="constrained")
    cells = figure.subplots(lines, 2, squeeze=False)
    for axes, row in zip_longest(cells.T.flat, rows):
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        if row is not None:
            grid = make_grid(row["images"].clamp(0, 1), nrow=IMAGES_IN_A_ROW, padding=2, pad_value=1.0)
            axes.imshow(grid.permute(1, 2, 0).numpy(), interpolation="nearest")
            axes.set_ylabel(row["model"], rotation=0, ha="right", va="center", fontsize=9)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="*", help="pattern of model names")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--out", type=Path, default=Path("build/models"))
    settings = parser.parse_args()
    os.environ["ZOO_DISABLE_PLUGINS"] = "tensorboard"
    settings.out.mkdir(parents=True, exist_ok=True)
    rows = []
    with tempfile.TemporaryDirectory() as runs:
        for name in zoo.list_models(settings.models):
            file = settings.out / f"{name}.pt"
            if not file.exists():
                try:
                    torch.save(measure(name, settings, Path(runs)), file)
                except zoo.ZooError as error:
                    print(f"{name} failed: {error}")
                    continue
            rows.append(torch.load(file, weights_only=True))
            print(json.dumps({key: value for key, value in rows[-1].items() if key != "images"}), flush=True)
            (settings.out / "models.md").write_text(table(rows, settings))
            sheet(rows).savefig(settings.out / "models.png", dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main()
