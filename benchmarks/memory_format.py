"""Measure what `train.memory_format=channels-last` saves in a training step on this device.

    python benchmarks/memory_format.py

Two trainers of a model, one for each memory format, train on the same random images in turns. The ratio is the median
over the turns of processor time, or of time where the device is not the CPU.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import torch

import zoo

MODELS = "resnet-vae conv-vae photo-vae autoencoder-kl vq-vae"
FORMATS = ("contiguous", "channels-last")


def trainer(model: str, memory_format: str, shape: tuple[int, int, int], steps: int, device: str) -> zoo.Trainer:
    """A trainer whose epochs have `steps` steps."""
    recipe = zoo.recipe(model, {"train": {"batch_size": 32, "memory_format": memory_format}})
    images = torch.randint(256, (32 * steps, *shape), dtype=torch.uint8)
    data = zoo.Dataset(zoo.Split(images), zoo.Split(images[:1].clone()))
    with zoo.seeded(0):
        vae, loss = zoo.build(recipe, shape, 0, len(images))
    config = recipe.train.model_copy(update={"epochs": 10**6})
    return zoo.Trainer(vae, loss, data, config, progress=False, device=device)


def measure(model: str, shape: tuple[int, int, int], steps: int, rounds: int, device: str) -> str:
    """A row of the table."""
    pair = {name: trainer(model, name, shape, steps, device) for name in FORMATS}
    clock = time.process_time if device == "cpu" else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in FORMATS}
    for turn in range(rounds + 1):
        for name in FORMATS if turn % 2 else FORMATS[::-1]:
            start = clock()
            pair[name].train_epoch()
            next(pair[name].vae.parameters()).sum().item()  # waits for the device
            if turn:  # the first is a warm-up
                seconds[name].append((clock() - start) / steps * 1000)
    ratio = statistics.median(b / a for a, b in zip(*seconds.values(), strict=True))
    cells = [f"{statistics.median(values):.1f}" for values in seconds.values()]
    return f"| `{model}` | {'x'.join(map(str, shape))} | {' | '.join(cells)} | {ratio:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=MODELS, help="names with spaces between them (default: %(default)s)")
    parser.add_argument("--sizes", default="28 64", help="pixels per side; 28 is grey, others are RGB")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="append the table to this file as well")
    arguments = parser.parse_args()
    header = ["model", "images", *(f"{name}, ms" for name in FORMATS), "ratio"]
    lines = ["| " + " | ".join(header) + " |", "|---|---|" + "---:|" * (len(header) - 2)]
    with zoo.flushed_denormals():
        for model in arguments.models.split():
            for size in map(int, arguments.sizes.split()):
                shape = (1 if size == 28 else 3, size, size)
                lines.append(measure(model, shape, arguments.steps, arguments.rounds, arguments.device))
                print(lines[-1], file=sys.stderr)
    text = (
        "## Memory format\n\n"
        f"{datetime.now(UTC):%Y-%m-%d}, torch {torch.__version__}, {arguments.device}, {torch.get_num_threads()} "
        f"threads, load average {os.getloadavg()[0]:.1f}. Milliseconds per training step with 32 images, medians over "
        f"{arguments.rounds} turns of {arguments.steps} steps; the ratio is the median over turns.\n\n"
        + "\n".join(lines)
        + "\n"
    )
    print(text, end="")
    if arguments.out:
        with arguments.out.open("a") as file:
            file.write("\n" + text)


if __name__ == "__main__":
    main()
