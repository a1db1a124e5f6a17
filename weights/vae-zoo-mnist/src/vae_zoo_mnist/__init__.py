"""Trained weights for vae-zoo, written by `zoo package`."""

from importlib.resources import files

import zoo

FOLDER = files(__name__) / "weights"


@zoo.hookimpl
def zoo_weights():
    """The trained weights of this package, with the SHA-256 of their manifests."""
    yield zoo.Weights(
        name="mlp-vae-2d@mnist",
        folder=FOLDER / "mlp-vae-2d@mnist",
        sha256="2a42f86dde099bf6f2acfcf677fef8c68b0f8b8654cd4d9f6fb9d4cb430cf6f0",
        summary="elbo -150.60 nats/image; mlp-vae with two latent dimensions, to look at its latent space",
    )
