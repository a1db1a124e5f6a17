"""Kill a process that saves checkpoints, at random moments and over and over: the newest one must always load.

python tests/soak_kill.py --kills 200
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import signal
import struct
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

from zoo.storage.checkpoints import Checkpoints
from zoo.storage.files import TEMPORARY

NUMBER = struct.Struct("q")
SCORED = 7  # every so many steps are the best so far


def weights_at(step: int) -> dict[str, Tensor]:
    """A quarter of a megabyte that tells at which step it was made."""
    return {"weight": torch.full((256, 256), float(step)), "bias": torch.arange(3) + step}


def save_forever(checkpoints: Checkpoints, report: int) -> None:
    """Save one checkpoint after another, and report each when it is saved."""
    newest = checkpoints.newest()
    step = 0 if newest is None else newest.step
    while True:
        if step:  # after a kill, the newest is saved once more, as a trainer may
            score = -float(step) if step % SCORED == 0 else None
            checkpoints.save(step, weights_at(step), {"step": step, "moments": weights_at(-step)}, score)
            os.write(report, NUMBER.pack(step))
        step += 1


def killed_once(checkpoints: Checkpoints, delay: float) -> list[int]:
    """The steps that a process reported as saved before it was killed, `delay` seconds after its start."""
    reports, report = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reports)
            save_forever(checkpoints, report)
        finally:
            os._exit(1)
    os.close(report)
    time.sleep(delay)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status), "the writer has failed by itself"
    with os.fdopen(reports, "rb") as file:
        return [step for (step,) in NUMBER.iter_unpack(file.read())]


def check(checkpoints: Checkpoints, saved: list[int]) -> None:
    """Whatever was reported as saved is there, or something newer, and all of it."""
    newest, best = checkpoints.newest(), checkpoints.best()
    if not saved:
        return
    assert newest is not None, "nothing loads"
    assert best is not None
    assert newest.step >= max(saved), f"step {max(saved)} was saved, {newest.step} is the newest that loads"
    scored = [step for step in saved if step % SCORED == 0]
    assert best.step >= max(scored, default=0), f"step {max(scored)} was the best, {best.step} is the best that loads"
    for checkpoint in (newest, best):
        assert all(torch.equal(v, weights_at(checkpoint.step)[k]) for k, v in checkpoint.weights().items())
        state = checkpoint.state()
        assert state["step"] == checkpoint.step
        assert torch.equal(state["moments"]["weight"], weights_at(-checkpoint.step)["weight"])
    leftovers = list(checkpoints.folder.glob(TEMPORARY + "*"))
    assert len(leftovers) <= 1, f"what a kill leaves behind piles up: {leftovers}"


def soak(kills: int, folder: Path, seed: int) -> int:
    """The number of kills that cost nothing."""
    draw = random.Random(seed)
    checkpoints = Checkpoints(folder / "checkpoints", keep=1)
    survived, halfway, saved = 0, 0, [0]
    for kill in range(kills):
        saved = [max(saved), *killed_once(checkpoints, draw.uniform(0, 0.15))]
        halfway += any(checkpoints.folder.glob(TEMPORARY + "*"))
        try:
            check(checkpoints, saved[1:] if saved == [0] else saved)
            survived += 1
        except AssertionError as error:
            print(f"kill {kill}: {error}", file=sys.stderr)
    print(f"{survived} of {kills} kills survived, {halfway} of them in the middle of a file; {max(saved)} steps saved")
    return survived


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("zoo").setLevel(logging.ERROR)
    print(f"seed {arguments.seed}")
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(soak(arguments.kills, Path(folder), arguments.seed) != arguments.kills)


if __name__ == "__main__":
    main()
