"""The recipe ``mlp-vae`` on MNIST, trained by `zoo.Trainer`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch


def prepare(data_dir: str) -> Callable[[], None]:
    """Return a function that trains one epoch, without evaluation."""
    torch.set_flush_denormal(True)  # as zoo.train does, before torch starts its threads

    import zoo
    from peers import DEVICE
    from zoo.recipes.building import build
    from zoo.recipes.datasets import load_data
    from zoo.training.trainer import Trainer

    recipe = zoo.recipe("mlp-vae", data="mnist", train={"epochs": 10**6})
    dataset = load_data(recipe.data, Path(data_dir)).dataset
    torch.manual_seed(recipe.train.seed)
    return Trainer(*build(recipe, dataset.shape, dataset.classes), dataset, recipe.train, device=DEVICE).train_epoch
