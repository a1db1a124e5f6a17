"""A model of pythae 0.1.2, trained by the trainer that its pipeline chooses; see `pythae_vae` for the settings."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable

import pythae.models
import torch
from pythae.data.datasets import BaseDataset
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import (
    AdversarialTrainer,
    AdversarialTrainerConfig,
    BaseTrainer,
    BaseTrainerConfig,
    CoupledOptimizerTrainer,
    CoupledOptimizerTrainerConfig,
)
from torch import Tensor, nn
from torchvision.datasets import MNIST

from peers import BATCH, HIDDEN, LR, PIXELS
from peers.families import FAMILIES, IMAGES

POINTS = ("AE", "RAE_L2", "RAE_GP", "WAE_MMD", "VQVAE")
"""Models whose encoder returns a point, so that it has one head."""
ADVERSARIAL = ("Adversarial_AE", "FactorVAE")
COUPLED = ("RAE_L2", "PIWAE")


class Encoder(BaseEncoder):
    """Map images to a point, and to the parameter of the spread of the posterior if it has one."""

    def __init__(self, latent_dim: int, spread: str | None) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, HIDDEN), nn.ReLU())
        self.point = nn.Linear(HIDDEN, latent_dim)
        self.spread = spread
        if spread is not None:
            self.head = nn.Linear(HIDDEN, 1 if spread == "log_concentration" else latent_dim)

    def forward(self, x: Tensor) -> ModelOutput:
        features = self.trunk(x)
        output = ModelOutput(embedding=self.point(features))
        if self.spread is not None:
            output[self.spread] = self.head(features)
        return output


class Decoder(BaseDecoder):
    """Latents to the means of the pixels."""

    def __init__(self, latent_dim: int, activation: nn.Module) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(latent_dim, HIDDEN), activation, nn.Linear(HIDDEN, PIXELS), nn.Sigmoid())

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.trunk(z))


class RecipeEncoder(BaseEncoder):
    """The convolutional encoder of a recipe."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> ModelOutput:
        parameters = self.encoder.posterior.linear(self.encoder.trunk(x.view(-1, 1, 28, 28)))
        mean, log_variance = parameters.chunk(2, dim=1)
        return ModelOutput(embedding=mean, log_covariance=log_variance)


class RecipeDecoder(BaseDecoder):
    """The convolutional decoder of a recipe."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.decoder(z).mean.flatten(1))


def networks(name: str, latent_dim: int, spread: str | None) -> tuple[BaseEncoder, BaseDecoder]:
    """The networks of a family."""
    family = FAMILIES[name]
    if family.convolutional:
        import zoo

        vae = zoo.create_model(zoo.recipe(name, family.overrides), data_shape=(1, 28, 28))
        return RecipeEncoder(vae.encoder), RecipeDecoder(vae.decoder)
    activation = nn.Softplus() if family.peer in ("HVAE", "RHVAE") else nn.ReLU()
    return Encoder(latent_dim, spread), Decoder(latent_dim, activation)


def prepare(data_dir: str, name: str) -> tuple[Callable[[], None], Callable[[], float | None]]:
    """Return a function that trains one epoch, and one that estimates the negative log-likelihood."""
    logging.disable(logging.INFO)
    torch.distributions.Distribution.set_default_validate_args(False)  # HVAE evaluates a Bernoulli at gray values
    family = FAMILIES[name]
    latent_dim = latents(name)
    configs = (f"{family.peer}Config", f"{family.peer}_Config")
    config_class = next(getattr(pythae.models, config) for config in configs if hasattr(pythae.models, config))
    reconstruction = {} if family.peer in POINTS or family.peer == "Adversarial_AE" else {"reconstruction_loss": "bce"}
    config = config_class(input_dim=(PIXELS,), latent_dim=latent_dim, **{**reconstruction, **family.config})
    spread = None if family.peer in POINTS else "log_concentration" if family.peer == "SVAE" else "log_covariance"
    encoder, decoder = networks(name, latent_dim, spread)
    model = getattr(pythae.models, family.peer)(config, encoder=encoder, decoder=decoder)

    train = MNIST(data_dir, train=True, download=False).data[:IMAGES].reshape(-1, PIXELS).float() / 255
    common = {"per_device_train_batch_size": BATCH, "train_dataloader_num_workers": 0, "no_cuda": True}
    fused = {"fused": True}
    if family.peer in ADVERSARIAL:
        trainer_class, trainer_config = AdversarialTrainer, AdversarialTrainerConfig
        options = {"autoencoder": fused, "discriminator": fused}
    elif family.peer in COUPLED:
        trainer_class, trainer_config = CoupledOptimizerTrainer, CoupledOptimizerTrainerConfig
        options = {"encoder": fused, "decoder": fused}
    else:
        trainer_class, trainer_config = BaseTrainer, BaseTrainerConfig
        options = {}
    optimizers = {f"{part}_optimizer_params": value for part, value in options.items()}
    optimizers |= {f"{part}_optimizer_cls": "Adam" for part in options}
    optimizers |= {f"{part}_learning_rate": LR for part in options}
    if not options:
        optimizers = {"optimizer_cls": "Adam", "optimizer_params": fused, "learning_rate": LR}
    with tempfile.TemporaryDirectory() as output_dir:
        trainer = trainer_class(
            model=model,
            train_dataset=BaseDataset(train, torch.zeros(len(train))),
            training_config=trainer_config(output_dir=output_dir, **common, **optimizers),
        )
        trainer.prepare_training()
    trainer.callback_handler.callbacks.clear()
    number = 0

    def epoch() -> None:
        nonlocal number
        number += 1
        trainer.train_step(number)

    def nll() -> float | None:
        x = (MNIST(data_dir, train=False, download=False).data[:200].reshape(-1, PIXELS) >= 128).float()
        if not hasattr(trainer.model, "get_nll") or family.peer == "RHVAE":  # whose estimate raises an error
            return None
        with torch.set_grad_enabled(family.peer == "HVAE"):
            return -float(trainer.model.eval().get_nll(x, n_samples=200, batch_size=200))

    return epoch, nll


def latents(name: str) -> int:
    """The number of latent dimensions of the zoo's recipe; of the VQ-VAE, the dimensions of its one code."""
    import zoo

    recipe = zoo.recipe(name, FAMILIES[name].overrides)
    return int(recipe.encoder.parameters["posterior"]["dim"]) if name == "vq-vae-mlp" else recipe.latent_dim
