"""Train the models for photographs on a folder of images, and write a table and a sheet of reconstructions.

    python benchmarks/photographs.py photos

The runs are kept in the output folder. If the command is interrupted, the next start continues: finished runs are not
trained again, and an unfinished run is resumed. Every number is of the test images, at the epoch that the validation
split selected.
"""

from __future__ import annotations

import argparse
import datetime
import os
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

import zoo
from epoch import cpu_model
from models import draw_row, trained

CONV = [
    "latent_dim=256",
    "decoder.likelihood={use: gaussian, scale: shared}",
    "encoder.channels=[32,64]",
    "decoder.channels=[64,32]",
    "train.batch_size=64",
    "train.optimizer.lr=0.002",
]
MODELS: dict[str, tuple[str, list[str]]] = {
    "conv-vae": ("conv-vae", []),
    "conv-vae, Gaussian": ("conv-vae", CONV),
    "photo-vae": ("photo-vae", []),
    "autoencoder-kl": ("autoencoder-kl", []),
    "vq-vae": ("vq-vae", []),
    "vq-gan": ("vq-gan", []),
}
"""The rows of the table: a recipe and its overrides."""
COLUMNS = {"psnr": 1, "ssim": 3, "bits-per-dimension": 2, "rate": 0}
"""The metrics of the table and their digits."""


def measured(row: str, run: zoo.Run) -> str:
    """The row of a run in the table."""
    cells = []
    values = zoo.evaluate(run, ["image-similarity", "elbo"])
    for metric, digits in COLUMNS.items():
        value, note = values[metric].value, values[metric].note
        if metric == "bits-per-dimension":
            # A density over [0, 1] has 8 bits less than a probability of pixel values.
            cells.append("-" if note.startswith("no likelihood") else f"{value + 8:.{digits}f}")
        else:
            cells.append(f"{value:.{digits}f}")
    epochs = run.epochs()
    minutes = sum(epoch.seconds for epoch in epochs) / 60
    parameters = sum(parameter.numel() for parameter in zoo.load(run).parameters())
    cells += [f"{run.best_epoch().epoch} of {len(epochs)}", f"{minutes:.0f}", f"{parameters:,}"]
    model, *note = row.split(", ")
    return f"| {', '.join([f'`{model}`', *note])} | {' | '.join(cells)} |"


@torch.no_grad()
def sheet(runs: dict[str, zoo.Run], count: int) -> Figure:
    """Test images above the reconstructions of each model."""
    test = next(iter(runs.values())).loaded().dataset.test
    x = test.x[:: len(test.x) // count][:count].float() / 255
    rows: dict[str, Tensor] = {"test images": x}
    for name, run in runs.items():
        with zoo.seeded(0):
            rows[name] = zoo.load(run).reconstruct(x)
    figure = Figure(figsize=(0.8 * count + 1.5, 0.8 * len(rows)), layout="constrained")
    for axes, (name, images) in zip(figure.subplots(len(rows), 1), rows.items(), strict=True):
        draw_row(axes, name.replace(", ", ",\n"), images)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of images, with `train` and `test`")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--validation", type=int, default=500, help="training images to hold out")
    parser.add_argument("--images", type=int, default=12, help="test images on the sheet")
    parser.add_argument("--out", type=Path, default=Path("build/photographs"))
    settings = parser.parse_args()
    os.environ["ZOO_DISABLE_PLUGINS"] = "tensorboard"
    settings.out.mkdir(parents=True, exist_ok=True)
    lines = [
        f"- {datetime.date.today()}, {cpu_model()}, {torch.get_num_threads()} thread(s); torch {torch.__version__}",
        f"- `{settings.folder.name}`, {settings.epochs} epochs with random mirroring, seed 0",
        f"- {settings.validation} training images held out: the epoch with the lowest validation loss",
        "",
        "| model | PSNR, dB | SSIM | bits/dim | rate, nats | epoch | minutes | parameters |",
        "|---|" + "---:|" * 7,
    ]
    runs: dict[str, zoo.Run] = {}
    shared = [f"train.epochs={settings.epochs}", f"data.validation={settings.validation}", "data.augment=[flip]"]
    for row, (model, overrides) in MODELS.items():
        folder = settings.out / row.replace(", ", "-").lower()
        runs[row] = trained(model, [*overrides, *shared], str(settings.folder), folder)
        lines.append(measured(row, runs[row]))
        print(lines[-1], flush=True)
        (settings.out / "photographs.md").write_text("\n".join(lines) + "\n")
        sheet(runs, settings.images).savefig(settings.out / "photographs.png", dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main()
