"""Time a training step of every model that the zoo and pythae have in common.

    benchmarks/.venv/bin/python benchmarks/families.py --data-dir DIR

Each implementation has its own process. The two of a family alternate: a warm-up epoch each, then `--rounds` rounds of
one epoch of 100 steps. The negative log-likelihood after these epochs (200 importance samples, first 200 test images,
binarized at one half) shows that the models are comparable.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from datetime import UTC, datetime
from pathlib import Path

from epoch import PYTHAE_PYTHON, Peer, Skipped, Worker, cpu_model
from peers import BATCH
from peers.families import FAMILIES, IMAGES

STEPS = IMAGES // BATCH


def measure(name: str, data_dir: str, rounds: int) -> dict[str, Worker]:
    """Time the two implementations of a family alternately.

    Raises:
        Skipped: one of them cannot run here.
    """
    pythae = Peer(f"pythae_family:{name}", "pythae", PYTHAE_PYTHON, "make benchmarks/.venv")
    workers = {
        "zoo": Worker(Peer(f"zoo_family:{name}", "zoo"), data_dir, clock="processor_seconds"),
        "pythae": Worker(pythae, data_dir, clock="processor_seconds"),
    }
    started = []
    try:
        for worker in workers.values():
            worker.start()
            started.append(worker)
        for _ in range(rounds):
            for worker in workers.values():
                worker.measure()
        for worker in workers.values():
            worker.ask("nll")
    finally:
        for worker in started:
            worker.stop()
    return workers


def row(name: str, workers: dict[str, Worker]) -> tuple[float, str]:
    """The ratio of pythae's time to that of the zoo, and the row of the table."""
    ours, theirs = workers["zoo"], workers["pythae"]
    ratio = statistics.median(b / a for a, b in zip(ours.seconds, theirs.seconds, strict=True))
    cells = [f"`{name}`", FAMILIES[name].peer]
    cells += [f"{statistics.median(worker.seconds) / STEPS * 1000:.2f}" for worker in (ours, theirs)]
    cells.append(f"{ratio:.2f}")
    cells += [f"{worker.info['peak_mib']:.0f}" for worker in (ours, theirs)]
    cells += ["-" if worker.info.get("nll") is None else f"{worker.info['nll']:.1f}" for worker in (ours, theirs)]
    return ratio, f"| {' | '.join([*cells, FAMILIES[name].difference])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", default=os.environ.get("ZOO_DATA"), help="holds MNIST/raw (default: $ZOO_DATA)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--families", default=",".join(FAMILIES), help="comma-separated (default: all)")
    parser.add_argument("--out", type=Path, help="append the table to this file as well")
    arguments = parser.parse_args()
    if arguments.data_dir is None:
        parser.error("set --data-dir or ZOO_DATA")
    rows, ratios = [], []
    for name in arguments.families.split(","):
        try:
            workers = measure(name, arguments.data_dir, arguments.rounds)
        except Skipped as reason:
            rows.append(f"| `{name}` | {FAMILIES[name].peer} | skipped: {reason} |" + " |" * 7)
            print(rows[-1], file=sys.stderr)
            continue
        ratio, line = row(name, workers)
        ratios.append(ratio)
        rows.append(line)
        print(line, file=sys.stderr)
        info = workers["zoo"].info
    columns = ["model", "pythae", "zoo ms/step", "pythae ms/step", "pythae / zoo", "zoo MiB", "pythae MiB"]
    columns += ["zoo NLL", "pythae NLL", "what differs"]
    lines = [
        "## Every family against its peer",
        "",
        f"- Date: {datetime.now(UTC):%Y-%m-%d}; {cpu_model()}, {os.cpu_count()} cores",
        f"- 784-400-z-400-784, batches of {BATCH}, Adam, {IMAGES:,} images of MNIST; training and data loading",
        f"- {arguments.rounds} interleaved rounds of {STEPS} steps after a warm-up; milliseconds of processor time",
        "- Ratios are medians over rounds",
        "- NLL after these steps: 200 importance samples, 200 test images binarized at one half, nats per image",
        "",
        "| " + " | ".join(columns) + " |",
        "|---|---|" + "---:|" * 7 + "---|",
        *rows,
    ]
    if ratios:
        lines[4:4] = [f"- torch {info['torch']}, {info['threads']} thread(s) each"]
        slower = sum(ratio < 1 for ratio in ratios)
        lines += ["", f"Median of the ratios: {statistics.median(ratios):.2f}; {slower} of {len(ratios)} below 1."]
    table = "\n".join(lines) + "\n"
    print(table, end="")
    if arguments.out:
        with arguments.out.open("a") as file:
            file.write("\n" + table)


if __name__ == "__main__":
    main()
