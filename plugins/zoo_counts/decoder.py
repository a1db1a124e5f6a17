"""The decoder of counts: frequencies times library size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.distributions import Distribution

from zoo import ComponentError, ComponentFactory, Conditional, Decoder, Likelihood, UsageError, at_least_float32


class CountDecoder(Decoder, Conditional):
    """p(x | z, l) with mean l softmax(f(z)), where log l is the last latent dimension (arXiv 1709.02082, section 2).

    Args:
        data_shape: event shape of x.
        latent_shape: (latent_dim + 1,), as the encoder ``counts`` has it.
        classes: number of labels in the data.
        hidden: widths of the hidden layers of f, from z to x.
        batch: the labels are a batch covariate: f takes the label too.
        batch_dispersion: learn log theta for each entry and label. It needs `batch`, and a likelihood whose dispersion
            is ``entrywise``.
        likelihood: ``poisson``, ``negative-binomial``, ``zero-inflated-negative-binomial``, or another one whose first
            parameter is the logarithm of the mean.

    Raises:
        ComponentError: the latent is not a vector of at least two dimensions, or the settings disagree.
        UsageError: the data have no labels, and `batch` is true.
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_shape: tuple[int, ...],
        classes: int = 0,
        hidden: Sequence[PositiveInt] = (128,),
        batch: bool = False,
        batch_dispersion: bool = False,
        likelihood: Callable[..., Likelihood] = ComponentFactory("likelihood", "negative-binomial"),
    ) -> None:
        super().__init__()
        if len(latent_shape) != 1 or latent_shape[0] < 2:
            raise ComponentError(
                "The decoder 'counts' needs a latent of shape (latent_dim + 1,), with the library size last; got "
                f"{tuple(latent_shape)}. Use it with the encoder 'counts'."
            )
        if batch and not classes:
            raise UsageError("A batch covariate needs labels; these data have none. Set decoder.batch=false.")
        self.classes = classes if batch else 0
        self.data_dims = len(data_shape)
        self.likelihood = likelihood(data_shape=data_shape)
        shape = (self.likelihood.parameters_per_entry, *data_shape)
        self.log_dispersion = None
        if batch_dispersion:
            if not batch or getattr(self.likelihood, "log_dispersion", True) is not None:
                raise ComponentError(
                    "batch_dispersion needs batch=true and a negative binomial likelihood with dispersion=entrywise."
                )
            shape = (shape[0] - 1, *data_shape)
            self.log_dispersion = nn.Parameter(torch.zeros(classes, *data_shape))
        widths = [latent_shape[0] - 1 + self.classes, *hidden]
        layers = [layer for sizes in pairwise(widths) for layer in (nn.Linear(*sizes), nn.ReLU())]
        self.trunk = nn.Sequential(*layers, nn.Linear(widths[-1], math.prod(shape)), nn.Unflatten(-1, shape))

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Distribution:
        """Map latents (K..., N, latent_dim + 1) and, with `batch`, labels (N,) or (1,), to p(x | z, l).

        Raises:
            UsageError: there are no labels, or one is out of range.
        """
        z, log_library = z[..., :-1], at_least_float32(z[..., -1:])
        labels = self._labels(condition)
        if labels is not None:
            one_hot = (labels.unsqueeze(-1) == torch.arange(self.classes, device=labels.device)).to(z.dtype)
            z = torch.cat([z, one_hot.expand(*z.shape[:-1], -1)], dim=-1)
        logits, *others = at_least_float32(self.trunk(z)).movedim(-1 - self.data_dims, 0)
        log_frequencies = logits.flatten(-self.data_dims).log_softmax(-1)
        parameters = [(log_library + log_frequencies).reshape(logits.shape), *others]
        if self.log_dispersion is not None:
            parameters.append(at_least_float32(self.log_dispersion[labels]).expand_as(logits))
        p: Distribution = self.likelihood(torch.stack(parameters, dim=-1))
        return p

    def _labels(self, condition: Tensor | None) -> Tensor | None:
        """The labels that the model depends on. Their range is checked on the CPU only."""
        if not self.classes:
            return None
        if condition is None:
            raise UsageError(f"The batch covariate needs labels from 0 to {self.classes - 1}: pass `condition`.")
        if condition.device.type == "cpu" and not torch.compiler.is_compiling():
            invalid = condition[(condition < 0) | (condition >= self.classes)]
            if len(invalid):
                raise UsageError(f"The model has labels from 0 to {self.classes - 1}; got {int(invalid[0])}.")
        return condition
