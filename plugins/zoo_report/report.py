"""Reports: a run or a sweep as one HTML page that opens anywhere."""

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
    """A report that was written.

    Attributes:
        path: the HTML file.
        of: the run or the sweep.
        figures: the titles of those that are in it.
        left_out: what could not be had, and why. The page says it too.
    """

    path: Path
    of: Run | Sweep
    figures: Sequence[str]
    left_out: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """What ``zoo report --json`` prints."""
        return {
            "sweep" if isinstance(self.of, Sweep) else "run": str(
                self.of.path if isinstance(self.of, Sweep) else self.of
            ),
            "model": self.of.recipe.name,
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
    """Write what there is to know of a run, or of a sweep, into one HTML file that loads nothing and has no script.

    What cannot be had, since the data are not here or the model does not have it, is left out, and the page says why.

    Args:
        source: a run folder, the folder of a model's runs, whose newest is meant, or a sweep.
        out: the file; by default ``report.html`` in the folder. An earlier one is replaced.
        metrics: measure the model as `zoo.evaluate` does.
        samples: estimate the log-likelihood too, with so many importance samples for each image. Takes long.
        limit: measure so many test images only, the first ones. The numbers are those of `zoo.evaluate`.
        data_dir, device, announce, progress: as in `zoo.evaluate`.

    Raises:
        RunError: there is no such run, none of its epochs ended, or the file cannot be written.
        UsageError: metrics are asked for of a sweep, the log-likelihood of a model that has none, or there is no such
            device.
    """
    target = resolve_device(device)
    opened = _open(source)
    root = None if data_dir is None else Path(data_dir)
    attempts = Attempts()
    with flushed_denormals():
        if isinstance(opened, Sweep):
            if samples is not None or limit is not None:
                raise UsageError("The report of a sweep has no metrics: ask for them of one of its runs.")
            page = SweepPage(opened, root, attempts).page()
        else:
            measuring = Measuring(metrics, samples, limit, announce, progress)
            page = RunPage(opened, root, target, measuring, attempts).page()
    if out is None:
        out = (opened.path if isinstance(opened, Sweep) else opened.output) / NAME
    path = _write(page, Path(out))
    pictures = [
        p for section in page.sections for part in section.parts if isinstance(part, Gallery) for p in part.pictures
    ]
    return Report(path, opened, [picture.title for picture in pictures], attempts.left_out)


def _open(source: str | Path | Run | Sweep) -> Run | Sweep:
    if isinstance(source, Run | Sweep):
        return source
    return Sweep.open(source) if is_sweep(source) else Run.open(source)


def _write(page: Page, path: Path) -> Path:
    """Write the page into its file."""
    try:
        with atomic_write(path) as file:
            file.write(page.to_html().encode())
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror or error}") from error
    return path
