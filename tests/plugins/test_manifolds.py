from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from torch import Tensor
from torch.distributions import kl_divergence

import zoo
from zoo_figures import figures
from zoo_manifolds import sphere
from zoo_manifolds.bessel import log_ive
from zoo_manifolds.poincare import Ball, WrappedNormal
from zoo_manifolds.sphere import UniformSphere, VonMisesFisher

DIMS = (1, 2, 9)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def vmf(dim: int, kappa: float) -> VonMisesFisher:
    direction = torch.nn.functional.normalize(torch.randn(dim + 1, dtype=torch.float64), dim=-1)
    return VonMisesFisher(direction, torch.tensor(kappa, dtype=torch.float64))


# --- the sphere


@pytest.mark.parametrize("order", [0.0, 0.5, 4.0, 19.5, 60.0])
def test_the_bessel_function_agrees_with_scipy(order):
    x = torch.logspace(-1, 5, 60, dtype=torch.float64).requires_grad_()
    value, ratio = log_ive(order, x)
    ive, above = special.ive(order, x.detach().numpy()), special.ive(order + 1, x.detach().numpy())
    finite = ive > 1e-290
    np.testing.assert_allclose(value.detach().numpy()[finite], np.log(ive[finite]), rtol=1e-9, atol=1e-9)
    finite &= above > 1e-290
    np.testing.assert_allclose(ratio.detach().numpy()[finite], above[finite] / ive[finite], rtol=1e-10)
    (slope,) = torch.autograd.grad(value.sum(), x)
    torch.testing.assert_close(slope, (order / x + ratio - 1).detach(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kappa", [1e-3, 1.0, 30.0, 500.0])
def test_the_density_integrates_to_one_on_the_circle_and_on_the_sphere(kappa):
    q = vmf(1, kappa)
    angle = torch.linspace(0, 2 * math.pi, 4001, dtype=torch.float64)[:-1]
    on_circle = torch.stack([angle.cos(), angle.sin()], -1)
    assert q.log_prob(on_circle).exp().mean().item() * 2 * math.pi == pytest.approx(1, abs=1e-9)

    q = vmf(2, kappa)
    height, weights = (torch.as_tensor(v) for v in np.polynomial.legendre.leggauss(200))
    turn = torch.linspace(0, 2 * math.pi, 401, dtype=torch.float64)[:-1]
    ring = (1 - height**2).sqrt().unsqueeze(-1)
    z = torch.stack([ring * turn.cos(), ring * turn.sin(), height.unsqueeze(-1).expand(-1, 400)], -1)
    total = (q.log_prob(z).exp().mean(1) * 2 * math.pi * weights).sum()
    assert total.item() == pytest.approx(1, abs=1e-6)


def cosine_density(dim: int, kappa: float):
    """The unnormalised density of w = mu . z."""
    return lambda w: np.exp(kappa * (w - 1)) * (1 - w * w) ** (dim / 2 - 1)


def angle_cdf(dim: int, kappa: float):
    """The distribution function of the angle between mu and z, by quadrature."""
    reach = min(math.pi, 12 * math.sqrt((dim + 1) / max(kappa, 1e-9)))
    t = np.linspace(0, reach, 20_001)
    density = np.exp(kappa * (np.cos(t) - 1)) * np.sin(t) ** (dim - 1)
    cdf = integrate.cumulative_simpson(density, x=t, initial=0)
    return lambda value: np.interp(value, t, cdf / cdf[-1])


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kappa", [1e-2, 1.0, 20.0, 1e4])
def test_samples_follow_the_distribution_of_the_angle(dim, kappa):
    """Kolmogorov-Smirnov test of the angle to the mean direction; the tangent direction is uniform."""
    q = vmf(dim, kappa)
    z = q.sample((4000,))
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(4000, dtype=torch.float64))
    angle = 2 * ((z - q.direction).norm(dim=-1) / 2).asin()
    assert stats.kstest(angle.numpy(), angle_cdf(dim, kappa)).pvalue > 1e-3
    across = z - (z @ q.direction).unsqueeze(-1) * q.direction
    across = across / across.norm(dim=-1, keepdim=True)
    assert across.mean(0).norm().item() < 4 / math.sqrt(4000)
    second = across.T @ across / 4000
    expected = (torch.eye(dim + 1, dtype=torch.float64) - torch.outer(q.direction, q.direction)) / dim
    assert (second - expected).abs().max().item() < 0.06


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kappa", [1e-4, 0.5, 7.0, 300.0, 1e6])
def test_more_than_two_thirds_of_the_proposals_are_accepted(dim, kappa, monkeypatch):
    """Hence 24 proposals suffice. With a single one, rejected proposals bias the mean."""
    calls = []
    real = torch.Tensor.argmax
    monkeypatch.setattr(torch.Tensor, "argmax", lambda self, *a, **k: (calls.append(self), real(self, *a, **k))[1])
    vmf(dim, kappa).sample((2000,))
    (accepted,) = calls
    assert accepted.shape == (sphere.PROPOSALS, 2000)
    assert accepted.double().mean().item() > 0.65
    assert accepted.any(0).all()


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kappa", [1e-3, 1.0, 10.0, 300.0])
def test_the_rate_against_quadrature(dim, kappa):
    q = vmf(dim, kappa)
    p = UniformSphere(q.direction)
    t = np.linspace(0, math.pi, 400_001)
    density = np.exp(kappa * (np.cos(t) - 1)) * np.sin(t) ** (dim - 1)
    mass = integrate.simpson(density, x=t)
    uniform = integrate.simpson(np.sin(t) ** (dim - 1), x=t)
    expected = integrate.simpson(density / mass * (kappa * (np.cos(t) - 1) - np.log(mass / uniform)), x=t)
    assert kl_divergence(q, p).item() == pytest.approx(expected, rel=1e-6, abs=1e-9)
    z = q.sample((2000,))
    torch.testing.assert_close(p.log_prob(z), torch.full((2000,), -p.log_area, dtype=torch.float64))
    assert q.entropy().item() == pytest.approx(-q.log_prob(z).mean().item(), abs=6 * math.sqrt(dim / 2000) + 1e-6)


def test_the_area_of_the_sphere_and_its_uniform_draws():
    for dim, area in ((1, 2 * math.pi), (2, 4 * math.pi), (3, 2 * math.pi**2)):
        p = UniformSphere(torch.eye(dim + 1)[0])
        assert math.exp(p.log_area) == pytest.approx(area)
        assert p.entropy().exp().item() == pytest.approx(area, rel=1e-5)
    z = UniformSphere(torch.eye(3)[0]).sample((4000,))
    assert stats.kstest(z[:, 1].numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-3, "the height is uniform (Archimedes)"


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kappa", [0.2, 3.0, 100.0])
def test_the_gradient_in_the_concentration_keeps_the_quantile(dim, kappa):
    """By finite differences of the distribution function of the angle, for every single sample."""
    direction = torch.eye(dim + 1, dtype=torch.float64)[0]
    concentration = torch.full((200,), kappa, dtype=torch.float64, requires_grad=True)
    z = VonMisesFisher(direction.expand(200, -1), concentration).rsample()
    (slope,) = torch.autograd.grad(z[:, 0].sum(), concentration)
    w = z[:, 0].detach().numpy()
    angle, step = np.arccos(w), 1e-3 * kappa
    above, below, here = (angle_cdf(dim, kappa + s)(angle) for s in (step, -step, 0))
    by_angle = (angle_cdf(dim, kappa)(angle + 1e-4) - angle_cdf(dim, kappa)(angle - 1e-4)) / 2e-4
    expected = np.sin(angle) * (above - below) / (2 * step) / by_angle
    inner = (here > 0.01) & (here < 0.99)
    np.testing.assert_allclose(slope.numpy()[inner], expected[inner], rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("dim", [1, 2])
def test_the_gradient_in_the_direction_is_unbiased(dim):
    """The mean gradient of a quadratic function of samples, against the closed forms of E[z] and E[z z^T]."""
    kappa = 3.0
    raw = torch.randn(dim + 1, dtype=torch.float64, requires_grad=True)
    weights, square = torch.randn(dim + 1, dtype=torch.float64), torch.randn(dim + 1, dim + 1, dtype=torch.float64)
    q = VonMisesFisher(torch.nn.functional.normalize(raw, dim=-1), torch.tensor(kappa, dtype=torch.float64))
    z = q.rsample((40_000,))
    (actual,) = torch.autograd.grad((z @ weights + ((z @ square) * z).sum(-1)).mean(), raw)
    first = log_ive((dim + 1) / 2 - 1, torch.tensor(kappa, dtype=torch.float64))[1]
    second = 1 - dim * first / kappa  # E[w^2]
    mu = torch.nn.functional.normalize(raw, dim=-1)
    spread = (1 - second) / dim
    moment = spread * torch.eye(dim + 1, dtype=torch.float64) + (second - spread) * torch.outer(mu, mu)
    (expected,) = torch.autograd.grad(first * (weights @ mu) + (moment * square).sum(), raw)
    assert (actual - expected).abs().max().item() < 0.03 * expected.norm().item() + 0.02


@pytest.mark.parametrize("kappa", [1e-6, 1e-2, 50.0, 1e6])
@pytest.mark.parametrize("dim", [1, 9, 40])
def test_float32_is_accurate_for_small_and_large_concentrations(dim, kappa):
    exact = vmf(dim, kappa)
    concentration = torch.tensor(kappa, requires_grad=True)
    q = VonMisesFisher(exact.direction.float(), concentration)
    kl = kl_divergence(q, UniformSphere(q.direction))
    assert kl.dtype == torch.float32
    assert kl.item() == pytest.approx(kl_divergence(exact, UniformSphere(exact.direction)).item(), rel=1e-4, abs=1e-6)
    z = q.rsample((100,))
    (slope,) = torch.autograd.grad((z.sum() + q.log_prob(z).sum() + kl), concentration)
    assert torch.isfinite(slope)
    assert (q.log_prob(z) - exact.log_prob(z.double())).abs().max().item() < 0.05


# --- the ball


def hyperboloid_exp(at: Tensor, v: Tensor, c: float) -> Tensor:
    """`Ball.exp` on the hyperboloid, with 160 digits: v is transported in parallel from the pole to `at`, and the
    geodesic followed from there.
    """

    def product(x, y):
        return mpmath.fsum(p * q for p, q in zip(x[1:], y[1:], strict=True)) - x[0] * y[0]

    with mpmath.workdps(160):
        root = mpmath.sqrt(c)
        m, w = ([mpmath.mpf(x) * root for x in vector.tolist()] for vector in (at, v))
        a, b = (mpmath.sqrt(mpmath.fsum(x * x for x in vector)) for vector in (m, w))
        pole = [mpmath.mpf(1), *(mpmath.mpf(0) for _ in m)]
        mu = [mpmath.cosh(a), *(mpmath.sinh(a) / a * x for x in m)] if a else pole
        tangent = [mpmath.mpf(0), *w]
        across = [q + product(pole, mu) * p for p, q in zip(pole, mu, strict=True)]
        share = product(across, tangent) / (1 - product(pole, mu))
        carried = [t + share * (p + q) for t, p, q in zip(tangent, pole, mu, strict=True)]
        point = [mpmath.cosh(b) * p + mpmath.sinh(b) / b * t for p, t in zip(mu, carried, strict=True)][1:]
        length = mpmath.sqrt(mpmath.fsum(x * x for x in point))
        return double(*(float(mpmath.asinh(length) * x / length / root) for x in point))


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("curvature", [0.3, 1.0, 4.0])
def test_geodesics_agree_with_the_hyperboloid(dim, curvature):
    """Near the origin and far from it, in all directions, including straight back to the origin. (From farther out, the
    rounding of the direction in float64 misses the origin, except in one dimension.)
    """
    ball = Ball(curvature)
    lengths = [(0.0, 1.0), (1e-9, 0.5), (0.5, 3.0), (3.0, 12.0), (12.0, 6.0), (12.0, 140.0)]
    for out, length in [*lengths, (30.0, 30.5)] if dim == 1 else lengths:
        out, length = out / ball.root, length / ball.root
        away = torch.nn.functional.normalize(torch.randn(dim, dtype=torch.float64), dim=0)
        for v in (torch.randn(dim, dtype=torch.float64), away, -away, -away + 1e-5 * torch.randn(dim).double()):
            v = length * v / v.norm()
            expected = hyperboloid_exp(out * away, v, curvature)
            torch.testing.assert_close(ball.exp(out * away, v), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("curvature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("dim", DIMS)
def test_log_inverts_exp(dim, curvature):
    ball = Ball(curvature)
    at, v = torch.randn(2, 50, dim, dtype=torch.float64)
    z = ball.exp(at, v)
    torch.testing.assert_close(ball.log(at, z), v)
    torch.testing.assert_close(ball.exp(at, ball.log(at, z)), z)
    # |v| is the distance, in closed form
    at, z, c = ball.project(at), ball.project(z), curvature
    assert (c * z.square().sum(-1) < 1).all()
    fraction = 2 * c * (at - z).square().sum(-1) / (1 - c * at.square().sum(-1)) / (1 - c * z.square().sum(-1))
    distance = (1 + fraction).acosh() / math.sqrt(c)
    torch.testing.assert_close(v.norm(dim=-1), distance)


@pytest.mark.parametrize("curvature", [0.5, 1.0])
def test_the_wrapped_density_integrates_to_one_in_one_and_two_dimensions(curvature):
    ball = Ball(curvature)
    q = WrappedNormal(double(0.6), double(0.6), ball)
    z = torch.linspace(-6, 6, 2001, dtype=torch.float64)
    assert torch.trapezoid(q.log_prob(z.unsqueeze(-1)).exp(), z).item() == pytest.approx(1, abs=1e-9)

    q = WrappedNormal(double(0.6, -0.9), double(0.5, 0.8), ball)
    nodes, weights = (torch.as_tensor(v) for v in np.polynomial.legendre.leggauss(200))
    rho, turn = 4 * (nodes + 1), torch.linspace(0, 2 * math.pi, 801, dtype=torch.float64)[:-1]
    z = torch.stack([rho.unsqueeze(-1) * turn.cos(), rho.unsqueeze(-1) * turn.sin()], -1)
    total = (q.log_prob(z).exp().mean(1) * 2 * math.pi * rho * weights * 4).sum()
    assert total.item() == pytest.approx(1, abs=1e-6)


def test_the_density_equals_that_of_the_paper_up_to_the_volume():
    """arXiv 1901.06033: N(lambda log_mu z) (sqrt(c) d / sinh(sqrt(c) d))^(dim - 1), with respect to the volume."""
    c, mu, scale, z = 0.7, double(0.2, -0.1, 0.5), double(0.4, 1.1, 0.8), double(-0.3, 0.6, 0.1)  # inside the ball
    root = math.sqrt(c)
    y = ((1 - 2 * c * mu @ z + c * z @ z) * -mu + (1 - c * mu @ mu) * z) / (
        1 - 2 * c * mu @ z + c * c * mu @ mu * z @ z
    )
    v = 2 / root * (root * y.norm()).atanh() * y / y.norm()
    r, out = root * v.norm().item(), 2 * (root * z.norm()).atanh().item()
    by_volume = stats.norm(0, scale.numpy()).logpdf(v.numpy()).sum() + 2 * math.log(r / math.sinh(r))
    normal = [2 / root * (root * point.norm()).atanh() * point / point.norm() for point in (mu, z)]
    actual = WrappedNormal(normal[0], scale, Ball(c)).log_prob(normal[1]).item()
    assert actual == pytest.approx(by_volume + 2 * math.log(math.sinh(out) / out))


@pytest.mark.parametrize("dim", DIMS)
def test_distances_of_wrapped_samples_follow_the_chi_distribution(dim):
    """Kolmogorov-Smirnov test for equal scales, at every curvature."""
    ball = Ball(1.3)
    mu = torch.randn(dim, dtype=torch.float64) / 2
    q = WrappedNormal(mu, torch.full((dim,), 0.7, dtype=torch.float64), ball)
    z, log_density = q.rsample_and_log_prob((4000,))
    assert stats.kstest(ball.log(mu, z).norm(dim=-1).numpy() / 0.7, stats.chi(dim).cdf).pvalue > 1e-3
    torch.testing.assert_close(q.log_prob(z), log_density)


@pytest.mark.parametrize("dim", DIMS)
def test_gradients_of_wrapped_samples_and_densities_by_finite_differences(dim):
    ball = Ball(0.8)
    fixed = torch.randn(4, dim, dtype=torch.float64) / 2

    def value(tangent: Tensor, scale: Tensor) -> Tensor:
        torch.manual_seed(3)
        q = WrappedNormal(ball.shrink(tangent), scale, ball)
        z, log_q = q.rsample_and_log_prob((5,))
        p = WrappedNormal(torch.zeros(dim, dtype=torch.float64), torch.ones(dim, dtype=torch.float64), ball)
        return torch.cat([z.flatten(), log_q - p.log_prob(z), q.log_prob(fixed)])

    tangent = (torch.randn(dim, dtype=torch.float64) / 2).requires_grad_()
    scale = (torch.rand(dim, dtype=torch.float64) + 0.2).requires_grad_()
    assert torch.autograd.gradcheck(value, (tangent, scale))
    assert torch.autograd.gradcheck(value, (torch.zeros(dim, dtype=torch.float64, requires_grad=True), scale))


def divergence(q: WrappedNormal, p: WrappedNormal, draws: int = 4000) -> tuple[float, float]:
    """KL(q || p) in nats estimated from samples of q, and its standard error."""
    z, log_q = q.rsample_and_log_prob((draws,))
    difference = (log_q - p.log_prob(z)).double()
    return difference.mean().item(), difference.std().item() / math.sqrt(draws)


@pytest.mark.parametrize(("curvature", "dim"), [(1.0, 160), (4.0, 40), (16.0, 10)])
def test_a_wrapped_normal_does_not_diverge_from_itself(curvature, dim):
    """In float32, at distances of 12.6 / sqrt(c): in ball coordinates, at the boundary."""
    p = WrappedNormal(torch.zeros(dim), torch.ones(dim), Ball(curvature))
    assert divergence(p, p)[0] == pytest.approx(0, abs=1e-4)
    q = WrappedNormal(torch.randn(dim), torch.ones(dim), Ball(curvature))
    estimate, error = divergence(q, q)
    assert abs(estimate) < 5 * error + 1e-3


def test_the_rate_of_a_wide_posterior_is_that_of_the_normals():
    """At one point, only the lengths of tangent vectors differ: 10 (49/2 - 1/2 - log 7) = 220.541 nats."""
    q, p = (WrappedNormal(torch.zeros(10), torch.full((10,), scale), Ball(1.0)) for scale in (7.0, 1.0))
    estimate, error = divergence(q, p)
    assert error < 2
    assert abs(estimate - 220.541) < 4 * error


@pytest.mark.parametrize("distance", [0.0, 6.0, 9.5, 12.0])
@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_float32_is_accurate_within_the_bound_on_posteriors(distance, scale):
    """Densities at samples, against float64 on the hyperboloid and against those returned with the samples."""
    ball, dim = Ball(1.0), 6
    location = distance * torch.nn.functional.normalize(torch.randn(dim), dim=0)
    q = WrappedNormal(location, torch.full((dim,), scale), ball)
    p = WrappedNormal(torch.zeros(dim), torch.ones(dim), ball)
    z, log_q = q.rsample_and_log_prob((200,))
    assert z.dtype == log_q.dtype == torch.float32
    for distribution in (q, p):
        exact = WrappedNormal(distribution.location.double(), distribution.scale.double(), ball).log_prob(z.double())
        torch.testing.assert_close(distribution.log_prob(z).double(), exact, rtol=1e-6, atol=1e-5)
    assert (log_q - q.log_prob(z)).abs().max().item() < 0.1
    assert (log_q - q.log_prob(z)).mean().abs().item() < 0.01


def test_the_distance_of_posteriors_from_the_origin_is_bounded():
    ball = Ball(4.0)
    far = torch.tensor([[1e6, 0.0], [0.3, 0.4]])
    near = ball.shrink(far)
    assert near[0].tolist() == pytest.approx([6.0, 0.0])
    assert near[1].tolist() == pytest.approx([0.3, 0.4], rel=5e-3)


def test_far_from_the_origin_float32_stays_finite():
    ball = Ball(1.0)
    far = torch.full((1, 4), 30.0, requires_grad=True)
    q = WrappedNormal(far, torch.full((1, 4), 5.0), ball)
    z, log_q = q.rsample_and_log_prob((50,))
    p = WrappedNormal(torch.zeros(4), torch.ones(4), ball)
    rate = log_q - p.log_prob(z)
    assert torch.isfinite(rate).all()
    (gradient,) = torch.autograd.grad(rate.sum() + q.log_prob(z).sum() + q.log_prob(q.mean).sum(), far)
    assert torch.isfinite(gradient).all()


# --- the recipes


def test_the_event_of_the_sphere_has_one_coordinate_more_than_latent_dim():
    vae = zoo.create_model("svae", latent_dim=2, data_shape=(1, 4, 4))
    assert vae.latent_shape == (3,)
    torch.testing.assert_close(vae.posterior_mean(torch.rand(5, 1, 4, 4)).norm(dim=-1), torch.ones(5))
    with pytest.raises(zoo.UsageError, match="outside the support of the prior"):
        figures.traversals(vae)


def test_the_prior_uses_the_ball_of_the_posterior():
    curved = {"posterior": {"use": "wrapped-normal", "curvature": 4.0}}
    vae = zoo.create_model("poincare-vae", latent_dim=2, data_shape=(1, 4, 4), encoder=curved)
    prior = vae.prior(vae.encoder)
    assert prior.ball.curvature == 4.0
    z = prior.ball.project(prior.sample((1000,)))
    assert 0.4 < z.norm(dim=-1).max().item() < 0.5
    flat = zoo.create_model("mlp-vae", latent_dim=2, data_shape=(1, 4, 4))
    with pytest.raises(zoo.ComponentError, match=r"encoder\.posterior=wrapped-normal"):
        vae.prior(flat.encoder)


@pytest.mark.parametrize("latent_dim", [2, 100])
def test_a_hyperbolic_model_trains_to_a_log_likelihood(latent_dim):
    """For binary data it is at most 0. At the boundary of the ball, the encoder once reached 7 million nats."""
    vae = zoo.create_model("poincare-vae", latent_dim=latent_dim, data_shape=(1, 4, 4))
    loss = zoo.create_loss("poincare-vae", data_shape=(1, 4, 4))
    x = torch.cat([torch.zeros(16, 1, 4, 4), torch.ones(16, 1, 4, 4)])
    optimizer = torch.optim.Adam(vae.parameters(), lr=0.01)
    rates = []
    for _ in range(80):
        terms = loss(vae, zoo.Batch(x))
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        rates.append(terms["rate"].item())
    assert min(rates[40:]) > -0.5, "non-negative, up to the noise of one sample per image"
    log_px = vae.log_likelihood(x[::16], 500, seed=0)
    assert -16 * math.log(2) < log_px.min().item(), "better than chance"
    assert log_px.max().item() < 0
