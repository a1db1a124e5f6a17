"""The models that pythae and the zoo have in common, with the settings that make them the same model.

Every model has the network 784-400-z-400-784, or the convolutional network of its recipe, and batches of 128, and
trains on the first 12,800 images of MNIST with Adam.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

IMAGES = 12_800


@dataclass(frozen=True)
class Family:
    """A recipe of the zoo and the model of pythae that is the same.

    Attributes:
        peer: name of pythae's model; its configuration is ``<peer>Config``.
        config: arguments of the configuration.
        overrides: changes of the recipe.
        convolutional: whether the network is that of the recipe, for both.
        difference: what cannot be made the same.
    """

    peer: str
    config: dict[str, Any] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    convolutional: bool = False
    difference: str = ""


FAMILIES: dict[str, Family] = {
    "mlp-vae": Family("VAE"),
    "mlp-vae-mse": Family("VAE", {"reconstruction_loss": "mse"}),
    "conv-vae": Family("VAE", convolutional=True),
    "resnet-vae": Family("VAE", overrides=("binarize=none", "train.batch_size=128"), convolutional=True),
    "beta-vae": Family("BetaVAE", {"beta": 4.0}),
    "iwae": Family("IWAE", {"number_samples": 8}, ("binarize=none",)),
    "miwae": Family("MIWAE", {"number_gradient_estimates": 2, "number_samples": 4}, ("binarize=none",)),
    "piwae": Family("PIWAE", {"number_gradient_estimates": 2, "number_samples": 4}, ("binarize=none",)),
    "ciwae": Family("CIWAE", {"number_samples": 8, "beta": 0.05}, ("binarize=none",)),
    "vamp-vae": Family("VAMP", {"number_components": 100}, ("prior.pseudo_inputs=100",)),
    "planar": Family(
        "VAE_LinNF",
        {"flows": ["Planar"] * 10},
        ("binarize=none",),
        difference="the flow of pythae does not depend on x",
    ),
    "iaf": Family("VAE_IAF", {"n_made_blocks": 2, "n_hidden_in_made": 1, "hidden_size": 200}, ("binarize=none",)),
    "beta-vae-capacity": Family("DisentangledBetaVAE", {"beta": 10.0, "C": 25.0, "warmup_epoch": 4}),
    "beta-tc-vae": Family("BetaTCVAE", {"beta": 6.0}),
    "factor-vae": Family("FactorVAE", {"gamma": 6.4}, difference="the discriminators have other layers"),
    "info-vae": Family("INFOVAE_MMD", {"alpha": 0.0, "lbd": 10.0}),
    "wae-mmd": Family("WAE_MMD", {"reg_weight": 10.0, "reconstruction_loss": "mse"}),
    "ae": Family("AE"),
    "rae-l2": Family("RAE_L2", {"embedding_weight": 1e-2, "reg_weight": 1e-4}),
    "rae-gp": Family(
        "RAE_GP",
        {"embedding_weight": 1e-2, "reg_weight": 1e-4},
        difference="pythae penalizes the gradient in x, the paper in z",
    ),
    "vq-vae-mlp": Family(
        "VQVAE",
        {"num_embeddings": 64, "use_ema": True, "decay": 0.99},
        ("latent_dim=1", "encoder.posterior.dim=16"),
    ),
    "aae": Family(
        "Adversarial_AE",
        overrides=("loss.hidden=[256]",),
        difference="each of the three phases passes through the updated encoder; pythae has one pass for all",
    ),
    "svae": Family("SVAE"),
    "poincare-vae": Family(
        "PoincareVAE", {"posterior_distribution": "wrapped_normal", "prior_distribution": "wrapped_normal"}
    ),
    "hvae": Family("HVAE", {"n_lf": 3}, difference="pythae does not differentiate through the forces"),
    "rhvae": Family("RHVAE", {"n_lf": 3}, difference="the metrics have other sizes"),
}
