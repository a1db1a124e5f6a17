"""TensorBoard: scalars, figures and hyperparameters of every run, in ``RUN/tensorboard``.

Active if the package tensorboard is installed (``pip install 'vae-zoo[tensorboard]'``). Set
``ZOO_DISABLE_PLUGINS=tensorboard`` to disable it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import TYPE_CHECKING

from zoo import hookimpl

if TYPE_CHECKING:
    from zoo import Callback, Run


@hookimpl
def zoo_callbacks(run: Run) -> Iterable[Callback]:
    """Yield the callback that writes the log, if tensorboard is installed."""
    if importlib.util.find_spec("tensorboard") is not None:
        from zoo_tensorboard.log import TensorBoardLog

        yield TensorBoardLog(run)
