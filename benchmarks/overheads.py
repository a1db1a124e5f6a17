"""Measure the overhead of the trainer: checkpoints, checks for finite values, metrics, preflight and start-up.

    python benchmarks/overheads.py --data-dir DIR

Epochs with and without a feature alternate; the numbers are medians of the ratios over rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import torch


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


LAUNCHERS = {
    "one, with two threads": ((), "2"),
    "two, with one thread each": (("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"), "1"),
}


def median_epoch(launcher: tuple[str, ...], threads: str, data_dir: Path) -> float:
    """Median duration of an epoch of `zoo train` in a run of four epochs, including the test set."""
    command = [*launcher, "-m", "zoo", "train", "mlp-vae", "--data", "mnist", "--data-dir", str(data_dir)]
    environment = {**os.environ, "OMP_NUM_THREADS": threads}
    with tempfile.TemporaryDirectory() as folder:
        full = [sys.executable, *command, "--epochs", "4", "--out", folder]
        subprocess.run(full, check=True, capture_output=True, env=environment)
        (metrics,) = Path(folder).glob("mlp-vae/*/metrics.jsonl")
        return statistics.median(json.loads(line)["seconds"] for line in metrics.read_text().splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("ZOO_DATA"), help="default: $ZOO_DATA")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="append the table to this file as well")
    arguments = parser.parse_args()
    if arguments.data_dir is None:
        parser.error("set --data-dir or ZOO_DATA")
    torch.set_flush_denormal(True)

    import zoo
    from zoo.recipes.building import build
    from zoo.recipes.datasets import load_data
    from zoo.storage.checkpoints import Checkpoints
    from zoo.training.history import Record
    from zoo.training.optimization import OptimizedPhase
    from zoo.training.preflight import preflight
    from zoo.training.step import TrainingStep
    from zoo.training.terms import mean_terms
    from zoo.training.trainer import Trainer

    recipe = zoo.recipe("mlp-vae", data="mnist", train={"epochs": 10**6})
    dataset = load_data(recipe.data, Path(arguments.data_dir)).dataset
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            *build(recipe, dataset.shape, dataset.classes), dataset, recipe.train, checkpoints=Checkpoints(Path(folder))
        )
        batch = trainer.train[torch.arange(2)]

        def epoch() -> None:
            trainer.record = Record()
            trainer.train_epoch()

        def bare() -> None:
            with (
                mock.patch.object(TrainingStep, "_guard"),
                mock.patch.object(OptimizedPhase, "norm", return_value=torch.zeros(())),
                mock.patch.object(Record, "add"),
            ):
                trainer.train_epoch()

        epoch(), bare()
        times: dict[str, list[float]] = {}
        for _ in range(arguments.rounds):
            for name, work in (
                ("epoch", epoch),
                ("bare", bare),
                ("checkpoint", trainer.save),
                ("preflight", lambda: preflight(recipe.train, trainer.vae, trainer.loss, batch)),
                ("test", lambda: mean_terms(trainer.vae, trainer.loss, trainer.test)),
            ):
                times.setdefault(name, []).append(seconds(work))

    def share(name: str) -> float:
        return statistics.median(t / e for t, e in zip(times[name], times["epoch"], strict=True))

    overhead = statistics.median(1 - b / e for b, e in zip(times["bare"], times["epoch"], strict=True))
    rows = [
        ("an epoch of training", statistics.median(times["epoch"]), 1.0),
        (
            "of which checks for finite terms and gradients, gradient norm, record",
            overhead * statistics.median(times["epoch"]),
            overhead,
        ),
        ("a checkpoint", statistics.median(times["checkpoint"]), share("checkpoint")),
        ("preflight (once)", statistics.median(times["preflight"]), share("preflight")),
        ("evaluation on 10000 test images", statistics.median(times["test"]), share("test")),
    ]
    lines = [
        "## Overhead of checks and checkpoints",
        "",
        "`mlp-vae` on MNIST.",
        "",
        "| part | seconds | share of an epoch |",
        "|---|---:|---:|",
    ]
    lines += [f"| {name} | {value:.3f} | {part:.1%} |" for name, value, part in rows]
    lines += ["", "| command | seconds |", "|---|---:|"]
    for name, command in (
        ("`zoo list`", ["list"]),
        ("`zoo train mlp-vae --data digits`, one step", ["train", "mlp-vae", "--data", "digits", "train.steps=1"]),
    ):
        with tempfile.TemporaryDirectory() as folder:
            run = partial(
                subprocess.run, [sys.executable, "-m", "zoo", *command], cwd=folder, check=True, capture_output=True
            )
            durations = [seconds(run) for _ in range(5)]
        lines.append(f"| {name} | {statistics.median(durations):.2f} |")
    alone, together = (median_epoch(launcher, threads, arguments.data_dir) for launcher, threads in LAUNCHERS.values())
    lines += ["", "| processes | seconds per epoch |", "|---|---:|"]
    lines += [f"| {name} | {value:.2f} |" for name, value in zip(LAUNCHERS, (alone, together), strict=True)]
    table = "\n".join(lines) + "\n"
    print(table, end="")
    if arguments.out:
        with arguments.out.open("a") as file:
            file.write("\n" + table)


if __name__ == "__main__":
    main()
