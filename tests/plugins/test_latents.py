"""The information in each latent dimension, compared with closed forms and quadrature."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    StudentT,
    kl_divergence,
)

import zoo
from toys import GivenPosterior, GivenPrior
from zoo_figures import latents
from zoo_figures.latents import encode_means, information, rates


def model(q, p) -> zoo.VAE:
    """A VAE without a decoder."""
    vae = zoo.VAE(GivenPosterior(q), torch.nn.Identity(), GivenPrior(p))
    vae.anything = torch.nn.Parameter(torch.zeros(()))
    return vae


def normal(loc, scale, dims: int = 1) -> Independent:
    return Independent(Normal(torch.as_tensor(loc), torch.as_tensor(scale)), dims)


def test_rates_are_the_mean_divergence_of_each_dimension_and_add_up_to_the_rate(monkeypatch):
    """KL(N(m, s) || N(0, 1)) = (m^2 + s^2 - 1)/2 - log s; nine images in chunks of four, the last of one."""
    monkeypatch.setattr(latents, "CHUNK", 4)
    torch.manual_seed(0)
    mean, scale = torch.randn(9, 3), torch.rand(9, 3) + 0.1
    x = torch.arange(9.0).view(9, 1, 1, 1)

    def q(x):
        index = x.flatten().long()
        return normal(mean[index], scale[index])

    measured = rates(model(q, normal(torch.zeros(3), torch.ones(3))), zoo.Batch(x))
    expected = ((mean**2 + scale**2 - 1) / 2 - scale.log()).double().mean(0)
    assert measured.measure == "rate in nats"
    torch.testing.assert_close(measured.values, expected, atol=1e-6, rtol=1e-6)
    whole = kl_divergence(q(x), normal(torch.zeros(3), torch.ones(3))).mean()
    assert measured.values.sum().item() == pytest.approx(whole.item(), rel=1e-5)


def test_the_rates_of_a_latent_of_several_axes_are_flattened_in_order():
    mean = torch.arange(6.0).view(1, 2, 3)
    vae = model(lambda x: normal(mean.expand(len(x), -1, -1), torch.ones(len(x), 2, 3), 2), normal(0 * mean[0], 1.0, 2))
    torch.testing.assert_close(rates(vae, zoo.Batch(torch.zeros(4, 1, 1, 1))).values, mean.flatten().double() ** 2 / 2)


def test_a_one_hot_vector_counts_as_one_dimension():
    """Its divergence from a uniform distribution is log K minus its entropy."""
    p = torch.tensor([[0.5, 0.25, 0.25], [1 / 3, 1 / 3, 1 / 3]])
    uniform = Independent(OneHotCategorical(torch.full((2, 3), 1 / 3)), 1)
    vae = model(lambda x: Independent(OneHotCategorical(p.expand(len(x), 2, 3)), 1), uniform)
    measured = rates(vae, zoo.Batch(torch.zeros(2, 1, 1, 1))).values
    torch.testing.assert_close(
        measured, torch.tensor([math.log(3) - 1.5 * math.log(2), 0.0]).double(), atol=1e-6, rtol=0
    )


def test_without_a_closed_form_the_rate_is_marked_as_estimated():
    """A Gaussian and a Student prior, against quadrature."""
    prior = Independent(StudentT(torch.tensor([4.0, 4.0])), 1)
    mean, scale = torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.3])
    vae = model(lambda x: normal(mean.expand(len(x), 2), scale.expand(len(x), 2)), prior)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    measured = rates(vae, zoo.Batch(torch.zeros(400, 1, 1, 1)))
    assert "estimated from 64 draws" in measured.measure
    grid = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    for value, m, s in zip(measured.values, mean.double(), scale.double(), strict=True):
        q = Normal(m, s).log_prob(grid)
        exact = torch.trapezoid(q.exp() * (q - StudentT(torch.tensor(4.0).double()).log_prob(grid)), grid)
        assert value.item() == pytest.approx(exact.item(), abs=0.03)  # more than four standard errors
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(rates(vae, zoo.Batch(torch.zeros(400, 1, 1, 1))).values, measured.values)


MIXTURE = MixtureSameFamily(Categorical(torch.ones(2)), normal(torch.zeros(2, 2), 1.0))
CORRELATED = MultivariateNormal(torch.zeros(2), torch.eye(2))


@pytest.mark.parametrize(
    ("q", "p", "at_fault"),
    [
        (lambda x: normal(x.flatten(1), torch.ones(len(x), 2)), MIXTURE, "prior"),
        (lambda x: MultivariateNormal(x.flatten(1), torch.eye(2)), normal(torch.zeros(2), 1.0), "posterior"),
        (lambda x: normal(x.flatten(1), torch.ones(len(x), 2)), CORRELATED, "prior"),
    ],
)
def test_without_rates_the_variance_of_the_posterior_mean_is_used(q, p, at_fault):
    x = torch.tensor([[1.0, 0.0], [3.0, 0.0], [5.0, 0.5]]).view(3, 1, 1, 2)
    with pytest.raises(zoo.UsageError, match=f"the {at_fault} does not factorise"):
        rates(model(q, p), zoo.Batch(x))
    measured = information(model(q, p), zoo.Batch(x))
    assert measured.measure == "variance of the posterior mean"
    torch.testing.assert_close(measured.values, x.flatten(1).double().var(0, correction=0))


class Meanless(Normal):
    @property
    def mean(self):
        raise NotImplementedError


def test_a_posterior_without_a_mean_is_sampled_with_a_seed():
    vae = model(lambda x: Independent(Meanless(x.flatten(1), torch.ones(len(x), 2)), 1), normal(torch.zeros(2), 1.0))
    x = torch.zeros(5, 1, 1, 2)
    torch.manual_seed(3)
    first = encode_means(vae, zoo.Batch(x))
    assert torch.equal(encode_means(vae, zoo.Batch(x)), first)
    assert (first != 0).all()
    torch.manual_seed(3)
    drawn = vae.posterior_mean(x)
    torch.manual_seed(3)
    assert torch.equal(drawn, vae.encode(x).sample())
