"""Measure the memory and the time of training on a folder of very many images.

    python benchmarks/many_images.py --images 200000

The folder has hard links to a few small images in 100 subfolders. It is created in a temporary folder and removed, as
is its cache. Memory is the private memory of the process (RssAnon), without the mapped pixels.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

LINKS = 10_000  # to one image; file systems limit the number
STAGES = ("imports", "decoding", "second loading", "epoch")


def create(folder: Path, images: int, side: int) -> None:
    """Create a folder of images."""
    rng = np.random.default_rng(0)
    for number in range(100):
        (folder / f"label-{number:02}").mkdir(parents=True)
    for i in range(images):
        path = folder / f"label-{i % 100:02}" / f"photograph-{i:07}.png"
        if i % LINKS == 0:
            Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)
            source = path
        else:
            path.hardlink_to(source)


def private() -> float:
    """The private memory of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def work(folder: str) -> None:
    """Load the folder twice and train for an epoch, and print the memory and the time of each stage."""
    import zoo

    def report(stage: str) -> None:
        print(f"{stage}\t{private():.1f}\t{time.perf_counter() - start:.1f}", flush=True)

    recipe = zoo.recipe("mlp-vae", {"encoder.hidden": [16], "decoder.hidden": [16], "latent_dim": 2})
    zoo.load_dataset("digits")
    start = time.perf_counter()
    report("imports")
    dataset = zoo.load_dataset(folder)
    report("decoding")
    del dataset
    start = time.perf_counter()
    dataset = zoo.load_dataset(folder)
    report("second loading")
    vae, loss = zoo.build(recipe, dataset.shape, 0, len(dataset.train))
    trainer = zoo.Trainer(vae, loss, dataset, recipe.train, progress=False, device="cpu")
    start = time.perf_counter()
    trainer.train_epoch()
    report("epoch")


def measure(images: int, side: int) -> dict[str, list[float]]:
    """The memory (MiB) and the time (s) of each stage, in a new process."""
    with tempfile.TemporaryDirectory() as temporary:
        create(folder := Path(temporary, "images"), images, side)
        environment = {**os.environ, "XDG_CACHE_HOME": temporary}
        command = [sys.executable, __file__, "--work", str(folder)]
        lines = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.splitlines()
    return {stage: [float(value) for value in values] for stage, *values in (line.split("\t") for line in lines)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--side", type=int, default=8, help="pixels per side")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work)
        return
    print("| images | " + " | ".join(f"{stage}: MiB | s" for stage in STAGES) + " |")
    print("|---:|" + "---:|" * 2 * len(STAGES))
    for images in arguments.images:
        stages = measure(images, arguments.side)
        cells = [f"{stages[stage][0]:.0f} | {stages[stage][1]:.1f}" for stage in STAGES]
        print(f"| {images:,} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
