from __future__ import annotations

import math

import pytest
import torch

import zoo
from zoo_gaussian.discretized import DiscretizedLogistic

LEVELS = torch.arange(256, dtype=torch.float64) / 255
MEANS = torch.tensor([1 / 512, 0.2, 0.5, 0.999, 511 / 512], dtype=torch.float64)
LOG_SCALES = torch.tensor([-4.5, -2.0, -0.3, 0.0], dtype=torch.float64)


def every() -> DiscretizedLogistic:
    mean, log_scale = torch.meshgrid(MEANS, LOG_SCALES, indexing="ij")
    return DiscretizedLogistic(mean.flatten().unsqueeze(-1), log_scale.flatten().unsqueeze(-1))


def test_the_256_bins_sum_to_one():
    total = every().log_prob(LEVELS).exp().sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-12, atol=0)


def test_each_bin_has_the_mass_of_the_logistic_distribution():
    """Inside, a difference of two distribution functions; the first and the last bin have the tails too."""
    p = every()
    scale = p.log_scale.exp()
    edges = torch.arange(257, dtype=torch.float64) / 256
    cdf = ((edges - p.location) / scale).sigmoid()
    cdf[:, 0], cdf[:, -1] = 0.0, 1.0
    torch.testing.assert_close(p.log_prob(LEVELS).exp(), cdf.diff(dim=-1), rtol=1e-9, atol=1e-15)


def test_no_digits_are_lost_in_the_tail():
    """255 bins away at the smallest scale: the mass is e^-90, and float32 has its logarithm to 6 digits."""
    low = DiscretizedLogistic(torch.tensor(1 / 512), torch.tensor(-4.5))
    exact = DiscretizedLogistic(torch.tensor(1 / 512, dtype=torch.float64), torch.tensor(-4.5, dtype=torch.float64))
    level = LEVELS[254]
    scale = math.exp(-4.5)
    width = 1 / 256 / scale
    tail = -(254 / 256 - 1 / 512) / scale + math.log(-math.expm1(-width))
    assert exact.log_prob(level).item() == pytest.approx(tail, rel=1e-9)
    assert low.log_prob(level.float()).item() == pytest.approx(tail, rel=1e-6)


def test_mean_and_draws_agree_with_the_probabilities():
    p = every()
    probabilities = p.log_prob(LEVELS).exp()
    mean = (probabilities * LEVELS).sum(-1, keepdim=True)
    torch.testing.assert_close(p.mean, mean, rtol=1e-12, atol=0)
    with zoo.seeded(0):
        draws = p.sample((4000,))
    assert bool(p.support.check(draws).all())
    deviation = ((probabilities * (LEVELS - mean) ** 2).sum(-1, keepdim=True) / 4000).sqrt()
    assert ((draws.mean(0) - mean).abs() < 5 * deviation).all()


def test_the_head_clips_as_the_published_code():
    """Means in [1/512, 511/512], log-scales in [-4.5, 0]; two parameters for each pixel, on the last axis."""
    head = zoo.get("likelihood", "discretized-logistic")(data_shape=(1, 2, 1))
    assert head.parameters_per_entry == 2
    parameters = torch.tensor([[-30.0, -9.0], [30.0, 4.0]]).view(1, 1, 2, 1, 2)
    p = head(parameters)
    assert (p.batch_shape, p.event_shape) == ((1,), (1, 2, 1))
    entries = p.base_dist
    torch.testing.assert_close(entries.location.flatten(), torch.tensor([1 / 512, 511 / 512]))
    torch.testing.assert_close(entries.log_scale.flatten(), torch.tensor([-4.5, 0.0]))


def test_bits_per_dimension_are_those_of_grey_values(tmp_path):
    """A likelihood of grey values needs no correction: bits are nats over 64 log 2, and no note says otherwise."""
    run = zoo.train(
        "mlp-vae", ["data=digits", "decoder.likelihood=discretized-logistic", "train.epochs=1"], out=tmp_path
    )
    evaluation = zoo.evaluate(run, settings={"log-likelihood": {"samples": 5}}, limit=20)
    nats, bits = evaluation["log-likelihood"], evaluation["log-likelihood-bits"]
    assert bits.value == pytest.approx(-nats.value / (64 * math.log(2)), rel=1e-9)
    assert (nats.note, bits.note) == ("", "")
    assert bits.value < 8, "better than no model at all"
