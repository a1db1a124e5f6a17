"""The same training with gradients derived by hand and preallocated outputs, without autograd, modules or checks.

This is the fastest complete step with torch's kernels: gather and scale the pixels, draw the noise, compute the loss,
and update every weight and bias with Adam.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.datasets import MNIST

from peers import BATCH, IMAGES, LATENT, LR, PIXELS
from peers.replay import SHAPES


def prepare(data_dir: str) -> Callable[[], None]:
    """Return a function that trains one epoch."""
    torch.set_flush_denormal(True)
    images = MNIST(data_dir, train=True, download=False).data.reshape(-1, PIXELS)
    weights = [torch.nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5) for inputs, outputs in SHAPES]
    biases = [torch.nn.Parameter(torch.zeros(outputs)) for _, outputs in SHAPES]
    for parameter in weights + biases:
        parameter.grad = torch.zeros_like(parameter)
    optimizer = torch.optim.Adam(weights + biases, lr=LR, fused=True)
    activations = [torch.empty(BATCH, outputs) for _, outputs in SHAPES]
    gradients = [torch.empty(BATCH, outputs) for _, outputs in SHAPES]
    inputs = torch.empty(BATCH, PIXELS)
    noise, latent_gradient = torch.empty(BATCH, LATENT), torch.empty(BATCH, LATENT)

    def forward(layer: int, x: Tensor) -> Tensor:
        return torch.addmm(biases[layer], x, weights[layer].t(), out=activations[layer][: len(x)])

    def backward(layer: int, x: Tensor, gradient: Tensor, out: Tensor | None) -> Tensor | None:
        torch.mm(gradient.t(), x, out=weights[layer].grad)
        torch.sum(gradient, 0, out=biases[layer].grad)
        return None if out is None else torch.mm(gradient, weights[layer], out=out[: len(x)])

    @torch.no_grad()
    def step(indices: Tensor) -> Tensor:
        n = len(indices)
        x = torch.mul(images.index_select(0, indices), 1 / 255, out=inputs[:n])
        hidden = forward(0, x).relu_()
        mean, log_variance = forward(1, hidden).split(LATENT, -1)
        scale, epsilon = torch.exp(log_variance / 2), noise[:n].normal_()
        z = torch.addcmul(mean, scale, epsilon)
        hidden_z = forward(2, z).relu_()
        logits = forward(3, hidden_z)
        variance = scale * scale
        distortion = binary_cross_entropy_with_logits(logits, x, reduction="sum")
        rate = (mean * mean + variance - log_variance - 1).sum() / 2

        d_logits = torch.sigmoid(logits, out=gradients[3][:n]).sub_(x).div_(n)
        d_hidden_z = backward(3, hidden_z, d_logits, gradients[2]).mul_(hidden_z > 0)
        d_z = backward(2, z, d_hidden_z, latent_gradient)
        d_mean, d_log_variance = gradients[1][:n].split(LATENT, -1)
        torch.add(d_z, mean, alpha=1 / n, out=d_mean)
        torch.add(d_z * epsilon * scale / 2, variance - 1, alpha=0.5 / n, out=d_log_variance)
        d_hidden = backward(1, hidden, gradients[1][:n], gradients[0]).mul_(hidden > 0)
        backward(0, x, d_hidden, None)
        optimizer.step()
        return (distortion + rate) / n

    def epoch() -> None:
        for indices in torch.randperm(IMAGES).split(BATCH):
            step(indices)

    return epoch
