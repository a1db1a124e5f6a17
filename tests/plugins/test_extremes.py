"""Densities, divergences and their gradients over the range of float32, against closed forms in float64."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, kl_divergence

import zoo
from zoo.recipes.building import build
from zoo_conformance.candidate import few_digits
from zoo_flows.gaussian import FullCovarianceGaussian
from zoo_gaussian.posterior import DiagonalGaussian
from zoo_hierarchical.ladder import precision_weighted
from zoo_hierarchical.levels import gaussian

LOG_VARIANCES = (-170.0, -110.0, -100.0, -80.0, -30.0, -1.0, 0.0, 1.0, 30.0, 80.0, 86.0)
HEADS = ("gaussian", "full-covariance")
ROOT = math.log(2 * math.pi) / 2


def exact_kl(mean: float, log_variance: float, mean_p: float = 0.0, log_variance_p: float = 0.0) -> float:
    difference = log_variance - log_variance_p
    return (math.expm1(difference) - difference + (mean - mean_p) ** 2 * math.exp(-log_variance_p)) / 2


def with_log_variance(name: str, log_variance: float, mean: float = 0.5) -> tuple[nn.Module, Distribution]:
    """A one-dimensional head with a constant output, and that output."""
    head = zoo.ComponentFactory("posterior", name)(features=1, latent_dim=1)
    with torch.no_grad():
        head.linear.weight.zero_()
        head.linear.bias.copy_(torch.tensor([mean, log_variance]))
    return head, head(torch.zeros(1, 1))


@pytest.mark.parametrize("log_variance", LOG_VARIANCES)
@pytest.mark.parametrize("name", HEADS)
def test_the_rate_of_a_gaussian(name, log_variance):
    """The rate and its gradient, the mean and (variance - 1) / 2. At a log-variance of -110 it was once infinite."""
    head, q = with_log_variance(name, log_variance)
    prior = zoo.ComponentFactory("prior", "standard-normal")(latent_shape=(1,))(None)
    kl = kl_divergence(q, prior)
    assert kl.item() == pytest.approx(exact_kl(0.5, log_variance), rel=1e-5)
    kl.sum().backward()
    assert head.linear.bias.grad.tolist() == pytest.approx([0.5, math.expm1(log_variance) / 2], rel=1e-4)


def test_the_rate_at_a_tiny_variance():
    _, q = with_log_variance("gaussian", -110.0, mean=0.0)
    assert kl_divergence(q, Independent(Normal(torch.zeros(1), torch.ones(1)), 1)).item() == 54.5


@pytest.mark.parametrize("log_variance", [-160.0, *LOG_VARIANCES[1:], 160.0])
@pytest.mark.parametrize("name", HEADS)
def test_the_density_of_a_gaussian_and_its_gradient(name, log_variance):
    """At its own samples around 0, where float32 can resolve them."""
    head, q = with_log_variance(name, log_variance, mean=0.0)
    torch.manual_seed(0)
    z = q.rsample(torch.Size([50]))
    noise = z.detach().double().flatten() * math.exp(-log_variance / 2)
    log_q = q.log_prob(z)
    exact = -noise.square() / 2 - log_variance / 2 - ROOT
    torch.testing.assert_close(log_q.detach().double().flatten(), exact, rtol=1e-5, atol=1e-5)
    log_q.sum().backward()
    assert head.linear.bias.grad.tolist() == pytest.approx([0.0, -25.0], rel=1e-4, abs=1e-30)


@pytest.mark.parametrize("prior_log_variance", [-100.0, -30.0, 0.0, 60.0])
@pytest.mark.parametrize("apart", [-20.0, 0.0, 20.0])
@pytest.mark.parametrize("name", HEADS)
def test_the_rate_against_a_learned_gaussian(name, prior_log_variance, apart):
    """It depends on the ratio of the variances only."""
    mean = math.exp(prior_log_variance / 2)
    _, q = with_log_variance(name, prior_log_variance + apart, mean)
    prior = zoo.ComponentFactory("prior", "conditional-normal")(latent_shape=(1,), classes=2)
    nn.init.constant_(prior.log_variance, prior_log_variance)
    kl = kl_divergence(q, prior(None, torch.tensor([1])))
    assert kl.item() == pytest.approx(exact_kl(1.0, apart), rel=1e-4)
    kl.sum().backward()
    assert prior.log_variance.grad[1].item() == pytest.approx((-math.expm1(apart) - 1) / 2, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("log_scale", [-80.0, -40.0, 0.0, 40.0, 80.0])
def test_a_mixture_of_gaussians_of_any_scale(log_scale):
    prior = zoo.ComponentFactory("prior", "mixture", components=3)(latent_shape=(2,))
    nn.init.zeros_(prior.loc)
    nn.init.constant_(prior.log_scale, log_scale)
    z = torch.full((1, 2), 0.5) * math.exp(log_scale)
    log_p = prior(None).log_prob(z)
    assert log_p.item() == pytest.approx(2 * (-0.125 - log_scale - ROOT), rel=1e-5)
    log_p.sum().backward()
    assert prior.log_scale.grad.sum().item() == pytest.approx(2 * (0.25 - 1), rel=1e-4)


@pytest.mark.parametrize(
    ("scale", "output", "log_scale"),
    [
        (1e-30, None, math.log(1e-30)),
        (1e30, None, math.log(1e30)),
        ("shared", -200.0, math.log(1e-3)),
        ("shared", 80.0, 80.0),
        ("pixelwise", -200.0, math.log(1e-3)),
        ("pixelwise", 0.0, math.log(1 + 1e-3)),
        ("pixelwise", 80.0, 80.0),
        ("pixelwise", 200.0, 200.0),
    ],
)
def test_the_gaussian_likelihood_of_any_scale(scale, output, log_scale):
    likelihood = zoo.ComponentFactory("likelihood", "gaussian", scale=scale)(data_shape=(1, 1, 1))
    if scale == "shared":
        nn.init.constant_(likelihood.log_scale, output)
    maps = torch.tensor([0.0] if scale != "pixelwise" else [0.0, output]).view(1, 1, 1, 1, -1).requires_grad_()
    x = torch.tensor(math.exp(min(log_scale, 80.0))).view(1, 1, 1, 1)
    log_p = likelihood(maps).log_prob(x)
    deviation = math.exp(min(log_scale, 80.0) - log_scale)
    assert log_p.item() == pytest.approx(-(deviation**2) / 2 - log_scale - ROOT, rel=1e-5)
    log_p.sum().backward()
    slope = maps.grad[..., 1] if scale == "pixelwise" else likelihood.log_scale.grad if scale == "shared" else None
    assert maps.grad.isfinite().all()
    if slope is not None:
        assert slope.item() == pytest.approx((deviation**2 - 1) * (output > -200), rel=1e-4, abs=1e-3)


@pytest.mark.parametrize(("log_p", "log_s"), [(-80.0, -80.0), (-80.0, 60.0), (60.0, -80.0), (0.0, 0.0), (80.0, 79.0)])
def test_precisions_add_up_at_any_scale(log_p, log_s):
    """The product of two Gaussians in the ladder, computed from log-scales, against float64."""
    scales = torch.tensor([log_p, log_s]).exp().requires_grad_()
    one, two = (
        gaussian(torch.tensor([mean]), scale.unsqueeze(0)) for mean, scale in zip((1.0, 3.0), scales, strict=True)
    )
    product = precision_weighted(one, two).base_dist
    precisions = [math.exp(-2 * log_p), math.exp(-2 * log_s)]
    assert product.scale.item() == pytest.approx(sum(precisions) ** -0.5, rel=1e-5)
    expected = (precisions[0] + 3 * precisions[1]) / sum(precisions)
    assert product.loc.item() == pytest.approx(expected, rel=1e-5)
    (product.loc + product.scale.log()).sum().backward()
    assert scales.grad.isfinite().all()


@pytest.mark.parametrize("sharpness", [1e-8, 1e-4, 0.1, 10.0, 1e4])
def test_the_log_cosh_of_small_and_large_errors(sharpness):
    """The logarithm of a number near 1 is divided by the sharpness, which amplifies its error."""
    errors = torch.tensor([0.0, 1e-3, 0.1, 0.7, 1.0, 1.3, 30.0]) / sharpness**0.5
    likelihood = zoo.ComponentFactory("likelihood", "log-cosh", sharpness=sharpness)(data_shape=(1, 1, 1))
    log_p = likelihood(torch.zeros(len(errors), 1, 1, 1, 1)).log_prob(errors.view(-1, 1, 1, 1))
    with mpmath.workdps(40):
        exact = [float(mpmath.log(mpmath.cosh(mpmath.mpf(sharpness) * error)) / sharpness) for error in errors.tolist()]
    torch.testing.assert_close((log_p[0] - log_p).tolist(), exact, rtol=2e-5, atol=2e-5)


def log_variances_of(module: nn.Module) -> Tensor | None:
    """The biases of a head that determine its log-variances."""
    if isinstance(module, DiagonalGaussian):
        return module.linear.bias[module.linear.out_features // 2 :]
    if isinstance(module, FullCovarianceGaussian):
        return module.linear.bias[module.latent_dim : 2 * module.latent_dim]
    return None


REPRESENTABLE = {
    "dip-vae-ii": (-110.0, 40.0),  # it squares the variance
    "vamp-vae": (-80.0, 80.0),  # its prior is equally narrow, with another mean
    "top-down-vae": (-80.0, 20.0),
    # The latents pass through a network whose outputs are squared or exponentiated, or through second derivatives.
    "flow-prior-vae": (-110.0, 20.0),
    "hierarchical-vae": (-110.0, 0.0),
    "iaf": (-110.0, 40.0),
    "rhvae": (-110.0, 40.0),
}
"""Log-variances for which the exact terms and gradients are numbers of float32, where these are not all."""


@pytest.mark.parametrize("model", zoo.list_models())
def test_every_objective_is_finite_for_narrow_and_wide_posteriors(model):
    """And has a finite gradient."""
    torch.manual_seed(0)
    data = few_digits(24, 8).train
    batch = zoo.Batch(data.x[:8] / 255, data.labels[:8])
    vae, loss = build(zoo.recipe(model), (1, 8, 8), 10, 24)
    heads = [biases for module in vae.modules() if (biases := log_variances_of(module)) is not None]
    if not heads:
        pytest.skip("its posterior is not a Gaussian")
    for log_variance in (-110.0, -100.0, -80.0, 20.0, 40.0, 80.0):
        low, high = REPRESENTABLE.get(model, (-110.0, 80.0))
        if not low <= log_variance <= high:
            continue
        with torch.no_grad():
            for biases in heads:
                biases.fill_(log_variance)
        for phase in loss.phases(vae):
            terms = phase.objective(vae, batch)
            for name, value in terms.items():
                assert value.isfinite(), f"{name} at a log-variance of {log_variance}"
            for gradient in torch.autograd.grad(terms["loss"], phase.parameters, allow_unused=True):
                assert gradient is None or gradient.isfinite().all(), f"gradient at {log_variance}"
