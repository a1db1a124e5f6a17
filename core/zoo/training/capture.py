"""Capture of a phase's update (forward, backward and optimizer) as a CUDA graph.

A small model spends most of its time on launching kernels, which a graph launches all at once. A graph is used only if
its first replays agree with eager steps from the same state. If a component cannot be captured (it synchronizes with
the host, or its shapes vary), or if the results differ, the training runs eagerly.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from zoo.model.batch import Batch
from zoo.model.loss import Terms

log = logging.getLogger("zoo")

Update = Callable[[Batch], Terms]
CHECKED_STEPS = 3


class Snapshot:
    """The values of tensors, which can be restored in place, so that a graph that reads the tensors stays valid.

    Args:
        tensors: parameters, buffers and the state of optimizers.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._tensors = list(tensors)
        self._values = [tensor.detach().clone() for tensor in self._tensors]

    @torch.no_grad()
    def restore(self) -> None:
        """Restore the values."""
        for tensor, value in zip(self._tensors, self._values, strict=True):
            tensor.copy_(value)

    def values(self) -> list[Tensor]:
        """The current values of the tensors."""
        return [tensor.detach().clone() for tensor in self._tensors]


class CapturedUpdate:
    """An update as a CUDA graph, for batches of one shape.

    Args:
        update: takes a batch, updates the parameters and returns its terms.
        batch: a batch of that shape.
    """

    def __init__(self, update: Update, batch: Batch) -> None:
        self._batch = batch.map(Tensor.clone)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._terms = update(self._batch)

    def fits(self, batch: Batch) -> bool:
        """Whether the batch has the captured shape."""
        return batch.x.shape == self._batch.x.shape

    def __call__(self, batch: Batch) -> Terms:
        """Replay the update on another batch."""
        for static, value in zip(self._batch, batch, strict=True):
            if static is not None and value is not None:
                static.copy_(value)
        self._graph.replay()
        return {name: value.clone() for name, value in self._terms.items()}


def capture(
    update: Update, batches: Sequence[Batch], tensors: Iterable[Tensor], seed: Callable[[int], None]
) -> CapturedUpdate | None:
    """Capture an update and compare it with the eager one. Every tensor is restored.

    Args:
        update: see `CapturedUpdate`.
        batches: batches of one shape for the comparison.
        tensors: all tensors that the update changes.
        seed: seeds the draws of the i-th step of the comparison.

    Returns:
        The graph; or None, with the reason logged, if the update cannot be captured or the results differ.
    """
    snapshot = Snapshot(tensors)
    try:
        eager = _values_after(update, batches, snapshot, seed, side_stream=True)
        captured = CapturedUpdate(update, batches[0])
        replayed = _values_after(captured, batches, snapshot, seed)
    except Exception as error:  # a component may do anything that a graph does not support
        torch.cuda.synchronize()
        snapshot.restore()
        log.info("The step is not captured as a CUDA graph and runs eagerly: %s", str(error).splitlines()[0])
        return None
    if not agree(eager, replayed):
        log.warning("The captured step differs from the eager one, so the eager one is used.")
        return None
    return captured


def agree(expected: Sequence[Tensor], actual: Sequence[Tensor]) -> bool:
    """Whether two lists of tensors are equal up to the order of summation."""
    return all(
        torch.allclose(a.float(), b.float(), rtol=1e-3, atol=1e-5, equal_nan=False)
        for a, b in zip(expected, actual, strict=True)
    )


def _values_after(
    update: Update,
    batches: Sequence[Batch],
    snapshot: Snapshot,
    seed: Callable[[int], None],
    side_stream: bool = False,
) -> list[Tensor]:
    """The values of the tensors after a step on each batch. The steps before a capture must run on a side stream."""
    stream = torch.cuda.Stream() if side_stream else torch.cuda.current_stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for number, batch in enumerate(batches):
            seed(number)
            update(batch)
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    values = snapshot.values()
    snapshot.restore()
    return values
