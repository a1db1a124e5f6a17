"""All examples of a data set, with their names and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

import zoo
from zoo import Split, UsageError


@dataclass(frozen=True)
class Examples:
    """Examples and the names of their labels.

    Attributes:
        split: the examples, in the order of their source.
        label_names: names of the labels 0, 1, ..., if they have any.
    """

    split: Split
    label_names: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """The path of each example relative to its folder, or its index in the source."""
        if self.split.paths:
            return list(self.split.paths)
        index = torch.arange(len(self.split)) if self.split.index is None else self.split.index
        return [str(i) for i in index.tolist()]

    def labels(self) -> list[str] | None:
        """The label of each example by name, or by number if it has none; None if there are no labels."""
        if self.split.labels is None:
            return None
        names = self.label_names
        return [names[label] if label < len(names) else str(label) for label in self.split.labels.tolist()]

    def first(self, limit: int | None) -> Examples:
        """The first examples, at most `limit`."""
        return self if limit is None else replace(self, split=self.split.part(0, limit))

    def for_model(self, classes: int, label_names: Sequence[str]) -> Split:
        """The examples with labels as a model numbers them.

        Args:
            classes: number of labels that the model is conditional on, or 0.
            label_names: names of these labels. If both have names, labels are matched by name, else by number.

        Raises:
            UsageError: the model is conditional, and an example has no label or one that the model does not have.
        """
        split = replace(self.split, labels=None, digest=None)
        if not classes:
            return split
        if self.split.labels is None:
            raise UsageError("The model is conditional on labels, and the data have none.")
        labels, names = self.split.labels, self.labels()
        assert names is not None
        if self.label_names and label_names:
            numbers = {name: number for number, name in enumerate(label_names)}
            labels = torch.tensor([numbers.get(name, classes) for name in names])
        unseen = sorted({name for name, label in zip(names, labels.tolist(), strict=True) if label >= classes})
        if unseen:
            raise UsageError(
                f"The model is conditional on labels and was trained without {', '.join(unseen)}. It cannot score "
                "these examples: remove them, or train a model that is not conditional."
            )
        return replace(split, labels=labels)


def read(run: zoo.Run, data: object, root: Path | None) -> Examples:
    """Every example of `data`, or the test split of the run for None.

    Raises:
        DataError: the data are not available, or have another shape than those of the run.
    """
    if data is None:
        dataset = run.loaded(root).dataset
        return Examples(dataset.test, dataset.label_names)
    return Examples(*run.read_labelled(data, root))
