"""Completed data: imputed with the model of a run, and written in the format of the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch
from torch import Tensor

from zoo import Column, Run, RunError, Split, UsageError, atomic_write, observed_entries, resolve_device
from zoo_missing.imputation import Imputation, impute

ARRAYS, TABLES = (".npy", ".npz", ".pt"), (".csv", ".tsv", ".parquet")
FEW = 10
"""Effective samples below which an imputation is unreliable."""


def check_target(path: Path, table: bool, force: bool) -> None:
    """Check that a result can be written to `path`, before the work.

    Raises:
        UsageError: the file type is unknown or does not suit the data, or the file exists and `force` is false.
    """
    endings = (*ARRAYS, *TABLES) if table else ARRAYS
    if path.suffix.lower() not in endings:
        what = "a table" if table else "data without columns"
        raise UsageError(f"--out {path}: expected a file of type {', '.join(endings)} for {what}.")
    if path.exists() and not force:
        raise UsageError(f"--out {path}: the file exists. Choose another name, or overwrite it with --force.")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--out {path}: there is no folder {path.absolute().parent}.")


def impute_split(
    run: Run,
    split: Split,
    samples: int = 1000,
    draws: int = 0,
    *,
    seed: int = 0,
    prior: Literal["fitted", "original"] | str = "fitted",
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Imputation:
    """Impute a split with the model of a run.

    Args:
        run: the run.
        split: data that `Run.read` returned.
        samples, draws, seed, progress: as in `zoo_missing.impute`.
        prior, device: as in `zoo.load` and `zoo.train`.

    Returns:
        The imputation, like `split.x`: uint8 data are rounded to their 256 levels.

    Raises:
        UsageError: the model needs labels, and the data have none.
        ComponentError: see `zoo_missing.impute`.
    """
    vae = run.load(prior=prior).to(resolve_device(device))  # type: ignore[arg-type]
    if vae.classes and split.labels is None:
        raise UsageError(f"{run} is conditional on labels, and the data have none.")
    levels = 255 if split.x.dtype == torch.uint8 else 1
    x = split.x.float() / levels
    mask = observed_entries(split.x, split.mask)
    columns = run.columns if x.ndim == 2 and len(run.columns) == x.shape[1] else ()
    imputation = impute(
        vae,
        x,
        mask,
        samples,
        draws,
        condition=split.labels if vae.classes else None,
        categories=[len(column.categories) for column in columns],
        seed=seed,
        progress=progress,
    )
    if levels == 1:
        return imputation

    def rounded(values: Tensor) -> Tensor:
        return torch.where(mask, split.x, (values * levels).round().clamp(0, levels).to(torch.uint8))

    return replace(imputation, single=rounded(imputation.single), multiple=rounded(imputation.multiple))


def summary(imputation: Imputation, split: Split) -> dict[str, Any]:
    """Count entries and examples, and describe the effective sample sizes."""
    mask = observed_entries(split.x, split.mask)
    sizes = imputation.effective_samples[~imputation.effective_samples.isnan()]
    effective = {"median": sizes.median().item(), "least": sizes.min().item()} if len(sizes) else None
    return {
        "examples": len(split),
        "entries": mask.numel(),
        "missing": int((~mask).sum()),
        "incomplete": len(sizes),
        "empty": int((~mask.flatten(1).any(1)).sum()),
        "effective_samples": effective,
        "few": FEW,
        "unreliable": int((sizes < FEW).sum()),
    }


def write(
    path: Path,
    imputation: Imputation,
    split: Split,
    columns: tuple[Column, ...],
    data: object,
    multiple: bool,
    separator: str | None = None,
) -> None:
    """Write an imputation.

    Args:
        path: the file, whose ending selects the format.
        imputation: the imputation of `split`.
        split: the data.
        columns: those of the run.
        data: where the data were read from; their observed values are written in their precision.
        multiple: write the draws instead of the single imputation.
        separator: between the fields of a CSV file, if it is not inferred.

    Raises:
        RunError: the file cannot be written.
    """
    x = imputation.multiple if multiple else imputation.single
    try:
        with atomic_write(path) as file:
            if path.suffix.lower() in TABLES:
                mask = observed_entries(split.x, split.mask)
                _write_table(file, path.suffix.lower(), x, columns, data, mask, separator)
                return
            array = _in_precision_of(data, x.numpy(), split)
            if path.suffix.lower() == ".npy":
                np.save(file, array)
            elif path.suffix.lower() == ".npz":
                np.savez(file, x=array, mask=observed_entries(split.x, split.mask).numpy())
            else:
                torch.save(torch.from_numpy(array), file)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror or error}") from error


def _in_precision_of(data: object, x: np.ndarray[Any, Any], split: Split) -> np.ndarray[Any, Any]:
    """The imputed array, with observed values in the dtype of a .npy file that has the shape of the data."""
    if not (isinstance(data, str | Path) and Path(data).suffix.lower() == ".npy" and Path(data).is_file()):
        return x
    original = np.load(data, mmap_mode="r", allow_pickle=False)
    if original.shape != tuple(split.x.shape) or original.dtype.kind != "f" or split.x.dtype == torch.uint8:
        return x
    return np.where(np.isnan(original), x, original).astype(original.dtype)


def _write_table(
    file: IO[bytes],
    ending: str,
    x: Tensor,
    columns: tuple[Column, ...],
    data: object,
    mask: Tensor,
    separator: str | None,
) -> None:
    """Write completed rows (N, D), or several completions (M, N, D) below each other, as a table."""
    from zoo_tables.frames import to_frame  # needs pandas
    from zoo_tables.writing import stacked, with_text_dates, write_completed, write_frame

    several = x.ndim == 3
    completions = [*x] if several else [x]
    if isinstance(data, str | Path) and Path(data).suffix.lower() in TABLES and Path(data).is_file():
        write_completed(file, ending, completions, columns, Path(data), mask, separator, several)
        return
    tables = [with_text_dates(to_frame(rows, columns), columns) for rows in completions]
    write_frame(stacked(tables, several), file, ending)
