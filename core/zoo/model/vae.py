"""The model that joins encoder, decoder and prior, and the trace of one pass through it."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, kl_divergence

from zoo.errors import ComponentError, UsageError, ZooError
from zoo.model.context import derive_seed, exclusive, reseed, seeded
from zoo.model.devices import float64
from zoo.model.measures import require_same_measure
from zoo.model.parts import Conditional, Decoder, Encoder, Prior
from zoo.model.precision import at_least_float32, match_dtype

# The draws of one seed in `VAE.log_likelihood`: another number is another estimate.
DRAWN_AT_ONCE = 1000

T = TypeVar("T")


class Batch(NamedTuple):
    """What a loss sees of the data.

    Attributes:
        x: examples (N, *data_shape); images are (N, C, H, W) in [0, 1].
        condition: labels (N,) for conditional models, where the data have them.
        mask: bool, like `x`, true where an entry is observed; None where all are.
    """

    x: Tensor
    condition: Tensor | None = None
    mask: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """Apply a function to every tensor of it."""
        return self._replace(**{name: function(t) for name, t in self._asdict().items() if t is not None})

    def one_by_one(self) -> Iterator[Batch]:
        """Batches of one example each."""
        for i in range(len(self.x)):
            yield self.map(lambda tensor, i=i: tensor[i : i + 1])  # type: ignore[misc]


class _once(Generic[T]):  # noqa: N801
    """`functools.cached_property` without its lock, which Python 3.11 takes and torch.compile cannot trace."""

    def __init__(self, function: Callable[[Any], T]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __get__(self, instance: Any, owner: type) -> T:
        value = self._function(instance)
        setattr(instance, self._function.__name__, value)  # which hides this descriptor from then on
        return value


class Trace:
    """One pass of a batch through a VAE: draws, distributions, and log-densities worked out when asked for.

    Attributes:
        x: the examples, (N, *data_shape), in float32 at least; 0 where they are missing.
        mask: of the batch: which entries of x are observed, or None.
        q: the posterior q(z | x).
        prior: the prior p(z).
        z: reparameterised draws from q: (N, *latent_shape), or (K, N, *latent_shape) with K samples.
    """

    def __init__(self, vae: VAE, batch: Batch, samples: int | None = None) -> None:
        self.condition, self.mask = batch.condition, batch.mask
        self.x = _zero_filled(at_least_float32(batch.x), batch.mask)
        self._vae = vae
        self.q = vae.encode(self.x, self.condition)
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
        """KL(q(z | x) || p(z)) in nats: (N,) in closed form where torch knows one, else log q - log p at the draws.

        Raises:
            ComponentError: there is no closed form, and the two are densities with respect to different measures.
        """
        try:
            return kl_divergence(self.q, self.prior)
        except NotImplementedError:
            require_same_measure(self.q, self.prior)
            return self.log_qz - self.log_pz

    @_once
    def log_weight(self) -> Tensor:
        """The importance weight log p(x | z) + log p(z) - log q(z | x), (N,) or (K, N), in nats.

        Raises:
            ComponentError: posterior and prior are densities with respect to different measures.
        """
        require_same_measure(self.q, self.prior)
        return self.log_px + self.log_pz - self.log_qz


class VAE(nn.Module):
    """A variational autoencoder: q(z | x), p(x | z) and p(z). A plain module, ready for anybody's own loop.

    ``vae.to(torch.bfloat16)``, ``half()`` and ``double()`` cast the networks; images and latents may stay in float32.
    In half precision the prior stays in float32, and so do the draws, means and densities of every distribution. That
    is for evaluation; train with ``train.precision=bfloat16``, which keeps the parameters in float32.

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
        # Both are set where a recipe was built.
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
        """The number of labels that the model is conditional on; 0 where none of its parts has to be told them."""
        return max((module.classes for module in self.modules() if isinstance(module, Conditional)), default=0)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Trace:
        """One pass with one sample for each example; see `trace`."""
        self._check_data(x)
        with self._explained(x, "data"):
            return self.trace(Batch(x, condition))

    def trace(self, batch: Batch, samples: int | None = None) -> Trace:
        """Encode, draw and decode. With `samples` K, the draws have a leading dimension of size K."""
        return Trace(self, batch, samples)

    def encode(self, x: Tensor, condition: Tensor | None = None) -> Distribution:
        """The posterior q(z | x) of examples (N, *data_shape), missing entries set to 0."""
        self._check_data(x)
        with self._explained(x, "data"):
            posterior: Distribution = self.encoder(match_dtype(x, self.encoder), condition)
        return posterior

    def decode(self, z: Tensor, condition: Tensor | None = None) -> Distribution:
        """The likelihood p(x | z) at latents (K..., N, *latent_shape)."""
        with self._explained(z, "latents"):
            likelihood: Distribution = self.decoder(match_dtype(z, self.decoder), condition)
        return likelihood

    def posterior_mean(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """The mean of q(z | x), (N, *latent_shape). A posterior without a mean is sampled."""
        q = self.encode(x, condition)
        try:
            return q.mean
        except NotImplementedError:
            with exclusive():
                return q.sample()

    def reconstruct(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """The mean of p(x | z) at the `posterior_mean` of examples: (N, *data_shape)."""
        return self.decode(self.posterior_mean(x, condition), condition).mean

    def sample(self, n: int, condition: Tensor | None = None, *, mean: bool = False) -> Tensor:
        """Draw z from the prior and x from p(x | z), `n` times: (n, *data_shape).

        With labels (N,) as the condition, draw `n` for each label, (n, N, *data_shape). A conditional model that is
        given none draws the labels too, each as likely as the others.

        Args:
            mean: return the mean of p(x | z) at each z instead of a draw from it, as figures usually show.

        Raises:
            ComponentError: the likelihood cannot be sampled, and `mean` is false.
        """
        with exclusive():
            if condition is None and self.classes:
                labels = torch.randint(self.classes, (n,), device=next(self.parameters()).device)
                return self.sample(1, labels, mean=mean).squeeze(0)
            prior = self.prior(self.encoder, condition)
            # A prior that knows the labels has one distribution for each of them.
            each = () if condition is None or prior.batch_shape else condition.shape
            z = prior.sample((n, *each))
            p = self.decode(z, condition)
            if mean:
                return p.mean
            try:
                return p.sample()
            except NotImplementedError as error:
                raise ComponentError(
                    f"The likelihood of {type(self.decoder).__name__}, a {type(p).__name__}, cannot be sampled: take "
                    "the means, sample(n, mean=True)."
                ) from error

    @torch.no_grad()
    def log_likelihood(
        self,
        x: Tensor,
        samples: int,
        condition: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        seed: int | None = None,
        decoded_at_once: int = 1000,
    ) -> Tensor:
        """Importance-sampled log p(x) of each example, in nats and float64, shape (N,).

        log p(x) >= E[log 1/K sum_k p(x | z_k) p(z_k) / q(z_k | x)], z_k from q(z | x)  (arXiv 1509.00519, eq. 8)

        A lower bound in expectation that rises with K, so the number of samples belongs beside the number. Examples
        are processed one by one, each encoded once and with its own draws, so that no number depends on the rest of the
        batch. Call ``eval()`` first where the model has dropout or batch normalisation.

        Args:
            x: examples (N, *data_shape), in the support of the likelihood; a warning tells where they are not
                (real-valued pixels under a Bernoulli), since the number is then not a likelihood.
            samples: K, importance samples for each example.
            mask: bool, like `x`, true where an entry is observed. The result is the likelihood of these entries.
            seed: of the draws; the i-th example's follow from it and i alone. By default taken from torch's generator.
            decoded_at_once: draws that go through the decoder together. It bounds the memory and changes nothing else;
                on a CPU it is best when what they take fits in the cache.

        Raises:
            ComponentError: the likelihood is not a normalised density, or does not factorise over entries and a mask is
                given; or posterior and prior have different measures.
            UsageError: x has another shape than the model was built for.
            ValueError: `samples` is not positive.
        """
        if samples < 1:
            raise ValueError(f"samples must be at least 1, not {samples}")
        self._check_data(x)
        x = _zero_filled(at_least_float32(x), mask)
        if seed is None:
            with exclusive():
                seed = int(torch.randint(2**62, ()))
        examples = list(Batch(x, condition, mask).one_by_one())
        with seeded(seed, x.device):
            if examples:
                trace = self.trace(examples[0])
                require_same_measure(trace.q, trace.prior)
                self._check_likelihood(trace.p, x, mask)
            values = [
                self._log_likelihood(example, samples, derive_seed(seed, i), decoded_at_once)
                for i, example in enumerate(examples)
            ]
        return torch.stack(values) if values else torch.empty(0, dtype=torch.float64)

    def _log_likelihood(self, example: Batch, samples: int, seed: int, decoded_at_once: int) -> Tensor:
        """The same for one example, a scalar. The chunks are merged with logsumexp: their means would be biased."""
        x, condition, mask = example
        q, prior = self.encode(x, condition), self.prior(self.encoder, condition)
        log_weights = []
        for number, done in enumerate(range(0, samples, DRAWN_AT_ONCE)):
            reseed(derive_seed(seed, number), x.device)
            z, log_qz = _draw(q, torch.Size([min(DRAWN_AT_ONCE, samples - done)]))
            log_px = [
                observed_log_prob(self.decode(points, condition), x, mask) for points in torch.split(z, decoded_at_once)
            ]
            log_qz = q.log_prob(z) if log_qz is None else log_qz
            log_weights.append(torch.cat(log_px) + prior.log_prob(z) - log_qz)
        return float64(torch.cat(log_weights)).logsumexp(0).squeeze() - math.log(samples)

    def _check_data(self, x: object) -> None:
        """Refuse data of another shape than the model was built for, which some encoders would take.

        Raises:
            UsageError: it is, or is not a tensor.
        """
        if not isinstance(x, Tensor):
            raise UsageError(f"The model takes data as a tensor, not a {type(x).__name__}.")
        if not x.is_floating_point():
            raise UsageError(f"The model takes floats, not {x.dtype}. Of images, divide levels by 255.")
        if self.data_shape is not None and tuple(x.shape[1:]) != self.data_shape:
            batch = " A batch of one is x[None]." if tuple(x.shape) == self.data_shape else ""
            raise UsageError(f"The model takes data of shape {_batched(self.data_shape)}, not {tuple(x.shape)}.{batch}")

    @contextlib.contextmanager
    def _explained(self, given: Tensor, what: str) -> Iterator[None]:
        """Say what a part takes, where it fails on something else.

        Raises:
            UsageError: `given` is no tensor, or of another shape or dtype.
        """
        try:
            yield
        except ZooError:
            raise
        except Exception as error:
            if not isinstance(given, Tensor):
                raise UsageError(f"The model takes {what} as a tensor, not a {type(given).__name__}.") from error
            event = self.latent_shape if what == "latents" else self.data_shape
            if event is not None and (tuple(given.shape[-len(event) :]) != event or given.ndim == len(event)):
                raise UsageError(
                    f"The model takes {what} of shape {_batched(event)}, not {tuple(given.shape)}."
                ) from error
            dtype = next((parameter.dtype for parameter in self.parameters()), given.dtype)
            if given.dtype != dtype:
                pixels = " Pixels are floats in [0, 1]: divide levels by 255." if not given.is_floating_point() else ""
                raise UsageError(f"The model takes {what} of {dtype}, not {given.dtype}.{pixels}") from error
            raise

    def _check_likelihood(self, p: Distribution, x: Tensor, mask: Tensor | None) -> None:
        if not getattr(p, "normalized", True):
            raise ComponentError(
                f"{type(self.decoder).__name__} has a likelihood that is not a normalised density: it has no log p(x)."
            )
        if not in_support(p, x, mask):
            warnings.warn(
                "x lies outside the support of the likelihood (real-valued pixels under a Bernoulli?): "
                "the result is no log-likelihood. Binarise the data or choose another likelihood.",
                stacklevel=4,
            )


def _batched(event: tuple[int, ...]) -> str:
    """The shape of a batch, as a reader writes it.

    >>> _batched((1, 8, 8))
    '(N, 1, 8, 8)'
    """
    return f"({', '.join(('N', *map(str, event)))})"


def in_support(p: Distribution, x: Tensor, mask: Tensor | None = None) -> bool:
    """Whether every value of `x` lies in the support of `p`; a distribution that states no support accepts all.

    Args:
        mask: which entries of `x` count; all where it is None.
    """
    try:
        support = p.support if mask is None else _entries(p).support
    except NotImplementedError:
        return True
    if support is None:
        return True
    inside: Tensor = support.check(x)  # type: ignore[no-untyped-call]
    return bool((inside if mask is None else inside | ~mask).all())


def observed_log_prob(p: Distribution, x: Tensor, mask: Tensor | None) -> Tensor:
    """The log-density of the observed entries of x under p(x | z), (K..., N), in nats.

    The missing entries of a distribution that factorises over entries integrate to 1 and drop out. Their values have no
    effect, on the density or its gradient.

    Args:
        p: batch shape (K..., N), event shape data_shape.
        x: (N, *data_shape).
        mask: bool, like `x`, true where an entry is observed; None where all are.

    Raises:
        ComponentError: there is a mask, and the distribution is not a `torch.distributions.Independent` over entries.

    >>> from torch.distributions import Independent, Normal
    >>> p = Independent(Normal(torch.zeros(1, 2), 1.0), 1)
    >>> x, mask = torch.tensor([[0.0, 7.0]]), torch.tensor([[True, False]])
    >>> observed_log_prob(p, x, mask)
    tensor([-0.9189])
    """
    if mask is None:
        return p.log_prob(x)
    entries = _entries(p)
    with torch.no_grad():
        # A value inside the support, so that the gradient at a missing entry is finite.
        filled = torch.where(mask, x, entries.sample().to(x.dtype))
    log_px = torch.where(mask, entries.log_prob(filled), 0.0)
    return log_px.sum(tuple(range(-len(p.event_shape), 0)))


def _entries(p: Distribution) -> Distribution:
    """The distribution of the single entries of x.

    Raises:
        ComponentError: p does not factorise over entries.
    """
    entries = p
    while isinstance(entries, Independent):
        entries = entries.base_dist
    if entries.event_shape:
        raise ComponentError(
            f"The likelihood of data with missing entries must factorise over entries, as an Independent of "
            f"torch.distributions does; a {type(p).__name__} does not. Choose another likelihood, or data without a "
            "mask."
        )
    return entries


def _zero_filled(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else x.masked_fill(~mask, 0.0)


def _draw(q: Distribution, shape: torch.Size) -> tuple[Tensor, Tensor | None]:
    """Reparameterised draws, with log q(z) where the distribution gives both at once (a flow does)."""
    if hasattr(q, "rsample_and_log_prob"):
        z, log_qz = q.rsample_and_log_prob(shape)
        return z, log_qz
    return q.rsample(shape), None
