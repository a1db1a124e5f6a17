"""TensorBoard: scalars, figures and hyper-parameters of every run, in ``RUN/tensorboard``.

Active where the package tensorboard is installed (``pip install 'vae-zoo[tensorboard]'``) and not disabled
(``ZOO_DISABLE_PLUGINS=tensorboard``).
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
    """Log a training."""
    if importlib.util.find_spec("tensorboard") is not None:
        from zoo_tensorboard.log import TensorBoardLog

        yield TensorBoardLog(run)
