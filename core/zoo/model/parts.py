"""The parts of a variational autoencoder: encoder, decoder and prior, and the heads that parametrize them.

Each part is an `nn.Module` whose ``forward`` returns a `torch.distributions.Distribution`. Shapes: ``x`` is
(N, *data_shape), with a data_shape of any length ((C, H, W) for images in [0, 1]); ``z`` is (K..., N, *latent_shape),
with any number of sample dimensions K...; log-densities are (K..., N), in nats.

Networks run in the dtype of their parameters, or in bfloat16 under autocast; densities are computed in float32 or
higher. A head therefore casts its input with `at_least_float32`, draws are in float32 or higher, and a network that
receives draws casts them with `match_dtype`. `VAE.encode` and `VAE.decode` do so for encoders and decoders.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn
from torch.distributions import Distribution

from zoo.model.precision import KeepsFloat32


class Scheduled:
    """A module of a model or a loss whose state follows a schedule instead of the optimizer."""

    def schedule(self, step: int, epoch: float) -> None:
        """Update the state (such as beta, a capacity or a temperature); called before each step.

        Compute it from `step` (optimizer steps taken) and `epoch` (the same in epochs, fractional) alone, and write it
        into 0-d buffers: then resuming is exact, and captured graphs see the change.
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
    """A part of a model that requires labels.

    Attributes:
        classes: number of labels.
    """

    classes: int


class Encoder(nn.Module, ABC):
    """The approximate posterior q(z | x).

    A constructor may take ``data_shape``, ``latent_dim`` and ``classes``: recipes inject them by name. ``classes`` is
    the number of labels in the data, 0 if there are none; ``condition`` holds the labels, int64 (N,).

    Attributes:
        takes_mask: whether ``forward`` has a third argument ``mask``: bool, like x, true where an entry is observed, or
            None if all are. Missing entries of x are 0.
    """

    takes_mask: ClassVar[bool] = False

    @abstractmethod
    def forward(self, x: Tensor, condition: Tensor | None = None) -> Distribution:
        """Map x (N, *data_shape) to a distribution with batch shape (N,) and event shape ``latent_shape``."""


class Posterior(nn.Module, ABC):
    """The head of an encoder: features to q(z | x). Its constructor takes ``features`` and ``latent_dim``.

    Features are channels-last and a head acts on the last axis, so it works for flat (no grid) and spatial latents.
    """

    @abstractmethod
    def forward(self, features: Tensor) -> Distribution:
        """Map features (N, *grid, features) to a distribution with batch shape (N,), over (*grid, latent_dim)."""


class Decoder(nn.Module, ABC):
    """The generative model p(x | z).

    A constructor may take ``data_shape``, ``latent_dim``, ``latent_shape`` (the event shape of the posterior),
    ``classes`` and ``model_encoder``, the model's encoder, for a network that both share. The encoder holds its
    parameters; the decoder must not register it as a submodule, since a tensor is saved once.
    """

    @abstractmethod
    def forward(self, z: Tensor, condition: Tensor | None = None) -> Distribution:
        """Map latents (K..., N, *latent_shape) to a distribution with batch shape (K..., N) over data_shape."""


class Likelihood(nn.Module, ABC):
    """The head of a decoder: parameters of each entry of x to p(x | z). Its constructor takes ``data_shape``.

    The network outputs `parameters_per_entry` numbers per entry on the last axis, without a final activation:
    likelihoods work with logits and logarithms. An unnormalized one (an energy) returns a distribution with an
    attribute ``normalized = False``; its log-likelihood is not estimated.

    Attributes:
        parameters_per_entry: number of parameters per entry of x.
        photographs: parameters with which it suits photographs (real-valued pixels in [0, 1]), or None if it does not
            suit them. A training whose likelihood does not suit its pixels recommends those that do.
    """

    parameters_per_entry: int = 1
    photographs: ClassVar[Mapping[str, object] | None] = None

    @abstractmethod
    def forward(self, parameters: Tensor) -> Distribution:
        """Map (..., *data_shape, parameters_per_entry) to a distribution over data_shape with batch shape (...)."""


class Prior(KeepsFloat32, ABC):
    """The prior p(z). Its parameters stay in float32 when the model is cast to bfloat16.

    A constructor may take ``latent_dim``, ``latent_shape``, ``data_shape``, ``classes`` and ``model_encoder``, the
    model's encoder, to read sizes from it (such as that of a codebook) without keeping a reference.
    """

    @abstractmethod
    def forward(self, encoder: Encoder, condition: Tensor | None = None) -> Distribution:
        """Return the distribution over z, with batch shape () or, given a condition, (N,).

        Priors that are defined by the posterior, such as the VampPrior, use `encoder`.
        """


class ExPostPrior(Prior):
    """A prior that is fitted to the aggregate posterior of a trained model (arXiv 1903.12436).

    `fit` must not change the shapes in its state, so that the state can be loaded.
    """

    @abstractmethod
    def fit(self, z: Tensor, encoder: Encoder) -> None:
        """Fit to draws `z` (N, *latent_shape) from q(z | x), the same number for each training image.

        Images are shuffled and the draws of an image are adjacent, so the first rows can be held out. Draw random
        numbers from torch's global generator only, which is seeded.

        Raises:
            UsageError: the draws cannot be fitted; the message gives the reason.
        """
