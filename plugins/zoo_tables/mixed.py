"""A likelihood for tables: one distribution for each column, by its kind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    LogNormal,
    NegativeBinomial,
    Normal,
    Poisson,
    constraints,
)
from torch.nn.functional import logsigmoid, softplus
from torch.types import _size

from zoo import Column, ComponentError, DataDependent, Likelihood, at_least_float32

RARE = 1e-2
"""The smallest mean of a count from which its rate starts."""


class MixedLikelihood(Likelihood, DataDependent):
    """Independent columns, each with the distribution of its kind.

    ===============  =============================================================================
    kind             distribution of the entry
    ===============  =============================================================================
    ``real``         Normal(m, s)
    ``positive``     LogNormal(m, s)
    ``count``        negative binomial with mean r exp(m) and variance mean + mean^2 / k, or Poisson
    ``binary``       Bernoulli with logit m
    ``categorical``  softmax of one logit for each category
    ``ordinal``      cumulative logits: P(code <= j) = sigmoid(c_j - m), with c_1 < c_2 < ...
    ===============  =============================================================================

    The decoder outputs m and the logits. s, k and c are parameters of the column. r is the mean of the column in the
    training split. The mean of a categorical or an ordinal column is its mode, since codes have no mean.

    The cumulative logits are those of McCullagh, Regression Models for Ordinal Data (J. R. Stat. Soc. B, 1980), section
    2; the combination of likelihoods by kind is that of arXiv 1807.03653.

    Args:
        data_shape: event shape of x, (D,).
        columns: the D columns; without them, all entries are real, and x has any shape.
        counts: distribution of counts.
        scale: ``column``: s is one number for each column; ``entry``: the decoder also outputs log s.
        min_scale: lower bound of s, in units of x. It keeps the density bounded where all values are equal.

    Raises:
        ComponentError: the numbers of columns and entries differ.
    """

    order: Tensor
    log_mean: Tensor

    def __init__(
        self,
        data_shape: tuple[int, ...],
        columns: tuple[Column, ...] = (),
        counts: Literal["negative-binomial", "poisson"] = "negative-binomial",
        scale: Literal["column", "entry"] = "column",
        min_scale: Annotated[float, Field(gt=0)] = 1e-3,
    ) -> None:
        super().__init__()
        size = math.prod(data_shape)
        if columns and len(columns) != size:
            raise ComponentError(f"The likelihood 'mixed' has {len(columns)} columns for data of shape {data_shape}.")
        self.data_dims = len(data_shape)
        self.counts, self.scale, self.min_scale = counts, scale, min_scale
        self.groups = grouped(columns or [Column(str(i), "real") for i in range(size)], 1 + (scale == "entry"))
        self.outputs = sum(math.prod(group.outputs.shape) for group in self.groups)
        self.parameters_per_entry = -(-self.outputs // size)
        order = torch.cat([group.entries for group in self.groups])
        self.register_buffer("order", order.argsort(), persistent=False)
        for i, group in enumerate(self.groups):
            self.register_buffer(f"entries{i}", group.entries, persistent=False)
            self.register_buffer(f"outputs{i}", group.outputs, persistent=False)
        # Of each column: log s, log k, or the steps between the thresholds c.
        shaped = {"real", "positive", "ordinal"} | ({"count"} if counts == "negative-binomial" else set())
        self.shapes = nn.ParameterDict(
            {
                str(i): nn.Parameter(torch.zeros(len(group.entries), max(1, group.size - 1)))
                for i, group in enumerate(self.groups)
                if group.kind in shaped
            }
        )
        self.register_buffer("log_mean", torch.zeros(size))

    def initialize(self, mean: Tensor) -> None:
        """Start counts from the mean of their column.

        Args:
            mean: of the training rows, (D,).
        """
        self.log_mean.copy_(mean.flatten().clamp_min(RARE).log())

    def forward(self, parameters: Tensor) -> Distribution:
        """Map (..., *data_shape, parameters_per_entry) to a distribution over data_shape."""
        parameters = at_least_float32(parameters)
        event_shape = parameters.shape[-1 - self.data_dims : -1]
        flat = parameters.flatten(-1 - self.data_dims)
        parts = []
        for i, group in enumerate(self.groups):
            entries, outputs = getattr(self, f"entries{i}"), flat[..., getattr(self, f"outputs{i}")]
            parts.append((entries, self._distribution(group, outputs, self.shapes.get(str(i)), entries)))
        mixed = MixedEntries(parts, self.order, tuple(event_shape))
        return Independent(mixed, self.data_dims, validate_args=False)

    def _distribution(self, group: Group, outputs: Tensor, shape: Any, entries: Tensor) -> Distribution:
        """The distribution of the columns of a group, with batch shape (..., columns).

        Args:
            group: the columns.
            outputs: of the decoder, (..., columns, numbers).
            shape: the parameters of the columns, if they have any.
            entries: the positions of the columns.
        """
        options: dict[str, Any] = {"validate_args": False}
        first = outputs[..., 0]
        if group.kind in ("real", "positive"):
            log_scale = shape[:, 0] if self.scale == "column" else shape[:, 0] + outputs[..., 1]
            scale = log_scale.exp().clamp_min(self.min_scale).expand_as(first)
            return (Normal if group.kind == "real" else LogNormal)(first, scale, **options)
        if group.kind == "count":
            log_rate = first + self.log_mean[entries]
            if self.counts == "poisson":
                return Poisson(log_rate.exp(), **options)
            log_size = shape[:, 0].expand_as(first)
            return NegativeBinomial(log_size.exp(), logits=log_rate - log_size, **options)
        if group.kind == "binary":
            return Bernoulli(logits=first, **options)
        if group.kind == "categorical":
            return Categorical(logits=outputs, **options)
        return Categorical(logits=ordinal_log_probs(first, shape), **options)


class Group(NamedTuple):
    """Columns of one kind that share a distribution.

    Attributes:
        kind: of the columns.
        size: number of categories, 0 for other kinds.
        entries: the positions of the columns, int64 (n,).
        outputs: the positions of their parameters in the output of the decoder, int64 (n, numbers).
    """

    kind: str
    size: int
    entries: Tensor
    outputs: Tensor


def grouped(columns: Sequence[Column], numbers: int) -> list[Group]:
    """Group columns by kind and number of categories.

    Args:
        columns: the columns.
        numbers: outputs of the decoder for a real or positive column.
    """
    members: dict[tuple[str, int], list[int]] = {}
    for i, column in enumerate(columns):
        size = len(column.categories) if column.kind in ("categorical", "ordinal") else 0
        kind: str = "categorical" if size == 1 else column.kind
        members.setdefault((kind, size), []).append(i)
    groups, start = [], 0
    for (kind, size), entries in members.items():
        each = size if kind == "categorical" else numbers if kind in ("real", "positive") else 1
        outputs = start + torch.arange(len(entries) * each).view(-1, each)
        groups.append(Group(kind, size, torch.tensor(entries), outputs))
        start += outputs.numel()
    return groups


def ordinal_log_probs(location: Tensor, steps: Tensor) -> Tensor:
    """The log-probabilities of C ordered categories by cumulative logits.

    P(code <= j) = sigmoid(c_j - location), where c_0 = steps_0 - (C - 2) / 2 and c_j - c_{j - 1} is
    softplus(steps_j + log(e - 1)), which is 1 for steps of 0.

    Args:
        location: (..., n).
        steps: (n, C - 1).

    Returns:
        (..., n, C), normalized over the last axis.
    """
    gaps = softplus(steps[:, 1:] + math.log(math.e - 1))
    first = steps[:, :1] - (steps.shape[1] - 1) / 2
    thresholds = torch.cat([first, first + gaps.cumsum(1)], 1)
    logits = thresholds - location.unsqueeze(-1)
    below, above = logsigmoid(logits), logsigmoid(-logits)
    # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - e^(a - b)), which loses no digits in the tails.
    inner = below[..., 1:] + above[..., :-1] + (-torch.expm1(-gaps)).log()
    return torch.cat([below[..., :1], inner, above[..., -1:]], -1)


class _MixedSupport(constraints.Constraint):
    """The support of each column."""

    def __init__(self, entries: MixedEntries) -> None:
        self._entries = entries

    def check(self, value: Tensor) -> Tensor:
        inside: Tensor = self._entries.each(lambda p, x: p.support.check(x), value)
        return inside


class MixedEntries(Distribution):
    """Entries with distributions of several kinds; see `MixedLikelihood`.

    Args:
        parts: the positions of some entries, int64 (n,), and their distribution, with batch shape (..., n).
        order: the permutation from the entries of all parts, concatenated, to those of x.
        event_shape: shape of the entries of one example.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = False

    def __init__(
        self, parts: Sequence[tuple[Tensor, Distribution]], order: Tensor, event_shape: tuple[int, ...]
    ) -> None:
        self.parts, self.order, self.shape = parts, order, event_shape
        leading = parts[0][1].batch_shape[:-1]
        super().__init__(torch.Size((*leading, *event_shape)), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """The support of each entry."""
        return _MixedSupport(self)

    def each(self, function: Any, value: Tensor) -> Tensor:
        """Apply a function of a distribution and its values to every part: (..., *event_shape)."""
        flat = value.flatten(-len(self.shape))
        return self._joined([function(p, flat[..., entries]) for entries, p in self.parts])

    def _joined(self, values: Sequence[Tensor]) -> Tensor:
        flat = torch.cat(list(values), -1)[..., self.order]
        return flat.reshape(*flat.shape[:-1], *self.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density or log-probability of each entry."""
        return self.each(lambda p, x: p.log_prob(x), value)

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """A draw of each entry, float."""
        dtype = self.mean.dtype
        return self._joined([p.sample(torch.Size(sample_shape)).to(dtype) for _, p in self.parts])

    @property
    def mean(self) -> Tensor:
        """The mean of numbers, the probability of 1 of binary entries, and the mode of other codes."""
        dtype = next((p.mean.dtype for _, p in self.parts if not isinstance(p, Categorical)), torch.float32)
        return self._joined([(p.mode if isinstance(p, Categorical) else p.mean).to(dtype) for _, p in self.parts])
