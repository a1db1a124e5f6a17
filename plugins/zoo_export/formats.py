"""The file formats of an export, ONNX and torch.export: how each is written and loaded."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from zoo import UsageError
from zoo_export.plan import Plan, batched

Format = Literal["onnx", "torch"]


@dataclass(frozen=True)
class Writer:
    """A format.

    Attributes:
        suffix: of its files.
        write: writes a file, and returns fields for ``export.json``.
        load: loads a file as a function of tensors.
    """

    suffix: str
    write: Callable[[torch.export.ExportedProgram, Plan, Path], dict[str, Any]]
    load: Callable[[Path, Plan], Callable[..., Sequence[Tensor]]]


def writer_for(format: Format) -> Writer:
    """The writer of a format.

    Raises:
        UsageError: there is no such format, or a package is not installed.
    """
    if format not in get_args(Format):
        raise UsageError(f"There is no format {format!r}. Choose from: {', '.join(get_args(Format))}.")
    if format == "torch":
        return Writer(".pt2", _write_torch, _load_torch)
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(package)
        except ModuleNotFoundError as error:
            raise UsageError(
                f"The format onnx needs the package {error.name}: pip install 'vae-zoo[export]'. "
                "The format torch needs no further package."
            ) from error
    return Writer(".onnx", _write_onnx, _load_onnx)


def _write_torch(program: torch.export.ExportedProgram, plan: Plan, path: Path) -> dict[str, Any]:
    torch.export.save(program, path)
    return {}


def _load_torch(path: Path, plan: Plan) -> Callable[..., Sequence[Tensor]]:
    return torch.export.load(path).module()


def _write_onnx(program: torch.export.ExportedProgram, plan: Plan, path: Path) -> dict[str, Any]:
    program_onnx = torch.onnx.export(
        program,
        input_names=plan.names,
        output_names=plan.module.outputs,
        dynamic_shapes=batched(plan, "batch"),  # names the axis
        dynamo=True,
        verbose=False,
    )
    assert program_onnx is not None
    for node in program_onnx.model.graph:
        node.metadata_props.clear()  # stack traces, with local paths and a counter of exports
    program_onnx.save(path, external_data=False)
    return {"opset": program_onnx.model.opset_imports[""]}


def _load_onnx(path: Path, plan: Plan) -> Callable[..., Sequence[Tensor]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(*inputs: Tensor) -> list[Tensor]:
        arrays = {name: value.numpy() for name, value in zip(plan.names, inputs, strict=True)}
        return [torch.from_numpy(value) for value in session.run(None, arrays)]

    return run
