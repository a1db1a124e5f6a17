"""Local files with the weights of LPIPS, verified by their digests. Nothing is downloaded."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from zoo import DataError, DataUnavailable

VGG_SHA256 = "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0"
"""torchvision's VGG16 (``VGG16_Weights.IMAGENET1K_V1``), vgg16-397923af.pth."""
LINEAR_SHA256 = "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868"
"""The linear weights of LPIPS 0.1 for VGG16, vgg.pth."""


@dataclass(frozen=True)
class WeightFile:
    """A file of weights.

    Attributes:
        path: its path.
        sha256: its digest.
    """

    path: Path
    sha256: str

    def load(self) -> dict[str, Tensor]:
        """Read the tensors, on the CPU.

        Raises:
            DataError: the digest of the file differs, or the file does not contain tensors by name.
        """
        with self.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != self.sha256:
            raise DataError(f"{self.path} has SHA-256 {digest}; expected {self.sha256}. Replace the file.")
        try:
            if self.path.suffix == ".safetensors":
                from safetensors.torch import load_file

                return load_file(self.path)
            weights: dict[str, Tensor] = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise DataError(f"{self.path} does not contain weights: {str(error).splitlines()[0]}") from error
        return weights


def vgg_file(path: str | None, sha256: str) -> WeightFile:
    """The weights of VGG16: the file, or by default that in torchvision's cache.

    Raises:
        DataUnavailable: it does not exist.
    """
    cached = Path(torch.hub.get_dir()) / "checkpoints" / "vgg16-397923af.pth"
    if path is None and not cached.is_file():
        raise DataUnavailable(
            f"LPIPS needs the weights of VGG16, and {cached} does not exist. Download it with "
            "torchvision.models.vgg16(weights='IMAGENET1K_V1') (528 MB), or set vgg to the path of the file."
        )
    return WeightFile(cached if path is None else existing(path), sha256)


def linear_file(path: str | None, sha256: str) -> WeightFile:
    """The linear weights of LPIPS: the file, or by default that in the package `torchmetrics` or `lpips`.

    Raises:
        DataUnavailable: it does not exist.
    """
    if path is not None:
        return WeightFile(existing(path), sha256)
    for candidate in _installed():
        if candidate.is_file():
            return WeightFile(candidate, sha256)
    raise DataUnavailable(
        "LPIPS needs its linear weights, and neither torchmetrics nor lpips is installed. Install one of them, which "
        "contains vgg.pth, or set linear to the path of the file."
    )


def existing(path: str) -> Path:
    """The path of a file.

    Raises:
        DataUnavailable: it does not exist.
    """
    if not Path(path).is_file():
        raise DataUnavailable(f"The file of weights {path} does not exist.")
    return Path(path)


def _installed() -> Iterator[Path]:
    """Where the packages that distribute the weights keep them. The packages are not imported."""
    for package, file in (("torchmetrics", "functional/image/lpips_models/vgg.pth"), ("lpips", "weights/v0.1/vgg.pth")):
        specification = importlib.util.find_spec(package)
        for folder in (specification.submodule_search_locations or ()) if specification else ():
            yield Path(folder, file)
