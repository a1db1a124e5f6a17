"""Time the importance-sampled log-likelihood of a trained `mlp-vae` in the zoo and in pythae, on test images of MNIST.

Both have the same weights and alternate image by image in one process. pythae runs with its fastest batch size, which
is determined first. It must be installed: ``make benchmarks/.venv``.

    zoo train mlp-vae binarize=dynamic --data mnist
    benchmarks/.venv/bin/python benchmarks/likelihood.py runs/mlp-vae --out benchmarks/RESULTS.md
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch
from pythae.models import VAE, VAEConfig

import zoo
from epoch import cpu_model
from peers import LATENT, PIXELS
from peers.pythae_vae import Decoder, Encoder

BATCH_SIZES = (50, 100, 200, 250, 500, 1000, 2500, 5000)


def peer_of(vae: zoo.VAE) -> VAE:
    """A model of pythae with the weights of a model of the zoo."""
    encoder, decoder = Encoder(), Decoder()
    hidden, head = vae.encoder.trunk[1], vae.encoder.posterior.linear
    first, last = vae.decoder.trunk[1], vae.decoder.trunk[3]
    encoder.trunk[1].load_state_dict(hidden.state_dict())
    halves = (encoder.mean, encoder.log_variance), head.weight.chunk(2), head.bias.chunk(2)
    for linear, weight, bias in zip(*halves, strict=True):
        linear.load_state_dict({"weight": weight, "bias": bias})
    decoder.trunk[0].load_state_dict(first.state_dict())
    decoder.trunk[2].load_state_dict(last.state_dict())
    config = VAEConfig(input_dim=(PIXELS,), latent_dim=LATENT, reconstruction_loss="bce")
    return VAE(config, encoder=encoder, decoder=decoder).eval()


def timed(work: Callable[[], float]) -> tuple[float, float]:
    """Call a function and return its duration in seconds and its value."""
    start = time.perf_counter()
    value = work()
    return time.perf_counter() - start, value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="a run of mlp-vae on MNIST")
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("ZOO_DATA"), help="default: $ZOO_DATA")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="append the table to this file as well")
    arguments = parser.parse_args()
    logging.disable(logging.INFO)
    torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)

    run = zoo.Run.open(arguments.run)
    vae, samples = run.load(), arguments.samples
    peer = peer_of(vae)
    images = run.test_images(arguments.images, arguments.data_dir)

    def zoo_nll(x: torch.Tensor, index: int) -> float:
        return -vae.log_likelihood(x, samples, seed=index).item()

    def peer_nll(x: torch.Tensor, batch_size: int) -> float:
        return -float(peer.get_nll(x.flatten(1), samples, batch_size))  # `get_nll` returns the log-likelihood

    durations: dict[int, list[float]] = {size: [] for size in BATCH_SIZES if samples % size == 0}
    for _ in range(5):
        for size, seconds in durations.items():
            seconds.append(timed(lambda size=size: peer_nll(images[:1], size))[0])
    best = min(durations, key=lambda size: statistics.median(durations[size]))
    zoo_nll(images[:1], 0)

    times: dict[str, list[float]] = {"pythae": [], "zoo": []}
    values: dict[str, list[float]] = {"pythae": [], "zoo": []}
    for index, x in enumerate(torch.split(images, 1)):
        for name, work in (
            ("pythae", lambda x=x: peer_nll(x, best)),
            ("zoo", lambda x=x, index=index: zoo_nll(x, index)),
        ):
            seconds, value = timed(work)
            times[name].append(seconds)
            values[name].append(value)

    total = {name: sum(seconds) for name, seconds in times.items()}
    ratio = statistics.median(a / b for a, b in zip(times["pythae"], times["zoo"], strict=True))
    lines = [
        "## The log-likelihood",
        "",
        f"`mlp-vae`, {samples} importance samples for each of {len(images)} test images of MNIST, with the same",
        "weights in both implementations, which alternate image by image in one process.",
        f"{datetime.now(UTC):%Y-%m-%d}, {cpu_model()}, torch {torch.__version__}, {torch.get_num_threads()} threads.",
        "pythae uses the fastest of the batch sizes",
        f"{', '.join(map(str, durations))}.",
        "",
        "| | images/s | median ms/image | min | NLL, nats |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, title in (
        ("pythae", f"pythae 0.1.2, `get_nll`, batch size {best}"),
        ("zoo", "**zoo**, `log_likelihood`"),
    ):
        milliseconds = [1000 * seconds for seconds in times[name]]
        lines.append(
            f"| {title} | {len(images) / total[name]:.1f} | {statistics.median(milliseconds):.1f} "
            f"| {min(milliseconds):.1f} | {statistics.mean(values[name]):.3f} |"
        )
    lines += [
        "",
        f"The zoo is {total['pythae'] / total['zoo']:.2f} times as fast in total,",
        f"{ratio:.2f} times for the median image.",
    ]
    table = "\n".join(lines) + "\n"
    print(table, end="")
    if arguments.out:
        with arguments.out.open("a") as file:
            file.write("\n" + table)


if __name__ == "__main__":
    main()
