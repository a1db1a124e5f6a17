"""Measure an accelerator: captured steps against eager ones, stacked models, and every recipe for one epoch.

    python benchmarks/accelerator.py --device cuda

Rounds alternate between the two ways of a row; a ratio is the median over rounds. The clock is read after the device
has finished. `epoch.py --device cuda` measures an epoch against other implementations.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

import torch

import zoo
from stacked import OneByOne, Stacked, table
from zoo.model.context import deterministic
from zoo.model.devices import device_name

STEPPED = ("mlp-vae", "conv-vae", "resnet-vae", "iwae", "vamp-vae", "iaf", "beta-tc-vae", "vq-vae", "photo-vae")
STEPS = 100


@contextlib.contextmanager
def eager() -> Iterator[None]:
    """Steps that are taken for the first time inside the block are not captured."""
    with mock.patch("zoo.training.step.capture", return_value=None):
        yield


def trainer(model: str, device: str) -> zoo.Trainer:
    """A trainer of a model on MNIST, without an end."""
    recipe = zoo.recipe(model, data="mnist")
    data = zoo.load_data(recipe.data).dataset
    with zoo.seeded(0, device):
        vae, loss = zoo.build(recipe, data.shape, data.classes, len(data.train))
    config = recipe.train.model_copy(update={"epochs": 10**6})
    return zoo.Trainer(vae, loss, data, config, binarize=recipe.binarize, progress=False, device=device)


def synchronize() -> None:
    """Wait for the device."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def seconds(work: Callable[[], object]) -> float:
    synchronize()
    start = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - start


class Alone:
    """Takes steps of one trainer."""

    def __init__(self, member: zoo.Trainer, stack: contextlib.ExitStack) -> None:
        self.member = member
        self.steps = stack.enter_context(member.fitting())
        self.parts = next(self.steps)

    def take(self, count: int) -> None:
        for _ in range(count):
            self.parts = self.steps.send(self.member.take_step(self.member.step, self.parts))


def steps(model: str, device: str, rounds: int) -> list[str]:
    """A row: milliseconds of a step, eager and as `zoo train` takes it."""
    with contextlib.ExitStack() as stack:
        ways = [Alone(trainer(model, device), stack) for _ in range(2)]
        for way, context in zip(ways, (eager(), contextlib.nullcontext()), strict=True):
            with context:
                way.take(10)
        times = [[seconds(lambda way=way: way.take(STEPS)) for way in ways] for _ in range(rounds)]
    plain, used = (statistics.median(way) / STEPS * 1e3 for way in zip(*times, strict=True))
    ratio = statistics.median(a / b for a, b in times)
    return [f"`{model}`", f"{plain:.3f}", f"{used:.3f}", f"{ratio:.2f}"]


def stacks(count: int, device: str, rounds: int) -> list[str]:
    """A row: milliseconds of a step of each of `count` models of `mlp-vae`, alone and in one stack."""
    with contextlib.ExitStack() as stack:
        alone, together = OneByOne(1, stack, device), Stacked(count, stack, device)
        for way in (alone, together):
            way.take(10)
        times = [[seconds(lambda way=way: way.take(STEPS)) for way in (alone, together)] for _ in range(rounds)]
    one, all_of_them = (statistics.median(way) / STEPS * 1e3 for way in zip(*times, strict=True))
    ratio = statistics.median(b / a for a, b in times)
    return [str(count), f"{one:.3f}", f"{all_of_them:.3f}", f"{ratio:.2f}", f"{count / ratio:.1f}"]


class Reasons(logging.Handler):
    """Collects what is said of capture."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if "captured" in message:
            self.messages.append(message.removeprefix("The step is not captured as a CUDA graph and runs eagerly: "))


def epoch(model: str, device: str, folder: str) -> list[str]:
    """A row: a training of one epoch, from the recipe to the finished run."""
    small = ["data={use: digits, repeat: 7}"] if zoo.recipe(model).data[0].use == "mnist" else []
    log, reasons = logging.getLogger("zoo"), Reasons()
    if zoo.recipe(model).train.skip_grad_norm is not None:
        reasons.messages.append("train.skip_grad_norm")
    log.addHandler(reasons)
    log.setLevel(logging.INFO)
    start = time.perf_counter()
    try:
        run = zoo.train(model, [*small, "train.epochs=1"], device=device, out=folder, figures=False, progress=False)
        numbers = [f"{run.epochs()[-1].seconds:.2f}", f"{run.epochs()[-1].train['loss']:.2f}"]
    except Exception as error:  # a row of the table says so, and the others are measured
        numbers = ["failed", str(error).splitlines()[0]]
    finally:
        log.removeHandler(reasons)
    return [f"`{model}`", f"{time.perf_counter() - start:.1f}", *numbers, "; ".join(reasons.messages) or "captured"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--parts", default="steps,stacks,epochs", help="of the measurement (default: %(default)s)")
    parser.add_argument("--models", default="*", help="pattern of the models that train one epoch")
    parser.add_argument("--out", type=Path, help="append the tables to this file as well")
    arguments = parser.parse_args()
    device, parts = arguments.device, arguments.parts.split(",")
    name = device_name(torch.device(device))
    tables = [f"## An accelerator\n\n{datetime.now(UTC):%Y-%m-%d}, {name}, torch {torch.__version__}.\n"]

    def add(header: list[str], rows: Iterator[list[str]]) -> None:
        done = []
        for row in rows:
            print(*row, file=sys.stderr, flush=True)
            done.append(row)
        tables.append(table(header, done))

    with zoo.flushed_denormals(), deterministic(strict=False), tempfile.TemporaryDirectory() as folder:
        if "steps" in parts:
            header = ["model", "eager ms/step", "zoo ms/step", "eager / zoo"]
            add(header, (steps(model, device, arguments.rounds) for model in STEPPED))
        if "stacks" in parts:
            header = ["models", "one alone, ms/step", "all in a stack, ms/step", "ratio", "speedup"]
            add(header, (stacks(count, device, arguments.rounds) for count in (8, 64)))
        if "epochs" in parts:
            header = ["model", "run s", "epoch s", "loss", "graph"]
            add(header, (epoch(model, device, folder) for model in zoo.list_models(arguments.models)))
    text = "\n".join(tables)
    print(text, end="")
    if arguments.out:
        with arguments.out.open("a") as file:
            file.write("\n" + text)


if __name__ == "__main__":
    main()
