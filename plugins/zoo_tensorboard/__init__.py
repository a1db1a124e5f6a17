"""TensorBoard: scalars, figures and hyper-parameters of every run, in ``RUN/tensorboard``.

At work where the package tensorboard is installed (``pip install 'vae-zoo[tensorboard]'``) and not disabled
(``ZOO_DISABLE_PLUGINS=tensorboard``).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from zoo import hookimpl

if TYPE_CHECKING:
    from zoo import Epoch, Run
    from zoo_tensorboard.log import Log

_logs: dict[Path, Log] = {}


@hookimpl
def zoo_run_started(run: Run) -> None:
    """Open the log of a run."""
    if importlib.util.find_spec("tensorboard") is not None:
        from zoo_tensorboard.log import Log

        _logs[run.path] = Log(run)


@hookimpl
def zoo_epoch_ended(run: Run, epoch: Epoch) -> None:
    """Log the terms of an epoch. A log that cannot be written is given up, so that the failure is reported once."""
    if run.path in _logs:
        log = _logs.pop(run.path)
        log.epoch(epoch)
        _logs[run.path] = log


@hookimpl
def zoo_run_ended(run: Run, finished: bool) -> None:
    """Log the figures and the hyper-parameters, and close."""
    if run.path in _logs:
        _logs.pop(run.path).close(finished)
