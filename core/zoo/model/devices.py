"""Device names, resolved through `torch.accelerator`."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.errors import UsageError

HOSTS = ("cpu", "meta")
"""Device types that draw from torch's CPU generator."""


def resolve_device(name: str) -> torch.device:
    """Return the device with a name.

    Args:
        name: ``auto`` (the accelerator if there is one, else the CPU), ``cpu``, or an accelerator as torch names it,
            such as ``cuda``, ``cuda:1``, ``mps`` or ``xpu``.

    Raises:
        UsageError: the device does not exist.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if name == "auto":
        return torch.device("cpu" if accelerator is None else accelerator.type)
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise _no_device(name, accelerator) from error
    if device.type == "cpu":
        return torch.device("cpu")
    if (
        accelerator is None
        or device.type != accelerator.type
        or (device.index or 0) >= torch.accelerator.device_count()
    ):
        raise _no_device(name, accelerator)
    return device


def _no_device(name: str, accelerator: torch.device | None) -> UsageError:
    devices = ["auto", "cpu"]
    if accelerator is not None:
        devices += [f"{accelerator.type}:{index}" for index in range(torch.accelerator.device_count())]
    return UsageError(f"There is no device {name!r}. Available: {', '.join(devices)}.")


def device_name(device: torch.device) -> str:
    """The product name of a device if torch knows it, else its type."""
    if device.type in HOSTS:
        return str(device)
    describe = getattr(torch.get_device_module(device), "get_device_name", None)
    return str(device) if describe is None else str(describe(device))


def float64(tensor: Tensor) -> Tensor:
    """Cast to float64, on the CPU if the device does not support it."""
    try:
        return tensor.double()
    except TypeError:
        return tensor.cpu().double()


def multiplies_bfloat16(device: torch.device) -> bool | None:
    """Whether a device has instructions for products of bfloat16 matrices; None if torch does not know.

    Without them, torch converts to float32 and back, which is slower than float32.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return None
    if hasattr(torch.cpu, "get_capabilities"):
        return any(bool(value) for name, value in torch.cpu.get_capabilities().items() if "bf16" in name)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())  # of older versions
