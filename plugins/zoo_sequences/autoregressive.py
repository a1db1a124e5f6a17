"""The distribution of a sequence of tokens, each of which depends on those before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.types import _size

from zoo import at_least_float32


class NextToken(Protocol):
    """A network that predicts each token from a latent and the tokens before it."""

    def initial(self, z: Tensor) -> Any:
        """Map latents (N, D) to the initial state."""

    def step(self, z: Tensor, previous: Tensor | None, state: Any) -> tuple[Tensor, Any]:
        """Map the previous tokens, int64 (N,), or None before the first, to logits (N, V) and the next state."""

    def logits(self, z: Tensor, codes: Tensor) -> Tensor:
        """Map tokens, int64 (N, L), to the logits (N, L, V) of each token given those before it."""


class Autoregressive(Distribution):
    """p(x | z) = prod_t p(x_t | x_1, ..., x_{t-1}, z) over sequences of L tokens, stored as floats.

    The distribution captures z and runs the network: `log_prob` once over all steps, with the tokens of x as inputs
    (teacher forcing); `sample` and `mean` step by step. The steps after the first `end` token repeat it with
    probability 1, so log p(x) counts the tokens up to and including the first `end`.

    Args:
        network: the network.
        z: latents (K..., N, D), the batch.
        event_shape: shape of x, whose L entries are read in order.
        vocabulary: number V of tokens.
        end: the token that ends a sequence, or None if every sequence has L tokens.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = False

    def __init__(
        self, network: NextToken, z: Tensor, event_shape: tuple[int, ...], vocabulary: int, end: int | None = None
    ) -> None:
        self.network, self.z = network, z
        self.vocabulary, self.end = vocabulary, end
        super().__init__(z.shape[:-1], torch.Size(event_shape), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """Sequences of tokens from 0 to V - 1 that repeat the end token after the first one."""
        return Sequences(self.vocabulary, self.end, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        """The greedy sequence, as codes have no mean; see `mode`."""
        return self.mode

    @property
    def mode(self) -> Tensor:
        """The greedy sequence: the most probable token at each step. It approximates the most probable sequence."""
        return self._generate(torch.Size(), lambda logits: logits)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x | z) in nats of x, rounded to the nearest tokens; minus infinity outside the `support`."""
        event = len(self.event_shape)
        leading = torch.broadcast_shapes(value.shape[: value.ndim - event], self.batch_shape)  # type: ignore[no-untyped-call]
        value = value.round()
        possible = self.support.check(value)  # type: ignore[no-untyped-call]
        codes = value.flatten(-event).long().clamp(0, self.vocabulary - 1)
        codes = codes.expand(*leading, -1).reshape(-1, codes.shape[-1])
        z = self.z.expand(*leading, -1).reshape(-1, self.z.shape[-1])
        log_p = at_least_float32(self.network.logits(z, codes)).log_softmax(-1)
        log_p = log_p.gather(-1, codes.unsqueeze(-1)).squeeze(-1)
        if self.end is not None:
            log_p = log_p.where(counted(codes, self.end), 0.0)
        total = log_p.sum(-1).reshape(leading)
        return total.where(possible, -torch.inf)

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draw sequences, one token after the other."""
        # argmax_v (logit_v + Gumbel noise) is a draw from the softmax, and takes empty batches.
        return self._generate(
            torch.Size(sample_shape), lambda logits: logits - torch.empty_like(logits).exponential_().log()
        )

    @torch.no_grad()
    def _generate(self, sample_shape: torch.Size, scores: Callable[[Tensor], Tensor]) -> Tensor:
        """Take the token with the highest score at each step."""
        z = self.z.expand(*sample_shape, *self.z.shape).reshape(-1, self.z.shape[-1])
        state = self.network.initial(z)
        codes: list[Tensor] = []
        for _ in range(self.event_shape.numel()):
            logits, state = self.network.step(z, codes[-1] if codes else None, state)
            code = scores(at_least_float32(logits)).argmax(-1)
            if codes and self.end is not None:
                code = code.where(codes[-1] != self.end, self.end)
            codes.append(code)
        x = torch.stack(codes, -1).to(torch.promote_types(z.dtype, torch.float32))
        return x.reshape(*sample_shape, *self.batch_shape, *self.event_shape)


class Sequences(constraints.Constraint):
    """Sequences of codes from 0 to vocabulary - 1 that repeat the end token after the first one.

    Args:
        vocabulary, end: see `Autoregressive`.
        event_dim: number of axes of a sequence.
    """

    is_discrete = True

    def __init__(self, vocabulary: int, end: int | None, event_dim: int) -> None:
        self.vocabulary, self.end = vocabulary, end
        self.axes = event_dim

    @property
    def event_dim(self) -> int:  # type: ignore[override]
        """Number of axes of a sequence."""
        return self.axes

    def check(self, value: Tensor) -> Tensor:
        """Whether each sequence is valid."""
        x = value.flatten(-self.event_dim)
        inside: Tensor = ((x == x.round()) & (x >= 0) & (x < self.vocabulary)).all(-1)
        if self.end is not None:
            inside = inside & ((x == self.end) | counted(x, self.end)).all(-1)
        return inside


def counted(codes: Tensor, end: int) -> Tensor:
    """Which tokens (..., L) are not after the first end token: bool, like `codes`.

    >>> counted(torch.tensor([5, 0, 0]), end=0)
    tensor([ True,  True, False])
    """
    ended = codes == end
    return ended.cumsum(-1) - ended.long() == 0
