"""A view of a model that keeps its last trace."""

from __future__ import annotations

from zoo.errors import ComponentError
from zoo.model.batch import Batch
from zoo.model.vae import VAE, Trace


class RecordedVAE(VAE):
    """A view of a model that keeps its last trace, for a loss that adds terms to those of another loss.

    Pass it to the other loss in place of the model. The parts are shared, so their parameters receive the gradients.

    Args:
        vae: the model.

    >>> import torch, zoo
    >>> shape = (1, 8, 8)
    >>> vae = zoo.RecordedVAE(zoo.create_model("mlp-vae", data_shape=shape))
    >>> terms = zoo.create_loss("mlp-vae", data_shape=shape)(vae, zoo.Batch(torch.rand(5, *shape)))
    >>> bool(terms["distortion"] == -vae.last.log_px.mean())
    True
    """

    def __init__(self, vae: VAE) -> None:
        super().__init__(vae.encoder, vae.decoder, vae.prior)
        self.training = vae.training
        self.data_shape, self._latent_shape = vae.data_shape, vae._latent_shape
        self._trace = vae.trace
        self._last: Trace | None = None

    @property
    def last(self) -> Trace:
        """The result of the last call of `trace`.

        Raises:
            ComponentError: there was none.
        """
        if self._last is None:
            raise ComponentError(
                "The nested loss does not call VAE.trace, so no term can be added to it. Choose another one, such as "
                "elbo or vq."
            )
        return self._last

    def trace(self, batch: Batch, samples: int | None = None) -> Trace:
        """Trace the model, and keep the result."""
        self._last = self._trace(batch, samples)
        return self._last
