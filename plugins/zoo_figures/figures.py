"""Figures of a trained model, as matplotlib figures.

Each function takes a model, trained by the zoo or by any other code, with images or latent points on the model's
device, and returns a figure; `save` writes it as PNG. matplotlib is imported on first use, without windows or global
state. Random draws are seeded.

==================  ===========================================================================
command             function
==================  ===========================================================================
``zoo train``       `curves`, `reconstructions`, `samples`, and `manifold` for a 2-D latent
``zoo reconstruct`` `reconstructions`
``zoo sample``      `samples`, `decoded`
``zoo traverse``    `traversals`, and `manifold` for a 2-D latent
``zoo interpolate`` `interpolation`
``zoo latent``      `latent_space`
==================  ===========================================================================

>>> import torch, zoo
>>> from zoo_figures import figures
>>> vae = zoo.create_model("mlp-vae", latent_dim=3, data_shape=(1, 8, 8))  # or zoo.load("runs/mlp-vae")
>>> test = zoo.Batch(torch.rand(20, 1, 8, 8))  # or zoo.Run.open("runs/mlp-vae").test_batch()
>>> figure = figures.traversals(vae, vae.posterior_mean(test.x[:1])[0], images=test)
>>> figure.get_suptitle()
'Latent traversals'
"""

from zoo_canvas import COLUMNS, save
from zoo_figures.curves import curves
from zoo_figures.generation import decoded, samples
from zoo_figures.interpolation import interpolation
from zoo_figures.latent import latent_space
from zoo_figures.manifold import manifold
from zoo_figures.reconstruction import reconstructions
from zoo_figures.traversal import traversals

__all__ = [
    "COLUMNS",
    "curves",
    "decoded",
    "interpolation",
    "latent_space",
    "manifold",
    "reconstructions",
    "samples",
    "save",
    "traversals",
]
