"""The loop of tutorials: an image dataset, a data loader with two workers, a module, Adam, and a running loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from peers import BATCH, DEVICE, HIDDEN, LATENT, LR, PIXELS


class VAE(nn.Module):
    """A variational autoencoder with one hidden layer in encoder and decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(PIXELS, HIDDEN)
        self.fc21 = nn.Linear(HIDDEN, LATENT)
        self.fc22 = nn.Linear(HIDDEN, LATENT)
        self.fc3 = nn.Linear(LATENT, HIDDEN)
        self.fc4 = nn.Linear(HIDDEN, PIXELS)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the reconstruction, and the mean and log-variance of the posterior."""
        hidden = F.relu(self.fc1(x.view(-1, PIXELS)))
        mean, log_variance = self.fc21(hidden), self.fc22(hidden)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        return torch.sigmoid(self.fc4(F.relu(self.fc3(z)))), mean, log_variance


def negative_elbo(reconstruction: Tensor, x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """The loss, summed over the batch."""
    distortion = F.binary_cross_entropy(reconstruction, x.view(-1, PIXELS), reduction="sum")
    rate = 0.5 * torch.sum(mean.pow(2) + log_variance.exp() - 1 - log_variance)
    return distortion + rate


def prepare(data_dir: str) -> Callable[[], None]:
    """Return one epoch of the loop."""
    train_set = datasets.MNIST(data_dir, train=True, download=False, transform=transforms.ToTensor())
    train_loader = DataLoader(train_set, batch_size=BATCH, shuffle=True, num_workers=2)
    model = VAE().to(DEVICE)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)

    def epoch() -> None:
        model.train()
        total = 0.0
        for x, _ in train_loader:
            x = x.to(DEVICE)
            optimizer.zero_grad()
            reconstruction, mean, log_variance = model(x)
            loss = negative_elbo(reconstruction, x, mean, log_variance)
            loss.backward()
            total += loss.item()
            optimizer.step()

    return epoch
