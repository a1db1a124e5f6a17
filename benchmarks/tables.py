"""Side by side with ctgan's TVAE on three tables of scikit-learn: training time, and a classifier trained on samples.

    benchmarks/.venv/bin/python benchmarks/tables.py

Both models have two hidden layers of 128 units in encoder and decoder, 16 latent dimensions, batches of 50 rows and the
same number of epochs, with Adam at a learning rate of 0.001. A random forest is trained on as many samples as there are
training rows, and tested on the real test rows. TVAE models a transformed table (modes of a Gaussian mixture for each
number), so it has no likelihood of the rows that could be compared; that of the zoo is an importance-sampled bound.
TVAE writes nothing to disk. The zoo writes its metrics after each epoch and a checkpoint after every 100: by default it
writes one after each epoch, which takes longer than three steps. It also evaluates the test rows after each epoch.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time

import pandas as pd
import torch
from ctgan import TVAE
from sklearn.ensemble import RandomForestClassifier

import zoo
from zoo_tables.frames import to_frame

TABLES = ("wine", "breast-cancer", "iris")
HIDDEN, LATENT, BATCH = [128, 128], 16, 50


def accuracy(train: pd.DataFrame, test: pd.DataFrame) -> float:
    """The accuracy on `test` of a forest trained on `train`."""
    forest = RandomForestClassifier(200, random_state=0).fit(train.drop(columns="target"), train["target"].astype(str))
    return float(forest.score(test.drop(columns="target"), test["target"].astype(str)))


def measure_zoo(name: str, epochs: int, seed: int) -> tuple[float, pd.DataFrame, float]:
    """Seconds, samples and the log-likelihood of the test rows in nats per row."""
    changes = [f"latent_dim={LATENT}", f"encoder.hidden={HIDDEN}", f"decoder.hidden={HIDDEN}", f"data.name={name}"]
    with tempfile.TemporaryDirectory() as out:
        started = time.perf_counter()
        options = {"epochs": epochs, "seed": seed, "out": out, "figures": False, "progress": False}
        run = zoo.train(
            "table-vae", [*changes, f"train.batch_size={BATCH}", "train.checkpoint.epochs=100"], device="cpu", **options
        )
        seconds = time.perf_counter() - started
        vae, dataset = zoo.load(run), zoo.load_dataset("sklearn-table", name=name)
        with zoo.seeded(seed), torch.no_grad():
            samples = to_frame(vae.sample(len(dataset.train)), run.columns)
        likelihood = float(vae.log_likelihood(dataset.test.x, 1000, mask=dataset.test.mask, seed=0).mean())
    return seconds, samples, likelihood


def measure_tvae(train: pd.DataFrame, epochs: int, seed: int) -> tuple[float, pd.DataFrame]:
    """Seconds and samples."""
    torch.manual_seed(seed)
    tvae = TVAE(
        embedding_dim=LATENT, compress_dims=HIDDEN, decompress_dims=HIDDEN, batch_size=BATCH, epochs=epochs, cuda=False
    )
    tvae.set_random_state(seed)
    started = time.perf_counter()
    tvae.fit(train, ["target"])
    seconds = time.perf_counter() - started
    return seconds, tvae.sample(len(train))


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| table | rows | real rows | zoo: accuracy | TVAE: accuracy | zoo: s | TVAE: s | zoo: log p(x) |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name in TABLES:
        dataset = zoo.load_dataset("sklearn-table", name=name)
        train, test = (to_frame(split.x, dataset.columns) for split in (dataset.train, dataset.test))
        values: dict[str, list[float]] = {key: [] for key in ("zoo", "tvae", "zoo s", "tvae s", "log p")}
        for seed in range(arguments.seeds):
            seconds, samples, likelihood = measure_zoo(name, arguments.epochs, seed)
            tvae_seconds, tvae_samples = measure_tvae(train, arguments.epochs, seed)
            row = (accuracy(samples, test), accuracy(tvae_samples, test), seconds, tvae_seconds, likelihood)
            for key, value in zip(values, row, strict=True):
                values[key].append(value)
        mean = {key: statistics.fmean(each) for key, each in values.items()}
        print(
            f"| {name} | {len(train)} + {len(test)} | {accuracy(train, test):.3f} | {mean['zoo']:.3f} | "
            f"{mean['tvae']:.3f} | {mean['zoo s']:.1f} | {mean['tvae s']:.1f} | {mean['log p']:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
