"""The mixed likelihood: every column normalised, against SciPy and brute force; missing entries integrate out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch

import zoo
from zoo_tables.encoder import TableEncoder
from zoo_tables.mixed import MixedLikelihood, ordinal_log_probs

COLUMNS = (
    zoo.Column("o", "ordinal", ("S", "M", "L", "XL")),
    zoo.Column("r", "real", location=3.0, scale=2.0),
    zoo.Column("c", "categorical", ("a", "b", "d")),
    zoo.Column("p", "positive", scale=5.0),
    zoo.Column("n", "count", format="integer"),
    zoo.Column("b", "binary", ("no", "yes")),
    zoo.Column("one", "categorical", (7,)),
    zoo.Column("d", "categorical", ("x", "y", "z")),
    zoo.Column("q", "ordinal", (1, 2)),
)
SIZES = {0: 4, 2: 3, 5: 2, 6: 1, 7: 3, 8: 2}


def likelihood(**options: object) -> MixedLikelihood:
    """A likelihood whose parameters are not those it starts with."""
    torch.manual_seed(0)
    mixed = MixedLikelihood((len(COLUMNS),), COLUMNS, **options)
    mixed.initialize(torch.full((len(COLUMNS),), 3.0))
    with torch.no_grad():
        for shape in mixed.shapes.values():
            shape.normal_(std=0.7)
    return mixed.double().requires_grad_(False)


def distribution(mixed: MixedLikelihood, *batch: int) -> torch.distributions.Distribution:
    torch.manual_seed(1)
    return mixed(torch.randn(*batch, len(COLUMNS), mixed.parameters_per_entry, dtype=torch.float64))


def entry(p: torch.distributions.Distribution, i: int, value: float) -> float:
    """The log-density of one entry."""
    x = torch.zeros(1, len(COLUMNS), dtype=torch.float64)
    x[0, 3] = 1.0
    x[0, i] = value
    return float(p.base_dist.log_prob(x)[0, i])


@pytest.mark.parametrize("scale", ["column", "entry"])
@pytest.mark.parametrize("counts", ["poisson", "negative-binomial"])
def test_every_column_is_normalised(counts, scale):
    """Sums of masses and quadrature of densities are 1 to 1e-6."""
    p = distribution(likelihood(counts=counts, scale=scale), 1)
    for i, size in SIZES.items():
        assert sum(math.exp(entry(p, i, code)) for code in range(size)) == pytest.approx(1, abs=1e-12)
    assert sum(math.exp(entry(p, 4, k)) for k in range(3000)) == pytest.approx(1, abs=1e-6)
    real, _ = scipy.integrate.quad(lambda t: math.exp(entry(p, 1, t)), -50, 50, points=[-5, 0, 5], limit=200)
    positive, _ = scipy.integrate.quad(lambda t: math.exp(entry(p, 3, math.exp(t)) + t), -30, 30, points=[-5, 0, 5])
    assert (real, positive) == pytest.approx((1, 1), abs=1e-6)


def test_counts_are_those_of_scipy():
    """Mean r exp(m) and size k of the negative binomial."""
    mixed = likelihood()
    p = distribution(mixed, 1)
    group = next(i for i, group in enumerate(mixed.groups) if group.kind == "count")
    size = float(mixed.shapes[str(group)].exp())
    mean = float(p.mean[0, 4])
    expected = scipy.stats.nbinom(size, size / (size + mean)).logpmf(range(50))
    np.testing.assert_allclose([entry(p, 4, k) for k in range(50)], expected, rtol=1e-9)
    flat = torch.zeros(1, len(COLUMNS), mixed.parameters_per_entry, dtype=torch.float64)
    assert float(mixed(flat).mean[0, 4]) == pytest.approx(3.0)  # the mean of the training rows


def test_ordinal_probabilities_are_differences_of_sigmoids():
    """Against the definition, and finite where its difference underflows."""
    steps = torch.randn(2, 4, dtype=torch.float64)
    location = torch.tensor([[0.3, -1.2]], dtype=torch.float64)
    log_probs = ordinal_log_probs(location, steps)[0]
    for column in range(2):
        gaps = [math.log1p(math.exp(float(s) + math.log(math.e - 1))) for s in steps[column, 1:]]
        thresholds = np.cumsum([float(steps[column, 0]) - 1.5, *gaps])
        below = [0.0, *(1 / (1 + np.exp(-(thresholds - float(location[0, column]))))), 1.0]
        np.testing.assert_allclose(log_probs[column].exp(), np.diff(below), rtol=1e-12)
    far = ordinal_log_probs(torch.tensor([[200.0]]), torch.zeros(1, 3))
    assert torch.isfinite(far).all()
    assert far[0, 0, 3] == 0


def test_the_mask_leaves_the_density_of_the_observed_entries():
    p = distribution(likelihood(), 4)
    x = p.sample()
    mask = torch.rand(4, len(COLUMNS)) < 0.5
    expected = (p.base_dist.log_prob(x) * mask).sum(-1)
    damaged = x.masked_fill(~mask, float("nan"))
    torch.testing.assert_close(zoo.observed_log_prob(p, damaged, mask), expected)


def test_draws_and_means_by_kind():
    """20,000 draws have the mean of the distribution to 4 standard errors; codes have their mode."""
    p = distribution(likelihood(), 1)
    draws = p.sample((20_000,))[:, 0]
    assert zoo.in_support(p, draws[:, None])
    for i in (1, 3, 4, 5):
        error = draws[:, i].std() / math.sqrt(len(draws))
        assert abs(draws[:, i].mean() - p.mean[0, i]) < 4 * error
    for i, size in SIZES.items():
        if i != 5:
            masses = [entry(p, i, code) for code in range(size)]
            assert int(p.mean[0, i]) == int(np.argmax(masses))
            shares = torch.bincount(draws[:, i].long(), minlength=size) / len(draws)
            np.testing.assert_allclose(shares, np.exp(masses), atol=0.02)


@pytest.mark.parametrize(("column", "value"), [(0, 4), (2, 1.5), (3, 0.0), (4, -1), (5, 2)])
def test_values_outside_the_support_are_reported(column, value):
    p = distribution(likelihood(), 1)
    x = p.sample()
    x[0, column] = value
    assert not zoo.in_support(p, x)
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[0, column] = False
    assert zoo.in_support(p, x, mask)


def test_it_takes_no_more_outputs_than_the_kinds_need():
    """11 columns' worth of numbers: 1 for each number, ordinal and binary column, and one for each category."""
    mixed = likelihood()
    assert mixed.outputs == 1 + 1 + 3 + 1 + 1 + 1 + 1 + 3 + 1
    assert mixed.parameters_per_entry == 2


def test_without_columns_all_entries_are_real():
    mixed = MixedLikelihood((1, 2, 2))
    p = mixed(torch.zeros(3, 1, 2, 2, 1))
    assert p.event_shape == (1, 2, 2)
    torch.testing.assert_close(p.log_prob(torch.zeros(3, 1, 2, 2)), torch.full((3,), -2 * math.log(2 * math.pi)))


def test_columns_must_fit_the_shape():
    with pytest.raises(zoo.ComponentError, match="has 9 columns for data of shape"):
        MixedLikelihood((4,), COLUMNS)
    with pytest.raises(zoo.ComponentError, match="has 9 columns for data of shape"):
        TableEncoder((4,), 2, COLUMNS)


def test_the_encoder_ignores_missing_values_and_sees_the_mask():
    encoder = TableEncoder((len(COLUMNS),), 2, COLUMNS, hidden=(8,))
    x = distribution(likelihood(), 1).sample().float()
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[0, [1, 2]] = False
    other = x.clone()
    other[0, 1], other[0, 2] = 100.0, (x[0, 2] + 1) % 3
    assert torch.equal(encoder(x, None, mask).mean, encoder(other, None, mask).mean)
    assert not torch.equal(encoder(x, None, mask).mean, encoder(x).mean)


def test_a_model_encodes_with_the_mask_of_the_batch():
    vae = zoo.create_model("table-vae", data_shape=(len(COLUMNS),), columns=COLUMNS, latent_dim=2)
    x = distribution(likelihood(), 5).sample().float()
    mask = torch.rand(x.shape) < 0.7
    trace = vae.trace(zoo.Batch(x, None, mask))
    assert torch.equal(trace.q.mean, vae.encoder(zoo.model.likelihood.zero_filled(x, mask), None, mask).mean)
    assert torch.isfinite(vae.log_likelihood(x, 10, mask=mask, seed=0)).all()
