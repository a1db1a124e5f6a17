"""Encoder and decoder as files that run without the zoo, each compared with the model's own output when written."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import logging
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

import zoo
from zoo import VAE, ExportError, UsageError, atomic_write, evaluating, seeded, to_json
from zoo_export.codes import parameter, parameters, unwrapped

Format = Literal["onnx", "torch"]
Part = Literal["encoder", "decoder"]
Tensors = tuple[Tensor, ...]

PARTS: tuple[Part, ...] = ("encoder", "decoder")
MANIFEST = "export.json"

TRACED = 3
"""Images in the batch that is traced. A batch of one would be taken for a constant."""
CHECKED = (1, 5)
"""Sizes of the batches that are compared."""
TOLERANCE = 1e-4
"""The greatest difference allowed, relative to the greatest value of an output, or to one if all are smaller."""


def export(
    run: str | Path | zoo.Run,
    format: Format = "onnx",
    out: Path | str | None = None,
    *,
    parts: Sequence[Part] = PARTS,
) -> Path:
    """Write the encoder and the decoder of a run for use without the zoo: what ``zoo export`` does.

    Args:
        run: as in `load`.
        format: ``onnx``, or ``torch`` for what `torch.export.load` reads.
        out: the folder; by default ``export-onnx`` or ``export-torch`` in the run. An earlier export is replaced.
        parts: one of them or both.

    Returns:
        The folder. Its ``export.json`` describes inputs and outputs, and how far they are from the model's own.

    Raises:
        UsageError: there is no such run or format, the folder cannot be written, or the extra ``export`` is missing.
        ExportError: the model cannot be exported, or what was written does not agree with it.
    """
    run = run if isinstance(run, zoo.Run) else zoo.Run.open(run)
    folder = run.output / f"export-{format}" if out is None else Path(out)
    vae = run.load()
    about = {
        "model": run.recipe.name,
        "data": run.data_name,
        "binarize": run.recipe.binarize,
    }
    export_model(vae, run.data_shape, folder, format, parts=parts, classes=run.classes, about=about)
    return folder


def export_model(
    vae: VAE,
    data_shape: tuple[int, ...],
    folder: Path,
    format: Format,
    *,
    parts: Sequence[Part] = PARTS,
    classes: int = 0,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write a model's encoder and decoder, for batches of any size, and an ``export.json`` that describes them.

    What was written is loaded and compared with the model's own output. The folder appears when everything agrees, and
    not at all otherwise; it takes the place of an earlier export.

    Args:
        vae: on the CPU.
        data_shape: (C, H, W).
        folder: a new one, an empty one, or an earlier export.
        format: ``onnx``, or ``torch`` for what `torch.export.load` reads.
        parts: one or both.
        classes: the number of labels in the data, 0 where they have none.
        about: what else ``export.json`` shall say.

    Raises:
        UsageError: the folder holds something else or cannot be written, or a package is not installed.
        ExportError: a part cannot be exported, or its file does not agree with the model.
    """
    from safetensors.torch import save

    writer = _writer(format)
    with _staged(folder) as stage, evaluating(vae), torch.no_grad():
        described = {part: _export(_plan(vae, part, data_shape, classes), writer, stage) for part in parts}
        manifest = {
            **(about or {}),
            "format": format,
            "torch": torch.__version__,
            "weights_sha256": hashlib.sha256(save(vae.state_dict())).hexdigest(),
            "checked": {"batch_sizes": CHECKED, "tolerance": TOLERANCE},
            "parts": described,
        }
        with atomic_write(stage / MANIFEST) as file:
            file.write(to_json(manifest).encode())


class Parametrised(nn.Module):
    """An encoder or decoder as a function from tensors to tensors: the parameters of what it returns.

    Args:
        part: the encoder or the decoder.
        outputs: the names of the parameters, in order.
    """

    def __init__(self, part: nn.Module, outputs: Sequence[str]) -> None:
        super().__init__()
        self.part = part
        self.outputs = tuple(outputs)

    def forward(self, *inputs: Tensor) -> Tensors:
        """``x`` or ``z``, and labels for a part that uses them, to the parameters of each example."""
        distribution = self.part(*inputs)
        return tuple(parameter(distribution, name) for name in self.outputs)


@dataclass(frozen=True)
class _Plan:
    """What is exported of one part.

    Attributes:
        module: the function.
        names: of its inputs.
        inputs: examples of them, by size of the batch.
    """

    part: Part
    module: Parametrised
    names: tuple[str, ...]
    inputs: Mapping[int, Tensors]


def _plan(vae: VAE, part: Part, data_shape: tuple[int, ...], classes: int) -> _Plan:
    module: nn.Module = vae.encoder if part == "encoder" else vae.decoder
    names: tuple[str, ...] = ("x" if part == "encoder" else "z", "condition")
    try:
        inputs = {n: _inputs(vae, part, data_shape, classes, n) for n in (TRACED, *CHECKED)}
        if not classes or not _uses_labels(module, *inputs[TRACED]):
            names = names[:1]
            inputs = {n: given[:1] for n, given in inputs.items()}
        distribution = module(*inputs[TRACED])
    except Exception as error:
        raise ExportError(f"The {part} fails on random images: {_brief(error)}") from error
    outputs = list(parameters(distribution))
    if "mean" not in outputs:
        what = type(unwrapped(distribution)).__name__
        raise ExportError(
            f"The {part} cannot be exported: the {what} that it returns has no mean in closed form, so no tensor can "
            "stand for it."
        )
    return _Plan(part, Parametrised(module, outputs), names, inputs)


def _inputs(vae: VAE, part: Part, data_shape: tuple[int, ...], classes: int, n: int) -> Tensors:
    """Random images, or draws of their posteriors: on a sphere or inside a ball no other points will do. And labels."""
    with seeded(n):
        x, labels = torch.rand(n, *data_shape), torch.arange(n) % (classes or 1)
        return x if part == "encoder" else vae.encode(x, labels if classes else None).sample(), labels


def _uses_labels(module: nn.Module, value: Tensor, labels: Tensor) -> bool:
    """Whether a part gives something else, or fails, when it is not told the labels."""
    told = parameters(module(value, labels))
    try:
        untold = parameters(module(value))
    except Exception:
        return True
    return any(not torch.equal(told[name], untold[name]) for name in told)


def _export(plan: _Plan, writer: _Writer, folder: Path) -> dict[str, Any]:
    """Write one part, compare it, and describe it."""
    path = folder / f"{plan.part}{writer.suffix}"
    try:
        with _quiet(), _unvalidated():
            program = torch.export.export(
                plan.module,
                plan.inputs[TRACED],
                dynamic_shapes=_batched(plan, torch.export.Dim("batch")),
                strict=False,  # the default of newer versions of torch
            )
            extra = writer.write(program, plan, path)
    except OSError:
        raise
    except Exception as error:
        raise ExportError(
            f"The {plan.part} cannot be exported: its `forward` does what no graph can hold, such as a decision that "
            f"depends on values or on the size of the batch. {_brief(_root(error))}"
        ) from error
    return {
        "file": path.name,
        "inputs": _described(plan.names, plan.inputs[TRACED]),
        "outputs": _described(plan.module.outputs, plan.module(*plan.inputs[TRACED])),
        **extra,
        "greatest_difference": _greatest_difference(plan, writer.load(path, plan)),
    }


def _batched(plan: _Plan, size: object) -> tuple[tuple[dict[int, object], ...]]:
    """The first axis of every input as dynamic. Nested, since `Parametrised.forward` has one variadic argument."""
    return (tuple({0: size} for _ in plan.names),)


def _greatest_difference(plan: _Plan, exported: Callable[..., Sequence[Tensor]]) -> float:
    """Between the model and what was written, over all outputs and sizes of the batch.

    Raises:
        ExportError: it is greater than allowed.
    """
    greatest = 0.0
    for n in CHECKED:
        try:
            found = exported(*plan.inputs[n])
        except Exception as error:
            raise ExportError(f"The exported {plan.part} fails on a batch of {n}: {_brief(error)}") from error
        for name, value, expected in zip(plan.module.outputs, found, plan.module(*plan.inputs[n]), strict=True):
            same = value.shape == expected.shape
            difference = (value.double() - expected.double()).abs().max().item() if same else math.inf
            # Written so that a NaN does not pass.
            if not difference <= TOLERANCE * max(1.0, expected.abs().max().item()):
                raise ExportError(
                    f"The exported {plan.part} does not agree with the model: on a batch of {n}, {name!r} differs by "
                    f"{difference:g}. Nothing was written."
                )
            greatest = max(greatest, difference)
    return greatest


def _described(names: Sequence[str], values: Sequence[Tensor]) -> list[dict[str, Any]]:
    return [
        {"name": name, "dtype": str(value.dtype).removeprefix("torch."), "shape": ["batch", *value.shape[1:]]}
        for name, value in zip(names, values, strict=True)
    ]


# --- the formats


@dataclass(frozen=True)
class _Writer:
    """How a format is written, with what there is to say of the file, and loaded again as a function of tensors."""

    suffix: str
    write: Callable[[torch.export.ExportedProgram, _Plan, Path], dict[str, Any]]
    load: Callable[[Path, _Plan], Callable[..., Sequence[Tensor]]]


def _writer(format: Format) -> _Writer:
    if format not in get_args(Format):
        raise UsageError(f"There is no format {format!r}. There are: {', '.join(get_args(Format))}.")
    if format == "torch":
        return _Writer(".pt2", _write_torch, _load_torch)
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(package)
        except ModuleNotFoundError as error:
            raise UsageError(
                f"The format onnx needs the package {error.name}: pip install 'vae-zoo[export]'. "
                "The format torch needs nothing more."
            ) from error
    return _Writer(".onnx", _write_onnx, _load_onnx)


def _write_torch(program: torch.export.ExportedProgram, plan: _Plan, path: Path) -> dict[str, Any]:
    torch.export.save(program, path)
    return {}


def _load_torch(path: Path, plan: _Plan) -> Callable[..., Sequence[Tensor]]:
    return torch.export.load(path).module()


def _write_onnx(program: torch.export.ExportedProgram, plan: _Plan, path: Path) -> dict[str, Any]:
    written = torch.onnx.export(
        program,
        input_names=plan.names,
        output_names=plan.module.outputs,
        dynamic_shapes=_batched(plan, "batch"),  # for the name of the axis
        dynamo=True,
        verbose=False,
    )
    assert written is not None
    for node in written.model.graph:
        node.metadata_props.clear()  # stack traces: paths of this machine, and numbers that count the exports
    written.save(path, external_data=False)
    return {"opset": written.model.opset_imports[""]}


def _load_onnx(path: Path, plan: _Plan) -> Callable[..., Sequence[Tensor]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(*inputs: Tensor) -> list[Tensor]:
        given = {name: value.numpy() for name, value in zip(plan.names, inputs, strict=True)}
        return [torch.from_numpy(value) for value in session.run(None, given)]

    return run


# --- what goes on around it


@contextlib.contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` that takes its place at the end of the block, and is gone if the block fails."""
    if folder.exists() and not (folder / MANIFEST).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is no earlier export. Choose another with --out.")
    # In a folder that is there already, so that a failure leaves no parents behind.
    parent = next(path for path in folder.absolute().parents if path.exists())
    stage = parent / f".{folder.name}.{os.getpid()}"
    try:
        str(stage.absolute()).encode()
        stage.mkdir()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{folder} is a path that is not UTF-8, which no exporter can write to. Choose another with --out."
        ) from error
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be written: {error.strerror or error}. Choose another with --out."
        ) from error
    try:
        yield stage
        if folder.exists():
            shutil.rmtree(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        stage.replace(folder)
    except OSError as error:
        raise ExportError(f"{folder} could not be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing of what torch's exporters warn, log and print: what matters is whether the result agrees."""
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
    """No distribution checks its arguments: a check is a decision that depends on values."""
    before = torch.distributions.Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


def _root(error: BaseException) -> BaseException:
    """What an error was raised from in the first place."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _brief(error: BaseException) -> str:
    """The kind of an error and the first line of its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ": ".join([type(error).__name__, *lines[:1]])
