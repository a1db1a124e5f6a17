"""The model that joins encoder, decoder and prior, and the trace of a pass through it."""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, kl_divergence

from zoo.errors import ComponentError, UsageError, ZooError
from zoo.model.batch import Batch, evaluation_batch_size
from zoo.model.context import derive_seed, exclusive, reseed, seeded
from zoo.model.devices import float64
from zoo.model.likelihood import in_support, observed_log_prob, zero_filled
from zoo.model.measures import require_same_measure
from zoo.model.parts import Conditional, Decoder, Encoder, Prior
from zoo.model.precision import at_least_float32, match_dtype

# Samples drawn with one seed in `VAE.log_likelihood`. Changing it changes the estimates.
SAMPLES_PER_SEED = 1000

T = TypeVar("T")


class _once(Generic[T]):  # noqa: N801
    """`functools.cached_property` without a lock, which it has in Python 3.11 and torch.compile cannot trace."""

    def __init__(self, function: Callable[[Any], T]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __get__(self, instance: Any, owner: type) -> T:
        value = self._function(instance)
        setattr(instance, self._function.__name__, value)  # shadows this non-data descriptor
        return value


class Trace:
    """One pass of a batch through a VAE. Distributions and log-densities are computed on first access.

    Attributes:
        x: examples (N, *data_shape), in float32 or higher, with missing entries set to 0.
        condition: labels of the batch, or None.
        mask: mask of the batch, or None.
        q: posterior q(z | x).
        z: reparameterized draws from q: (N, *latent_shape), or (K, N, *latent_shape) with K samples.
    """

    def __init__(self, vae: VAE, batch: Batch, samples: int | None = None) -> None:
        self.condition, self.mask = batch.condition, batch.mask
        self.x = zero_filled(at_least_float32(batch.x), batch.mask)
        self._vae = vae
        self.q = vae.encode(self.x, self.condition, self.mask)
        self.z, self._log_qz = _draw(self.q, torch.Size([] if samples is None else [samples]))

    @_once
    def prior(self) -> Distribution:
        """The prior p(z)."""
        prior: Distribution = self._vae.prior(self._vae.encoder, self.condition)
        return prior

    @_once
    def p(self) -> Distribution:
        """The likelihood p(x | z) at the draws."""
        return self._vae.decode(self.z, self.condition)

    @_once
    def log_px(self) -> Tensor:
        """log p(x | z) of the observed entries, (N,) or (K, N), in nats."""
        return observed_log_prob(self.p, self.x, self.mask)

    @_once
    def log_pz(self) -> Tensor:
        """log p(z), (N,) or (K, N), in nats."""
        return self.prior.log_prob(self.z)

    @_once
    def log_qz(self) -> Tensor:
        """log q(z | x), (N,) or (K, N), in nats."""
        return self.q.log_prob(self.z) if self._log_qz is None else self._log_qz

    @_once
    def kl(self) -> Tensor:
        """KL(q(z | x) || p(z)) in nats: (N,) if torch has a closed form, else log q - log p at the draws.

        Raises:
            ComponentError: there is no closed form, and posterior and prior have different measures.
        """
        try:
            return kl_divergence(self.q, self.prior)
        except NotImplementedError:
            require_same_measure(self.q, self.prior)
            return self.log_qz - self.log_pz

    @_once
    def log_weight(self) -> Tensor:
        """The log importance weight log p(x | z) + log p(z) - log q(z | x), (N,) or (K, N), in nats.

        Raises:
            ComponentError: posterior and prior have different measures.
        """
        require_same_measure(self.q, self.prior)
        return self.log_px + self.log_pz - self.log_qz


class VAE(nn.Module):
    """A variational autoencoder: q(z | x), p(x | z) and p(z). A plain module, usable in any training loop.

    ``vae.to(torch.bfloat16)``, ``half()`` and ``double()`` cast the networks; inputs may stay in float32. In half
    precision, the prior and the draws, means and densities of every distribution stay in float32. Use this for
    evaluation; to train, set ``train.precision=bfloat16``, which keeps the parameters in float32.

    Args:
        encoder, decoder, prior: the three distributions.

    >>> import torch, zoo
    >>> vae = zoo.create_model("mlp-vae", latent_dim=2, data_shape=(1, 8, 8))
    >>> x = torch.rand(5, 1, 8, 8)
    >>> vae.encode(x).mean.shape, vae.reconstruct(x).shape, vae.sample(3).shape
    (torch.Size([5, 2]), torch.Size([5, 1, 8, 8]), torch.Size([3, 1, 8, 8]))
    """

    def __init__(self, encoder: Encoder, decoder: Decoder, prior: Prior) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.prior = prior
        # Set if the model is built from a recipe.
        self.data_shape: tuple[int, ...] | None = None
        self._latent_shape: tuple[int, ...] | None = None

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The event shape of the latent."""
        if self._latent_shape is None:
            with torch.no_grad():
                self._latent_shape = tuple(self.prior(self.encoder).event_shape)
        return self._latent_shape

    @latent_shape.setter
    def latent_shape(self, shape: tuple[int, ...]) -> None:
        self._latent_shape = tuple(shape)

    @property
    def classes(self) -> int:
        """The number of labels of a conditional model; 0 if no part requires labels."""
        return max((module.classes for module in self.modules() if isinstance(module, Conditional)), default=0)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Trace:
        """One pass with one sample per example; see `trace`."""
        self._check_data(x)
        return self.trace(Batch(x, condition))

    def trace(self, batch: Batch, samples: int | None = None) -> Trace:
        """Encode, draw and decode. With `samples` K, the draws have a leading dimension of size K."""
        return Trace(self, batch, samples)

    def encode(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> Distribution:
        """The posterior q(z | x) of examples (N, *data_shape), with missing entries set to 0.

        The mask is passed to encoders that take one; see `zoo.Encoder`.
        """
        self._check_data(x)
        inputs = (condition, mask) if mask is not None and self.encoder.takes_mask else (condition,)
        posterior: Distribution = self.encoder(match_dtype(x, self.encoder), *inputs)
        return posterior

    def decode(self, z: Tensor, condition: Tensor | None = None) -> Distribution:
        """The likelihood p(x | z) at latents (K..., N, *latent_shape)."""
        try:
            likelihood: Distribution = self.decoder(match_dtype(z, self.decoder), condition)
        except ZooError:
            raise
        except Exception:
            self._check_latents(z)
            raise
        return likelihood

    def posterior_mean(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """The mean of q(z | x), (N, *latent_shape); a draw if the posterior does not define its mean."""
        q = self.encode(x, condition, mask)
        try:
            return q.mean
        except NotImplementedError:
            with exclusive():
                return q.sample()

    def reconstruct(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """The mean of p(x | z) at the `posterior_mean` of examples, (N, *data_shape). Many large ones are computed in
        parts."""
        batch, size = Batch(x, condition, mask), self._at_once(len(x))
        parts = [batch.map(operator.itemgetter(slice(i, i + size))) for i in range(0, max(1, len(x)), size)]
        return torch.cat([self.decode(self.posterior_mean(*part), part.condition).mean for part in parts])

    def sample(self, n: int, condition: Tensor | None = None, *, mean: bool = False) -> Tensor:
        """Draw z from the prior and x from p(x | z), `n` times: (n, *data_shape).

        With labels (N,) as the condition, draw `n` for each label: (n, N, *data_shape). Without a condition, a
        conditional model draws uniform labels.

        Args:
            n: number of samples.
            condition: labels.
            mean: return the mean of p(x | z) at each z instead of a draw.

        Raises:
            ComponentError: the likelihood cannot be sampled, and `mean` is false.
        """
        with exclusive():
            if condition is None and self.classes:
                labels = torch.randint(self.classes, (n,), device=next(self.parameters()).device)
                return torch.cat([self._sample(1, part, mean)[0] for part in torch.split(labels, self._at_once(n))])
            size = self._at_once(n, 1 if condition is None else len(condition))
            return torch.cat([self._sample(min(size, n - i), condition, mean) for i in range(0, max(1, n), size)])

    def _sample(self, n: int, condition: Tensor | None, mean: bool) -> Tensor:
        prior = self.prior(self.encoder, condition)
        # A conditional prior has the labels as its batch shape already.
        labels_shape = () if condition is None or prior.batch_shape else condition.shape
        p = self.decode(prior.sample((n, *labels_shape)), condition)
        if mean:
            return p.mean
        try:
            return p.sample()
        except NotImplementedError as error:
            raise ComponentError(
                f"The likelihood of {type(self.decoder).__name__}, a {type(p).__name__}, cannot be sampled. "
                "Use sample(n, mean=True)."
            ) from error

    def _at_once(self, n: int, examples: int = 1) -> int:
        """How many of `n` draws to compute at once, each of `examples` examples."""
        return max(1, n) if self.data_shape is None else evaluation_batch_size((examples, *self.data_shape), n)

    @torch.no_grad()
    def log_likelihood(
        self,
        x: Tensor,
        samples: int,
        condition: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        seed: int | None = None,
        chunk_size: int | None = None,
    ) -> Tensor:
        """Importance-sampled log p(x) of each example, in nats and float64, shape (N,).

        log p(x) >= E[log 1/K sum_k p(x | z_k) p(z_k) / q(z_k | x)], z_k from q(z | x)  (arXiv 1509.00519, eq. 8)

        The estimate is a lower bound in expectation, which increases with K; report K with it. Examples are processed
        one by one with their own draws, so an estimate does not depend on the rest of the batch. Call ``eval()`` first
        if the model has dropout or batch normalization.

        Args:
            x: examples (N, *data_shape). Values outside the support of the likelihood (real-valued pixels under a
                Bernoulli) cause a warning, because the result is not a likelihood.
            samples: K, number of importance samples per example.
            condition: labels (N,).
            mask: bool, like `x`, true where an entry is observed. The result is the likelihood of these entries.
            seed: determines, with its index, the draws of an example. Drawn from torch's generator by default.
            chunk_size: number of samples decoded at once. It bounds the memory and does not affect the result. By
                default at most 1000, and fewer for large examples.

        Raises:
            ComponentError: the likelihood is not normalized, or does not factorize over entries and there is a mask;
                or posterior and prior have different measures.
            UsageError: x does not have the shape that the model was built for.
            ValueError: `samples` is not positive.
        """
        if samples < 1:
            raise ValueError(f"samples must be at least 1, not {samples}")
        self._check_data(x)
        batch = Batch(zero_filled(at_least_float32(x), mask), condition, mask)
        chunk_size = evaluation_batch_size(x.shape[1:], SAMPLES_PER_SEED) if chunk_size is None else chunk_size
        if seed is None:
            with exclusive():
                seed = int(torch.randint(2**62, ()))
        examples = [batch.map(operator.itemgetter(slice(i, i + 1))) for i in range(len(x))]
        with seeded(seed, x.device):
            if examples:
                trace = self.trace(examples[0])
                require_same_measure(trace.q, trace.prior)
                self._check_likelihood(trace.p, batch)
            values = [
                self._log_likelihood(example, samples, derive_seed(seed, i), chunk_size)
                for i, example in enumerate(examples)
            ]
        return torch.stack(values) if values else torch.empty(0, dtype=torch.float64)

    def _log_likelihood(self, example: Batch, samples: int, seed: int, chunk_size: int) -> Tensor:
        """The estimate for one example, 0-d. Chunks are merged with logsumexp; averaging them would be biased."""
        x, condition, mask = example
        q, prior = self.encode(x, condition, mask), self.prior(self.encoder, condition)
        log_weights = []
        for i, start in enumerate(range(0, samples, SAMPLES_PER_SEED)):
            reseed(derive_seed(seed, i), x.device)
            z, log_qz = _draw(q, torch.Size([min(SAMPLES_PER_SEED, samples - start)]))
            log_px = [observed_log_prob(self.decode(chunk, condition), x, mask) for chunk in torch.split(z, chunk_size)]
            log_qz = q.log_prob(z) if log_qz is None else log_qz
            log_weights.append(torch.cat(log_px) + prior.log_prob(z) - log_qz)
        return float64(torch.cat(log_weights)).logsumexp(0).squeeze() - math.log(samples)

    def _check_data(self, x: object) -> None:
        """Refuse data of another shape than the model was built for, which some encoders would accept."""
        if not isinstance(x, Tensor):
            raise UsageError(f"The model takes data as a tensor, not a {type(x).__name__}.")
        if not x.is_floating_point():
            raise UsageError(f"The model takes floats, not {x.dtype}. Divide uint8 images by 255.")
        if self.data_shape is not None and tuple(x.shape[1:]) != self.data_shape:
            hint = " A batch of one is x[None]." if tuple(x.shape) == self.data_shape else ""
            raise UsageError(f"The model takes data of shape {_batched(self.data_shape)}, not {tuple(x.shape)}.{hint}")

    def _check_latents(self, z: object) -> None:
        """Raise a `UsageError` if the latents are the reason why the decoder failed."""
        if not isinstance(z, Tensor):
            raise UsageError(f"The model takes latents as a tensor, not a {type(z).__name__}.")
        if not z.is_floating_point():
            raise UsageError(f"The model takes latents as floats, not {z.dtype}.")
        shape = self.latent_shape
        if tuple(z.shape[-len(shape) :]) != shape or z.ndim == len(shape):
            raise UsageError(f"The model takes latents of shape {_batched(shape)}, not {tuple(z.shape)}.")

    def _check_likelihood(self, p: Distribution, batch: Batch) -> None:
        if not getattr(p, "normalized", True):
            raise ComponentError(
                f"The likelihood of {type(self.decoder).__name__} is not a normalized density: it has no log p(x)."
            )
        if not in_support(p, batch.x, batch.mask):
            warnings.warn(
                "x is outside the support of the likelihood (real-valued pixels under a Bernoulli?), so the result is "
                "not a log-likelihood. Binarize the data or choose another likelihood.",
                stacklevel=4,
            )


def _batched(event_shape: tuple[int, ...]) -> str:
    """Format the shape of a batch, such as ``(N, 1, 8, 8)``."""
    return f"({', '.join(('N', *map(str, event_shape)))})"


def _draw(q: Distribution, shape: torch.Size) -> tuple[Tensor, Tensor | None]:
    """Reparameterized draws, and log q(z) if the distribution returns both at once, as flows do."""
    if hasattr(q, "rsample_and_log_prob"):
        z, log_qz = q.rsample_and_log_prob(shape)
        return z, log_qz
    return q.rsample(shape), None
