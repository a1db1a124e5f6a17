"""A test of whether a distribution's density agrees with its draws, which a correct density practically never fails.

Let p be the density of ``log_prob``, s that of ``sample``, and r any density that can be sampled and evaluated.
For every bounded function h

    E_{y ~ r}[h(y) p(y) / (p(y) + r(y))] = E_{x ~ s}[h(x) r(x) / (p(x) + r(x))]    if p = s

(the two-sample bridge of Bennett, 1976, and of Meng and Wong, 1996). With h in [0, 1], both sides are means of numbers
in [0, 1] for any p, including densities with kinks, heavy tails, narrow peaks, distant modes, poles and point masses.
For a correct density, the difference D of two such numbers is in [-1, 1] and has mean zero, so the product of
1 + lambda D over independent pairs has mean one and exceeds 1 / alpha with probability at most alpha (a test by
betting, arXiv 2010.09686). There is no assumption on p. A reference r that is far from p reduces only the power; it is
fitted to separate draws.

Up to four dimensions, an error of 3 % in the normalisation, of 10 % in the scale, or of a tenth of the scale in the
location is detected. The power decreases with more dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, biject_to, constraints
from torch.distributions.transforms import Transform

from zoo_conformance.check import require
from zoo_conformance.probe import drawn

FALSE_ALARMS = 1e-7
"""The largest probability that a correct density fails."""
DRAWS = 40_000
"""Draws from the distribution and from the reference."""
STAKES = torch.tensor([sign * 0.99 * 2.0**-k for sign in (1, -1) for k in range(8)], dtype=torch.float64)
"""The values of lambda; the evidence is averaged over them."""
FITTING_DRAWS = 2000
"""Draws that the reference is fitted to."""
KERNELS = 64
NEIGHBOURS = 8
COORDINATES = 4
"""Number of leading coordinates along which draws and density are compared."""
ROWS = 2000
"""Points per evaluation of a density."""
REPEATED = 3
"""Number of equal draws from which a value counts as a point mass."""
FARTHEST = 25.0
"""Absolute unconstrained coordinates above which float64 does not resolve a bounded support."""

Functions = dict[str, Callable[[Tensor], Tensor]]


def check_density(distribution: Distribution, support: object) -> None:
    """Fail the check unless the density of a distribution agrees with its draws.

    Args:
        distribution: the distribution, or a batch of them.
        support: its support, a constraint of `torch.distributions.constraints`.

    Raises:
        NotImplementedError: it has no ``log_prob`` or ``sample``, or torch has no bijection to its support.
    """
    space = Space(distribution, support)
    fitting_points = space.points(drawn(distribution, FITTING_DRAWS))
    references = [Reference(*rows, discrete=space.transform is None) for rows in fitting_points.each()]
    x, y = space.points(drawn(distribution, DRAWS)), space.sample(references)
    log_px, log_py = (_log_prob(distribution, points.values) for points in (x, y))
    require(not bool((log_px.isnan() & x.resolved).any()), "its log_prob is NaN at its own draws")
    pairs = zip(references, x.each(), log_px.unbind(1), y.each(), log_py.unbind(1), strict=True)
    for reference, at_x, of_x, at_y, of_y in pairs:
        _compare(reference, at_x, of_x, at_y, of_y, FALSE_ALARMS / len(references))


def _log_prob(distribution: Distribution, points: Tensor) -> Tensor:
    """log p at points (n, *batch, *event): (n, batch)."""
    return _rows(torch.cat([distribution.log_prob(some).double() for some in torch.split(points, ROWS)]))


class Rows(NamedTuple):
    """Points of one distribution of a batch.

    Attributes:
        values: the points, (n, values).
        u: unconstrained coordinates, (n, dims).
        volume: log |dx / du|, (n,).
        resolved: whether float64 separates the point from its neighbours, (n,).
    """

    values: Tensor
    u: Tensor
    volume: Tensor
    resolved: Tensor


def _compare(reference: Reference, x: Rows, log_px: Tensor, y: Rows, log_py: Tensor, false_alarms: float) -> None:
    log_rx, log_ry = reference.log_prob(x), reference.log_prob(y)
    # Where r is zero, so is the integrand.
    of_draws = torch.where(log_rx.isneginf(), 0.0, torch.sigmoid(log_rx - log_px))
    of_density = torch.where(log_ry.isneginf(), 0.0, torch.sigmoid(log_py - log_ry).nan_to_num(0.0))
    functions = reference.functions()
    for region, h in functions.items():
        difference = h(y.u) * of_density - h(x.u) * of_draws
        if _evidence(difference) > math.log(len(functions) / false_alarms):
            excess, error = difference.mean().item(), difference.std().item() / math.sqrt(len(difference))
            integral = torch.where(log_ry.isneginf(), -math.inf, log_py - log_ry).exp().mean().item()
            where = (
                f"it has {'more' if excess > 0 else 'less'} mass where {region}"
                if region
                else "its integral is not one"
            )
            require(
                False,
                f"exp(log_prob) is not the density of its draws: {where} "
                f"(off by {abs(excess):.4f} +- {error:.4f}; an estimate of its integral is {integral:.3g})",
            )


def _evidence(differences: Tensor) -> float:
    """The log of the gain from betting against a mean of zero."""
    gains = torch.stack([(stake * differences).log1p().sum() for stake in STAKES])
    return gains.logsumexp(0).item() - math.log(len(STAKES))


class Space:
    """The event space of a batch of distributions, with unconstrained coordinates.

    Args:
        distribution: the batch.
        support: of the whole batch.
    """

    def __init__(self, distribution: Distribution, support: Any) -> None:
        self.batch, self.event = tuple(distribution.batch_shape), tuple(distribution.event_shape)
        if not isinstance(support, constraints.independent) and hasattr(support, "base_constraint"):
            support = support.base_constraint  # that of a mixture
        try:
            self.transform: Transform | None = None if getattr(support, "is_discrete", False) else biject_to(support)
        except NotImplementedError as error:
            raise NotImplementedError(
                f"its support is {support}, for which `torch.distributions.biject_to` has no coordinates"
            ) from error
        inner = self.event if self.transform is None else tuple(self.transform.inverse_shape(self.batch + self.event))
        self.inner = inner[len(self.batch) :] if self.transform is not None else inner

    def points(self, values: Tensor) -> Points:
        """Points (n, *batch, *event) with their coordinates and volumes."""
        n, batch = len(values), math.prod(self.batch)
        values = values.double()
        u, volume = values, torch.zeros(n, batch, dtype=torch.float64)
        if self.transform is not None:
            u = self.transform.inv(values)
            volume = self.transform.log_abs_det_jacobian(u, values).reshape(n, batch, -1).sum(2)  # type: ignore[no-untyped-call]
        farthest = math.inf if torch.equal(u, values) else FARTHEST
        u = u.reshape(n, batch, -1)
        resolved = (u.isfinite() & (u.abs() < farthest)).all(2)
        return Points(values, values.reshape(n, batch, -1), u, volume, resolved)

    def sample(self, references: Sequence[Reference]) -> Points:
        """Draw from the reference of each distribution of the batch."""
        kernels, atoms = zip(*(reference.sample(DRAWS) for reference in references), strict=True)
        u = torch.stack(kernels, 1).reshape(DRAWS, *self.batch, *self.inner)
        values = (u if self.transform is None else self.transform(u)).reshape(DRAWS, len(references), -1)
        for i, (is_atom, masses) in enumerate(atoms):
            values[is_atom, i] = masses
        return self.points(values.reshape(DRAWS, *self.batch, *self.event))


@dataclass(frozen=True)
class Points:
    """Points of a batch of distributions.

    Attributes:
        values: in the shape that ``log_prob`` takes, (n, *batch, *event).
        flat, u, volume, resolved: as in `Rows`, with the batch as the second dimension.
    """

    values: Tensor
    flat: Tensor
    u: Tensor
    volume: Tensor
    resolved: Tensor

    def each(self) -> Iterator[Rows]:
        """The points of each distribution of the batch."""
        parts = (self.flat, self.u, self.volume, self.resolved)
        return map(Rows, *(part.unbind(1) for part in parts))


@dataclass(frozen=True)
class Kernels:
    """A mixture of Gaussians with diagonal covariances.

    Attributes:
        means, scales: (kernels, dims).
    """

    means: Tensor
    scales: Tensor

    @classmethod
    def fit(cls, points: Tensor) -> Kernels:
        """Fit one kernel per point, whose width in each dimension is the distance to its nearest neighbours."""
        unit = (points.quantile(0.75, 0) - points.quantile(0.25, 0)).clamp_min(1e-12)
        near = torch.cdist(points / unit, points / unit).topk(min(NEIGHBOURS, len(points)), largest=False).indices
        apart = (points[near] - points[:, None]).square().mean(1).sqrt()
        return cls(points, apart.clamp_min(1e-12 * unit))

    def sample(self, n: int) -> Tensor:
        """Draws (n, dims)."""
        which = torch.randint(len(self.means), (n,))
        return self.means[which] + self.scales[which] * torch.randn(n, self.means.shape[1], dtype=torch.float64)

    def log_prob(self, points: Tensor) -> Tensor:
        """Log-densities at points (n, dims): (n,)."""
        constant = self.scales.log().sum(1) + 0.5 * self.means.shape[1] * math.log(2 * math.pi)
        parts = []
        for some in torch.split(points, ROWS):
            exponent = -constant.expand(len(some), -1)
            for d in range(points.shape[1]):
                exponent -= ((some[:, d, None] - self.means[:, d]).div_(self.scales[:, d] * math.sqrt(2))).square_()
            parts.append(exponent.logsumexp(1))
        return torch.cat(parts) - math.log(len(self.means))


class Reference:
    """A reference distribution: point masses at repeated values, and kernels around the other draws.

    Args:
        values, u, volume, resolved: the draws to fit, as in `Rows`.
        discrete: whether every value is a point mass.
    """

    def __init__(self, values: Tensor, u: Tensor, volume: Tensor, resolved: Tensor, *, discrete: bool) -> None:
        distinct, inverse, counts = torch.unique(values, dim=0, return_inverse=True, return_counts=True)
        repeated = counts >= (1 if discrete else REPEATED)
        repeated[inverse[~resolved]] = False
        self.atoms, masses = distinct[repeated], counts[repeated].double()
        self.share = masses.sum().item() / len(values)
        self.log_masses = (masses / len(values)).log()
        self.kernels: Kernels | None = None
        others = u[~repeated[inverse] & resolved][:KERNELS]
        if not discrete and self.share < 0.9 and len(others) > NEIGHBOURS:
            self.kernels = Kernels.fit(others)
            # The range of the draws bounds the comparison: the density of an angle is periodic, with a real support.
            self.low, self.high = u[resolved].aminmax(dim=0)
        elif len(masses):
            self.log_masses, self.share = (masses / masses.sum()).log(), 1.0
        else:
            raise NotImplementedError("float64 does not resolve its support at its draws")
        self.dims = u.shape[1]
        middle = u[:, :COORDINATES].nan_to_num()
        self.median = middle.median(0).values
        self.deviation = 2 * (middle - self.median).abs().median(0).values

    def functions(self) -> Functions:
        """The functions h of the coordinates, by the condition that each indicates."""
        functions: Functions = {"": lambda u: torch.ones(len(u), dtype=torch.float64)}
        for d, (median, deviation) in enumerate(zip(self.median.tolist(), self.deviation.tolist(), strict=True)):
            functions[f"coordinate {d} < {median:.4g}"] = _below(d, median)
            functions[f"coordinate {d} is within {deviation:.4g} of {median:.4g}"] = _near(d, median, deviation)
        if len(self.median) > 1:
            first, second = (_below(d, self.median[d].item()) for d in (0, 1))
            functions["coordinates 0 and 1 are on different sides of their medians"] = lambda u: (
                first(u) - second(u)
            ).abs()
        return functions

    def sample(self, n: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Draw coordinates (n, dims) from the kernels; also return which draws are point masses, and their values."""
        is_atom = torch.rand(n, dtype=torch.float64) < self.share
        u = torch.zeros(n, self.dims, dtype=torch.float64) if self.kernels is None else self.kernels.sample(n)
        which = torch.multinomial(self.log_masses.exp(), int(is_atom.sum()), True) if is_atom.any() else slice(0)
        return u, (is_atom, self.atoms[which])

    def log_prob(self, points: Rows) -> Tensor:
        """Log-densities, or log-masses at point masses, (n,); minus infinity at unresolved points."""
        log_r = torch.full((len(points.u),), -math.inf, dtype=torch.float64)
        if self.kernels is not None:
            density = self.kernels.log_prob(points.u) - points.volume + math.log(1 - self.share)
            inside = ((points.u >= self.low) & (points.u <= self.high)).all(1)
            log_r = torch.where(points.resolved & inside, density, log_r)
        if not len(self.atoms):
            return log_r
        inverse = torch.unique(torch.cat([self.atoms, points.values]), dim=0, return_inverse=True)[1]
        masses = torch.full((len(inverse),), math.nan, dtype=torch.float64)
        masses[inverse[: len(self.atoms)]] = self.log_masses
        mass = masses[inverse[len(self.atoms) :]]
        return torch.where(mass.isnan(), log_r, mass)


def _rows(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1)


def _below(d: int, median: float) -> Callable[[Tensor], Tensor]:
    return lambda u: (u[:, d] < median).double()


def _near(d: int, median: float, deviation: float) -> Callable[[Tensor], Tensor]:
    return lambda u: ((u[:, d] - median).abs() < deviation).double()
