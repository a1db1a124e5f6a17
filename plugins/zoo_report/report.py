"""Reports of runs and sweeps as one HTML file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo import Run, RunError, UsageError, atomic_write, flushed_denormals, resolve_device
from zoo_report.page import Gallery, Page
from zoo_report.run_page import Measuring, RunPage
from zoo_report.sections import Attempts
from zoo_report.sweep_page import SweepPage
from zoo_sweep.folder import is_sweep
from zoo_sweep.sweep import Sweep

NAME = "report.html"


@dataclass(frozen=True)
class Report:
    """A report file.

    Attributes:
        path: the HTML file.
        source: the run or the sweep.
        figures: the titles of its figures.
        left_out: the parts that are missing, and why. The page lists them too.
    """

    path: Path
    source: Run | Sweep
    figures: Sequence[str]
    left_out: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """The output of ``zoo report --json``."""
        return {
            "sweep" if isinstance(self.source, Sweep) else "run": str(
                self.source.path if isinstance(self.source, Sweep) else self.source
            ),
            "model": self.source.recipe.name,
            "report": str(self.path),
            "bytes": self.path.stat().st_size,
            "figures": list(self.figures),
            "left_out": dict(self.left_out),
        }


def report(
    source: str | Path | Run | Sweep,
    out: Path | str | None = None,
    *,
    metrics: bool = True,
    samples: int | None = None,
    limit: int | None = None,
    data_dir: Path | str | None = None,
    device: str = "auto",
    announce: Callable[[str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Write a report of a run or sweep as one HTML file, which loads no other file and has no script.

    Parts that fail, for example because the data are not available, are left out, and the page lists the reasons.

    Args:
        source: a run folder; the folder of a model, for its newest run; or a sweep.
        out: the file; by default ``report.html`` in the folder. An earlier report is replaced.
        metrics: include the metrics of `zoo.evaluate`.
        samples: also estimate the log-likelihood, with this many importance samples per image. This is slow.
        limit: measure only the first `limit` test images.
        data_dir, device, announce, progress: as in `zoo.evaluate`.

    Raises:
        RunError: there is no such run, it has no finished epoch, or the file cannot be written.
        UsageError: `samples` or `limit` is set for a sweep, the model has no log-likelihood, or the device is unknown.
    """
    target = resolve_device(device)
    run_or_sweep = _open(source)
    root = None if data_dir is None else Path(data_dir)
    attempts = Attempts()
    with flushed_denormals():
        if isinstance(run_or_sweep, Sweep):
            if samples is not None or limit is not None:
                raise UsageError(
                    "The report of a sweep has no metrics. For metrics, write the report of one of its runs."
                )
            page = SweepPage(run_or_sweep, root, attempts).page()
        else:
            measuring = Measuring(metrics, samples, limit, announce, progress)
            page = RunPage(run_or_sweep, root, target, measuring, attempts).page()
    if out is None:
        out = (run_or_sweep.path if isinstance(run_or_sweep, Sweep) else run_or_sweep.output) / NAME
    path = _write(page, Path(out))
    pictures = [
        p for section in page.sections for part in section.parts if isinstance(part, Gallery) for p in part.pictures
    ]
    return Report(path, run_or_sweep, [picture.title for picture in pictures], attempts.left_out)


def _open(source: str | Path | Run | Sweep) -> Run | Sweep:
    if isinstance(source, Run | Sweep):
        return source
    return Sweep.open(source) if is_sweep(source) else Run.open(source)


def _write(page: Page, path: Path) -> Path:
    """Write the page atomically."""
    try:
        with atomic_write(path) as file:
            file.write(page.to_html().encode())
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror or error}") from error
    return path
