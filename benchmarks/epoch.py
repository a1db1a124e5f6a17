"""Time one training epoch of the tutorial VAE (MNIST, 784-400-40-400-784) in the zoo and in its peers.

Each peer runs in its own process. The peers alternate: one warm-up epoch each, then `--rounds` rounds of one epoch. An
epoch includes training and data loading, but no evaluation.

    python benchmarks/epoch.py --data-dir DIR --out benchmarks/RESULTS.md

pythae is not a dependency of the zoo. Its row is skipped unless ``make benchmarks/.venv`` has installed it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import peers
from peers import IMAGES

HERE = Path(__file__).resolve().parent
OWN_PYTHON = HERE / ".venv" / "bin" / "python"
PYTHAE_PYTHON = OWN_PYTHON if OWN_PYTHON.exists() else Path(sys.executable)
ZOO = "zoo"


@dataclass(frozen=True)
class Peer:
    """An implementation to time.

    Attributes:
        module: in `peers`.
        title: in the table.
        python: its Python interpreter.
        install: the command that installs it.
        portable: whether it can use another device than the processor.
    """

    module: str
    title: str
    python: Path = Path(sys.executable)
    install: str = "pip install --editable ."
    portable: bool = False


PEERS = {
    "replay": Peer("replay", "the matrix products of a step only"),
    "replay+adam": Peer("replay_adam", "matrix products and fused Adam"),
    "by-hand": Peer("by_hand", "hand-written step: no autograd, no modules"),
    "tutorial": Peer("tutorial", "tutorial loop", portable=True),
    "pythae": Peer("pythae_vae", "pythae 0.1.2", PYTHAE_PYTHON, "make benchmarks/.venv", portable=True),
    ZOO: Peer("zoo_vae", "**zoo**", portable=True),
}


class Skipped(Exception):
    """A peer cannot run here."""


@dataclass
class Worker:
    """The process of a peer.

    Attributes:
        clock: ``seconds``, or ``processor_seconds``, to which other processes matter less.
        seconds: duration of each epoch after the warm-up.
        info: the last answer, with ``peak_mib``, ``torch`` and ``threads``.
    """

    peer: Peer
    data_dir: str
    device: str = "cpu"
    clock: str = "seconds"
    seconds: list[float] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)

    def start(self) -> None:
        """Start the process and train the warm-up epoch."""
        if not self.peer.python.exists():
            raise Skipped(f"not installed, run `{self.peer.install}`")
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        options = ("--data-dir", self.data_dir, "--device", self.device)
        self.process = subprocess.Popen(
            [self.peer.python, Path(__file__).resolve(), "--child", self.peer.module, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )
        self.ask("go")

    def measure(self) -> float:
        """Train one epoch and record its duration."""
        self.ask("go")
        self.seconds.append(float(self.info[self.clock]))
        return self.seconds[-1]

    def ask(self, line: str) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self.process.wait()
            self.errors.seek(0)
            last = (self.errors.read().strip().splitlines() or ["no message"])[-1]
            hint = f", run `{self.peer.install}`" if last.startswith("ModuleNotFoundError") else ""
            raise Skipped(last.strip() + hint)
        self.info = json.loads(answer)
        return float(self.info["seconds"])

    def stop(self) -> None:
        self.process.communicate()
        self.errors.close()


def child(module: str, data_dir: str, device: str) -> None:
    """Answer each line of standard input with a line of JSON.

    ``go`` trains an epoch; the answer has its duration and the peak memory. ``nll`` estimates the negative
    log-likelihood, for peers whose `prepare` returns a function for it too.

    Args:
        module: a module of `peers`, with an argument of its `prepare` after a colon if it takes one.
        data_dir: holds MNIST.
        device: where the model is.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print to standard error
    import torch

    peers.DEVICE = device
    torch.manual_seed(0)
    name, _, argument = module.partition(":")
    prepared = importlib.import_module(f"peers.{name}").prepare(data_dir, *([argument] if argument else []))
    epoch, nll = prepared if argument else (prepared, None)
    for line in sys.stdin:
        start, processor_start = time.perf_counter(), time.process_time()
        value = nll() if nll is not None and line.strip() == "nll" else epoch()
        if device != "cpu":
            torch.accelerator.synchronize()
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        answer = {
            "seconds": seconds,
            "processor_seconds": time.process_time() - processor_start,
            "peak_mib": peak / (2**20 if sys.platform == "darwin" else 2**10),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "device": device if device == "cpu" else torch.get_device_module(device).get_device_name(),
            "nll": value,
        }
        print(json.dumps(answer), file=answers, flush=True)


def run(names: list[str], data_dir: str, device: str, rounds: int) -> tuple[dict[str, Worker], dict[str, str]]:
    """Measure the peers alternately. Return their workers, and the reasons of skipped peers."""
    workers: dict[str, Worker] = {}
    skipped: dict[str, str] = {}
    try:
        for name in names:
            worker = Worker(PEERS[name], data_dir, device)
            try:
                worker.start()
            except Skipped as reason:
                skipped[name] = str(reason)
                print(f"{name}: skipped, {reason}", file=sys.stderr)
            else:
                workers[name] = worker
        for number in range(1, rounds + 1):
            times = {name: worker.measure() for name, worker in workers.items()}
            print(f"round {number}:", *(f"{name} {t:.2f} s" for name, t in times.items()), file=sys.stderr)
    finally:
        for worker in workers.values():
            worker.stop()
    return workers, skipped


def report(names: list[str], workers: dict[str, Worker], skipped: dict[str, str]) -> str:
    """Format the results as Markdown. A ratio is the median over rounds, so that a slow round affects both sides."""
    info = next(iter(workers.values())).info if workers else {}
    rounds = max((len(worker.seconds) for worker in workers.values()), default=0)
    columns = ["peer", "median s/epoch", "min", "max", "images/s", "peer / zoo", "zoo / peer", "peak MiB"]
    lines = [
        "## One epoch of training",
        "",
        f"- Date: {datetime.now(UTC):%Y-%m-%d}",
        f"- Device: {info.get('device')}; {cpu_model()}, {os.cpu_count()} cores",
        f"- torch {info.get('torch')}, {info.get('threads')} threads",
        f"- MNIST, {IMAGES} images, 784-400-40-400-784, batch size 128, Adam; training and data loading, no evaluation",
        f"- {rounds} interleaved rounds after one warm-up epoch, each implementation in its own process",
        "- Ratios are medians over rounds; peak memory is that of the main process, without data-loader workers",
        "",
        "| " + " | ".join(columns) + " |",
        "|---|" + "---:|" * (len(columns) - 1),
    ]
    zoo = workers.get(ZOO)
    for name in names:
        title = PEERS[name].title
        if name in skipped:
            lines.append(f"| {title} | skipped: {skipped[name]} |" + " |" * (len(columns) - 2))
            continue
        worker = workers[name]
        median = statistics.median(worker.seconds)
        cells = [f"{median:.2f}", f"{min(worker.seconds):.2f}", f"{max(worker.seconds):.2f}", f"{IMAGES / median:,.0f}"]
        if zoo is None:
            cells += ["", ""]
        else:
            ratio = statistics.median(a / b for a, b in zip(worker.seconds, zoo.seconds, strict=True))
            cells += [f"{ratio:.2f}", f"{1 / ratio:.2f}"]
        lines.append("| " + " | ".join([title, *cells, f"{worker.info['peak_mib']:.0f}"]) + " |")
    return "\n".join(lines) + "\n"


def cpu_model() -> str:
    """The name of the processor."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    return next((ln.split(":", 1)[1].strip() for ln in text.splitlines() if ln.startswith("model name")), "unknown")


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Time one training epoch of the tutorial VAE in the zoo and its peers."
    )
    parser.add_argument("--data-dir", default=os.environ.get("ZOO_DATA"), help="holds MNIST/raw (default: $ZOO_DATA)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu", help="the zoo, pythae and the tutorial loop can use another")
    parser.add_argument("--peers", help="comma-separated (default: all that the device allows)")
    parser.add_argument("--out", type=Path, help="write the table to this file as well")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.data_dir is None:
        parser.error("set --data-dir or ZOO_DATA")
    if args.child:
        child(args.child, args.data_dir, args.device)
        return
    names = args.peers.split(",") if args.peers else [n for n in PEERS if args.device == "cpu" or PEERS[n].portable]
    if unknown := [name for name in names if name not in PEERS]:
        parser.error(f"unknown peer {', '.join(unknown)}; choose from {', '.join(PEERS)}")
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    table = report(names, *run(names, args.data_dir, args.device, args.rounds))
    print(table, end="")
    if args.out:
        args.out.write_text(table)


if __name__ == "__main__":
    main()
