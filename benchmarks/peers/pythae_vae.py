"""pythae 0.1.2: its VAE with the same network, trained by its BaseTrainer from float images in memory.

The settings are the fastest measured. On two cores, loading in the main process (``train_dataloader_num_workers=0``)
takes about 5 s and two workers at least 7 s; the fused Adam saves another second. The trainer's
``train_step``, which is one epoch, is called without the rest of ``train``: no checkpoints and no copy of the best
model; the progress bar and console callbacks are removed.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable

import torch
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from torch import Tensor, nn
from torchvision.datasets import MNIST

from peers import BATCH, DEVICE, HIDDEN, LATENT, LR, PIXELS

WORKERS = 0


class Encoder(BaseEncoder):
    """Map images to the mean and log-variance of the posterior."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, HIDDEN), nn.ReLU())
        self.mean = nn.Linear(HIDDEN, LATENT)
        self.log_variance = nn.Linear(HIDDEN, LATENT)

    def forward(self, x: Tensor) -> ModelOutput:
        features = self.trunk(x)
        return ModelOutput(embedding=self.mean(features), log_covariance=self.log_variance(features))


class Decoder(BaseDecoder):
    """Latents to the means of the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, PIXELS), nn.Sigmoid())

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.trunk(z))


def prepare(data_dir: str) -> Callable[[], None]:
    """Return one epoch of pythae's trainer."""
    logging.disable(logging.INFO)
    train_set = MNIST(data_dir, train=True, download=False)
    images = train_set.data.reshape(-1, PIXELS).float() / 255
    config = VAEConfig(input_dim=(PIXELS,), latent_dim=LATENT, reconstruction_loss="bce")
    with tempfile.TemporaryDirectory() as output_dir:
        trainer = BaseTrainer(
            model=VAE(config, encoder=Encoder(), decoder=Decoder()),
            train_dataset=BaseDataset(images, torch.zeros(len(images))),
            training_config=BaseTrainerConfig(
                output_dir=output_dir,
                per_device_train_batch_size=BATCH,
                train_dataloader_num_workers=WORKERS,
                optimizer_cls="Adam",
                optimizer_params={"fused": True},
                learning_rate=LR,
                no_cuda=DEVICE == "cpu",
            ),
        )
        trainer.prepare_training()
    trainer.callback_handler.callbacks.clear()
    number = 0

    def epoch() -> None:
        nonlocal number
        number += 1
        trainer.train_step(number)

    return epoch
