from __future__ import annotations

import gc
import os
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

import zoo

FEW = """
    import torch, zoo
    from sklearn.datasets import load_digits

    @zoo.hookimpl
    def zoo_components():
        yield zoo.Component("dataset", "few-digits", "acme_few:few")

    def few() -> zoo.Dataset:
        pixels = torch.from_numpy(load_digits().images[:100]).mul(15).to(torch.uint8).view(-1, 1, 8, 8)
        return zoo.Dataset(zoo.Split(pixels[:80]), zoo.Split(pixels[80:]))
"""


@dataclass
class Usage:
    """What this process holds."""

    megabytes: float
    descriptors: int
    threads: int
    files: int


class Measuring(zoo.Callback):
    """Measures after some of the epochs."""

    def __init__(self, out: Path, *epochs: int) -> None:
        self.out = out
        self.epochs = epochs
        self.usage: dict[int, Usage] = {}

    def on_epoch_end(self, trainer, epoch):
        if epoch.epoch in self.epochs:
            gc.collect()
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.usage[epoch.epoch] = Usage(
                pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
                len(list(Path("/proc/self/fd").iterdir())),
                len(list(Path("/proc/self/task").iterdir())),
                sum(1 for path in self.out.rglob("*") if path.is_file()),
            )


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="measured by what Linux tells of a process")
def test_a_long_training_does_not_grow(install, tmp_path):
    """Two hundred epochs with checkpoints, averaging and a scheduler: from the fiftieth, memory, open files, threads
    and the files of the run do not grow. (The history does: 150 epochs take less than 2 MB.)
    """
    install("acme-few", FEW)
    threads = threading.active_count()
    observer = Measuring(tmp_path, 50, 200)
    overrides = ["data=few-digits", "latent_dim=2", "encoder.hidden=[64]", "decoder.hidden=[64]", "train.epochs=200"]
    schedule = "train.scheduler={use: CosineAnnealingWarmRestarts, T_0: 10}"
    more = ["train.batch_size=16", "train.ema_decay=0.9", schedule]
    run = zoo.train("mlp-vae", [*overrides, *more], out=tmp_path, callbacks=[observer])
    early, late = observer.usage[50], observer.usage[200]
    assert late.descriptors == early.descriptors
    assert late.threads == early.threads
    assert late.files <= early.files + 3, "at most one more checkpoint, if the best is not among the newest"
    assert late.megabytes - early.megabytes < 5
    assert threading.active_count() == threads
    assert len(run.epochs()) == 200
    assert len(list(run.checkpoints)) <= 3
