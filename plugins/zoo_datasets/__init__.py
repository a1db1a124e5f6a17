"""Data sets: handwritten digits that need no network, the MNIST family through torchvision, any folder of images."""

from __future__ import annotations

from collections.abc import Iterable

from zoo import Component, hookimpl


@hookimpl
def zoo_components() -> Iterable[Component]:
    """The data sets."""
    return (
        Component("dataset", "digits", "zoo_datasets.digits:digits", "1797 digits, 8x8 grey, inside scikit-learn"),
        Component("dataset", "mnist", "zoo_datasets.mnist:mnist", "70000 digits, 28x28 grey"),
        Component("dataset", "fashion-mnist", "zoo_datasets.mnist:fashion_mnist", "70000 clothes, 28x28 grey"),
        Component("dataset", "kmnist", "zoo_datasets.mnist:kmnist", "70000 cursive Japanese characters, 28x28 grey"),
        Component("dataset", "folder", "zoo_datasets.folder:folder", "the images in a folder of yours, decoded once"),
    )
