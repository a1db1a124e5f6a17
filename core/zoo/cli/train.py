"""``zoo train``."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from zoo.cli.catalogue import as_json, registries
from zoo.cli.output import print_json
from zoo.cli.progress import progress


@click.command()
@click.argument("model")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--data", help="Train on this data set and no other.")
@click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Where data files lie.  [default: $ZOO_DATA, else the cache]"
)
@click.option("--epochs", type=click.IntRange(min=1), help="Passes over the training set.")
@click.option("--seed", type=click.IntRange(min=0), help="Of the weights, the order of the data and every draw.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="The folder of all runs."
)
@registries
@as_json
def train(
    model: str,
    overrides: tuple[str, ...],
    data: str | None,
    data_dir: Path | None,
    epochs: int | None,
    seed: int | None,
    device: str,
    out: Path,
    registries: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Train MODEL, a name or a recipe file, and leave a run folder.

    \b
    zoo train mlp-vae
    zoo train mlp-vae latent_dim=2 encoder.hidden=[512,256] loss=mse
    zoo train mlp-vae --data digits --epochs 50
    """
    log_to_stderr()
    import zoo

    run = zoo.train(
        model,
        overrides,
        data=data,
        data_dir=data_dir,
        epochs=epochs,
        seed=seed,
        device=device,
        out=out,
        registries=registries,
        observers=[progress()],
    )
    result = run.result()
    if as_json:
        print_json(result)
        return
    for split in ("train", "test"):
        terms = "   ".join(f"{name} {value:.2f}" for name, value in result[split].items())
        click.echo(f"{split:<8} {terms}   (nats per example)")
    click.echo(f"run      {run.path}")
    click.echo(f"figures  {', '.join(sorted(file.name for file in run.figures.iterdir()))}")


def log_to_stderr() -> None:
    """Let what the library logs reach the user, as plain lines on stderr."""
    log = logging.getLogger("zoo")
    if not any(isinstance(handler, _ToStderr) for handler in log.handlers):
        log.addHandler(_ToStderr())
    log.setLevel(logging.INFO)


class _ToStderr(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        prefix = "Warning: " if record.levelno >= logging.WARNING else ""
        click.echo(prefix + record.getMessage(), err=True)
