"""Trained weights for vae-zoo, written by `zoo package`."""

from importlib.resources import files

import zoo

FOLDER = files(__name__) / "weights"


@zoo.hookimpl
def zoo_weights():
    """The trained weights of this package, with the SHA-256 of their manifests."""
    yield zoo.Weights(
        name="mlp-vae@mnist",
        folder=FOLDER / "mlp-vae@mnist",
        sha256="ba179a72fd62f5322f47d47f8f0b0cf2b82304a639251d69aebbb5e9bd241309",
        summary="log-likelihood -89.3 nats/image; Gaussian VAE with one ReLU hidden layer on each side (arXiv...",
    )
    yield zoo.Weights(
        name="mlp-vae-2d@mnist",
        folder=FOLDER / "mlp-vae-2d@mnist",
        sha256="f00c3ec977632ab4a67cb6044fc522d82b0e7e76f1fff011fe95621387f8e5b7",
        summary="log-likelihood -140.0 nats/image; mlp-vae with two latent dimensions, to look at its latent ...",
    )
    yield zoo.Weights(
        name="beta-vae@mnist",
        folder=FOLDER / "beta-vae@mnist",
        sha256="7fc819317ae79b26689a856b3e14711ca97e3b8251443fae397b5d59bb343575",
        summary="log-likelihood -99.4 nats/image; mlp-vae with four times the rate in its loss (OpenReview Sy...",
    )
    yield zoo.Weights(
        name="iwae@mnist",
        folder=FOLDER / "iwae@mnist",
        sha256="0836179a8759fada8a9fbca1f1712dadc9c91ff3713bfe438ec4109b3000341b",
        summary="log-likelihood -91.7 nats/image; mlp-vae with the importance-weighted bound of 8 draws (arXi...",
    )
    yield zoo.Weights(
        name="conv-vae@mnist",
        folder=FOLDER / "conv-vae@mnist",
        sha256="bb546e00c99ed201ab3e3b678a4d3722c5a68ab764c81e71ce86fc2a7460444f",
        summary="log-likelihood -87.8 nats/image; VAE with convolutions in place of the dense layers",
    )
    yield zoo.Weights(
        name="resnet-vae@mnist",
        folder=FOLDER / "resnet-vae@mnist",
        sha256="18acca3d62242562f555f11106fe81e815c65855cb462487ee17a60ae6d0f8ff",
        summary="log-likelihood -84.9 nats/image; VAE with residual blocks on each side (arXiv 1603.05027)",
    )
    yield zoo.Weights(
        name="svae@mnist",
        folder=FOLDER / "svae@mnist",
        sha256="9dbec39bf2f905b477f6bf9267c008b2aa691c9f9ed71e471b3caf68c49f6742",
        summary="log-likelihood -97.6 nats/image; Hyperspherical VAE, von Mises-Fisher posterior and uniform ...",
    )
    yield zoo.Weights(
        name="poincare-vae@mnist",
        folder=FOLDER / "poincare-vae@mnist",
        sha256="4fad079950f6e1d838d7d66c6be9e761df507e86df85dbea628278d7167c8758",
        summary="log-likelihood -97.9 nats/image; VAE on the Poincare ball, wrapped normal posterior and prio...",
    )
