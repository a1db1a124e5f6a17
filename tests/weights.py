"""Record the weights of every recipe after a short training, to show that a refactoring changes no number.

    python tests/weights.py            compare with tests/weights.json
    python tests/weights.py --write    write tests/weights.json

Each recipe trains for 20 steps on `digits` with seed 0, on one thread. The digest covers the values of the final
``state_dict`` in their order, without their names. Digests compare on one kind of processor with one version of torch
only; both are recorded, and the last loss beside each digest tells a rounding difference from a real one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
import tempfile
from pathlib import Path

import torch

import zoo

TABLE = Path(__file__).with_name("weights.json")
STEPS = 20


def machine() -> dict[str, str]:
    """What the bits of a training depend on besides the code."""
    return {"torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability()}


def digest(vae: torch.nn.Module) -> str:
    """The SHA-256 of every parameter and buffer: dtype, shape and bytes."""
    sha256 = hashlib.sha256()
    for value in vae.state_dict().values():
        sha256.update(f"{value.dtype} {tuple(value.shape)}".encode())
        sha256.update(value.contiguous().numpy().tobytes())
    return sha256.hexdigest()


def row(model: str, folder: Path) -> dict[str, object]:
    """The digest and the last training loss of one recipe."""
    run = zoo.train(model, [f"train.steps={STEPS}"], data="digits", seed=0, device="cpu", out=folder)
    return {"sha256": digest(zoo.load(run, "last", prior="original")), "loss": run.epochs()[-1].train["loss"]}


def main() -> int:
    """Compare the table with the code, or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the table")
    parser.add_argument("models", nargs="*", help="only these models")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("zoo").setLevel(logging.ERROR)
    table = json.loads(TABLE.read_text()) if TABLE.exists() else {"machine": None, "models": {}}
    if not arguments.write and table["machine"] != machine():
        print(f"The table is of {table['machine']}, this is {machine()}: only the losses compare.")
    rows, changed = {}, []
    for model in arguments.models or zoo.list_models():
        with tempfile.TemporaryDirectory() as folder:
            rows[model] = row(model, Path(folder))
        if rows[model] != table["models"].get(model):
            changed.append(model)
            print(f"{model}: {table['models'].get(model)} -> {rows[model]}", flush=True)
    if arguments.write:
        models = dict(sorted({**table["models"], **rows}.items()))
        TABLE.write_text(json.dumps({"machine": machine(), "models": models}, indent=1) + "\n")
    print(f"{len(rows) - len(changed)} of {len(rows)} unchanged")
    return 0 if arguments.write or not changed else 1


if __name__ == "__main__":
    sys.exit(main())
