"""Split as one uint8 tensor, checked once at the door."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.errors import DataError

MANY_LABELS = 1000
"""Labels that a data set may have without having as many images."""


@dataclass(frozen=True, eq=False)
class Split:
    """One split of a data set.

    Attributes:
        x: uint8 (N, C, H, W).
        labels: int64 (N,), or None.
        digest: stands for the pixels in `Dataset.sha256`, so that they need not be read for it. It must be another one
            for other pixels.
        factors: what the images were made from, where that is known: int64 (N, F), for each factor the number of its
            value.
        paths: of files, the path of each image below the folder.
        index: where their order is not that of their source, the place of each in it: int64 (N,).

    Raises:
        DataError: another dtype or shape, or no image at all.
    """

    x: Tensor
    labels: Tensor | None = None
    digest: str | None = None
    factors: Tensor | None = None
    paths: tuple[str, ...] = ()
    index: Tensor | None = None

    def __post_init__(self) -> None:
        if self.x.dtype != torch.uint8 or self.x.ndim != 4:
            raise DataError(
                f"Split must be a uint8 tensor of shape (N, C, H, W), "
                f"not {self.x.dtype} of shape {tuple(self.x.shape)}."
            )
        if 0 in self.x.shape:
            raise DataError(f"There is no image in a tensor of shape {tuple(self.x.shape)}.")
        if self.labels is not None and (self.labels.dtype != torch.int64 or self.labels.shape != (len(self),)):
            raise DataError(
                f"Labels must be an int64 tensor of shape ({len(self)},), "
                f"not {self.labels.dtype} of shape {tuple(self.labels.shape)}."
            )
        if self.factors is not None and (
            self.factors.dtype != torch.int64 or self.factors.ndim != 2 or len(self.factors) != len(self)
        ):
            raise DataError(
                f"Factors must be an int64 tensor of shape ({len(self)}, F), "
                f"not {self.factors.dtype} of shape {tuple(self.factors.shape)}."
            )
        if self.paths and len(self.paths) != len(self):
            raise DataError(f"There are {len(self.paths)} paths of {len(self)} images.")
        if self.index is not None and (self.index.dtype != torch.int64 or self.index.shape != (len(self),)):
            raise DataError(
                f"The index must be an int64 tensor of shape ({len(self)},), "
                f"not {self.index.dtype} of shape {tuple(self.index.shape)}."
            )

    def __len__(self) -> int:
        return len(self.x)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.x.shape[1:]
        return channels, height, width

    def part(self, start: int, stop: int) -> Split:
        """The images from `start` up to `stop`; where the pixels are mapped from a file, they stay mapped."""
        return Split(
            self.x[start:stop],
            None if self.labels is None else self.labels[start:stop],
            None if self.digest is None else f"{self.digest}[{start}:{stop}]",
            None if self.factors is None else self.factors[start:stop],
            self.paths[start:stop],
            None if self.index is None else self.index[start:stop],
        )


@dataclass(frozen=True, eq=False)
class Dataset:
    """Split to train on and images to test on. What a component of kind ``dataset`` returns.

    Attributes:
        train, test: the splits.
        label_names: what the labels 0, 1, ... are called, if they are called anything.
        left_out: the files that hold no image that can be used, each with the reason: ``cat/7.jpg: is empty``.
        cache: the files that the decoded images are mapped from, if they are.
        factor_names: what the columns of their `Split.factors` are, such as ``("shape", "scale")``.

    Raises:
        DataError: the two splits differ in the shape of their images, there is not one name for each factor, or the
            labels are numbered with gaps.
    """

    train: Split
    test: Split
    label_names: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    cache: tuple[Path, ...] = ()
    factor_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.classes > max(MANY_LABELS, len(self.train) + len(self.test)):
            raise DataError(
                f"The labels go up to {self.classes - 1}, and there are {len(self.train) + len(self.test)} images. "
                "Number the labels from 0 on: labels = numpy.unique(labels, return_inverse=True)[1]."
            )
        if self.train.shape != self.test.shape:
            raise DataError(f"Training images are {self.train.shape}, test images {self.test.shape}: they must agree.")
        # Names of folders may hold bytes that are not UTF-8, which Python has as surrogates and nobody can draw.
        names = tuple(name.encode("utf-8", "backslashreplace").decode() for name in self.label_names)
        object.__setattr__(self, "label_names", names)
        for name, split in (("training", self.train), ("test", self.test)):
            factors = 0 if split.factors is None else split.factors.shape[1]
            if factors != len(self.factor_names):
                raise DataError(
                    f"The {name} images have {factors} factors, and factor_names has {len(self.factor_names)} names."
                )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return self.train.shape

    @property
    def classes(self) -> int:
        """The number of labels, from 0 up to the greatest; 0 where there are none."""
        labels = [split.labels for split in (self.train, self.test)]
        return 0 if any(of is None for of in labels) else 1 + max(int(of.max()) for of in labels if of is not None)

    def sha256(self) -> str:
        """A digest of every pixel, label and factor, to tell whether two runs saw the same data."""
        digest = hashlib.sha256()
        for split in (self.train, self.test):
            for tensor, known in ((split.x, split.digest), (split.labels, None), (split.factors, None)):
                if tensor is not None:
                    digest.update(str(tuple(tensor.shape)).encode())
                    digest.update(tensor.contiguous().numpy().data if known is None else known.encode())
        return digest.hexdigest()

    def summary(self) -> dict[str, Any]:
        """What ``zoo data`` says of it. Reads every pixel once; they count as in [0, 1], as a model meets them.

        ``mean`` and ``std`` are of each channel of the training images, the latter with N in the denominator;
        ``labels`` has for each the number of its training and test images.
        """
        levels = torch.arange(256, dtype=torch.float64) / 255
        counts = _histogram(self.train.x).double()
        weights = counts / counts.sum(1, keepdim=True)
        mean = weights @ levels
        present = (counts.sum(0) + _histogram(self.test.x).sum(0)).nonzero().flatten()
        return {
            "train": len(self.train),
            "test": len(self.test),
            "shape": list(self.shape),
            "range": [levels[present[0]].item(), levels[present[-1]].item()],
            "mean": mean.tolist(),
            "std": (weights * (levels - mean[:, None]) ** 2).sum(1).sqrt().tolist(),
            "labels": self._label_counts(),
            "left_out": list(self.left_out),
            "cache": [str(file) for file in self.cache],
            "sha256": self.sha256(),
        }

    def _label_counts(self) -> list[dict[str, Any]]:
        if not self.classes:
            return []
        train, test = (
            torch.bincount(split.labels, minlength=self.classes).tolist()
            for split in (self.train, self.test)
            if split.labels is not None
        )
        names = [*self.label_names, *map(str, range(len(self.label_names), self.classes))]
        return [{"label": name, "train": n, "test": m} for name, n, m in zip(names, train, test, strict=False) if n + m]


def _histogram(pixels: Tensor) -> Tensor:
    """How often each channel has each of the 256 levels, int64 (C, 256); a few images at a time, so that mapped pixels
    are not all read into memory."""
    counts = torch.zeros(pixels.shape[1], 256, dtype=torch.int64)
    for images in torch.split(pixels, max(1, 2**24 // pixels[0].numel())):
        for channel, row in enumerate(counts):
            row += torch.bincount(images[:, channel].flatten(), minlength=256)
    return counts
