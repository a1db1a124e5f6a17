"""Devices by name, through `torch.accelerator`: whatever torch knows, none by a name of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.errors import UsageError

HOSTS = ("cpu", "meta")
"""Types of devices whose draws come from torch's generator of the CPU."""


def resolve_device(name: str) -> torch.device:
    """The device that a name stands for here.

    Args:
        name: ``auto`` (the accelerator, where there is one, else the CPU), ``cpu``, or an accelerator as torch calls
            it, such as ``cuda``, ``cuda:1``, ``mps`` or ``xpu``.

    Raises:
        UsageError: there is no such device.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    here = "cpu" if accelerator is None else f"cpu, {accelerator.type}"
    if name == "auto":
        return torch.device("cpu") if accelerator is None else torch.device(accelerator.type)
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"There is no device {name!r}. Write auto, or one of those that are here: {here}.") from error
    if device.type == "cpu":
        return torch.device("cpu")
    if accelerator is None or device.type != accelerator.type:
        raise UsageError(f"There is no {device.type} device here. Write auto, or one of those that are here: {here}.")
    count = torch.accelerator.device_count()
    if device.index is not None and device.index >= count:
        last = f"{device.type}:{count - 1}"
        raise UsageError(f"There is no {name} here: the last of the {count} {device.type} devices is {last}.")
    return device


def device_name(device: torch.device) -> str:
    """What a device is called by its maker, where torch knows it."""
    if device.type in HOSTS:
        return str(device)
    describe = getattr(torch.get_device_module(device), "get_device_name", None)
    return str(device) if describe is None else str(describe(device))


def float64(tensor: Tensor) -> Tensor:
    """A tensor in float64; on the CPU, if its device has no such numbers."""
    try:
        return tensor.double()
    except TypeError:
        return tensor.cpu().double()
