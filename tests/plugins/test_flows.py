from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    Laplace,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

import zoo
from toys import LinearGaussian
from zoo_flows.iaf import FORGET_BIAS, Gate
from zoo_flows.planar import PlanarTransform

POSTERIORS = {
    "full-covariance": {},
    "planar": {"layers": 3},
    "iaf": {"steps": 2, "hidden": [6], "context": 3},
    "planar-on-full-covariance": {"use": "planar", "layers": 2, "base": "full-covariance"},
    "iaf-on-planar": {"use": "iaf", "steps": 1, "hidden": [6], "context": 3, "base": {"use": "planar", "layers": 2}},
}
FLOWS = [name for name in POSTERIORS if name != "full-covariance"]
FEATURES = 5


def head(name: str, latent_dim: int = 3, spread: float = 0.4) -> zoo.Posterior:
    """A posterior in float64 with random weights, so that no transform is the identity."""
    parameters = dict(POSTERIORS[name])
    torch.manual_seed(3)
    posterior = zoo.ComponentFactory("posterior", parameters.pop("use", name), **parameters)(
        features=FEATURES, latent_dim=latent_dim
    )
    for parameter in posterior.parameters():
        nn.init.normal_(parameter, std=spread)
    return posterior.double()


def features(n: int = 4) -> Tensor:
    return torch.randn(n, FEATURES, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def draw(q: Distribution, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    if hasattr(q, "rsample_and_log_prob"):
        return q.rsample_and_log_prob(shape)
    z = q.rsample(shape)
    return z, q.log_prob(z)


class HeadOnPixels(zoo.Encoder):
    """An encoder whose features are the pixels."""

    def __init__(self, posterior: zoo.Posterior) -> None:
        super().__init__()
        self.posterior = posterior

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Distribution:
        return self.posterior(x.flatten(1))


# --- every posterior


@pytest.mark.parametrize("name", POSTERIORS)
@pytest.mark.parametrize("shape", [(), (6,), (2, 3)])
def test_the_log_density_of_a_sample_equals_log_prob(name, shape):
    """`rsample_and_log_prob` uses the forward transforms, `log_prob` their inverses."""
    q = head(name)(features())
    torch.manual_seed(0)
    z, log_q = draw(q, shape)
    assert (q.batch_shape, q.event_shape) == ((4,), (3,))
    assert (z.shape, log_q.shape) == ((*shape, 4, 3), (*shape, 4))
    torch.testing.assert_close(q.log_prob(z.detach()), log_q, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", POSTERIORS)
def test_the_density_integrates_to_one(name):
    """In two dimensions, by the trapezoidal rule."""
    q = head(name, latent_dim=2)(features(2))
    torch.manual_seed(0)
    draws = q.sample((2000,)).flatten(0, 1)
    margin = 0.5 * (draws.amax(0) - draws.amin(0))
    bounds = torch.stack([draws.amin(0) - margin, draws.amax(0) + margin], dim=1).tolist()
    axes = [torch.linspace(low, high, 301, dtype=torch.float64) for low, high in bounds]
    grid = torch.cartesian_prod(*axes)
    with torch.no_grad():
        density = q.log_prob(grid[:, None]).exp().view(301, 301, 2)
    total = torch.trapezoid(torch.trapezoid(density, axes[1], dim=1), axes[0], dim=0)
    torch.testing.assert_close(total, torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", POSTERIORS)
def test_samples_have_the_moments_of_the_density(name):
    """E[h(z)] from samples, against importance sampling of the density from a wide normal."""
    q = head(name, latent_dim=2)(features(1))
    torch.manual_seed(0)
    z = q.sample((30_000,))
    wide = Independent(Normal(z.mean(0), 2 * z.std(0)), 1)
    y = wide.sample((30_000,))
    with torch.no_grad():
        w = (q.log_prob(y) - wide.log_prob(y)).exp()[..., None]
    center, scale = z.mean(0), z.std(0)
    for moment in (lambda v: (v - center) / scale, lambda v: ((v - center) / scale) ** 2, lambda v: (v > center) * 1.0):
        error = 6 * (moment(z).std(0) + (w * moment(y)).std(0)) / math.sqrt(30_000)
        assert ((moment(z).mean(0) - (w * moment(y)).mean(0)).abs() < error).all()


@pytest.mark.parametrize("name", POSTERIORS)
def test_a_density_does_not_depend_on_the_other_images_of_the_batch(name):
    posterior, inputs = head(name), features()
    z = torch.randn(2, 4, 3, dtype=torch.float64)
    log_q = posterior(inputs).log_prob(z)
    for n in range(4):
        torch.testing.assert_close(posterior(inputs[n : n + 1]).log_prob(z[:, n : n + 1]), log_q[:, n : n + 1])


@pytest.mark.parametrize("name", POSTERIORS)
def test_a_mixture_of_posteriors_can_be_a_prior(name):
    """As in the VampPrior: each component is evaluated at samples of the others."""
    q = head(name)(features())
    mixture = MixtureSameFamily(Categorical(torch.ones(4, dtype=torch.float64)), q, validate_args=False)
    z = torch.randn(2, 7, 3, dtype=torch.float64)
    each = torch.stack([head(name)(features()[n : n + 1]).log_prob(z.unsqueeze(-2))[..., 0] for n in range(4)])
    torch.testing.assert_close(mixture.log_prob(z), each.logsumexp(0) - math.log(4))


@pytest.mark.parametrize("name", POSTERIORS)
def test_gradients_agree_with_finite_differences(name):
    """Gradients of E[log q(z) + h(z)] at fixed noise and of log q at a fixed point, in every parameter."""
    posterior, inputs = head(name), features()
    point = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))

    def value() -> Tensor:
        torch.manual_seed(1)
        q = posterior(inputs)
        z, log_q = draw(q, (2,))
        return log_q.mean() + z.sin().mean() + q.log_prob(point).mean()

    parameters = list(posterior.parameters())
    actual = torch.autograd.grad(value(), parameters)
    h = 1e-5
    for parameter, slope in zip(parameters, actual, strict=True):
        direction = torch.randn_like(parameter)
        with torch.no_grad():
            parameter += h * direction
            above = value()
            parameter -= 2 * h * direction
            below = value()
            parameter += h * direction
        torch.testing.assert_close((slope * direction).sum(), (above - below) / (2 * h), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["gaussian", *POSTERIORS])
def test_importance_sampling_finds_the_exact_likelihood(name):
    """log p(x) of a linear Gaussian model, which a constant error of log q would shift. Trap 7: the number of samples
    is ignored, or the logarithms of chunks are averaged.
    """
    parameters = dict(POSTERIORS.get(name, {}))
    torch.manual_seed(0)
    posterior = zoo.ComponentFactory("posterior", parameters.pop("use", name), **parameters)(features=4, latent_dim=2)
    for parameter in posterior.parameters():
        nn.init.normal_(parameter, std=0.1)
    decoder = LinearGaussian(0.5 * torch.randn(4, 2), 1.0)
    vae = zoo.VAE(HeadOnPixels(posterior), decoder, zoo.get("prior", "standard-normal")(latent_shape=(2,)))
    x = 0.5 * torch.randn(3, 1, 1, 4)
    exact = decoder.marginal().log_prob(x.flatten(1)).double()
    one, many = (vae.log_likelihood(x, samples=k, chunk_size=3000) for k in (1, 20_000))
    torch.testing.assert_close(many, exact, rtol=0, atol=0.03)
    assert (one - exact).abs().max() > 0.05

    trace = vae.trace(zoo.Batch(x), samples=5)
    assert trace.log_weight.shape == (5, 3)
    terms = zoo.ComponentFactory("loss", "miwae", bounds=3, samples=2)()(vae, zoo.Batch(x))
    assert all(torch.isfinite(value) for value in terms.values())


@pytest.mark.parametrize("name", POSTERIORS)
def test_densities_are_computed_in_float32(name):
    """Under autocast matrix products run in bfloat16, but the log-density of a sample still equals `log_prob`."""
    posterior = head(name, spread=0.2).float()
    with torch.autocast("cpu", torch.bfloat16):
        q = posterior(features().float())
        torch.manual_seed(0)
        z, log_q = draw(q, (3,))
    assert (z.dtype, log_q.dtype) == (torch.float32, torch.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(q.log_prob(z), log_q, rtol=0, atol=0.02)


@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_has_no_mean(name):
    """The transformed mean of the base is not the mean, so a reconstruction uses a sample."""
    q = head(name)(features())
    with pytest.raises(NotImplementedError):
        _ = q.mean
    vae = zoo.create_model("planar", data_shape=(1, 2, 2), latent_dim=2)
    x = torch.rand(3, 1, 2, 2)
    assert not torch.equal(vae.reconstruct(x), vae.reconstruct(x))


@pytest.mark.parametrize("name", POSTERIORS)
@pytest.mark.parametrize("latent_dim", [1, 2])
def test_few_dimensions(name, latent_dim):
    q = head(name, latent_dim)(features())
    z, log_q = draw(q, (5,))
    torch.testing.assert_close(q.log_prob(z), log_q)


# --- planar


def planar(n: int = 4, d: int = 3, push: float = 0.0) -> PlanarTransform:
    """Random layers; `push` shifts w.u, so that the constraint is active."""
    generator = torch.Generator().manual_seed(7)
    u, w, b = (torch.randn(n, size, dtype=torch.float64, generator=generator) for size in (d, d, 1))
    return PlanarTransform(u - push * w, w, b)


def jacobian(function, z: Tensor) -> Tensor:
    """The Jacobian (N, d, d) at z (N, d) of a function that acts on each row independently."""
    full = torch.autograd.functional.jacobian(function, z)
    return torch.stack([full[n, :, n] for n in range(len(z))])


@pytest.mark.parametrize("push", [0.0, 1.0, 5.0])
def test_planar_against_its_equation_and_the_jacobian(push):
    layer = planar(push=push)
    z = torch.randn(4, 3, dtype=torch.float64)
    y, log_determinant = layer.call_and_ladj(z)
    by_hand = [z[n] + layer.u[n] * math.tanh(torch.dot(layer.w[n], z[n]) + layer.b[n]) for n in range(4)]
    torch.testing.assert_close(y, torch.stack(by_hand))
    matrix = jacobian(layer, z)
    assert (torch.linalg.det(matrix) > 0).all()
    torch.testing.assert_close(log_determinant, torch.linalg.slogdet(matrix).logabsdet)
    torch.testing.assert_close(layer.log_abs_det_jacobian(z, y), log_determinant)


def test_the_constraint_of_a_planar_layer():
    """w.û = m(w.u) > -1 for every u, û - u is parallel to w, and m is increasing with m(0) = 0 and lower limit -1."""
    for push in (0.0, 2.0, 30.0):
        generator = torch.Generator().manual_seed(7)
        u, w, b = (torch.randn(50, size, dtype=torch.float64, generator=generator) for size in (3, 3, 1))
        u = u - push * w
        layer = PlanarTransform(u, w, b)
        inputs, actual = (u * w).sum(-1), (layer.u * w).sum(-1)
        torch.testing.assert_close(actual, torch.log1p((inputs + math.log(math.e - 1)).exp()) - 1)
        assert (layer.slope > 0).all()
        across = (layer.u - u) - ((layer.u - u) * w).sum(-1, keepdim=True) * w / (w**2).sum(-1, keepdim=True)
        torch.testing.assert_close(across, torch.zeros_like(across), rtol=0, atol=1e-9 * (1 + push))
    identity = PlanarTransform(torch.zeros(1, 3), torch.randn(1, 3), torch.zeros(1, 1))
    assert identity.u.abs().max() < 1e-6


@pytest.mark.parametrize("push", [0.0, 1.0, 5.0])
def test_planar_layers_are_inverted(push):
    layer = planar(push=push)
    z = 3 * torch.randn(20, 4, 3, dtype=torch.float64)
    torch.testing.assert_close(layer.inv(layer(z)), z, rtol=1e-6, atol=1e-6)
    assert torch.autograd.gradcheck(lambda u, w, b, y: PlanarTransform(u, w, b).inv(y), [
        torch.randn(2, size, dtype=torch.float64, requires_grad=True) for size in (3, 3, 1, 3)
    ])  # fmt: skip


def test_planar_at_the_edges_of_float32():
    """w = 0, where the direction of û - u is undefined, and w.u so negative that 1 + w.û rounds to 0."""
    zero = torch.zeros(1, 3, requires_grad=True)
    y, log_determinant = PlanarTransform(torch.ones(1, 3), zero, torch.ones(1, 1)).call_and_ladj(torch.ones(1, 3))
    torch.testing.assert_close(y, torch.full((1, 3), 1 + math.tanh(1)))
    assert log_determinant.item() == 0
    log_determinant.sum().backward()
    assert torch.isfinite(zero.grad).all()

    steep = PlanarTransform(torch.full((1, 3), -100.0), torch.ones(1, 3), torch.full((1, 1), 0.5))
    _, log_determinant = steep.call_and_ladj(torch.zeros(1, 3))
    assert log_determinant.item() == pytest.approx(2 * math.log(math.tanh(0.5)), rel=1e-5)


def test_planar_and_full_covariance_start_as_the_gaussian():
    for name in ("planar", "full-covariance"):
        torch.manual_seed(0)
        posterior = zoo.ComponentFactory("posterior", name)(features=FEATURES, latent_dim=3).double()
        q = posterior(features())
        if name == "planar":
            gaussian = posterior.base(features())
        else:
            mean, log_variance = posterior.linear(features())[:, :6].chunk(2, -1)
            gaussian = Independent(Normal(mean, (log_variance / 2).exp()), 1)
        z = torch.randn(7, 4, 3, dtype=torch.float64)
        torch.testing.assert_close(q.log_prob(z), gaussian.log_prob(z))


# --- inverse autoregressive


def test_the_gate_is_that_of_the_paper():
    m, s, z = torch.randn(3, 5, dtype=torch.float64)
    sigma = 1 / (1 + (-(s + FORGET_BIAS)).exp())
    step = Gate(m, s)
    torch.testing.assert_close(step(z), sigma * z + (1 - sigma) * m)
    torch.testing.assert_close(step.log_abs_det_jacobian(z, step(z)), sigma.log())


def test_each_dimension_of_a_draw_depends_on_the_noise_before_it():
    """The Jacobian from noise to z is triangular with the gates on the diagonal; the next step reverses the order."""
    posterior = head("iaf")
    (steps,) = posterior(features()).transforms
    z = torch.randn(4, 3, dtype=torch.float64)
    for position, step in enumerate(steps.transforms):
        matrix = jacobian(step, z)
        free = torch.triu(matrix, 1) if position == 0 else torch.tril(matrix, -1)
        assert (free == 0).all()
        assert (matrix - free != 0).sum() == 4 * 6
        _, log_determinant = step.call_and_ladj(z)
        torch.testing.assert_close(log_determinant, matrix.diagonal(dim1=1, dim2=2).log().sum(-1))
    _, log_determinant = steps.call_and_ladj(z)
    torch.testing.assert_close(log_determinant, torch.linalg.slogdet(jacobian(steps, z)).logabsdet)


def test_far_from_the_posterior_the_density_is_zero_and_not_nan():
    """A pass of the inverse includes dimensions that have not converged yet. If they overflow, masked weights of 0
    times infinity make the other dimensions NaN.
    """
    posterior = head("iaf", latent_dim=20, spread=2.0).float()
    q = posterior(features().float())
    log_q = q.log_prob(torch.linspace(-30, 30, 5)[:, None, None].expand(5, 4, 20))
    assert torch.isfinite(log_q).all()
    assert (log_q < -1000).all()
    log_q.mean().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in posterior.parameters())


def test_a_sample_and_its_density_take_one_pass_of_each_network():
    posterior = head("iaf")
    passes = []
    for step in posterior.steps.transforms:
        step.hyper.register_forward_hook(lambda *_: passes.append(1))
    q = posterior(features())
    z, _ = q.rsample_and_log_prob((7,))
    assert len(passes) == 2
    q.log_prob(z)
    assert len(passes) > 2 + 2 * 3


# --- full covariance


def test_full_covariance_against_torch():
    """The features hold the mean, the log-variances, and the lower triangle row by row, in units of the scale of the
    row divided by the number of dimensions.
    """
    posterior = zoo.ComponentFactory("posterior", "full-covariance")(features=1, latent_dim=3).double()
    mean, log_variance, below = torch.tensor([1.0, -2, 3]), torch.tensor([0.5, -1, 2]), torch.tensor([0.3, -0.6, 1.2])
    with torch.no_grad():
        posterior.linear.weight.zero_()
        posterior.linear.bias.copy_(torch.cat([mean, log_variance, below]))
    q = posterior(torch.ones(2, 1, dtype=torch.float64))
    factor = torch.tensor([[1, 0, 0], [0.1, 1, 0], [-0.2, 0.4, 1]], dtype=torch.float64)
    factor = torch.tensor([math.exp(0.25), math.exp(-0.5), math.e], dtype=torch.float64).diag() @ factor
    torch.testing.assert_close(q.covariance_matrix[1], factor @ factor.T)
    torch.testing.assert_close(q.mean[0], mean.double())
    torch.manual_seed(0)
    torch.testing.assert_close(q.sample((200_000,))[:, 0].T.cov(), factor @ factor.T, rtol=0.02, atol=0.02)


def test_the_kl_of_full_covariance_to_independent_normals():
    """Against torch's formula for two multivariate normals, and against samples."""
    q = head("full-covariance")(features())
    assert (q.covariance_matrix[0] - q.covariance_matrix[0].diag().diag()).abs().max() > 0.1
    loc, scale = torch.tensor([0.5, -1, 0]).double(), torch.tensor([0.5, 2, 1]).double()
    for mean, width in ((torch.zeros_like(loc), torch.ones_like(scale)), (loc, scale)):
        p = Independent(Normal(mean, width), 1)
        actual = kl_divergence(q, p)
        assert actual.shape == (4,)
        torch.testing.assert_close(actual, kl_divergence(q, MultivariateNormal(mean, scale_tril=width.diag())))
        torch.manual_seed(0)
        z = q.sample((200_000,))
        torch.testing.assert_close((q.log_prob(z) - p.log_prob(z)).mean(0), actual, rtol=0.02, atol=0.02)


def test_other_kls_are_estimated_from_samples():
    q = head("full-covariance")(features())
    with pytest.raises(NotImplementedError):
        kl_divergence(q, Independent(Laplace(torch.zeros(3), torch.ones(3)), 1))


@pytest.mark.parametrize("setting", ["layers=0", "layers=2.5", "base=nothing", "width=3"], ids=lambda s: s)
def test_parameters_are_checked(setting):
    with pytest.raises(zoo.RecipeError, match=f"posterior.{setting.partition('=')[0]}"):
        zoo.recipe("planar", [f"encoder.posterior.{setting}"])
