"""``zoo encode`` and ``zoo export``."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo import RunError, UsageError, atomic_write
from zoo.cli import RUN, data_dir_option, device_option, json_option, log_to_stderr, print_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

    import zoo


@click.command(short_help="Write the posterior parameters of images as arrays.")
@click.argument("run", type=RUN)
@click.argument("data", required=False)
@click.option(
    "-o",
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help=".npz file to write.  [default: in the run, or in runs/NAME for installed weights]",
)
@click.option(
    "--split",
    type=click.Choice(["train", "test", "all"]),
    help="Split to encode.  [default: all of DATA; test without DATA]",
)
@click.option(
    "--samples",
    type=click.IntRange(0, 1_000_000),
    default=0,
    show_default=True,
    help="Samples to write from each posterior.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), help="Seed of samples and binarisation.  [default: that of the run]"
)
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
    """Write the posterior parameters of images, those of q(z | x), as arrays that NumPy loads.

    RUN is a run folder, or the folder of a model, for its newest run. DATA is a data set with images of the same shape,
    by name or path; the arrays include the path of each image, or its index in a file of arrays. Without DATA, the test
    split of the run is encoded.

    \b
    zoo encode runs/mlp-vae -o codes.npz
    zoo encode runs/conv-vae photos -o codes.npz
    python -c "import numpy; print(numpy.load('codes.npz')['mean'].shape)"
    """
    import zoo
    from zoo_export import codes as encoding

    log_to_stderr(logging.WARNING)
    trained_run = zoo.Run.open(run)
    codes = encoding.encode(
        trained_run, data, split=split, samples=samples, seed=seed, data_dir=data_dir, device=device  # type: ignore[arg-type]
    )  # fmt: skip
    path = trained_run.output / "codes.npz" if out is None else out
    _write(codes, path)
    if as_json:
        arrays = {name: {"dtype": str(array.dtype), "shape": list(array.shape)} for name, array in codes.items()}
        print_json({"run": str(trained_run), "codes": str(path), "arrays": arrays})
        return
    for name, array in codes.items():
        click.echo(f"{name:<8} {array.dtype} {tuple(array.shape)}")
    if "mean" not in codes and not samples:
        click.echo("The posterior has no mean in closed form. Use --samples to write samples.", err=True)
    click.echo(path)


def _write(codes: dict[str, NDArray[Any]], path: Path) -> None:
    """Write arrays to an .npz file."""
    import numpy as np

    try:
        with atomic_write(path) as file:
            np.savez(file, **codes)  # type: ignore[arg-type]
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror or error}") from error


@click.command(short_help="Export encoder and decoder to ONNX or torch.export.")
@click.argument("run", type=RUN)
@click.option(
    "--format",
    type=click.Choice(["onnx", "torch", "diffusers"]),
    default="onnx",
    show_default=True,
    help="onnx needs the extra `export`; torch writes .pt2 files of torch.export; diffusers a folder of AutoencoderKL.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="Folder to write.  [default: in the run, or in runs/NAME for installed weights]",
)
@click.option("--part", "only", type=click.Choice(["encoder", "decoder"]), help="Export only this part.")
@json_option
def export(run: str, format: str, out: Path | None, only: str | None, as_json: bool) -> None:
    """Export encoder and decoder as files that run without the zoo, for any batch size.

    The encoder maps images to the parameters of q(z | x), the decoder latents to those of p(x | z), with the mean
    first. Each file is compared with the model; nothing is written if they disagree.

    The format diffusers is for models like autoencoder-kl, and writes what AutoencoderKL.from_pretrained reads, with
    the shift and the scale of the latents of training images.

    RUN is a run folder, or the folder of a model, for its newest run.

    \b
    zoo export runs/mlp-vae
    zoo export runs/mlp-vae --format torch -o exported
    """
    import zoo
    from zoo_export import export as exporting

    trained_run = zoo.Run.open(run)
    if format == "diffusers":
        _export_to_diffusers(trained_run, out, only, as_json)
        return
    parts: dict[str, Any] = {} if only is None else {"parts": [only]}
    folder = exporting.export(trained_run, format, out, **parts)  # type: ignore[arg-type]
    manifest = json.loads((folder / "export.json").read_text("utf-8"))
    if as_json:
        print_json({"run": str(trained_run), "folder": str(folder), **manifest})
        return
    for part in manifest["parts"].values():
        signature = f"{_signature(part['inputs'])} -> {_signature(part['outputs'])}"
        click.echo(
            f"{part['file']:<12} {signature}, differs from the model by at most {part['greatest_difference']:.1e}"
        )
    click.echo(folder)


def _export_to_diffusers(run: zoo.Run, out: Path | None, only: str | None, as_json: bool) -> None:
    from zoo_diffusers.folder import CONFIG, export_run

    if only is not None:
        raise UsageError("The format diffusers has both parts in one file. Omit --part.")
    folder = export_run(run, out)
    config = json.loads((folder / CONFIG).read_text("utf-8"))
    if as_json:
        print_json({"run": str(run), "folder": str(folder), "config": config})
        return
    click.echo(f"shift_factor {config['shift_factor']:.4g}, scaling_factor {config['scaling_factor']:.4g}")
    click.echo(folder)


def _signature(tensors: list[dict[str, Any]]) -> str:
    return ", ".join(f"{tensor['name']} ({', '.join(map(str, tensor['shape']))})" for tensor in tensors)
