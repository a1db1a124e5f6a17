"""The Gaussian likelihood with the optimal scale, against its closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import zoo
from resuming import TINY
from zoo.model.likelihood import observed_log_prob


def head(shape: tuple[int, ...] = (1, 3, 4), **parameters: object) -> zoo.Likelihood:
    return zoo.ComponentFactory("likelihood", "gaussian", scale="optimal", **parameters)(data_shape=shape)


def batch(n: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(n, 1, 3, 4, generator=generator, dtype=torch.float64)
    return means.requires_grad_(), torch.rand(n, 1, 3, 4, generator=generator, dtype=torch.float64)


def test_the_loss_is_the_logarithm_of_the_mean_squared_error():
    """D/2 (log(2 pi MSE) + 1) nats per example, with D = 12 pixels (arXiv 2006.13202, section 4.2)."""
    means, x = batch()
    loss = -head()(means.unsqueeze(-1)).log_prob(x).mean()
    mse = (means - x).square().mean()
    torch.testing.assert_close(loss, 12 / 2 * ((2 * math.pi * mse).log() + 1))


def test_no_other_scale_has_a_higher_likelihood():
    means, x = batch()
    best = head()(means.unsqueeze(-1)).log_prob(x).mean()
    scale = (means - x).square().mean().sqrt().item()
    for other in (0.5 * scale, 0.99 * scale, 1.01 * scale, 2 * scale):
        fixed = zoo.ComponentFactory("likelihood", "gaussian", scale=other)(data_shape=(1, 3, 4)).double()
        assert fixed(means.unsqueeze(-1)).log_prob(x).mean() < best - 1e-6
    fixed = zoo.ComponentFactory("likelihood", "gaussian", scale=scale)(data_shape=(1, 3, 4)).double()
    torch.testing.assert_close(fixed(means.unsqueeze(-1)).log_prob(x).mean(), best)


def test_the_gradient_is_that_at_the_fixed_scale():
    """D (mean - x) / (N D MSE), because the scale is at its maximum."""
    means, x = batch()
    (-head()(means.unsqueeze(-1)).log_prob(x).mean()).backward()
    mse = (means - x).square().mean()
    torch.testing.assert_close(means.grad, ((means - x) / (5 * mse)).detach())


def test_the_scale_of_evaluation_is_the_average_over_batches():
    """The n-th value has weight 10 / (n + 9); the density is then that of a Gaussian, and of each example by itself."""
    likelihood = head().double()
    means, x = batch()
    for factor in (1.0, 2.0, 3.0):
        likelihood(factor * means.unsqueeze(-1)).log_prob(x)
    first, second, third = ((factor * means - x).square().mean().detach() for factor in (1.0, 2.0, 3.0))
    average = (first + 10 * second) / 11
    average = (2 * average + 10 * third) / 12
    p = likelihood.eval()(means.unsqueeze(-1))
    torch.testing.assert_close(p.stddev, average.sqrt().expand_as(x))
    torch.testing.assert_close(p.log_prob(x)[2:3], likelihood(means[2:3].unsqueeze(-1)).log_prob(x[2:3]))
    before = likelihood.optimal.average.clone()
    p.log_prob(x)
    with torch.no_grad():
        likelihood.train()(means.unsqueeze(-1)).log_prob(x)
    assert torch.equal(likelihood.optimal.average, before), "only training steps change it"


def test_the_average_forgets():
    """Batches have weights of at least 0.01."""
    likelihood = head((1,)).double()
    x = torch.zeros(1, 1).double()
    for _ in range(1000):
        likelihood(torch.full((1, 1, 1), 1.0).double().requires_grad_()).log_prob(x)
    likelihood(torch.full((1, 1, 1), 3.0).double().requires_grad_()).log_prob(x)
    assert likelihood.optimal.average.item() == pytest.approx(0.99 * 1 + 0.01 * 9)


def test_the_average_follows_a_decreasing_error():
    """After 40 steps in which the error decreases by 5 % each, an average with equal weights would be 6.5 times it."""
    likelihood = head((1,)).double()
    x = torch.zeros(1, 1).double()
    for step in range(40):
        likelihood(torch.full((1, 1, 1), 0.95 ** (step / 2)).double().requires_grad_()).log_prob(x)
    assert 1 < likelihood.optimal.average.item() / 0.95**39 < 1.3


def test_a_perfect_reconstruction_has_the_smallest_scale():
    likelihood = head((2,), min_scale=0.1)
    x = torch.rand(3, 2)
    log_px = likelihood(x.clone().requires_grad_().unsqueeze(-1)).log_prob(x)
    expected = torch.full((3,), -2 * (math.log(0.1) + math.log(2 * math.pi) / 2))
    torch.testing.assert_close(log_px, expected)


def test_missing_entries_do_not_change_the_scale_to_which_the_average_converges():
    """They are drawn at the average, so it converges to the error of the observed entries, here to a variance of 1."""
    likelihood = head((400,))
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(50, 400, generator=generator) > 0.5
    x = torch.randn(50, 400, generator=generator)
    likelihood.optimal.average.fill_(0.25)
    with zoo.seeded(0):
        for _ in range(100):
            likelihood.optimal.batches.zero_()
            observed_log_prob(likelihood(torch.zeros(50, 400, 1, requires_grad=True)), x, mask)
    assert likelihood.optimal.average.item() == pytest.approx(x[mask].square().mean().item(), rel=0.05)


def test_a_training_resumes_with_its_scale(tmp_path):
    overrides = [*TINY, "decoder.likelihood={use: gaussian, scale: optimal}"]
    whole = zoo.train("mlp-vae", [*overrides, "train.epochs=2"], out=tmp_path / "whole", device="cpu")
    half = zoo.train("mlp-vae", [*overrides, "train.epochs=1"], out=tmp_path / "half", device="cpu")
    resumed = zoo.resume(half, epochs=2, device="cpu")
    one, two = (zoo.load(run).state_dict() for run in (whole, resumed))
    for name, value in one.items():
        assert torch.equal(value, two[name]), name
    scale = one["decoder.likelihood.optimal.average"].sqrt().item()
    measured = zoo.evaluate(whole)["mse-at-draw"].value ** 0.5
    assert scale == pytest.approx(measured, rel=0.1)
