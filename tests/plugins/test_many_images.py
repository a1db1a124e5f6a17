"""The memory of a folder of very many images: an entry of the index for each, and never the pixels."""

from __future__ import annotations

import contextlib
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image

import zoo
from zoo_datasets.folder import folder
from zoo_datasets.listing import list_images

SIDE = 64
PIXELS = 3 * SIDE**2  # bytes of an image


def linked(root: Path, images: int) -> Path:
    """A folder of hard links to one image, in ten subfolders."""
    for label in range(10):
        (root / f"label-{label}").mkdir(parents=True)
    source = root / "label-0" / "photograph-00000.png"
    Image.new("RGB", (SIDE, SIDE), (10, 20, 30)).save(source)
    for i in range(1, images):
        (root / f"label-{i % 10}" / f"photograph-{i:05}.png").hardlink_to(source)
    return root


@contextlib.contextmanager
def traced() -> Iterator[None]:
    """Trace what Python and NumPy allocate inside the block."""
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


def private_memory() -> int:
    """Private memory of this process in bytes, without the pages of mapped files."""
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(status["RssAnon"].split()[0])


def test_listing_takes_less_than_a_kilobyte_per_image(tmp_path):
    """10,000 files; the names and the sort keys take most of it."""
    root = linked(tmp_path / "images", 10_000)
    with traced():
        listing = list_images(root, seed=0)
        now, peak = tracemalloc.get_traced_memory()
    assert len(listing.files) == 10_000
    assert peak / 10_000 < 1000
    assert now / 10_000 < 500


def test_decoding_takes_little_more_than_listing(tmp_path, monkeypatch):
    """Reading the headers for the size and the mode, decoding, and loading again: 800 images of 12 kB each."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder(str(linked(tmp_path / "few", 50)))  # what is imported and allocated once
    root = linked(tmp_path / "images", 800)
    for _ in range(2):
        with traced():
            dataset = folder(str(root))
            now, peak = tracemalloc.get_traced_memory()
        assert len(dataset.train) + len(dataset.test) == 800
        assert dataset.shape == (3, SIDE, SIDE)
        assert peak / 800 < 1500
        assert now / 800 < 400


def test_training_reads_the_pixels_from_the_file(tmp_path, monkeypatch):
    """An epoch over 13 MB of mapped pixels takes less than 4 MB of memory more than its first steps."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    dataset = folder(str(linked(tmp_path / "images", 1200)))
    options = {"encoder.hidden": [2], "decoder.hidden": [2], "latent_dim": 2, "train.batch_size": 20}
    recipe = zoo.recipe("mlp-vae-mse", options)
    vae, loss = zoo.build(recipe, dataset.shape, 0, len(dataset.train))
    trainer = zoo.Trainer(vae, loss, dataset, recipe.train, progress=False, device="cpu")
    memory = []

    class Watch(zoo.Callback):
        def on_step_end(self, training: zoo.Training) -> None:
            memory.append(private_memory())

    trainer.callbacks = [Watch()]
    trainer.config = recipe.train.model_copy(update={"epochs": 1})
    trainer.last_step = len(trainer.train)
    trainer.fit(preflight=False)
    assert len(memory) == len(trainer.train) == 54
    assert max(memory) - memory[5] < 4 * 2**20
    assert PIXELS * len(dataset.train) > 12 * 2**20
    assert torch.equal(dataset.train.x[0, :, 0, 0], torch.tensor([10, 20, 30], dtype=torch.uint8))
