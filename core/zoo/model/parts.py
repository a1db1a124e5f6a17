"""The parts of a variational autoencoder: three conditional distributions, and the two heads that parametrise them.

Each part is an `nn.Module` whose ``forward`` returns a `torch.distributions.Distribution`. Shapes, everywhere:
``x`` is (N, *data_shape), with a data_shape of any length ((C, H, W) for images in [0, 1]); ``z`` is
(K..., N, *latent_shape), where K... are any number of sample dimensions; a log-density sums over its event and keeps
(K..., N), in nats.

Networks run in the precision of their parameters, and under autocast in bfloat16; densities are evaluated in float32 at
least. So a head casts its input with `at_least_float32` first, draws are in float32 at least, and a network that takes
draws casts them with `match_dtype`. `VAE.encode` and `VAE.decode` do so for encoders and decoders.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn
from torch.distributions import Distribution

from zoo.model.precision import KeepsFloat32


class Scheduled:
    """A module, of a model or a loss, that changes during training otherwise than by its gradient."""

    def schedule(self, step: int, epoch: float) -> None:
        """Set what changes (beta, capacity, temperature); called before each step.

        A pure function of `step` (optimiser steps taken) and `epoch` (the same, as a fraction), written into 0-d
        buffers: so it resumes exactly and is seen by a captured graph.
        """


class DataDependent:
    """A module whose initial state is computed from the training data.

    `zoo.train` calls `initialize` once, after the model is built. The state is kept in parameters or buffers, so that a
    saved model holds it.
    """

    def initialize(self, mean: Tensor) -> None:
        """Set the initial state.

        Args:
            mean: of the training examples, float32 of shape data_shape, in units of x.
        """


class Conditional:
    """A part of a model that has to be told the labels.

    Attributes:
        classes: how many there are, from 0 on.
    """

    classes: int


class Encoder(nn.Module, ABC):
    """The approximate posterior q(z | x).

    A constructor may ask for ``data_shape``, ``latent_dim`` and ``classes``: recipes inject them by name.
    ``classes`` is the number of labels in the data, 0 where they have none; ``condition`` holds the labels, int64 (N,).
    """

    @abstractmethod
    def forward(self, x: Tensor, condition: Tensor | None = None) -> Distribution:
        """Map x (N, *data_shape) to a distribution with batch shape (N,) and event shape ``latent_shape``."""


class Posterior(nn.Module, ABC):
    """The head of an encoder: features to q(z | x). Its constructor gets ``features`` and ``latent_dim``.

    Features are channels-last and a head acts on the last axis, so that it serves a flat latent (no grid) and a spatial
    one alike.
    """

    @abstractmethod
    def forward(self, features: Tensor) -> Distribution:
        """Map features (N, *grid, features) to a distribution with batch shape (N,), over (*grid, latent_dim)."""


class Decoder(nn.Module, ABC):
    """The generative model p(x | z).

    A constructor may ask for ``data_shape``, ``latent_dim``, ``latent_shape`` (the posterior's event shape) and
    ``classes``.
    """

    @abstractmethod
    def forward(self, z: Tensor, condition: Tensor | None = None) -> Distribution:
        """Map latents (K..., N, *latent_shape) to a distribution with batch shape (K..., N) over data_shape."""


class Likelihood(nn.Module, ABC):
    """The head of a decoder: the parameters of each entry of x to p(x | z). Its constructor gets ``data_shape``.

    A trunk puts out `parameters_per_entry` numbers for each entry, on the last axis and without a final activation: a
    likelihood works from logits and logarithms. One that is not a normalised density (an energy) returns a distribution
    with an attribute ``normalized = False``, and no log-likelihood is then estimated from it.

    Attributes:
        parameters_per_entry: numbers for each entry of x.
        photographs: with which parameters it suits grey or colour photographs, real pixels anywhere in [0, 1]; None if
            it does not. A training whose pixels its likelihood does not suit recommends those that do.
    """

    parameters_per_entry: int = 1
    photographs: ClassVar[Mapping[str, object] | None] = None

    @abstractmethod
    def forward(self, parameters: Tensor) -> Distribution:
        """Map (..., *data_shape, parameters_per_entry) to a distribution over data_shape with batch shape (...)."""


class Prior(KeepsFloat32, ABC):
    """The prior p(z). Its parameters stay in float32 when a model is cast to bfloat16.

    A constructor may ask for ``latent_dim``, ``latent_shape``, ``data_shape`` and ``classes``; and for
    ``model_encoder``, the encoder that it goes with, to take sizes from (of a codebook, say) and not to keep it.
    """

    @abstractmethod
    def forward(self, encoder: Encoder, condition: Tensor | None = None) -> Distribution:
        """Return the distribution over z, with batch shape () or, given a condition, (N,).

        `encoder` serves priors that are built from the posterior, such as the VampPrior; the rest ignore it.
        """


class ExPostPrior(Prior):
    """A prior that is fitted to the aggregate posterior once the model is trained (arXiv 1903.12436).

    Its state must be of the same shape before and after `fit`, so that it can be saved and loaded.
    """

    @abstractmethod
    def fit(self, z: Tensor, encoder: Encoder) -> None:
        """Fit it to draws `z` (N, *latent_shape) of q(z | x), as many for each training image.

        The images are in a random order and the draws of one image lie side by side, so that a first share of the rows
        can be held out. Draw from torch's global generator alone: it is seeded before.

        Raises:
            UsageError: these draws cannot be fitted; say what is wrong with them.
        """
