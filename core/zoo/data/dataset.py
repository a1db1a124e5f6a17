"""Data sets and their splits, which are validated when created."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from zoo.data.columns import Column
from zoo.errors import DataError
from zoo.model.context import derive_seed
from zoo.model.likelihood import observed_entries

HOLD_OUT = 6
"""The stream of random numbers for the choice of validation examples."""
MANY_LABELS = 1000
"""A data set may have this number of labels, or as many as it has examples."""
CHUNK = 2**22
"""Number of entries to read at once, since mapped data may be larger than the memory."""

Modality = Literal["image", "table", "sequence", "vector"]


@dataclass(frozen=True, eq=False)
class Split:
    """One split of a data set.

    Attributes:
        x: (N, *data_shape): uint8, where i means i / 255, or float32.
        labels: int64 (N,), or None.
        digest: identifies x in `Dataset.sha256` without reading it. It must change whenever x changes. A split with a
            digest must not be shared between data sets, since `Dataset.hold_out` reorders it in place.
        factors: indices of the values of the generating factors, int64 (N, F), or None.
        paths: for data in files, the path of each example relative to the folder.
        index: if the examples were reordered, their positions in the source, int64 (N,).
        mask: bool of the shape of `x`, true where an entry is observed; None if all are. Other entries have no effect.

    Raises:
        DataError: a dtype or a shape is wrong, there are no examples, or an observed entry is not finite.
    """

    x: Tensor
    labels: Tensor | None = None
    digest: str | None = None
    factors: Tensor | None = None
    paths: tuple[str, ...] = ()
    index: Tensor | None = None
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        if self.x.dtype not in (torch.uint8, torch.float32) or self.x.ndim < 2:
            raise DataError(
                f"The data must be a uint8 or float32 tensor of shape (N, *data_shape), "
                f"not {self.x.dtype} of shape {tuple(self.x.shape)}."
            )
        if 0 in self.x.shape:
            raise DataError(f"The data have no entries: their shape is {tuple(self.x.shape)}.")
        n = len(self)
        _require("The mask", self.mask, torch.bool, self.x.shape)
        _require("Labels", self.labels, torch.int64, (n,))
        _require("Factors", self.factors, torch.int64, (n, None))
        _require("The index", self.index, torch.int64, (n,))
        if self.x.dtype == torch.float32 and not all(torch.isfinite(x[mask]).all() for x, mask in self.chunks()):
            raise DataError(
                "The data have entries that are not finite. Mask missing ones: Split(x, mask=~torch.isnan(x))."
            )
        if self.paths and len(self.paths) != n:
            raise DataError(f"There are {len(self.paths)} paths for {n} examples.")

    def __len__(self) -> int:
        return len(self.x)

    @property
    def shape(self) -> tuple[int, ...]:
        """The event shape of x; (C, H, W) for images."""
        return tuple(self.x.shape[1:])

    def part(self, start: int, stop: int) -> Split:
        """The examples from `start` up to `stop`. Data mapped from a file stay mapped."""
        return self._select(slice(start, stop), f"[{start}:{stop}]")

    def take(self, rows: Tensor) -> Split:
        """The examples at `rows`, int64 (n,), in that order. `index` has their positions in the source."""
        return self._select(rows, f"-{hashlib.sha256(rows.numpy().data).hexdigest()[:16]}")

    def repeat(self, times: int) -> Split:
        """Return the split with each example `times` times, for more steps per epoch. Hold out validation first."""
        return self._select(torch.arange(len(self)).repeat(times), f"x{times}")

    def _select(self, rows: slice | Tensor, suffix: str, x: Tensor | None = None) -> Split:
        """The examples at `rows`, an int64 tensor or a slice. A tensor numbers them, if they have no `index`.

        Args:
            suffix: what distinguishes the digest from that of the whole split.
            x: the entries, if they are in that order already.
        """

        def select(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[rows]

        paths = self.paths
        if paths:
            paths = paths[rows] if isinstance(rows, slice) else tuple(paths[i] for i in rows.tolist())
        return Split(
            self.x[rows] if x is None else x,
            select(self.labels),
            None if self.digest is None else f"{self.digest}{suffix}",
            select(self.factors),
            paths,
            rows if self.index is None and isinstance(rows, Tensor) else select(self.index),
            select(self.mask),
        )

    def mean(self) -> Tensor:
        """The mean of the observed values of each entry, float32 of shape data_shape; uint8 entries count as i / 255.

        >>> Split(torch.tensor([[0, 255], [255, 255]], dtype=torch.uint8)).mean()
        tensor([0.5000, 1.0000])
        """
        total, count = torch.zeros(self.shape, dtype=torch.float64), torch.zeros(self.shape, dtype=torch.float64)
        for x, mask in self.chunks():
            total += x.double().masked_fill(~mask, 0).sum(0)
            count += mask.sum(0)
        unit = 255 if self.x.dtype == torch.uint8 else 1
        return (total / count.clamp_min(1) / unit).float()

    def separate(self, rows: Tensor) -> tuple[Split, Split]:
        """Return the examples outside `rows` and those at `rows`. The order of the former may change.

        Args:
            rows: int64 (n,), sorted.
        """
        count = len(self) - len(rows)
        held = torch.zeros(len(self), dtype=torch.bool)
        held[rows] = True
        order = torch.arange(len(self))
        holes = order[:count][held[:count]]  # filled with the remaining examples of the tail
        tail = order[count:][~held[count:]]
        order[holes], order[count:] = tail, rows

        x = None
        if self.digest is not None:  # in place, so that only the pages of the swapped examples are copied
            x, separated = self.x, self.x[rows]
            x[holes], x[count:] = x[tail], separated
        whole = self._select(order, f"-{hashlib.sha256(rows.numpy().data).hexdigest()[:16]}", x)
        return whole.part(0, count), whole.part(count, len(self))

    def chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield x and the mask, a few examples at a time."""
        n = max(1, CHUNK // self.x[0].numel())
        for start in range(0, len(self), n):
            x = self.x[start : start + n]
            yield x, observed_entries(x, None if self.mask is None else self.mask[start : start + n])


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set, as components of kind ``dataset`` return it.

    Attributes:
        train: the split to train on.
        test: the split to test on.
        validation: the split for model selection, or None.
        label_names: names of the labels 0, 1, ..., if they have any.
        left_out: files without a usable example, each with the reason, such as ``cat/7.jpg: is empty``.
        cache: files that decoded images are mapped from, if there are any.
        factor_names: names of the columns of `Split.factors`, such as ``("shape", "scale")``.
        modality: how viewers draw an example: ``image``, ``table``, ``sequence`` or ``vector``. By default ``image``
            for shapes (C, H, W) with uint8 data or at most four channels, else ``vector``.
        augment: changes training examples at random: float (N, *data_shape) to the same shape, each time an example is
            used. It must draw from torch's global generator alone, which is seeded for each step.
        columns: what the entries along the first axis of an example mean, one column each; or one column for all
            entries, such as the vocabulary of a text; or none.

    Raises:
        DataError: the splits differ in shape or dtype, the numbers of factors and factor names or of entries and
            columns differ, or the labels have large gaps.

    >>> rows = torch.randn(100, 7)
    >>> data = Dataset(Split(rows[:80]), Split(rows[80:]))
    >>> data.shape, data.modality
    ((7,), 'vector')
    """

    train: Split
    test: Split
    validation: Split | None = None
    label_names: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    cache: tuple[Path, ...] = ()
    factor_names: tuple[str, ...] = ()
    modality: Modality | None = None
    augment: Callable[[Tensor], Tensor] | None = None
    columns: tuple[Column, ...] = ()

    def __post_init__(self) -> None:
        if self.modality is None:
            object.__setattr__(self, "modality", _modality(self.train))
        elif self.modality not in get_args(Modality):
            raise DataError(f"modality must be one of {', '.join(get_args(Modality))}, not {self.modality!r}.")
        count = sum(map(len, self.splits.values()))
        if self.classes > max(MANY_LABELS, count):
            raise DataError(
                f"The labels go up to {self.classes - 1}, and there are {count} examples. "
                "Number the labels from 0: labels = numpy.unique(labels, return_inverse=True)[1]."
            )
        for name, split in self.splits.items():
            if split.shape != self.train.shape or split.x.dtype != self.train.x.dtype:
                raise DataError(
                    f"The splits must agree: the train split is {self.train.x.dtype} of shape {self.train.shape}, the "
                    f"{name} split {split.x.dtype} of shape {split.shape}."
                )
        if len(self.columns) not in (0, 1, self.shape[0]):
            raise DataError(
                f"There are {len(self.columns)} columns for data of shape {self.shape}; expected {self.shape[0]}, "
                "or one for all entries."
            )
        # Names of folders may contain bytes that are not UTF-8. Python represents them as surrogates, which cannot be
        # printed.
        names = tuple(name.encode("utf-8", "backslashreplace").decode() for name in self.label_names)
        object.__setattr__(self, "label_names", names)
        for name, split in self.splits.items():
            factors = 0 if split.factors is None else split.factors.shape[1]
            if factors != len(self.factor_names):
                raise DataError(
                    f"The {name} split has {factors} factors, and factor_names has {len(self.factor_names)} names."
                )

    def hold_out(self, validation: float, seed: int = 0) -> Dataset:
        """Return a data set whose validation split is drawn from the training split.

        Args:
            validation: the number of examples, or a fraction of the training split below 1.
            seed: determines which examples are drawn.

        Raises:
            DataError: there is a validation split already, or no training example would remain.

        >>> data = Dataset(Split(torch.randn(100, 7)), Split(torch.randn(20, 7))).hold_out(0.1)
        >>> len(data.train), len(data.validation)
        (90, 10)
        """
        if self.validation is not None:
            raise DataError("The data already have a validation split: omit data.validation.")
        total = len(self.train)
        count = validation if validation >= 1 else max(1, round(validation * total))
        if not 0 < count < total:
            raise DataError(
                f"data.validation={validation} would hold out {count} of {total} training examples. "
                "Expected a fraction below 1, or a number of examples below that of the training split."
            )
        generator = torch.Generator().manual_seed(derive_seed(seed, HOLD_OUT))
        rows = torch.randperm(total, generator=generator)[: int(count)].sort().values
        train, held = self.train.separate(rows)
        return replace(self, train=train, validation=held)

    @property
    def splits(self) -> dict[str, Split]:
        """The splits by name: ``train``, ``validation`` if there is one, and ``test``."""
        validation = {} if self.validation is None else {"validation": self.validation}
        return {"train": self.train, **validation, "test": self.test}

    @property
    def shape(self) -> tuple[int, ...]:
        """The event shape of x; (C, H, W) for images."""
        return self.train.shape

    @property
    def classes(self) -> int:
        """The number of labels: one more than the greatest, or 0 if there are none."""
        labels = [split.labels for split in self.splits.values()]
        return 0 if any(y is None for y in labels) else 1 + max(int(y.max()) for y in labels if y is not None)

    def sha256(self) -> str:
        """A digest of every entry, label, factor, mask and column. It identifies the data of a run."""
        digest = hashlib.sha256(repr(self.columns).encode() if self.columns else b"")
        for split in self.splits.values():
            tensors = ((split.x, split.digest), (split.labels, None), (split.factors, None), (split.mask, None))
            for tensor, tensor_digest in tensors:
                if tensor is not None:
                    dtype = str(tensor.dtype) if tensor.dtype in (torch.float32, torch.bool) else ""
                    digest.update(f"{dtype}{tuple(tensor.shape)}".encode())
                    content = tensor.contiguous().numpy().data if tensor_digest is None else tensor_digest.encode()
                    digest.update(content)
        return digest.hexdigest()

    def summary(self) -> dict[str, Any]:
        """Summarize the data as ``zoo data`` prints them. Reads every entry; uint8 entries count as i / 255.

        ``range``, ``mean`` and ``std`` are over observed entries. ``mean`` and ``std`` (without Bessel's correction)
        are by channel, the first axis of an example, of the training split. ``labels`` has the number of examples by
        label and split.
        """
        statistics = [_statistics(split) for split in self.splits.values()]
        low, high, mean, std = (torch.stack(values) for values in zip(*statistics, strict=True))
        return {
            **{name: len(split) for name, split in self.splits.items()},
            "shape": list(self.shape),
            "modality": self.modality,
            **({"columns": [column.to_json() for column in self.columns]} if self.columns else {}),
            "range": [low.min().item(), high.max().item()],
            "mean": mean[0].tolist(),
            "std": std[0].tolist(),
            **({} if self.train.mask is None else {"observed": self.train.mask.double().mean().item()}),
            "labels": self._label_counts(),
            "left_out": list(self.left_out),
            "cache": [str(file) for file in self.cache],
            "sha256": self.sha256(),
        }

    def _label_counts(self) -> list[dict[str, Any]]:
        if not self.classes:
            return []
        counts = {
            name: torch.bincount(split.labels, minlength=self.classes).tolist()
            for name, split in self.splits.items()
            if split.labels is not None
        }
        names = [*self.label_names, *map(str, range(len(self.label_names), self.classes))]
        rows = [{name: each[label] for name, each in counts.items()} for label in range(self.classes)]
        return [{"label": name, **row} for name, row in zip(names, rows, strict=False) if any(row.values())]


def joined(dataset: Dataset) -> Split:
    """Every example of a data set as one split, in the order of the source if the splits have an `index`."""
    splits = list({id(split): split for split in dataset.splits.values()}.values())
    if len(splits) == 1:
        return splits[0]

    def cat(name: str) -> Tensor | None:
        tensors = [getattr(split, name) for split in splits]
        return None if any(tensor is None for tensor in tensors) else torch.cat(tensors)

    masks = None
    if any(split.mask is not None for split in splits):
        masks = torch.cat([observed_entries(split.x, split.mask) for split in splits])
    paths = tuple(path for split in splits for path in split.paths)
    whole = Split(torch.cat([split.x for split in splits]), cat("labels"), None, cat("factors"), paths, None, masks)
    index = cat("index")
    return whole if index is None else replace(whole.take(index.argsort()), index=None)


def _require(title: str, tensor: Tensor | None, dtype: torch.dtype, shape: tuple[int | None, ...]) -> None:
    """Check the dtype and the shape of a tensor, if there is one. None stands for any size."""
    if tensor is None:
        return
    sizes = tuple(tensor.shape)
    matches = len(sizes) == len(shape) and all(n in (None, m) for n, m in zip(shape, sizes, strict=True))
    if tensor.dtype != dtype or not matches:
        name = {torch.bool: "a bool", torch.int64: "an int64"}[dtype]
        expected = str(tuple(shape)).replace("None", "F")
        raise DataError(f"{title} must be {name} tensor of shape {expected}, not {tensor.dtype} of shape {sizes}.")


def _modality(split: Split) -> Modality:
    images = len(split.shape) == 3 and (split.x.dtype == torch.uint8 or split.shape[0] <= 4)
    return "image" if images else "vector"


def _statistics(split: Split) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Minimum and maximum (scalars), and mean and standard deviation by channel, of observed entries, in float64."""
    low, high = torch.tensor(math.inf, dtype=torch.float64), torch.tensor(-math.inf, dtype=torch.float64)
    count = total = torch.zeros(split.shape[0], dtype=torch.float64)
    for x, mask in _by_channel(split):
        low = torch.minimum(low, x.masked_fill(~mask, math.inf).min())
        high = torch.maximum(high, x.masked_fill(~mask, -math.inf).max())
        count, total = count + mask.sum(1), total + x.masked_fill(~mask, 0).sum(1)
    mean, squares = total / count, torch.zeros_like(total)
    for x, mask in _by_channel(split):
        squares += (x - mean[:, None]).masked_fill(~mask, 0).square().sum(1)
    return low, high, mean, (squares / count).sqrt()


def _by_channel(split: Split) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield x in float64 and the mask, (channels, entries), a few examples at a time."""
    for x, mask in split.chunks():
        values = x.double() / 255 if x.dtype == torch.uint8 else x.double()
        yield values.transpose(0, 1).flatten(1), mask.transpose(0, 1).flatten(1)
