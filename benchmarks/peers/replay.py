"""A lower bound: only the matrix products of an epoch, forward and backward, with preallocated outputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from peers import BATCH, HIDDEN, IMAGES, LATENT, PIXELS

# (in, out) of each layer; the heads for mean and scale are one product.
SHAPES = [(PIXELS, HIDDEN), (HIDDEN, 2 * LATENT), (LATENT, HIDDEN), (HIDDEN, PIXELS)]


class Layer:
    """The operands and outputs of the three products of a linear layer, for full batches and the smaller last one."""

    def __init__(self, inputs: int, outputs: int) -> None:
        self.weight = torch.randn(outputs, inputs) / inputs**0.5
        self.weight_grad = torch.empty_like(self.weight)
        self.x, self.x_grad = torch.randn(BATCH, inputs), torch.empty(BATCH, inputs)
        self.y, self.y_grad = torch.empty(BATCH, outputs), torch.randn(BATCH, outputs)

    def forward(self, n: int) -> None:
        torch.mm(self.x[:n], self.weight.t(), out=self.y[:n])

    def backward_weight(self, n: int) -> None:
        torch.mm(self.y_grad[:n].t(), self.x[:n], out=self.weight_grad)

    def backward_input(self, n: int) -> None:
        torch.mm(self.y_grad[:n], self.weight, out=self.x_grad[:n])


def prepare(
    data_dir: str, after_step: Callable[[list[Tensor], list[Tensor]], None] | None = None
) -> Callable[[], None]:
    """Return one epoch of products; the data are random, since their values do not matter.

    Args:
        after_step: called with the weights and their gradients after each step.
    """
    layers = [Layer(*shape) for shape in SHAPES]
    weights = [layer.weight for layer in layers]
    gradients = [layer.weight_grad for layer in layers]

    @torch.no_grad()
    def epoch() -> None:
        for start in range(0, IMAGES, BATCH):
            n = min(BATCH, IMAGES - start)
            for layer in layers:
                layer.forward(n)
            for layer in reversed(layers):
                layer.backward_weight(n)
                if layer is not layers[0]:
                    layer.backward_input(n)
            if after_step is not None:
                after_step(weights, gradients)

    return epoch
