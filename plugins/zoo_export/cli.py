"""``zoo encode``, ``zoo decode`` and ``zoo export``."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo import RunError, UsageError, atomic_write
from zoo.cli import RUN, data_dir_option, device_option, evaluation_progress, json_option, log_to_stderr, print_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

    import zoo


@click.command(short_help="Write the posterior parameters of images as arrays.")
@click.argument("run", type=RUN)
@click.argument("data", required=False)
@click.option(
    "--format",
    type=click.Choice(["npz", "safetensors"]),
    default="npz",
    show_default=True,
    help="npz writes one file; safetensors a folder of shards, which an interrupted command continues.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help=".npz file or folder to write.  [default: in the run, or in runs/NAME for installed weights]",
)
@click.option(
    "--shard-size",
    type=click.IntRange(min=1),
    help="Images per shard of the format safetensors.  [default: 10000]",
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
    "--scaled", is_flag=True, help="Write (z - shift) scale, with mean 0 and variance 1 over training images."
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
    format: str,
    out: Path | None,
    shard_size: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Write the posterior parameters of images, those of q(z | x), as arrays that NumPy loads.

    RUN is a run folder, or the folder of a model, for its newest run. DATA is a data set with images of the same shape,
    by name or path; the arrays include the path of each image, or its index in a file of arrays. Without DATA, the test
    split of the run is encoded.

    The format safetensors is for data sets of any size: the memory needed depends on the size of a shard alone. The
    same command continues after an interruption.

    The shift and the scale of the latents are measured on training images, once, and stored in the run.

    \b
    zoo encode runs/mlp-vae -o codes.npz
    zoo encode runs/conv-vae photos -o codes.npz
    zoo encode runs/autoencoder-kl photos --format safetensors --scaled -o latents
    python -c "import numpy; print(numpy.load('codes.npz')['mean'].shape)"
    """
    import zoo
    from zoo_export import codes as encoding

    log_to_stderr(logging.WARNING)
    trained_run = zoo.Run.open(run)
    if format == "safetensors":
        _encode_shards(trained_run, data, out, shard_size, as_json, options)
        return
    if shard_size is not None:
        raise UsageError("--shard-size is for --format safetensors.")
    codes = encoding.encode(trained_run, data, **options)
    path = trained_run.output / "codes.npz" if out is None else out
    _write(codes, path)
    if as_json:
        arrays = {name: {"dtype": str(array.dtype), "shape": list(array.shape)} for name, array in codes.items()}
        print_json({"run": str(trained_run), "codes": str(path), "arrays": arrays})
        return
    for name, array in codes.items():
        click.echo(f"{name:<8} {array.dtype} {tuple(array.shape)}")
    if "mean" not in codes and not options["samples"]:
        click.echo("The posterior has no mean in closed form. Use --samples to write samples.", err=True)
    click.echo(path)


def _encode_shards(
    run: zoo.Run, data: str | None, out: Path | None, size: int | None, as_json: bool, options: dict[str, Any]
) -> None:
    from zoo_export import shards

    size = shards.SIZE if size is None else size
    with evaluation_progress() as progress:
        progress.begin("shards")
        folder = shards.encode_shards(run, data, out, shard_size=size, **options, progress=progress.update)
    index = json.loads((folder / shards.INDEX).read_text("utf-8"))
    if as_json:
        print_json({"run": str(run), "folder": str(folder), **index})
        return
    for name, array in index["arrays"].items():
        click.echo(f"{name:<8} {array['dtype']} {tuple(array['shape'])}")
    if index["scaling_factor"] is not None:
        click.echo(f"shift_factor {index['shift_factor']:.4g}, scaling_factor {index['scaling_factor']:.4g}")
    count = len(index["shards"])
    click.echo(f"{folder}: {count} shard{'' if count == 1 else 's'}")


def _write(codes: dict[str, NDArray[Any]], path: Path) -> None:
    """Write arrays to an .npz file."""
    import numpy as np

    try:
        with atomic_write(path) as file:
            np.savez(file, **codes)  # type: ignore[arg-type]
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror or error}") from error


@click.command(short_help="Decode latents from a file.")
@click.argument("run", type=RUN)
@click.argument("latents", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--array", default="mean", show_default=True, help="Array to decode, in an .npz or .safetensors file.")
@click.option("--scaled", is_flag=True, help="The latents are (z - shift) scale; see zoo encode --scaled.")
@click.option(
    "-o",
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help=".npy file to write.  [default: in the run, or in runs/NAME for installed weights]",
)
@data_dir_option
@device_option
@json_option
def decode(
    run: str,
    latents: Path,
    array: str,
    scaled: bool,
    out: Path | None,
    data_dir: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Decode latents to the means of p(x | z), as an array (N, *data_shape) that NumPy loads.

    LATENTS is an .npy, .npz or .safetensors file with an array (N, *latent_shape), such as samples of a diffusion model
    or a file of zoo encode. Spatial latents are channels-last. A model that is conditional on labels takes those in
    the array labels.

    \b
    zoo decode runs/autoencoder-kl samples.npy --scaled -o images.npy
    """
    import zoo
    from zoo_export import decoding

    log_to_stderr(logging.WARNING)
    trained_run = zoo.Run.open(run)
    x = decoding.decode_file(trained_run, latents, array, scaled=scaled, data_dir=data_dir, device=device)
    path = trained_run.output / "decoded.npy" if out is None else out
    decoding.write(x, path)
    if as_json:
        print_json({"run": str(trained_run), "decoded": str(path), "shape": list(x.shape)})
        return
    click.echo(f"{x.dtype} {tuple(x.shape)}")
    click.echo(path)


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
@click.option("--check", is_flag=True, help="Compare the folder with the model by diffusers, the extra `diffusers`.")
@json_option
def export(run: str, format: str, out: Path | None, only: str | None, check: bool, as_json: bool) -> None:
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
        _export_to_diffusers(trained_run, out, only, check, as_json)
        return
    if check:
        raise UsageError("--check is for the format diffusers; the other formats are always checked.")
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


def _export_to_diffusers(run: zoo.Run, out: Path | None, only: str | None, check: bool, as_json: bool) -> None:
    from dataclasses import asdict

    from zoo_diffusers.folder import configuration, save_folder
    from zoo_diffusers.reference import require_diffusers, require_equal
    from zoo_export.standardization import standardization

    if only is not None:
        raise UsageError("The format diffusers has both parts in one file. Omit --part.")
    if check:
        require_diffusers()
    vae, folder = run.load(prior="original"), run.output / "export-diffusers" if out is None else out
    configuration(vae)  # before latents are measured
    factors = asdict(standardization(run))
    save_folder(vae, folder, *factors.values())
    checked = {"greatest_difference": require_equal(vae, folder)} if check else {}
    if as_json:
        print_json({"run": str(run), "folder": str(folder), **factors, **checked})
        return
    click.echo(", ".join(f"{name} {value:.4g}" for name, value in {**factors, **checked}.items()))
    click.echo(folder)


def _signature(tensors: list[dict[str, Any]]) -> str:
    return ", ".join(f"{tensor['name']} ({', '.join(map(str, tensor['shape']))})" for tensor in tensors)
