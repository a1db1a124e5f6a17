"""A data set: its splits, checked once at the door."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from zoo.errors import DataError
from zoo.model.context import derive_seed

HOLD_OUT = 6
"""The stream of random numbers that validation examples are drawn from."""
MANY_LABELS = 1000
"""Labels that a data set may have without having as many examples."""
CHUNK = 2**22  # entries read at once, so that mapped data are not all read into memory

Modality = Literal["image", "table", "sequence", "vector"]


@dataclass(frozen=True, eq=False)
class Split:
    """One split of a data set.

    Attributes:
        x: (N, *data_shape): uint8, where i means i / 255, or float32.
        labels: int64 (N,), or None.
        digest: identifies x in `Dataset.sha256`, so that x need not be read for it. It must change whenever x changes.
            A split with a digest is private to its data set, such as one mapped from a file: `Dataset.hold_out`
            reorders it in place.
        factors: the generating factors, where they are known: int64 (N, F), for each factor the index of its value.
        paths: of files, the path of each example below the folder.
        index: where the order is not that of the source, the place of each example in it: int64 (N,).
        mask: bool, like `x`, true where an entry is observed; None where all are. What `x` holds elsewhere has no
            effect.

    Raises:
        DataError: another dtype or shape, no example at all, or an observed entry that is not finite.
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
            raise DataError(f"There is no example in a tensor of shape {tuple(self.x.shape)}.")
        if self.mask is not None and (self.mask.dtype != torch.bool or self.mask.shape != self.x.shape):
            raise DataError(
                f"The mask must be a bool tensor of the shape of x, {tuple(self.x.shape)}, "
                f"not {self.mask.dtype} of shape {tuple(self.mask.shape)}."
            )
        if self.x.dtype == torch.float32 and not all(torch.isfinite(x[mask]).all() for x, mask in self.chunks()):
            raise DataError(
                "The data have entries that are not finite. Mark the missing ones: Split(x, mask=~torch.isnan(x))."
            )
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
            raise DataError(f"There are {len(self.paths)} paths of {len(self)} examples.")
        if self.index is not None and (self.index.dtype != torch.int64 or self.index.shape != (len(self),)):
            raise DataError(
                f"The index must be an int64 tensor of shape ({len(self)},), "
                f"not {self.index.dtype} of shape {tuple(self.index.shape)}."
            )

    def __len__(self) -> int:
        return len(self.x)

    @property
    def shape(self) -> tuple[int, ...]:
        """The event shape of x; (C, H, W) for images."""
        return tuple(self.x.shape[1:])

    def part(self, start: int, stop: int) -> Split:
        """The examples from `start` up to `stop`; where x is mapped from a file, it stays mapped."""
        return Split(
            self.x[start:stop],
            None if self.labels is None else self.labels[start:stop],
            None if self.digest is None else f"{self.digest}[{start}:{stop}]",
            None if self.factors is None else self.factors[start:stop],
            self.paths[start:stop],
            None if self.index is None else self.index[start:stop],
            None if self.mask is None else self.mask[start:stop],
        )

    def repeat(self, times: int) -> Split:
        """Return the split with each example `times` times, for more steps per epoch. Hold out validation first."""
        rows = torch.arange(len(self)).repeat(times)

        def repeated(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[rows]

        return replace(
            self,
            x=self.x[rows],
            labels=repeated(self.labels),
            digest=None if self.digest is None else f"{self.digest}x{times}",
            factors=repeated(self.factors),
            paths=self.paths * times,
            index=rows if self.index is None else self.index[rows],
            mask=repeated(self.mask),
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
        """Return the examples outside `rows` and those at `rows`, each in the order of the split up to a few swaps.

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

        def reordered(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[order]

        if self.digest is None:
            x = self.x[order]
        else:  # only the pages of the swapped examples are copied
            x, separated = self.x, self.x[rows]
            x[holes], x[count:] = x[tail], separated
        name = hashlib.sha256(rows.numpy().data).hexdigest()[:16]
        whole = replace(
            self,
            x=x,
            labels=reordered(self.labels),
            digest=None if self.digest is None else f"{self.digest}-{name}",
            factors=reordered(self.factors),
            paths=tuple(self.paths[i] for i in order.tolist()) if self.paths else (),
            index=order if self.index is None else self.index[order],
            mask=reordered(self.mask),
        )
        return whole.part(0, count), whole.part(count, len(self))

    def chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """x and the mask, a few examples at a time."""
        n = max(1, CHUNK // self.x[0].numel())
        for start in range(0, len(self), n):
            x = self.x[start : start + n]
            yield x, torch.ones_like(x, dtype=torch.bool) if self.mask is None else self.mask[start : start + n]


@dataclass(frozen=True, eq=False)
class Dataset:
    """The splits of a data set. What a component of kind ``dataset`` returns.

    Attributes:
        train, test: the splits to train and to test on.
        validation: the split for whatever selects, if there is one.
        label_names: what the labels 0, 1, ... are called, if they are called anything.
        left_out: the files that hold no usable example, each with the reason: ``cat/7.jpg: is empty``.
        cache: the files that the decoded images are mapped from, if they are.
        factor_names: what the columns of their `Split.factors` are, such as ``("shape", "scale")``.
        modality: how viewers draw it: ``image``, ``table``, ``sequence`` or ``vector``. By default ``image`` for shapes
            (C, H, W) with uint8 data or at most four channels, else ``vector``.

    Raises:
        DataError: the splits differ in their shape, there is not one name for each factor, or the labels are numbered
            with gaps.

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

    def __post_init__(self) -> None:
        if self.modality is None:
            object.__setattr__(self, "modality", _modality(self.train))
        elif self.modality not in get_args(Modality):
            raise DataError(f"modality is one of {', '.join(get_args(Modality))}, not {self.modality!r}.")
        count = sum(map(len, self.splits.values()))
        if self.classes > max(MANY_LABELS, count):
            raise DataError(
                f"The labels go up to {self.classes - 1}, and there are {count} examples. "
                "Number the labels from 0 on: labels = numpy.unique(labels, return_inverse=True)[1]."
            )
        for name, split in self.splits.items():
            if split.shape != self.train.shape or split.x.dtype != self.train.x.dtype:
                raise DataError(
                    f"Training data are {self.train.x.dtype} of shape {self.train.shape}, {name} data {split.x.dtype} "
                    f"of shape {split.shape}: they must agree."
                )
        # Names of folders may hold bytes that are not UTF-8, which Python has as surrogates and nobody can draw.
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
            DataError: there is a validation split already, or no example would remain to train on.

        >>> data = Dataset(Split(torch.randn(100, 7)), Split(torch.randn(20, 7))).hold_out(0.1)
        >>> len(data.train), len(data.validation)
        (90, 10)
        """
        if self.validation is not None:
            raise DataError("The data have a validation split: leave out data.validation.")
        total = len(self.train)
        count = validation if validation >= 1 else max(1, round(validation * total))
        if not 0 < count < total:
            raise DataError(
                f"data.validation={validation:g} would hold out {count:g} of {total} training examples. "
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
        """The number of labels, from 0 up to the greatest; 0 where there are none."""
        labels = [split.labels for split in self.splits.values()]
        return 0 if any(of is None for of in labels) else 1 + max(int(of.max()) for of in labels if of is not None)

    def sha256(self) -> str:
        """A digest of every entry, label, factor and mask, to tell whether two runs saw the same data."""
        digest = hashlib.sha256()
        for split in self.splits.values():
            tensors = ((split.x, split.digest), (split.labels, None), (split.factors, None), (split.mask, None))
            for tensor, known in tensors:
                if tensor is not None:
                    dtype = str(tensor.dtype) if tensor.dtype in (torch.float32, torch.bool) else ""
                    digest.update(f"{dtype}{tuple(tensor.shape)}".encode())
                    digest.update(tensor.contiguous().numpy().data if known is None else known.encode())
        return digest.hexdigest()

    def summary(self) -> dict[str, Any]:
        """What ``zoo data`` prints. Reads every entry once; uint8 entries count as in [0, 1], as a model sees them.

        ``range``, ``mean`` and ``std`` are over observed entries; the latter two are of each channel (each index of the
        first axis of an example) of the training split, ``std`` with the count in the denominator. ``labels`` has the
        number of examples of each label in each split.
        """
        statistics = [_statistics(split) for split in self.splits.values()]
        low, high, mean, std = (torch.stack(values) for values in zip(*statistics, strict=True))
        return {
            **{name: len(split) for name, split in self.splits.items()},
            "shape": list(self.shape),
            "modality": self.modality,
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


def _modality(split: Split) -> Modality:
    images = len(split.shape) == 3 and (split.x.dtype == torch.uint8 or split.shape[0] <= 4)
    return "image" if images else "vector"


def _statistics(split: Split) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Minimum and maximum, scalars, and mean and standard deviation of each channel, over observed entries, float64."""
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
    """x in float64 and the mask, (channels, entries), a few examples at a time."""
    for x, mask in split.chunks():
        values = x.double() / 255 if x.dtype == torch.uint8 else x.double()
        yield values.transpose(0, 1).flatten(1), mask.transpose(0, 1).flatten(1)
