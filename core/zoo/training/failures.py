"""Failures of a training: numbers that are not finite, and errors of components."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from zoo.errors import TrainingError, ZooError, error_summary
from zoo.storage.checkpoints import Checkpoints

GRADIENT_NORM = "gradient_norm"
ADVICE = "Try a smaller train.optimizer.lr, train.max_grad_norm=1, train.warmup_steps=500 or another likelihood."


@contextlib.contextmanager
def as_training_error(title: str) -> Iterator[None]:
    """Convert any error inside the block to a `TrainingError`.

    Args:
        title: what fails, at the start of the message.
    """
    try:
        yield
    except ZooError:
        raise
    except Exception as error:
        raise TrainingError(f"{title} failed: {error_summary(error)}") from error


def not_finite(name: str, value: float) -> TrainingError:
    """The error for a term that is NaN or infinite."""
    title = "The norm of the gradient" if name.endswith(GRADIENT_NORM) else f"The term {name!r}"
    return TrainingError(f"{title} became {value}. {ADVICE}")


def require_finite_parameters(*modules: nn.Module) -> None:
    """Raise an error if a parameter is not finite. An update can overflow even if every gradient is finite.

    Raises:
        TrainingError: the message names the parameter.
    """
    for module in modules:
        for name, parameter in module.named_parameters():
            if parameter.requires_grad and not torch.isfinite(parameter).all():
                raise TrainingError(f"The parameter {name!r} is no longer finite. {ADVICE}")


def require_folder(checkpoints: Checkpoints | None, step: int) -> None:
    """Raise an error if the folder of the run was removed, and the earlier checkpoints with it.

    Raises:
        TrainingError: it was removed.
    """
    if checkpoints is not None and not checkpoints.folder.parent.is_dir():
        raise TrainingError(
            f"The folder {checkpoints.folder.parent} was removed during the training, and its checkpoints with it. "
            f"The training ends after step {step}; nothing is saved."
        )
