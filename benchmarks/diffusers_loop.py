"""Train and encode with the zoo, and with a plain loop around diffusers' `AutoencoderKL`: one network, one batch size.

    benchmarks/.venv/bin/python benchmarks/diffusers_loop.py

Both start from the same folder of weights. The loop is the usual one: a batch of pixels in [-1, 1], a draw from the
posterior, the squared error plus the weighted divergence, Adam. It keeps all images in memory and does not evaluate,
log, or check anything. The two train in turns, and a ratio is the median over turns.

For the encoding, both read a folder of JPEG files and write safetensors files: the loop with a `DataLoader` and PIL,
the zoo as ``zoo encode --format safetensors`` does. The first time includes the decoding into the zoo's cache.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

import zoo
from epoch import cpu_model
from zoo_export.shards import encode_shards

WEIGHT = 1e-3
LR = 1e-3
ENCODED = 32
"""Images of a batch that the loop encodes."""


def new_network(channels: list[int], blocks: int, folder: Path) -> None:
    """Write a folder of an `AutoencoderKL` with random weights."""
    stages = len(channels)
    torch.manual_seed(0)
    AutoencoderKL(
        block_out_channels=channels,
        layers_per_block=blocks,
        down_block_types=["DownEncoderBlock2D"] * stages,
        up_block_types=["UpDecoderBlock2D"] * stages,
        latent_channels=4,
        norm_num_groups=8,
    ).save_pretrained(folder)


def loop_epoch(folder: Path, images: Tensor, batch_size: int) -> Callable[[], object]:
    """An epoch of the plain loop."""
    vae = AutoencoderKL.from_pretrained(folder, low_cpu_mem_usage=False).train()
    optimizer = torch.optim.Adam(vae.parameters(), lr=LR, fused=True)

    def epoch() -> None:
        for indices in torch.randperm(len(images)).split(batch_size):
            x = images[indices].float() / 127.5 - 1
            posterior = vae.encode(x).latent_dist
            reconstruction = vae.decode(posterior.sample()).sample
            distortion = (reconstruction - x).square().flatten(1).sum(1).mean() / 2
            loss = distortion + WEIGHT * posterior.kl().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def parts(folder: Path) -> dict[str, object]:
    """The overrides of a recipe for the network of a folder."""
    part = {"use": "diffusers", "folder": str(folder)}
    return {"encoder": part, "decoder": part | {"likelihood": "gaussian"}, "latent_dim": 4}


def zoo_epoch(folder: Path, images: Tensor, batch_size: int) -> Callable[[], object]:
    """An epoch of the zoo."""
    train = {"batch_size": batch_size, "optimizer": {"use": "Adam", "lr": LR}}
    recipe = zoo.recipe("autoencoder-kl", {**parts(folder), "loss": {"use": "elbo", "beta": WEIGHT}, "train": train})
    data = zoo.Dataset(zoo.Split(images), zoo.Split(images[:1].clone()))
    vae, loss = zoo.build(recipe, data.shape, 0, len(images))
    config = recipe.train.model_copy(update={"epochs": 10**6})
    return zoo.Trainer(vae, loss, data, config, progress=False, device="cpu").train_epoch


def compare(
    pair: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float]
) -> tuple[dict[str, float], float]:
    """The median time of each, after a warm-up, and the median of the ratios second / first."""
    times: dict[str, list[float]] = {name: [] for name in pair}
    for turn in range(rounds + 1):
        for name in pair if turn % 2 else reversed(pair):
            start = clock()
            pair[name]()
            if turn:
                times[name].append(clock() - start)
    ratio = statistics.median(b / a for a, b in zip(*times.values(), strict=True))
    return {name: statistics.median(values) for name, values in times.items()}, ratio


@torch.no_grad()
def loop_encode(network: Path, photos: Path, out: Path) -> None:
    """Encode a folder with a `DataLoader`."""
    vae = AutoencoderKL.from_pretrained(network, low_cpu_mem_usage=False).eval()
    data = ImageFolder(str(photos), transform=lambda image: pil_to_tensor(image).float() / 127.5 - 1)
    posteriors = [vae.encode(x).latent_dist for x, _ in DataLoader(data, batch_size=ENCODED)]
    mean, std = (torch.cat(values).contiguous() for values in zip(*((p.mean, p.std) for p in posteriors), strict=True))
    save_file({"mean": mean, "scale": std}, out)


def encoding(size: int, count: int, network: Path, work: Path, rounds: int) -> list[str]:
    """Time the encoding of a folder of images. Rows of the table."""
    photos = work / "photos" / "all"
    photos.mkdir(parents=True)
    for number in range(count):
        pixels = torch.randint(256, (4, 4, 3), dtype=torch.uint8).numpy()
        Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC).save(photos / f"{number:05}.jpg")
    run = zoo.train(
        "autoencoder-kl",
        {**parts(network), "train": {"steps": 1, "epochs": 1, "batch_size": 8}},
        data=str(work / "photos"),
        folder=work / "run",
        device="cpu",
        progress=False,
        figures=False,
    )
    outputs = iter(range(10**6))

    def by_loop() -> None:
        loop_encode(network, work / "photos", work / f"latents-{next(outputs)}.safetensors")

    def by_zoo() -> None:
        encode_shards(run, str(work / "photos"), work / f"latents-{next(outputs)}", device="cpu")

    start = time.perf_counter()
    for file in Path(os.environ["XDG_CACHE_HOME"]).rglob("*.safetensors"):
        file.unlink()  # of the training
    by_zoo()
    first = time.perf_counter() - start
    times, ratio = compare({"loop": by_loop, "zoo": by_zoo}, rounds, time.perf_counter)
    title = f"encode {count} JPEG files of {size}x{size}"
    return [
        f"| {title} | {times['loop']:.2f} | {times['zoo']:.2f} | {ratio:.2f} |",
        f"| the same, the first time | {times['loop']:.2f} | {first:.2f} | {first / times['loop']:.2f} |",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", default="32,64,64", help="of the stages (default: %(default)s)")
    parser.add_argument("--blocks", type=int, default=1)
    parser.add_argument("--sizes", default="32,64", help="pixels per side")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--out", type=Path, help="append the table to this file as well")
    arguments = parser.parse_args()
    lines = [
        "| | loop around diffusers, s | zoo, s | zoo / loop |",
        "|---|---:|---:|---:|",
    ]
    with tempfile.TemporaryDirectory() as temporary, zoo.flushed_denormals():
        work = Path(temporary)
        os.environ["XDG_CACHE_HOME"] = str(work / "cache")
        new_network([int(c) for c in arguments.channels.split(",")], arguments.blocks, work / "network")
        sizes = [int(size) for size in arguments.sizes.split(",")]
        for size in sizes:
            images = torch.randint(256, (arguments.batch_size * arguments.steps, 3, size, size), dtype=torch.uint8)
            pair = {
                "loop": loop_epoch(work / "network", images, arguments.batch_size),
                "zoo": zoo_epoch(work / "network", images, arguments.batch_size),
            }
            times, ratio = compare(pair, arguments.rounds, time.process_time)
            title = f"a training step with {arguments.batch_size} images of 3x{size}x{size}"
            steps = arguments.steps
            lines.append(f"| {title} | {times['loop'] / steps:.3f} | {times['zoo'] / steps:.3f} | {ratio:.2f} |")
            print(lines[-1], flush=True)
        lines += encoding(sizes[-1], arguments.files, work / "network", work, min(arguments.rounds, 3))
    text = (
        "## diffusers\n\n"
        f"{datetime.now(UTC):%Y-%m-%d}, {cpu_model()}, torch {torch.__version__}, {torch.get_num_threads()} thread(s), "
        f"load average {os.getloadavg()[0]:.1f}. An `AutoencoderKL` with channels {arguments.channels} and "
        f"{arguments.blocks} block(s) a stage; medians over {arguments.rounds} turns. Steps: processor time.\n\n"
    ) + "\n".join(lines)
    print(text)
    if arguments.out:
        with arguments.out.open("a") as file:
            file.write(text + "\n")


if __name__ == "__main__":
    main()
