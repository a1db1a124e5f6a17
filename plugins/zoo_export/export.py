"""Export of encoder and decoder as files that run without the zoo. Each file is compared with the model."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

import zoo
from zoo import VAE, ExportError, UsageError, atomic_write, evaluating, to_json
from zoo_export.formats import Format, Writer, writer_for
from zoo_export.plan import CHECKED, TRACED, Part, Plan, batched, brief, plan_part

PARTS: tuple[Part, ...] = ("encoder", "decoder")
MANIFEST = "export.json"

TOLERANCE = 1e-4
"""The largest difference from the model, relative to the largest absolute value of an output or to 1."""


def export(
    run: str | Path | zoo.Run,
    format: Format = "onnx",
    out: Path | str | None = None,
    *,
    parts: Sequence[Part] = PARTS,
) -> Path:
    """Export the encoder and the decoder of a run, as ``zoo export`` does.

    Args:
        run: as in `zoo.load`.
        format: ``onnx``, or ``torch`` for files of `torch.export.load`.
        out: the folder; by default ``export-onnx`` or ``export-torch`` in the run. An earlier export is replaced.
        parts: the parts to export.

    Returns:
        The folder. Its ``export.json`` describes inputs and outputs, and how much the outputs differ from the model.

    Raises:
        UsageError: there is no such run or format, the folder cannot be written, or the extra ``export`` is missing.
        ExportError: the model cannot be exported, or an exported file disagrees with it.
    """
    run = run if isinstance(run, zoo.Run) else zoo.Run.open(run)
    folder = run.output / f"export-{format}" if out is None else Path(out)
    vae = run.load()
    fields = {
        "model": run.recipe.name,
        "data": run.data_name,
        "binarize": run.recipe.binarize,
    }
    export_model(vae, run.data_shape, folder, format, parts=parts, classes=run.classes, fields=fields)
    return folder


def export_model(
    vae: VAE,
    data_shape: tuple[int, ...],
    folder: Path,
    format: Format,
    *,
    parts: Sequence[Part] = PARTS,
    classes: int = 0,
    fields: Mapping[str, Any] | None = None,
) -> None:
    """Export a model's encoder and decoder for any batch size, with an ``export.json`` that describes them.

    Each file is loaded and its output compared with the model. The folder is created only if all outputs agree. It
    replaces an earlier export.

    Args:
        vae: the model, on the CPU.
        data_shape: event shape of x.
        folder: a new or empty folder, or an earlier export.
        format: ``onnx``, or ``torch`` for files of `torch.export.load`.
        parts: the parts to export.
        classes: number of labels in the data, 0 without labels.
        fields: further fields of ``export.json``.

    Raises:
        UsageError: the folder has other content or cannot be written, or a package is not installed.
        ExportError: a part cannot be exported, or its file disagrees with the model.
    """
    from safetensors.torch import save

    writer = writer_for(format)
    with _staged(folder) as stage, evaluating(vae), torch.no_grad():
        descriptions = {part: _export(plan_part(vae, part, data_shape, classes), writer, stage) for part in parts}
        manifest = {
            **(fields or {}),
            "format": format,
            "torch": torch.__version__,
            "weights_sha256": hashlib.sha256(save(vae.state_dict())).hexdigest(),
            "checked": {"batch_sizes": CHECKED, "tolerance": TOLERANCE},
            "parts": descriptions,
        }
        with atomic_write(stage / MANIFEST) as file:
            file.write(to_json(manifest).encode())


def _export(plan: Plan, writer: Writer, folder: Path) -> dict[str, Any]:
    """Write one part, compare it with the model, and describe it."""
    path = folder / f"{plan.part}{writer.suffix}"
    try:
        with _quiet(), _unvalidated():
            program = torch.export.export(
                plan.module,
                plan.inputs[TRACED],
                dynamic_shapes=batched(plan, torch.export.Dim("batch")),
                strict=False,  # the default of newer versions of torch
            )
            extra = writer.write(program, plan, path)
    except OSError:
        raise
    except Exception as error:
        raise ExportError(
            f"The {plan.part} cannot be exported: its `forward` cannot be traced, for example because a branch depends "
            f"on values or on the batch size. {brief(_root(error))}"
        ) from error
    return {
        "file": path.name,
        "inputs": _describe(plan.names, plan.inputs[TRACED]),
        "outputs": _describe(plan.module.outputs, plan.module(*plan.inputs[TRACED])),
        **extra,
        "greatest_difference": _greatest_difference(plan, writer.load(path, plan)),
    }


def _greatest_difference(plan: Plan, exported: Callable[..., Sequence[Tensor]]) -> float:
    """The largest difference between the model and the exported file, over all outputs and batch sizes.

    Raises:
        ExportError: it exceeds the tolerance.
    """
    greatest = 0.0
    for n in CHECKED:
        try:
            outputs = exported(*plan.inputs[n])
        except Exception as error:
            raise ExportError(f"The exported {plan.part} fails on a batch of {n}: {brief(error)}") from error
        for name, value, expected in zip(plan.module.outputs, outputs, plan.module(*plan.inputs[n]), strict=True):
            same = value.shape == expected.shape
            difference = (value.double() - expected.double()).abs().max().item() if same else math.inf
            # True for NaN.
            if not difference <= TOLERANCE * max(1.0, expected.abs().max().item()):
                raise ExportError(
                    f"The exported {plan.part} disagrees with the model: on a batch of {n}, {name!r} differs by "
                    f"{difference:g}. No file was written."
                )
            greatest = max(greatest, difference)
    return greatest


def _describe(names: Sequence[str], values: Sequence[Tensor]) -> list[dict[str, Any]]:
    return [
        {"name": name, "dtype": str(value.dtype).removeprefix("torch."), "shape": ["batch", *value.shape[1:]]}
        for name, value in zip(names, values, strict=True)
    ]


# --- the surroundings of an export


@contextlib.contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    """Create a folder that replaces `folder` at the end of the block, or is removed if the block fails."""
    if folder.exists() and not (folder / MANIFEST).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is not an earlier export. Choose another folder with --out.")
    # In an existing folder, so that a failure leaves no new parents.
    parent = next(path for path in folder.absolute().parents if path.exists())
    stage = parent / f".{folder.name}.{os.getpid()}"
    try:
        str(stage.absolute()).encode()
        stage.mkdir()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"The path {folder} is not UTF-8, which exporters need. Choose another folder with --out."
        ) from error
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be written: {error.strerror or error}. Choose another folder with --out."
        ) from error
    try:
        yield stage
        if folder.exists():
            shutil.rmtree(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        stage.replace(folder)
    except OSError as error:
        raise ExportError(f"{folder} cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warnings, logs and prints of torch's exporters; the result is compared with the model anyway."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _unvalidated() -> Iterator[None]:
    """Disable argument validation of distributions, which branches on values."""
    before = torch.distributions.Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


def _root(error: BaseException) -> BaseException:
    """The first error in a chain of causes."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
