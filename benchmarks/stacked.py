"""Time the training of small models one by one and in one stack, as `zoo sweep --stacked` does.

    python benchmarks/stacked.py

The models are 64-64-10-64-64 on `digits`, batch size 128, each with its own seed. Both ways alternate, and a ratio
is the median over rounds, of processor time, so that other processes matter less.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch

import zoo
from epoch import cpu_model
from zoo_sweep.stacked import stacked_step

MODEL = ("encoder.hidden=[64]", "decoder.hidden=[64]", "latent_dim=10")


def trainers(count: int, device: str) -> list[zoo.Trainer]:
    """Trainers that differ in the seed."""
    members = []
    for seed in range(count):
        recipe = zoo.recipe("mlp-vae", [*MODEL, "data={use: digits, repeat: 40}", f"train.seed={seed}"])
        data = zoo.load_data(recipe.data).dataset
        with zoo.seeded(seed):
            vae, loss = zoo.build(recipe, data.shape, data.classes, len(data.train))
        members.append(zoo.Trainer(vae, loss, data, recipe.train, progress=False, device=device))
    return members


class OneByOne:
    """Takes steps of each trainer, one trainer after the other."""

    def __init__(self, count: int, stack: contextlib.ExitStack, device: str = "cpu") -> None:
        self.members = trainers(count, device)
        self.steps = [stack.enter_context(member.fitting()) for member in self.members]
        self.parts = [next(steps) for steps in self.steps]

    def take(self, count: int) -> None:
        for i, (member, steps) in enumerate(zip(self.members, self.steps, strict=True)):
            for _ in range(count):
                self.parts[i] = steps.send(member.take_step(member.step, self.parts[i]))


class Stacked:
    """Takes steps of all trainers at once."""

    def __init__(self, count: int, stack: contextlib.ExitStack, device: str = "cpu") -> None:
        members = trainers(count, device)
        self.step = stacked_step(members)
        self.members = members
        self.steps = [stack.enter_context(member.fitting()) for member in members]
        self.parts = [next(steps) for steps in self.steps]

    def take(self, count: int) -> None:
        for _ in range(count):
            terms = self.step(self.members[0].step, [parts[0].batch for parts in self.parts])
            self.parts = [steps.send(own) for steps, own in zip(self.steps, terms, strict=True)]


def seconds(take: Callable[[int], None], count: int) -> float:
    start = time.process_time()
    take(count)
    return time.process_time() - start


def steps(count: int, rounds: int, each: int) -> list[str]:
    """A row of the table of steps: model steps per second, one by one and stacked."""
    with contextlib.ExitStack() as stack, zoo.flushed_denormals(), zoo.seeded(0):
        ways = (OneByOne(count, stack), Stacked(count, stack))
        for way in ways:
            way.take(3)
        times = [[seconds(way.take, each) for way in ways] for _ in range(rounds)]
    alone, together = (statistics.median(way) for way in zip(*times, strict=True))
    ratio = statistics.median(a / b for a, b in times)
    return [str(count), f"{count * each / alone:,.0f}", f"{count * each / together:,.0f}", f"{ratio:.1f}"]


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---:|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="1,8,16,64", help="numbers of models, with commas (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30, help="of each model in a round (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="append the tables to this file as well")
    arguments = parser.parse_args()
    counts = [int(count) for count in arguments.models.split(",")]
    text = (
        "## Several models as one\n\n"
        f"{datetime.now(UTC):%Y-%m-%d}, {cpu_model()}, torch {torch.__version__}, {torch.get_num_threads()} threads. "
        f"{arguments.rounds} rounds, in which the two ways alternate; a ratio is the median over rounds.\n\n"
    )
    rows = [steps(count, arguments.rounds, arguments.steps) for count in counts]
    text += table(["models", "steps per second of processor time, one by one", "stacked", "ratio"], rows)
    print(text, end="")
    if arguments.out:
        with arguments.out.open("a") as file:
            file.write("\n" + text)


if __name__ == "__main__":
    main()
