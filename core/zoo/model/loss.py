"""The objective of a variational autoencoder: a functional of its three distributions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zoo.model.batch import Batch
from zoo.model.parts import Scheduled
from zoo.model.precision import KeepsFloat32
from zoo.model.vae import VAE

Terms = dict[str, Tensor]


@dataclass(frozen=True)
class Phase:
    """An objective and the parameters that it updates.

    Attributes:
        name: name in logs and messages.
        parameters: passed to ``backward(inputs=...)`` and to the optimizer of this phase.
        objective: maps a model and a batch to named scalars, including ``loss``.
        every: run this phase in every n-th training step, starting with the first.
    """

    name: str
    parameters: Sequence[nn.Parameter]
    objective: Callable[[VAE, Batch], Terms]
    every: int = 1


class Loss(KeepsFloat32, Scheduled, ABC):
    """Base class of losses. A module, so that its state is saved and moved with the model.

    Under `torch.inference_mode`, `forward` runs under `torch.no_grad` instead, so that a loss can still take gradients
    with respect to the latent; the terms are the same.

    A constructor may take ``data_shape``, ``latent_dim``, ``latent_shape``, ``classes`` and ``train_size``, the number
    of training examples (0 if unknown).
    """

    @abstractmethod
    def forward(self, vae: VAE, batch: Batch) -> Terms:
        """Return ``loss``, which is minimized, and further terms to log, such as ``distortion`` and ``rate``.

        Every term is a 0-d tensor, averaged over the batch, in nats per example.
        """

    def __call__(self, vae: VAE, batch: Batch) -> Terms:
        """Return the terms of a batch; see `forward`."""
        terms: Terms
        if torch.compiler.is_compiling() or not torch.is_inference_mode_enabled():
            terms = super().__call__(vae, batch)
        else:
            with torch.inference_mode(False), torch.no_grad():
                # An inference tensor never supports autograd; a copy does.
                terms = super().__call__(vae, batch.map(Tensor.clone))
        return terms

    def phases(self, vae: VAE) -> Sequence[Phase]:
        """Return the phases of a training step, in order. By default, one phase updates all parameters."""
        return [Phase("all", [p for module in (vae, self) for p in module.parameters() if p.requires_grad], self)]
