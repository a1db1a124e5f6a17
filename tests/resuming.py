"""What the tests of stopped and resumed trainings share."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import random
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import zoo
import zoo.cli.main
from zoo.storage.files import MANIFEST, sealed
from zoo.training.history import unpacked

# Twelve steps in an epoch of the 1438 training images of digits.
TINY = ("data=digits", "latent_dim=2", "encoder.hidden=[8]", "decoder.hidden=[8]")


class When(zoo.Callback):
    """Does something after a step, counted from 1, or once the training has ended."""

    def __init__(self, step: int | None, action: Callable[[], object]) -> None:
        self.step = step
        self.action = action

    def on_step_end(self, trainer: zoo.Training) -> None:
        if trainer.step == self.step:
            self.action()

    def on_train_end(self, trainer: zoo.Training, finished: bool) -> None:
        if self.step is None:
            self.action()


def send(number: int) -> Callable[[], None]:
    """What sends a signal to this very process."""
    return lambda: os.kill(os.getpid(), number)


def stopped(model: str, overrides: Sequence[str], step: int, out: Path, **options: Any) -> zoo.Run:
    """A run that got a SIGTERM in a step."""
    with pytest.raises(zoo.Interrupted) as caught:
        zoo.train(model, overrides, out=out, callbacks=[When(step, send(signal.SIGTERM))], **options)
    assert caught.value.exit_code == 143
    run = zoo.Run(caught.value.run)
    assert not run.finished
    newest = run.checkpoints.newest()
    assert newest is not None
    assert newest.step == step
    return run


def run_main(*arguments: str) -> int:
    """The exit code of ``zoo``, run in this process."""
    log = logging.getLogger("zoo")
    before = log.level, list(log.handlers)
    try:
        with pytest.raises(SystemExit) as end:
            zoo.cli.main.main(arguments)
    finally:
        log.setLevel(before[0])
        log.handlers[:] = before[1]
    return end.value.code


def reseal(folder: Path, **fields: Any) -> None:
    """Make the manifest of a run or of a checkpoint agree with files that a test has changed, and change its fields."""
    manifest = json.loads((folder / MANIFEST).read_text())
    content = {key: value for key, value in manifest.items() if key not in ("format", "sha256", "own")}
    (folder / MANIFEST).write_bytes(sealed(folder, list(manifest["sha256"]), **{**content, **fields}))


def perturb_generators() -> None:
    """Leave every global generator in a state that nothing has seen."""
    torch.manual_seed(random.SystemRandom().getrandbits(60))
    np.random.seed(random.SystemRandom().getrandbits(30))
    random.seed()


def essence(run: zoo.Run) -> dict[str, Any]:
    """All that a run left, but for the time that it took."""
    last = run.checkpoints.newest()
    best = run.checkpoints.best()
    assert last is not None
    assert best is not None
    state = last.state()
    history = [dataclasses.asdict(epoch) for epoch in unpacked(state["history"])]
    return {
        "result": load_file(run.path / "model.safetensors"),
        "last weights": last.weights(),
        "state": _timeless({**state, "history": history}),
        "metrics": [_timeless(dataclasses.asdict(epoch)) for epoch in run.epochs()],
        "best": (best.step, best.score),
    }


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(inner) for key, inner in value.items() if key != "seconds"}
    if isinstance(value, (list, tuple)):
        return [_timeless(inner) for inner in value]
    return value


def assert_same(one: Any, other: Any, place: str = "") -> None:
    """Bit for bit."""
    assert type(one) is type(other), place
    if isinstance(one, Tensor):
        assert one.dtype == other.dtype, place
        assert one.shape == other.shape, place
        assert torch.equal(one, other), f"{place}: off by {(one.double() - other.double()).abs().max()}"
    elif isinstance(one, dict):
        assert list(one) == list(other), place
        for key in one:
            assert_same(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), place
        for index, (first, second) in enumerate(zip(one, other, strict=True)):
            assert_same(first, second, f"{place}[{index}]")
    else:
        assert one == other, place
