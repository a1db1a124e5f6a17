"""Context managers that restore global state: evaluation mode, seeds, flushed denormals, deterministic algorithms."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

import torch

from zoo.errors import UsageError
from zoo.model.devices import HOSTS

log = logging.getLogger("zoo")

_lock = threading.RLock()


@contextlib.contextmanager
def exclusive() -> Iterator[None]:
    """Let one thread at a time enter the block. Reentrant.

    Torch's random generators and its switch for deterministic algorithms are per process, so concurrent draws from two
    threads would not be reproducible.
    """
    if _lock.acquire(blocking=False):
        _lock.release()
    else:
        log.info("Waiting for another thread of this process, which is using torch's random generators.")
    with _lock:
        yield


@contextlib.contextmanager
def evaluating(*modules: torch.nn.Module) -> Iterator[None]:
    """Set evaluation mode inside the block, and restore the mode of every submodule afterwards."""
    modes = [(module, module.training) for root in modules for module in root.modules()]
    for root in modules:
        root.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def derive_seed(*numbers: int) -> int:
    """Derive a 63-bit seed from several numbers, such as (seed, stream, step).

    Consecutive last numbers never collide, not even in the low 32 bits, which are all that torch's CPU generator uses.

    >>> derive_seed(0, 1) != derive_seed(1, 0), len({derive_seed(7, 3, i) % 2**32 for i in range(10_000)})
    (True, 10000)
    """
    state = 0x94D049BB133111EB
    for number in numbers:
        state = ((state ^ (state >> 31)) * 0xBF58476D1CE4E5B9 + number * 0x9E3779B97F4A7C15) % 2**63
    return state


def reseed(seed: int, device: torch.device) -> None:
    """Seed torch's generator for a device."""
    if device.type in HOSTS:
        torch.default_generator.manual_seed(seed)
        return
    module = torch.get_device_module(device)
    if generators := getattr(module, "default_generators", ()):
        generators[device.index or 0].manual_seed(seed)
    else:
        module.manual_seed(seed)


@contextlib.contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed torch's generators for the CPU and `device` inside the block, and restore them afterwards.

    One thread at a time; see `exclusive`.

    Raises:
        UsageError: the seed is out of range.
    """
    if not 0 <= seed < 2**63:
        raise UsageError(f"A seed must be an integer from 0 to 2^63 - 1, not {seed}.")
    device = torch.device(device)
    forked = {} if device.type in HOSTS else {"device_type": device.type}
    with exclusive(), torch.random.fork_rng([device] if forked else [], **forked):
        # Not torch.manual_seed, which also seeds devices whose state is not restored, and takes 50 times as long.
        torch.default_generator.manual_seed(seed)
        if forked:
            reseed(seed, device)
        yield


@contextlib.contextmanager
def flushed_denormals() -> Iterator[None]:
    """Flush denormal numbers to zero on the CPU inside the block.

    After a thousand steps, the moments of Adam contain many denormals, which are a hundred times slower than normal
    numbers. Threads that torch starts inside the block inherit the mode; existing threads do not.
    """
    before = bool((torch.tensor(1e-40) * 1.0) == 0.0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


@contextlib.contextmanager
def deterministic(strict: bool = True) -> Iterator[None]:
    """Use deterministic convolutions inside the block, and if `strict` deterministic algorithms only.

    With `strict`, an operation without a deterministic implementation raises. One thread at a time; see `exclusive`.
    """
    cudnn = torch.backends.cudnn
    with exclusive():
        before = torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark
        torch.use_deterministic_algorithms(strict or before[0])
        cudnn.deterministic, cudnn.benchmark = True, False
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0])
            cudnn.deterministic, cudnn.benchmark = before[1:]
