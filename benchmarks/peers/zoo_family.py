"""A model of the zoo, trained by `zoo.Trainer`."""

from __future__ import annotations

from collections.abc import Callable

import torch

from peers.families import FAMILIES, IMAGES


def prepare(data_dir: str, name: str) -> tuple[Callable[[], None], Callable[[], float | None]]:
    """Return a function that trains one epoch, and one that estimates the negative log-likelihood."""
    torch.set_flush_denormal(True)  # as zoo.train does, before torch starts its threads

    import zoo

    recipe = zoo.recipe(name, [*FAMILIES[name].overrides, "data=mnist", "train.epochs=1000000"])
    mnist = zoo.load_dataset("mnist", data_dir=data_dir)
    dataset = zoo.Dataset(mnist.train.part(0, IMAGES), mnist.test)
    torch.manual_seed(recipe.train.seed)
    vae = zoo.create_model(recipe, data_shape=dataset.shape, classes=dataset.classes)
    loss = zoo.create_loss(recipe, data_shape=dataset.shape, classes=dataset.classes, train_size=len(dataset.train))
    trainer = zoo.Trainer(vae, loss, dataset, recipe.train)

    def nll() -> float | None:
        x = (mnist.test.x[:200] >= 128).float()
        try:
            return -trainer.vae.eval().log_likelihood(x, 200, seed=0).mean().item()
        except zoo.ZooError:
            return None

    return trainer.train_epoch, nll
