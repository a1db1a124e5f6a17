"""A phase's whole update, forward, backward and optimiser, recorded once as a CUDA graph and replayed.

A small model spends most of its time on telling the device what to do next; a graph says it once. Nothing is believed
unseen: the first replays are compared with the same steps taken eagerly from the same state, and where a component
cannot be captured (it makes the host wait, its shapes vary) or the numbers differ, training goes on eagerly.
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
    """The values of tensors, and the way back to them in place, so that a graph that reads them stays good.

    Args:
        tensors: parameters, buffers and the state of optimisers.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._tensors = list(tensors)
        self._values = [tensor.detach().clone() for tensor in self._tensors]

    @torch.no_grad()
    def restore(self) -> None:
        """Put the values back."""
        for tensor, value in zip(self._tensors, self._values, strict=True):
            tensor.copy_(value)

    def values(self) -> list[Tensor]:
        """What the tensors hold now."""
        return [tensor.detach().clone() for tensor in self._tensors]


class CapturedUpdate:
    """An update as a graph, for batches of one shape.

    Args:
        update: what to capture; takes a batch, leaves the parameters moved, returns its terms.
        batch: one of the shape that is meant.
    """

    def __init__(self, update: Update, batch: Batch) -> None:
        self._batch = batch.map(Tensor.clone)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._terms = update(self._batch)

    def fits(self, batch: Batch) -> bool:
        """Whether the batch has the shape that was captured."""
        return batch.x.shape == self._batch.x.shape

    def __call__(self, batch: Batch) -> Terms:
        """Replay the update on another batch."""
        for static, given in zip(self._batch, batch, strict=True):
            if static is not None and given is not None:
                static.copy_(given)
        self._graph.replay()
        return {name: value.clone() for name, value in self._terms.items()}


def capture(
    update: Update, batches: Sequence[Batch], tensors: Iterable[Tensor], seed: Callable[[int], None]
) -> CapturedUpdate | None:
    """Capture an update and check it, leaving every tensor as it was.

    Args:
        update: see `CapturedUpdate`.
        batches: a few of one shape, to check with.
        tensors: everything that the update changes.
        seed: seeds the draws of the i-th checked step.

    Returns:
        The graph; or None, with the reason logged, where it cannot be had or does not agree.
    """
    snapshot = Snapshot(tensors)
    try:
        expected = _after(update, batches, snapshot, seed, on_side=True)
        captured = CapturedUpdate(update, batches[0])
        found = _after(captured, batches, snapshot, seed)
    except Exception as error:  # whatever a component does that a graph cannot hold
        torch.cuda.synchronize()
        snapshot.restore()
        log.info("The step is not captured as a CUDA graph and runs eagerly: %s", str(error).splitlines()[0])
        return None
    if not agree(expected, found):
        log.warning("The captured step differs from the eager one, so the eager one is used.")
        return None
    return captured


def agree(expected: Sequence[Tensor], found: Sequence[Tensor]) -> bool:
    """Whether two lists of tensors are equal up to the order of summation."""
    return all(
        torch.allclose(a.float(), b.float(), rtol=1e-3, atol=1e-5, equal_nan=False)
        for a, b in zip(expected, found, strict=True)
    )


def _after(
    update: Update,
    batches: Sequence[Batch],
    snapshot: Snapshot,
    seed: Callable[[int], None],
    on_side: bool = False,
) -> list[Tensor]:
    """What the tensors hold after a step on each batch. A capture wants its first steps on another stream."""
    stream = torch.cuda.Stream() if on_side else torch.cuda.current_stream()  # type: ignore[no-untyped-call]
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
