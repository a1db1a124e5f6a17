"""Measure what `train.precision=bfloat16` costs in accuracy and saves in time, for one model of each family.

    python benchmarks/precision.py

Each model is trained on `digits` in both precisions with the same seeds and steps; epochs alternate. The test
loss, in nats per example, is computed in float32.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import torch

import zoo
from zoo.training.terms import mean_terms

MODELS = (
    "mlp-vae conv-vae resnet-vae gated-vae iwae vamp-vae flow-prior-vae planar full-covariance beta-tc-vae wae-mmd "
    "gumbel-vae fsq-vae aae svae poincare-vae hvae ladder-vae cvae"
)
PRECISIONS = ("float32", "bfloat16")


def trainer(model: str, precision: str, seed: int) -> zoo.Trainer:
    """A trainer of a model on `digits`."""
    recipe = zoo.recipe(model, {"data": {"use": "digits"}, "train": {"precision": precision, "seed": seed}})
    data = zoo.load_data(recipe.data).dataset
    with zoo.seeded(seed):
        vae, loss = zoo.build(recipe, data.shape, data.classes, len(data.train))
    config = recipe.train.model_copy(update={"epochs": 10**6})
    return zoo.Trainer(vae, loss, data, config, binarize=recipe.binarize, progress=False, device="cpu")


def measure(model: str, seeds: int, epochs: int) -> list[str]:
    """A row of the table."""
    losses: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    seconds: dict[str, float] = dict.fromkeys(PRECISIONS, 0.0)
    for seed in range(seeds):
        pair = {precision: trainer(model, precision, seed) for precision in PRECISIONS}
        for _ in range(epochs):
            for precision, each in pair.items():
                start = time.process_time()
                each.train_epoch()
                seconds[precision] += time.process_time() - start
        for precision, each in pair.items():
            losses[precision].append(mean_terms(each.vae, each.loss, each.test)[each.config.monitor])
    differences = [low - full for full, low in zip(losses["float32"], losses["bfloat16"], strict=True)]
    means = [statistics.fmean(losses[precision]) for precision in PRECISIONS]
    cells = [f"{means[0]:.2f}", f"{means[1]:.2f}", f"{statistics.fmean(differences):+.2f}"]
    cells.append(f"{statistics.stdev(losses['float32']):.2f}" if seeds > 1 else "-")
    return [f"`{model}`", *cells, f"{seconds['bfloat16'] / seconds['float32']:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=MODELS, help="names with spaces between them (default: one of each family)")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=15, help="of 12 steps (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="append the table to this file as well")
    arguments = parser.parse_args()
    header = ["model", "float32", "bfloat16", "difference", "std over seeds", "time ratio"]
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    with zoo.flushed_denormals():
        for model in arguments.models.split():
            lines.append("| " + " | ".join(measure(model, arguments.seeds, arguments.epochs)) + " |")
            print(lines[-1], file=sys.stderr)
    text = (
        "## bfloat16\n\n"
        f"{datetime.now(UTC):%Y-%m-%d}, torch {torch.__version__}, {torch.get_num_threads()} threads, "
        f"{arguments.epochs} epochs on `digits`, {arguments.seeds} seeds. Test loss in nats per example; the "
        "time ratio is that of the processor time of training.\n\n" + "\n".join(lines) + "\n"
    )
    print(text, end="")
    if arguments.out:
        with arguments.out.open("a") as file:
            file.write("\n" + text)


if __name__ == "__main__":
    main()
