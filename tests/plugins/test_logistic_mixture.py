"""Mixtures of discretized logistics, against sums over components and over the 256 grey values."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import zoo
from resuming import TINY
from zoo_gaussian.logistic_mixture import CoupledMixture, LogisticMixture

LEVELS = torch.arange(256, dtype=torch.float64) / 255
K = 3


def head(shape: tuple[int, ...], **parameters: object) -> zoo.Likelihood:
    return zoo.ComponentFactory("likelihood", "discretized-logistic-mixture", components=K, **parameters)(
        data_shape=shape
    )


def parameters(shape: tuple[int, ...], per_component: int, seed: int = 0) -> Tensor:
    """Random logits, means, log-scales and coefficients, some log-scales beyond the bound."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(*shape, per_component * K, generator=generator, dtype=torch.float64)
    drawn[..., 2 * K : 3 * K] = 2.5 * drawn[..., 2 * K : 3 * K] - 3
    return drawn


def mass(level: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """The published code in float64: sigmoid(high) - sigmoid(low) of pixels in [-1, 1], with the tails at both ends."""
    centered, precision = 2 * level / 255 - 1 - mean, (-log_scale.clamp(-7, 7)).exp()
    high, low = (precision * (centered + 1 / 255)).sigmoid(), (precision * (centered - 1 / 255)).sigmoid()
    return torch.where(level == 255, 1.0, high) - torch.where(level == 0, 0.0, low)


def test_the_mixture_of_each_entry_is_the_sum_over_components():
    shape = (2, 3)
    given = parameters((4, *shape), 3)
    p = head(shape, channels="independent")(given)
    assert (p.batch_shape, p.event_shape) == ((4,), shape)
    logits, mean, log_scale = given.split(K, dim=-1)
    level = torch.randint(256, (4, *shape), generator=torch.Generator().manual_seed(1)).double()
    level[0, 0] = torch.tensor([0.0, 255.0, 254.0])
    expected = torch.zeros(4, *shape, dtype=torch.float64)
    for k in range(K):
        expected += logits.softmax(-1)[..., k] * mass(level, mean[..., k], log_scale[..., k])
    torch.testing.assert_close(p.log_prob(level / 255), expected.log().sum((1, 2)), rtol=1e-6, atol=1e-6)


def test_the_256_values_of_an_entry_sum_to_one():
    p = head((5, 4), channels="independent")(parameters((5, 4), 3)).base_dist
    assert isinstance(p, LogisticMixture)
    total = p.log_prob(LEVELS.view(256, 1, 1)).exp().sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-12, atol=0)


def test_the_mean_is_that_of_the_256_values():
    p = head((5, 4), channels="independent")(parameters((5, 4), 3)).base_dist
    values = LEVELS.view(256, 1, 1)
    torch.testing.assert_close(p.mean, (p.log_prob(values).exp() * values).sum(0), rtol=1e-12, atol=0)


def coupled_mass(given: Tensor, level: Tensor) -> Tensor:
    """The mass of levels (3, H, W) under parameters (3, H, W, 4 K): pixel by pixel, component by component."""
    logits, mean, log_scale, coefficients = given.split(K, dim=-1)
    weights, x = logits.sum(0).softmax(-1), 2 * level / 255 - 1
    a, b, c = coefficients.tanh()
    total = torch.zeros(level.shape[1:], dtype=torch.float64)
    for k in range(K):
        red = mean[0, ..., k]
        green = mean[1, ..., k] + a[..., k] * x[0]
        blue = mean[2, ..., k] + b[..., k] * x[0] + c[..., k] * x[1]
        masses = [mass(level[i], m, log_scale[i, ..., k]) for i, m in enumerate((red, green, blue))]
        total += weights[..., k] * masses[0] * masses[1] * masses[2]
    return total


def test_coupled_colours_against_the_equations():
    shape = (3, 4, 5)
    given = parameters((2, *shape), 4)
    given[..., 2 * K : 3 * K] = given[..., 2 * K : 3 * K].clamp_min(-2)  # the differences below have digits left
    p = head(shape)(given)
    assert isinstance(p, CoupledMixture)
    assert (p.batch_shape, p.event_shape) == ((2,), shape)
    level = torch.randint(256, (2, *shape), generator=torch.Generator().manual_seed(1)).double()
    level[:, :, 0] = torch.tensor([0.0, 255.0, 1.0, 254.0, 128.0])
    expected = torch.stack([coupled_mass(*pair).log().sum() for pair in zip(given, level, strict=True)])
    torch.testing.assert_close(p.log_prob(level / 255), expected, rtol=1e-6, atol=1e-6)


def test_the_values_of_green_and_blue_sum_to_the_mass_of_red():
    """Over 256 x 256 values. The values of red sum to one, because its mass is that of a plain mixture."""
    given = parameters((3, 1, 1), 4)
    p = head((3, 1, 1))(given)
    plain = head((1, 1), channels="independent")(torch.cat([given[..., :K].sum(0), given[0, ..., K : 3 * K]], -1))
    green, blue = torch.meshgrid(LEVELS, LEVELS, indexing="ij")
    for red in LEVELS[[0, 31, 200, 255]]:
        joint = p.log_prob(torch.stack([red.expand_as(green), green, blue], -1).view(-1, 3, 1, 1)).exp()
        torch.testing.assert_close(joint.sum(), plain.log_prob(red.view(1, 1)).exp(), rtol=1e-9, atol=0)


def test_draws_of_coupled_colours_follow_their_mass():
    """Red and green are correlated by their coefficients: frequencies of coarse bins, and the means."""
    given = parameters((3, 1, 1), 4, seed=3)
    given[..., 2 * K : 3 * K] = -2.0
    p = head((3, 1, 1))(given)
    n = 20000
    with zoo.seeded(0):
        draws = p.sample((n,))
    assert draws.shape == (n, 3, 1, 1)
    assert bool(p.support.check(draws).all())
    red, green = torch.meshgrid(LEVELS, LEVELS, indexing="ij")
    logits, mean, log_scale, coefficients = (part[:, 0, 0] for part in given.split(K, dim=-1))
    joint = torch.zeros(256, 256, dtype=torch.float64)
    for k in range(K):
        shifted = mean[1, k] + coefficients[0, k].tanh() * (2 * red - 1)
        first, second = mass(255 * red, mean[0, k], log_scale[0, k]), mass(255 * green, shifted, log_scale[1, k])
        joint += logits.sum(0).softmax(-1)[k] * first * second
    coarse = joint.view(4, 64, 4, 64).sum((1, 3))
    bins = (draws[:, :2, 0, 0] * 255).round().long() // 64
    frequencies = torch.bincount(4 * bins[:, 0] + bins[:, 1], minlength=16).view(4, 4) / n
    assert ((frequencies - coarse).abs() < 5 * (coarse * (1 - coarse) / n).sqrt() + 1e-3).all()
    torch.testing.assert_close(p.mean[0, 0, 0], (joint * red).sum())


def test_the_mean_of_coupled_colours_where_nothing_is_clipped():
    """Inside the range the mean of green is linear in that of red, so it is that of the draws."""
    given = parameters((3, 1, 1), 4, seed=4)
    given[..., K : 2 * K] *= 0.1
    given[..., 2 * K : 3 * K] = -4.0
    given[..., 3 * K :] *= 0.3
    p = head((3, 1, 1))(given)
    with zoo.seeded(0):
        draws = p.sample((20000,))
    assert ((p.mean - draws.mean(0)).abs() < 5 * draws.std(0) / math.sqrt(20000) + 1 / 1020).all()


def test_grey_images_have_a_plain_mixture():
    given = parameters((1, 2, 2), 3)
    x = LEVELS[[3, 90, 255, 0]].view(1, 2, 2)
    assert torch.equal(head((1, 2, 2))(given).log_prob(x), head((1, 2, 2), channels="independent")(given).log_prob(x))


@pytest.mark.parametrize("shape", [(2, 4, 4), (7,), (4, 4)])
def test_channels_that_cannot_be_coupled_are_refused(shape):
    with pytest.raises(zoo.ComponentError, match="couples the channels of images.*Set channels=independent"):
        head(shape)


def test_a_mask_needs_independent_channels():
    x, mask = torch.rand(2, 3, 2, 2).mul(255).round() / 255, torch.ones(2, 3, 2, 2, dtype=torch.bool)
    mask[:, :, 0] = False
    settings = {"encoder": {"hidden": [4]}, "latent_dim": 2}
    for channels in ("coupled", "independent"):
        likelihood = {"use": "discretized-logistic-mixture", "components": 2, "channels": channels}
        decoder = {"hidden": [4], "likelihood": likelihood}
        vae = zoo.create_model("mlp-vae", data_shape=(3, 2, 2), decoder=decoder, **settings)
        if channels == "coupled":
            with pytest.raises(zoo.ComponentError, match="must factorize over entries.*CoupledMixture does not"):
                _ = vae.trace(zoo.Batch(x, mask=mask)).log_px
        else:
            other = torch.where(mask, x, 1 - x)
            values = []
            for data in (x, other):
                with zoo.seeded(0):
                    values.append(vae.trace(zoo.Batch(data, mask=mask)).log_px)
            torch.testing.assert_close(*values)


@pytest.mark.parametrize("channels", [1, 3])
def test_gradients_are_finite_at_extreme_parameters(channels):
    given = 200 * torch.randn(4, channels, 2, 2, (4 if channels == 3 else 3) * K)
    given.requires_grad_()
    x = torch.tensor([0.0, 1.0]).expand(4, channels, 2, 2)
    log_px = head((channels, 2, 2))(given).log_prob(x)
    log_px.sum().backward()
    assert log_px.isfinite().all()
    assert given.grad.isfinite().all()


def test_bits_per_dimension_are_those_of_the_grey_values(tmp_path):
    """Of 8-bit images, without a correction by 8 bits."""
    likelihood = "decoder.likelihood={use: discretized-logistic-mixture, components: 2}"
    run = zoo.train("mlp-vae", [*TINY, likelihood, "train.epochs=1"], out=tmp_path, device="cpu")
    evaluation = zoo.evaluate(run, limit=20)
    nats, bits = evaluation["elbo"], evaluation["bits-per-dimension"]
    assert bits.value == pytest.approx(-nats.value / (64 * math.log(2)), rel=1e-6)
    assert (nats.note, bits.note) == ("", "")
