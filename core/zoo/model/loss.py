"""The objective of a variational autoencoder, a functional of its three distributions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zoo.model.parts import Scheduled
from zoo.model.precision import KeepsFloat32
from zoo.model.vae import VAE, Batch

Terms = dict[str, Tensor]


@dataclass(frozen=True)
class Phase:
    """One objective and the parameters that it, and nothing else, moves.

    Attributes:
        name: for logs and messages.
        parameters: what the trainer passes to ``backward(inputs=...)`` and to this phase's optimiser.
        objective: from model and batch to named scalars, ``loss`` among them.
        every: this phase takes a step in every so many training steps, beginning with the first.
    """

    name: str
    parameters: Sequence[nn.Parameter]
    objective: Callable[[VAE, Batch], Terms]
    every: int = 1


class Loss(KeepsFloat32, Scheduled, ABC):
    """What is minimised. A module, so that what it learns or counts is saved and moved with the rest.

    A call in `torch.inference_mode` runs `forward` under `torch.no_grad` instead, where a loss can still take gradients
    in the latent: the terms are the same.

    A constructor may ask for ``data_shape``, ``latent_dim``, ``latent_shape``, ``classes`` and ``train_size``, the
    number of training images (0 where it is not known).
    """

    @abstractmethod
    def forward(self, vae: VAE, batch: Batch) -> Terms:
        """Return ``loss``, which is minimised, and the terms to log, such as ``distortion`` and ``rate``.

        Every term is a scalar, averaged over the batch, in nats per example.
        """

    def __call__(self, vae: VAE, batch: Batch) -> Terms:
        """The terms of a batch; see `forward`."""
        terms: Terms
        if torch.compiler.is_compiling() or not torch.is_inference_mode_enabled():
            terms = super().__call__(vae, batch)
            return terms
        with torch.inference_mode(False), torch.no_grad():
            # A tensor made in inference mode stays unfit for gradients; its copy is not.
            terms = super().__call__(vae, batch.map(Tensor.clone))
            return terms

    def phases(self, vae: VAE) -> Sequence[Phase]:
        """The phases of one training step, in order. By default a single one over all parameters."""
        return [Phase("all", [p for module in (vae, self) for p in module.parameters() if p.requires_grad], self)]
