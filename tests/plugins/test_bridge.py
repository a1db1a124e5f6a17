"""The check of a density: no true one fails, and wrong ones do. The expected values are the distributions of torch."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import (
    Bernoulli,
    Beta,
    Categorical,
    Cauchy,
    Dirichlet,
    Distribution,
    Exponential,
    Gamma,
    Geometric,
    Gumbel,
    HalfCauchy,
    Independent,
    Kumaraswamy,
    Laplace,
    LogNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    Pareto,
    Poisson,
    RelaxedOneHotCategorical,
    StudentT,
    Uniform,
    VonMises,
    constraints,
)

from zoo_conformance import bridge
from zoo_conformance.bridge import check_density
from zoo_conformance.check import CheckFailed


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values if len(values) > 1 else values[0], dtype=torch.float64)


def normal(dims: int, mean: float = 0.0, scale: float = 1.0) -> Independent:
    return Independent(Normal(torch.full((dims,), mean).double(), scale), 1)


HALVES = Categorical(t(0.5, 0.5))
TRUE = {
    "kink": Independent(Laplace(t(0, 0), 1.0), 1),
    "cauchy": Cauchy(t(0), t(1)),
    "cauchy-of-two-scales": Independent(Cauchy(t(0, 0), t(1, 1e-5)), 1),
    "student-half": StudentT(t(0.5), t(0), t(1)),
    "peak-on-a-plain": MixtureSameFamily(HALVES, Normal(t(0, 0), t(1, 1e-6))),
    "modes-far-apart": MixtureSameFamily(HALVES, Normal(t(-1e6, 1e6), t(1, 1e-3))),
    "poles": Beta(t(0.1), t(0.1)),
    "steep-poles": Beta(t(0.01), t(0.01)),
    "gamma": Gamma(t(0.05), t(1)),
    "pareto": Pareto(t(1), t(0.1)),
    "exponential": Exponential(t(1)),
    "half-cauchy": HalfCauchy(t(1)),
    "log-normal": LogNormal(t(0), t(5)),
    "gumbel": Gumbel(t(0), t(1)),
    "kumaraswamy": Kumaraswamy(t(0.3), t(0.5)),
    "intervals": Uniform(t(0, 1, 5), t(1, 5, 5.1)),
    "angle": VonMises(t(0), t(1)),
    "correlated": MultivariateNormal(torch.zeros(8).double(), torch.eye(8).double() + 9),
    "simplex": Dirichlet(torch.full((4,), 0.3).double()),
    "concrete": RelaxedOneHotCategorical(t(0.5), logits=torch.linspace(-2, 2, 6).double()),
    "bits": Bernoulli(t(0.3, 0.999)),
    "counts": Poisson(t(300)),
    "long-counts": Geometric(t(1e-3)),
    "categories": Categorical(torch.ones(7).double()),
    "one-hot": OneHotCategorical(torch.linspace(0.1, 1, 5).double()),
}


class Stated(Distribution):
    """Draws from one distribution, and the density of another, scaled."""

    arg_constraints = {}  # noqa: RUF012

    def __init__(self, base: Distribution, density: Distribution | None = None, factor: float = 1.0, **options) -> None:
        self.base, self.density, self.factor = base, density or base, factor
        self.clamp, self.of_atoms = options.get("clamp"), options.get("of_atoms")
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def support(self):
        return self.base.support

    def sample(self, sample_shape=()):
        drawn = self.base.sample(sample_shape)
        return drawn if self.clamp is None else drawn.clamp(*self.clamp)

    def log_prob(self, value):
        density = self.density.log_prob(value) + math.log(self.factor)
        if self.of_atoms is None:
            return density
        low, high = self.clamp
        below, above = self.base.cdf(t(low)).log(), (1 - self.base.cdf(t(high))).log()
        return torch.where(value <= low, below, torch.where(value >= high, above, density))


WRONG = {
    "normalisation-1": Stated(normal(1), factor=1.02),
    "normalisation-2": Stated(normal(2), factor=0.98),
    "normalisation-4": Stated(normal(4), factor=1.03),
    "normalisation-of-a-laplace": Stated(TRUE["kink"], factor=1.03),
    "scale": Stated(normal(1), normal(1, scale=1.1)),
    "scale-2": Stated(normal(2), normal(2, scale=0.9)),
    "location": Stated(normal(2), normal(2, mean=0.1)),
    "tails": Stated(StudentT(t(3), t(0), t(1)), Normal(t(0), t(1.2))),
    "correlation": Stated(
        MultivariateNormal(t(0, 0), torch.tensor([[1, 0.3], [0.3, 1]]).double()),
        MultivariateNormal(t(0, 0), torch.eye(2).double()),
    ),
    "clamped-draws": Stated(Normal(t(0.5), t(0.5)), clamp=(0.0, 1.0)),
    "untruncated": Stated(Uniform(t(0), t(1)), Normal(t(0.5), t(0.3), validate_args=False)),
    "squared-error": Stated(Normal(t(0), t(1)), Normal(t(0), t(0.5**0.5)), factor=math.pi**0.5),
    "bit": Stated(Bernoulli(t(0.3)), Bernoulli(t(0.35))),
    "mass-of-bits": Stated(Bernoulli(t(0.3)), factor=1.05),
    "counts": Stated(Poisson(t(5)), Poisson(t(5.3))),
    "one-mode": Stated(
        MixtureSameFamily(Categorical(t(0.6, 0.4)), Normal(t(-9, 9), t(1, 1))),
        MixtureSameFamily(HALVES, Normal(t(-9, 9), t(1, 1))),
    ),
}


@pytest.mark.parametrize("name", TRUE)
def test_a_true_density_passes(name, monkeypatch):
    """For 3 seeds; what is won by betting against it has a mean of at most one, so that e^12 is rare already."""
    evidence = []
    bet = bridge._evidence
    monkeypatch.setattr(bridge, "_evidence", lambda values: evidence.append(bet(values)) or evidence[-1])
    for seed in range(3):
        torch.manual_seed(seed)
        check_density(TRUE[name], TRUE[name].support)
    assert len(evidence) >= 9
    assert max(evidence) < 12


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_density_fails(name):
    for seed in range(2):
        torch.manual_seed(seed)
        with pytest.raises(CheckFailed, match="is not the density of its draws"):
            check_density(WRONG[name], WRONG[name].support)


def test_masses_at_the_ends_of_a_density():
    """A clamped normal: masses at 0 and 1, a density between them."""
    clamped = Stated(Normal(t(0.5), t(0.5)), clamp=(0.0, 1.0), of_atoms=True)
    check_density(clamped, constraints.real)


def test_the_integral_is_estimated():
    torch.manual_seed(0)
    with pytest.raises(CheckFailed, match=r"an estimate of its integral is 1\.7[67]"):
        check_density(WRONG["squared-error"], constraints.real)


def test_betting_is_fair():
    """The mean of what is won against fair differences is one: here exactly, over all outcomes of 8 fair coins."""
    outcomes = torch.cartesian_prod(*[t(-1, 1)] * 8)
    won = torch.tensor([bridge._evidence(outcome) for outcome in outcomes], dtype=torch.float64).exp()
    assert won.mean().item() == pytest.approx(1, rel=1e-9)


def test_a_support_without_coordinates_is_named():
    with pytest.raises(NotImplementedError, match="for which `torch.distributions.biject_to` has no coordinates"):
        check_density(normal(2), constraints.square)
