"""A trained model elsewhere: ``zoo encode`` and ``zoo export``."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo import RunError, atomic_write
from zoo.cli import RUN, data_dir_option, device_option, json_option, log_to_stderr, print_json

if TYPE_CHECKING:
    from numpy.typing import NDArray


@click.command(short_help="Write the codes of images, the parameters of q(z | x).")
@click.argument("run", type=RUN)
@click.argument("data", required=False)
@click.option(
    "-o",
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The .npz to write.  [default: in the run, or in runs/NAME for installed weights]",
)
@click.option(
    "--split", type=click.Choice(["train", "test", "all"]), help="Of the data.  [default: all of DATA, else test]"
)
@click.option(
    "--samples",
    type=click.IntRange(0, 1_000_000),
    default=0,
    show_default=True,
    help="Draws of each posterior to write too.",
)
@click.option("--seed", type=click.IntRange(min=0), help="Of the draws and of a binarisation.  [default: the run's]")
@data_dir_option
@device_option
@json_option
def encode(
    run: str,
    data: str | None,
    out: Path | None,
    split: str | None,
    samples: int,
    seed: int | None,
    data_dir: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Write the codes of images, the parameters of q(z | x), as arrays that numpy loads.

    RUN is a run folder, or the folder of a model's runs, whose newest is meant. DATA is a data set of images of the
    same shape, by name or path, of which every image is encoded; the path of each below a folder, or its index in a
    file of arrays, is written beside its code. Without DATA, it is the test split that the model was trained beside.

    \b
    zoo encode runs/mlp-vae -o codes.npz
    zoo encode runs/conv-vae photos -o codes.npz
    python -c "import numpy; print(numpy.load('codes.npz')['mean'].shape)"
    """
    import zoo
    from zoo_export import codes as posteriors

    log_to_stderr(logging.WARNING)
    opened = zoo.Run.open(run)
    codes = posteriors.encode(
        opened, data, split=split, samples=samples, seed=seed, data_dir=data_dir, device=device  # type: ignore[arg-type]
    )  # fmt: skip
    path = opened.output / "codes.npz" if out is None else out
    _write(codes, path)
    if as_json:
        arrays = {name: {"dtype": str(array.dtype), "shape": list(array.shape)} for name, array in codes.items()}
        print_json({"run": str(opened), "codes": str(path), "arrays": arrays})
        return
    for name, array in codes.items():
        click.echo(f"{name:<8} {array.dtype} {tuple(array.shape)}")
    if "mean" not in codes and not samples:
        click.echo("The posterior has no mean in closed form: --samples writes draws of it.", err=True)
    click.echo(path)


def _write(codes: dict[str, NDArray[Any]], path: Path) -> None:
    """Put arrays into an .npz."""
    import numpy as np

    try:
        with atomic_write(path) as file:
            np.savez(file, **codes)  # type: ignore[arg-type]
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror or error}") from error


@click.command(short_help="Write encoder and decoder to run without the zoo.")
@click.argument("run", type=RUN)
@click.option(
    "--format",
    type=click.Choice(["onnx", "torch"]),
    default="onnx",
    show_default=True,
    help="ONNX needs the extra `export`; torch writes the .pt2 of torch.export.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="The folder to write.  [default: in the run, or in runs/NAME for installed weights]",
)
@click.option("--part", "only", type=click.Choice(["encoder", "decoder"]), help="One of the two alone.")
@json_option
def export(run: str, format: str, out: Path | None, only: str | None, as_json: bool) -> None:
    """Write encoder and decoder as files that run without the zoo, for batches of any size.

    The encoder maps images to the parameters of q(z | x), the decoder latents to those of p(x | z), each with its mean
    first. What was written is compared with the model's own output, and is not kept if it differs.

    RUN is a run folder, or the folder of a model's runs, whose newest is meant.

    \b
    zoo export runs/mlp-vae
    zoo export runs/mlp-vae --format torch -o exported
    """
    import zoo
    from zoo_export import export as exporting

    opened = zoo.Run.open(run)
    parts: dict[str, Any] = {} if only is None else {"parts": [only]}
    folder = exporting.export(opened, format, out, **parts)  # type: ignore[arg-type]
    manifest = json.loads((folder / "export.json").read_text("utf-8"))
    if as_json:
        print_json({"run": str(opened), "folder": str(folder), **manifest})
        return
    for part in manifest["parts"].values():
        signature = f"{_signature(part['inputs'])} -> {_signature(part['outputs'])}"
        click.echo(
            f"{part['file']:<12} {signature}, differs from the model by {part['greatest_difference']:.1e} at most"
        )
    click.echo(folder)


def _signature(tensors: list[dict[str, Any]]) -> str:
    return ", ".join(f"{tensor['name']} ({', '.join(map(str, tensor['shape']))})" for tensor in tensors)
