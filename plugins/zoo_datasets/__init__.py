"""Data sets: digits that need no network, well-known ones through torchvision, and the user's own images and arrays.

For data sets of other packages, `cached_images` decodes images once into a memory-mapped cache.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from zoo import OBJECT, Command, Component, hookimpl

if TYPE_CHECKING:
    from zoo_datasets.cache import cached_images as cached_images
else:

    def __getattr__(name):  # imports torch, which loading a plugin must not
        if name == "cached_images":
            from zoo_datasets.cache import cached_images

            return cached_images
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@hookimpl
def zoo_components() -> Iterable[Component]:
    """The data sets."""
    return (
        Component("dataset", "digits", "zoo_datasets.digits:digits", "1797 digits, 8x8 grey, inside scikit-learn"),
        Component("dataset", "mnist", "zoo_datasets.mnist:mnist", "70000 digits, 28x28 grey"),
        Component("dataset", "fashion-mnist", "zoo_datasets.mnist:fashion_mnist", "70000 clothes, 28x28 grey"),
        Component("dataset", "kmnist", "zoo_datasets.mnist:kmnist", "70000 cursive Japanese characters, 28x28 grey"),
        Component("dataset", "emnist", "zoo_datasets.mnist:emnist", "131600 letters and digits (or more), 28x28 grey"),
        Component("dataset", "omniglot", "zoo_datasets.omniglot:omniglot", "32460 drawings of 1623 characters, 28x28"),
        Component("dataset", "cifar10", "zoo_datasets.cifar:cifar10", "60000 photographs of ten classes, 32x32 colour"),
        Component("dataset", "svhn", "zoo_datasets.svhn:svhn", "99289 digits of house numbers, 32x32 colour"),
        Component("dataset", "freyfaces", "zoo_datasets.freyfaces:freyfaces", "1965 frames of a face, 28x20 grey"),
        Component("dataset", "celeba", "zoo_datasets.celeba:celeba", "202599 faces, 64x64 colour, decoded once"),
        Component("dataset", "folder", "zoo_datasets.folder:folder", "the images in a folder, decoded once", ("/",)),
        Component(
            "dataset",
            "arrays",
            "zoo_datasets.arrays:arrays",
            "images in a NumPy or PyTorch file",
            (".npy", ".npz", ".pt", ".pth"),
        ),
        Component(
            "dataset",
            "memory",
            "zoo_datasets.memory:memory",
            "images passed to zoo.train as tensors, arrays or a zoo.Dataset",
            (OBJECT,),
        ),
    )


@hookimpl
def zoo_commands() -> Iterable[Command]:
    """The commands of this plugin."""
    return (Command("clean-cache", "Delete decoded images that are no longer used.", "zoo_datasets.cli:clean_cache_"),)
