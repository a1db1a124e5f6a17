"""Blocks of code that leave no trace: evaluation mode, seeded draws, denormals flushed."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

import torch

from zoo.errors import UsageError
from zoo.model.devices import HOSTS

log = logging.getLogger("zoo")

_one_thread = threading.RLock()


@contextlib.contextmanager
def exclusive() -> Iterator[None]:
    """Hold torch's global state inside the block: one thread of the process at a time, the others wait.

    Torch's random generators and its switch for deterministic algorithms belong to the process, not to the thread. Two
    threads that draw from a generator at once would each get other numbers than alone. Blocks nest.
    """
    if _one_thread.acquire(blocking=False):
        _one_thread.release()
    else:
        log.info("Waiting for another thread of this process, which is using torch's random generators.")
    with _one_thread:
        yield


@contextlib.contextmanager
def evaluating(*modules: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block, the former mode of every submodule after it."""
    modes = [(module, module.training) for root in modules for module in root.modules()]
    for root in modules:
        root.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def derive_seed(*numbers: int) -> int:
    """One 63-bit seed out of several numbers, such as (seed, stream, step). Consecutive last numbers never collide, not
    even in their low 32 bits, which is all that torch's generator of the CPU takes.

    >>> derive_seed(0, 1) != derive_seed(1, 0), len({derive_seed(7, 3, i) % 2**32 for i in range(10_000)})
    (True, 10000)
    """
    state = 0x94D049BB133111EB
    for number in numbers:
        state = ((state ^ (state >> 31)) * 0xBF58476D1CE4E5B9 + number * 0x9E3779B97F4A7C15) % 2**63
    return state


def reseed(seed: int, device: torch.device) -> None:
    """Seed torch's generator of the device that draws are made on."""
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
    """Torch's generators of the CPU and of `device` seeded inside the block, and put back after it; see `exclusive`.

    Raises:
        UsageError: no generator takes the seed.
    """
    if not 0 <= seed < 2**63:
        raise UsageError(f"A seed is a whole number from 0 to 2^63 - 1, not {seed}.")
    device = torch.device(device)
    forked = {} if device.type in HOSTS else {"device_type": device.type}
    with exclusive(), torch.random.fork_rng([device] if forked else [], **forked):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def flushed_denormals() -> Iterator[None]:
    """Denormal numbers taken for zero on the CPU inside the block.

    After a thousand steps the moments of Adam hold many of them, and each costs a hundred times a normal number.
    Threads that torch starts inside the block inherit the mode, those that it had before keep theirs.
    """
    before = bool((torch.tensor(1e-40) * 1.0) == 0.0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


@contextlib.contextmanager
def deterministic(wanted: bool = True) -> Iterator[None]:
    """Only algorithms that give the same bits each time, inside the block; see `exclusive`. One that has no such form
    raises.
    """
    with exclusive():
        if not wanted:
            yield
            return
        before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0])
            torch.backends.cudnn.benchmark = before[1]
