"""Capture of a phase's update (forward, backward and optimizer) as a CUDA graph.

A small model spends most of its time on launching kernels, which a graph launches all at once. A graph is used only if
its first replays agree with eager steps from the same state. If a component cannot be captured (it synchronizes with
the host, its shapes vary, or it counts steps in an attribute that is no tensor), or if the results differ, the training
runs eagerly.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.model.batch import Batch
from zoo.model.loss import Terms

log = logging.getLogger("zoo")

Update = Callable[[Batch], Terms]
CHECKED_STEPS = 3


class NotCapturable(Exception):
    """An update cannot be captured; the message is the reason."""


class Snapshot:
    """The values of tensors, which can be restored in place, so that a graph that reads the tensors stays valid.

    Args:
        tensors: parameters, buffers and the state of optimizers.
        modules: modules whose attributes that are numbers are restored as well.
    """

    def __init__(self, tensors: Iterable[Tensor], modules: Iterable[nn.Module] = ()) -> None:
        self._tensors = list(tensors)
        self._values = [tensor.detach().clone() for tensor in self._tensors]
        self._numbers = {module: _numbers(module) for module in modules}

    @torch.no_grad()
    def restore(self) -> None:
        """Restore the values."""
        for tensor, value in zip(self._tensors, self._values, strict=True):
            tensor.copy_(value)
        for module, numbers in self._numbers.items():
            vars(module).update(numbers)

    def require_constant_numbers(self) -> None:
        """Check the attributes that are numbers: a graph would not update them, nor read their new values.

        Raises:
            NotCapturable: one of them has changed.
        """
        for module, numbers in self._numbers.items():
            if changed := [name for name, value in _numbers(module).items() if numbers.get(name) != value]:
                raise NotCapturable(f"{type(module).__name__}.{changed[0]} changes from step to step and is no tensor")

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
    update: Update,
    batches: Sequence[Batch],
    tensors: Iterable[Tensor],
    seed: Callable[[int], None],
    modules: Iterable[nn.Module] = (),
) -> CapturedUpdate | None:
    """Capture an update and compare it with the eager one. Every tensor is restored.

    Args:
        update: see `CapturedUpdate`.
        batches: batches of one shape for the comparison.
        tensors: all tensors that the update changes.
        seed: seeds the draws of the i-th step of the comparison.
        modules: the modules that the update uses.

    Returns:
        The graph; or None, with the reason logged, if the update cannot be captured or the results differ.
    """
    snapshot = Snapshot(tensors, modules)
    try:
        eager = _values_after(update, batches, snapshot, seed, before_capture=True)
        _rehearse(update, batches[0])
        captured = CapturedUpdate(update, batches[0])
        replayed = _values_after(captured, batches, snapshot, seed)
    except Exception as error:  # a component may do anything that a graph does not support
        torch.cuda.synchronize()
        snapshot.restore()
        log.info("The step is not captured as a CUDA graph and runs eagerly: %s", _reason(error))
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
    before_capture: bool = False,
) -> list[Tensor]:
    """The values of the tensors after a step on each batch.

    The steps before a capture must run on a side stream, and may not synchronize with the host.
    """
    stream = torch.cuda.Stream() if before_capture else torch.cuda.current_stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), _without_synchronization() if before_capture else contextlib.nullcontext():
        for number, batch in enumerate(batches):
            seed(number)
            update(batch)
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    snapshot.require_constant_numbers()
    values = snapshot.values()
    snapshot.restore()
    return values


@contextlib.contextmanager
def _without_synchronization() -> Iterator[None]:
    """Operations that synchronize with the host raise an error inside the block; in a capture they would abort it."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _rehearse(update: Update, batch: Batch) -> None:
    """Capture an update with a copy of the state of the default generator: an aborted capture makes the state unusable.

    The graphs of several phases share the state, so it cannot be replaced afterwards.
    """
    generator: Any = torch.cuda.default_generators[torch.cuda.current_device()]
    state = generator.graphsafe_get_state()
    generator.graphsafe_set_state(generator.clone_state())
    try:
        CapturedUpdate(update, batch)
    finally:
        generator.graphsafe_set_state(state)


def _reason(error: BaseException) -> str:
    """The first line of the first error: those that follow it in an aborted capture do not name the cause."""
    while error.__context__ is not None:
        error = error.__context__
    return (str(error) or type(error).__name__).splitlines()[0]


def _numbers(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if isinstance(value, int | float)}
