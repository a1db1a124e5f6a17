from __future__ import annotations

import logging
import math
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal, kl_divergence

import zoo
import zoo_priors.mixture
from toys import GivenPosterior, LinearGaussian, linear_gaussian_vae
from zoo_priors.two_stage import Marginal

SHAPE = (1, 2, 2)


def prior(use: str, latent_shape: tuple[int, ...] = (2,), **parameters: object) -> zoo.Prior:
    return zoo.ComponentFactory("prior", use, **parameters)(data_shape=SHAPE, latent_shape=latent_shape)


def by_hand(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """log N(z; loc, diag(scale^2)) of points (N, d) under components (K, d), (N, K)."""
    standard = (z[:, None] - loc) / scale
    return (-0.5 * standard**2 - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)


def integral(p: Distribution, reach: float = 9.0, points: int = 301) -> float:
    """The integral of a density over the plane, by the trapezoidal rule in float64."""
    axis = torch.linspace(-reach, reach, points, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        density = p.log_prob(grid).exp().reshape(points, points)
    return torch.trapezoid(torch.trapezoid(density, axis), axis).item()


def two_clusters(n: int, seed: int = 0) -> tuple[Tensor, MultivariateNormal]:
    """Samples of 1/2 N((-2, 0), 1/4) + 1/2 N((2, 0), 1/4), and their mean log-density."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.tensor([2.0, 0.0]) * (2 * torch.randint(2, (n, 1), generator=generator) - 1)
    z = centre + 0.5 * torch.randn(n, 2, generator=generator)
    components = by_hand(z, torch.tensor([[2.0, 0.0], [-2.0, 0.0]]), torch.full((2, 2), 0.5))
    return z, (components.logsumexp(-1) - math.log(2)).mean().item()


# --- the mixture of Gaussians


def test_the_mixture_against_a_sum_over_its_components():
    torch.manual_seed(0)
    mixture = prior("mixture", (3,), components=4).double()
    nn.init.normal_(mixture.logits)
    nn.init.normal_(mixture.log_scale, std=0.5)
    z = torch.randn(7, 3, dtype=torch.float64)
    densities = by_hand(z, mixture.loc, mixture.log_scale.exp()).exp() @ mixture.logits.softmax(0)
    torch.testing.assert_close(mixture(None).log_prob(z), densities.log())


def test_the_mixture_integrates_to_one():
    torch.manual_seed(0)
    mixture = prior("mixture", components=5).double()
    nn.init.normal_(mixture.logits)
    assert integral(mixture(None)) == pytest.approx(1, abs=1e-9)


def test_a_density_far_from_every_component_does_not_underflow():
    mixture = prior("mixture", (40,), components=5)
    far = mixture(None).log_prob(torch.full((1, 40), 100.0))
    assert torch.isfinite(far).all()


@pytest.mark.parametrize("max_elements", [1, 30, 2**24])
@pytest.mark.parametrize("latent_shape", [(3,), (2, 2)])
def test_chunks_do_not_change_the_result(max_elements, latent_shape, monkeypatch):
    torch.manual_seed(0)
    mixture = prior("mixture", latent_shape, components=4)
    z = torch.randn(5, 6, *latent_shape)
    unchunked = mixture(None).log_prob(z)
    monkeypatch.setattr(zoo_priors.mixture, "MAX_ELEMENTS", max_elements)
    assert (mixture(None).batch_shape, mixture(None).event_shape) == ((), latent_shape)
    torch.testing.assert_close(mixture(None).log_prob(z), unchunked)
    assert mixture(None).log_prob(z[0, 0]).shape == ()
    assert mixture(None).sample().shape == latent_shape
    draws = mixture(None).sample((40, 25))
    assert draws.shape == (40, 25, *latent_shape)
    p = mixture(None)
    error = (draws.flatten(0, 1).mean(0) - p.mean).abs() / (p.stddev / math.sqrt(1000))
    assert error.max() < 4.5, "every chunk has its own samples"


def test_the_rate_is_an_unbiased_estimate_of_the_divergence():
    """KL(q || p) has no closed form for a mixture: the mean over samples against quadrature in one dimension."""
    torch.manual_seed(0)
    mixture = prior("mixture", (1,), components=3).double()
    q = Independent(Normal(torch.tensor([[0.5]], dtype=torch.float64), torch.tensor([[0.4]], dtype=torch.float64)), 1)
    with pytest.raises(NotImplementedError):
        kl_divergence(q, mixture(None))
    vae = zoo.VAE(GivenPosterior(lambda x: q), LinearGaussian(torch.ones(4, 1, dtype=torch.float64), 1.0), mixture)
    with torch.no_grad():
        draws = vae.trace(zoo.Batch(torch.zeros(1, 1, 1, 4)), samples=20_000).kl
        grid = torch.linspace(-8, 8, 20_001, dtype=torch.float64)
        log_q = Normal(0.5, 0.4).log_prob(grid)
        integrand = log_q.exp() * (log_q - mixture(None).log_prob(grid[:, None]))
    expected = torch.trapezoid(integrand, grid).item()
    assert draws.mean().item() == pytest.approx(expected, abs=4 * draws.std().item() / math.sqrt(len(draws)))


# --- the VampPrior


class TinyEncoder(zoo.Encoder):
    """q(z | x) with mean and log-scale linear in the pixels; it counts its calls."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.linear = nn.Linear(math.prod(SHAPE), 4)
        self.dropout = nn.Dropout(dropout)
        self.calls = 0

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Distribution:
        self.calls += 1
        loc, log_scale = self.linear(self.dropout(x.flatten(1))).chunk(2, -1)
        return Independent(Normal(loc, log_scale.exp(), validate_args=False), 1, validate_args=False)


@pytest.fixture
def vamp() -> tuple[zoo.Prior, TinyEncoder]:
    torch.manual_seed(0)
    return prior("vamp", pseudo_inputs=3).double(), TinyEncoder().double()


def test_the_vamp_prior_is_the_uniform_mixture_of_posteriors_at_its_pseudo_inputs(vamp):
    vamp, encoder = vamp
    with torch.no_grad():
        vamp.pseudo_inputs[0] = torch.tensor([-0.5, 1.5, 0.2, 0.9]).view(SHAPE)
    z = torch.randn(6, 2, dtype=torch.float64)
    images = vamp.pseudo_inputs.detach().clone()
    images[0] = torch.tensor([0.0, 1.0, 0.2, 0.9]).view(SHAPE)
    q = encoder(images).base_dist
    expected = (by_hand(z, q.loc, q.scale).exp().sum(-1) / 3).log()
    torch.testing.assert_close(vamp(encoder).log_prob(z), expected)
    assert integral(vamp(encoder)) == pytest.approx(1, abs=1e-5)


def test_the_gradient_of_the_vamp_prior_reaches_pseudo_inputs_and_encoder(vamp):
    """Against finite differences. A pixel outside [0, 1] has no gradient."""
    vamp, encoder = vamp
    with torch.no_grad():
        vamp.pseudo_inputs[1, 0, 0, 0] = 1.3
    z = torch.randn(6, 2, dtype=torch.float64)

    def log_pz(pseudo_inputs: Tensor, weight: Tensor) -> Tensor:
        named = {"prior.pseudo_inputs": pseudo_inputs, "encoder.linear.weight": weight}
        both = nn.ModuleDict({"prior": vamp, "encoder": encoder})
        forward = dict(both.named_parameters()) | named
        vamp_forward = {k.removeprefix("prior."): v for k, v in forward.items() if k.startswith("prior.")}
        encoder_forward = {k.removeprefix("encoder."): v for k, v in forward.items() if k.startswith("encoder.")}
        q = torch.func.functional_call
        as_given = GivenPosterior(lambda x: q(encoder, encoder_forward, (x,)))
        return q(vamp, vamp_forward, (as_given,)).log_prob(z).sum()

    inputs = (vamp.pseudo_inputs, encoder.linear.weight)
    assert torch.autograd.gradcheck(log_pz, inputs)
    by_pixel, by_weight = torch.autograd.grad(log_pz(*inputs), inputs)
    assert by_pixel[1, 0, 0, 0] == 0
    assert (by_pixel != 0).sum() == by_pixel.numel() - 1
    assert (by_weight != 0).all()


def test_each_trace_encodes_the_pseudo_inputs_once(vamp):
    vamp, encoder = vamp
    vae = zoo.VAE(encoder, LinearGaussian(torch.ones(4, 2, dtype=torch.float64), 1.0), vamp)
    x = torch.rand(5, 1, 1, 4, dtype=torch.float64)
    trace = vae.trace(zoo.Batch(x), samples=2)
    before = trace.kl, trace.log_pz, trace.log_weight
    assert encoder.calls == 2
    with torch.no_grad():
        encoder.linear.bias += 1
    torch.manual_seed(1)
    after = vae.prior(encoder).log_prob(trace.z)
    assert not torch.allclose(after, before[1]), "the mixture must follow the current encoder"


def test_the_vamp_prior_does_not_change_the_mode_of_the_encoder():
    torch.manual_seed(0)
    vamp, encoder, z = prior("vamp", pseudo_inputs=3), TinyEncoder(dropout=0.5), torch.randn(6, 2)
    densities = [vamp(encoder).log_prob(z) for _ in range(2)]
    assert not torch.equal(*densities)
    encoder.eval()
    densities = [vamp(encoder).log_prob(z) for _ in range(2)]
    assert torch.equal(*densities)
    assert not encoder.training


def test_initial_pseudo_inputs_are_images(vamp):
    """All within [0, 1]: outside it they would have no gradient."""
    pixels = prior("vamp", pseudo_inputs=50).pseudo_inputs
    assert pixels.shape == (50, *SHAPE)
    assert ((pixels > 0) & (pixels < 1)).all()
    assert pixels.std() > 0.25, "they must differ"


# --- the flow


ARCHITECTURES = ["masked-autoregressive", "coupling"]


def perturb(flow: zoo.Prior) -> zoo.Prior:
    """Perturb the weights away from the identity, and set a standardisation."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
        flow.loc += 0.3
        flow.scale *= 1.5
    return flow


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_flow_integrates_to_one(architecture):
    flow = perturb(prior("flow", architecture=architecture, hidden=[8]).double())
    assert integral(flow(None), reach=40, points=801) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("latent_shape", [(4,), (2, 2)])
def test_the_log_determinant_of_the_flow_against_autograd(architecture, latent_shape):
    flow = perturb(prior("flow", latent_shape, architecture=architecture, hidden=[8]).double())
    z = torch.randn(4, dtype=torch.float64)

    def f(z: Tensor) -> Tensor:
        return flow.flow().transform((z - flow.loc) / flow.scale)

    log_det = torch.autograd.functional.jacobian(f, z).slogdet().logabsdet
    expected = -0.5 * (f(z) ** 2 + math.log(2 * math.pi)).sum() + log_det
    assert flow(None).event_shape == latent_shape
    torch.testing.assert_close(flow(None).log_prob(z.view(latent_shape)), expected)
    assert flow(None).sample((3, 2)).shape == (3, 2, *latent_shape)


def test_a_flow_over_one_dimension():
    flow = perturb(prior("flow", (1,), hidden=[8]).double())
    grid = torch.linspace(-40, 40, 20_001, dtype=torch.float64)
    density = flow(None).log_prob(grid[:, None]).exp()
    assert torch.trapezoid(density, grid).item() == pytest.approx(1, abs=1e-4)


# --- priors fitted by gradient descent


SMALL = {
    "flow": {"hidden": [32], "steps": 400, "lr": 0.01},
    "two-stage": {
        "encoder": {"use": "mlp", "hidden": [32]},
        "decoder": {"use": "mlp", "hidden": [32], "likelihood": {"use": "gaussian", "scale": "pixelwise"}},
        "steps": 800,
        "lr": 0.01,
    },
}


@pytest.mark.parametrize("use", SMALL)
@pytest.mark.parametrize(("shift", "width"), [(0.0, 1.0), (50.0, 1e-3)])
def test_a_fit_approximates_the_density_of_the_samples(use, shift, width):
    """Two clusters, also shifted far and scaled down; the optimum is their negative entropy."""
    z, _ = two_clusters(2000)
    test, best = two_clusters(1000, seed=1)
    torch.manual_seed(0)
    fitted = prior(use, **SMALL[use])
    fitted.fit(shift + width * z, None)
    scaled = best - 2 * math.log(width)
    with torch.no_grad():
        actual = fitted(None).log_prob(shift + width * test).mean().item()
        draws = (fitted(None).sample((2000,)) - shift) / width
    normal = Normal(test.mean(0), test.std(0)).log_prob(test).sum(-1).mean().item() - 2 * math.log(width)
    assert scaled - 0.35 < actual < scaled + 0.1
    assert actual > normal + 0.3, "better than any Gaussian"
    assert (draws[:, 0].abs() > 1).float().mean() > 0.75, "few samples between the clusters"


@pytest.mark.parametrize("use", SMALL)
def test_a_fit_is_determined_by_the_seed(use):
    z, _ = two_clusters(200)
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        fitted = prior(use, **{**SMALL[use], "steps": 20})
        fitted.fit(z, None)
        states.append(fitted.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])


@pytest.mark.parametrize("use", SMALL)
def test_a_fit_that_does_not_improve_keeps_the_initial_parameters(use):
    """The first tenth is held out, and the parameters that are best on it are kept; here these are the initial ones."""
    torch.manual_seed(0)
    fitted = prior(use, **{**SMALL[use], "steps": 20, "lr": 1e4})
    before = {name: value.clone() for name, value in fitted.named_parameters()}
    fitted.fit(two_clusters(200)[0], None)
    assert all(torch.equal(before[name], value) for name, value in fitted.named_parameters())


@pytest.mark.parametrize("use", SMALL)
def test_a_fit_needs_two_draws(use):
    fitted = prior(use, **{**SMALL[use], "steps": 2})
    with pytest.raises(zoo.UsageError, match="two draws"):
        fitted.fit(torch.zeros(1, 2), None)
    fitted.fit(torch.randn(2, 2), None)


# --- the second VAE


def test_the_density_of_the_second_vae_against_an_exact_marginal():
    """A linear Gaussian VAE has a Gaussian p(z). The bound converges to it; its exponential is unbiased for every K."""
    vae = linear_gaussian_vae(latent_dim=2, pixels=3)
    exact = vae.decoder.marginal()
    torch.manual_seed(0)
    z = exact.sample((4, 2))
    with torch.no_grad():
        actual = Marginal(vae, 3, samples=20_000).log_prob(z)
        torch.testing.assert_close(actual, exact.log_prob(z), atol=0.02, rtol=0)
        single = Marginal(vae, 3, samples=1).log_prob(z.repeat(20_000, 1, 1, 1))
    assert (single.mean(0) < exact.log_prob(z)).all()
    ratio = (single - exact.log_prob(z)).exp()
    assert ((ratio.mean(0) - 1).abs() < 5 * ratio.std(0) / math.sqrt(20_000)).all()


def test_samples_of_the_second_vae_have_the_moments_of_its_marginal():
    """They include the noise of p(z | u); its means alone would lie on a plane in three dimensions."""
    vae = linear_gaussian_vae(latent_dim=2, pixels=3)
    exact = vae.decoder.marginal()
    torch.manual_seed(0)
    draws = Marginal(vae, 3, samples=1).sample((200, 100))
    assert draws.shape == (200, 100, 3)
    torch.testing.assert_close(draws.flatten(0, 1).T.cov(), exact.covariance_matrix, atol=0.08, rtol=0.05)


def test_the_objective_of_the_second_vae_is_its_negative_elbo():
    torch.manual_seed(0)
    fitted = prior("two-stage", **SMALL["two-stage"])
    z = torch.randn(8, 2)
    torch.manual_seed(1)
    actual = fitted.objective(z)
    torch.manual_seed(1)
    terms = zoo.get("loss", "elbo")()(fitted.vae, zoo.Batch(z.view(8, 1, 1, 2)))
    torch.testing.assert_close(actual, terms["loss"])


def test_a_likelihood_of_pixels_is_an_error_for_latents():
    """The Bernoulli "log-density" of a latent of -5 is unbounded, and a fit would diverge."""
    decoder = {"use": "mlp", "hidden": [8]}
    for likelihood in ("bernoulli", "continuous-bernoulli"):
        with pytest.raises(zoo.ComponentError, match="a likelihood over all real numbers"):
            prior("two-stage", decoder={**decoder, "likelihood": likelihood})


# --- the Gaussian mixture of scikit-learn


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
@pytest.mark.parametrize("latent_shape", [(4,), (2, 2)])
def test_the_density_is_that_of_scikit_learn(covariance, latent_shape):
    """scikit-learn is fitted to standardised samples, and its density transformed back."""
    from sklearn.mixture import GaussianMixture

    torch.manual_seed(0)
    z = torch.randn(300, 4) @ torch.randn(4, 4) + 3 * torch.randint(2, (300, 1))
    torch.manual_seed(5)
    fitted = prior("gaussian-mixture", latent_shape, components=3, covariance=covariance)
    fitted.fit(z.view(-1, *latent_shape), None)
    torch.manual_seed(5)
    reference = GaussianMixture(
        3, covariance_type=covariance[:4], max_iter=200, random_state=int(torch.randint(2**31, ()))
    ).fit(((z.double() - z.double().mean(0)) / z.double().std(0)).numpy())
    test = 2 * torch.randn(50, 4)
    standardised = (test.double() - z.double().mean(0)) / z.double().std(0)
    expected = torch.as_tensor(reference.score_samples(standardised.numpy())) - z.double().std(0).log().sum()
    expected = expected.float()
    actual = fitted(None).log_prob(test.view(-1, *latent_shape))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-3)
    assert fitted(None).sample((7,)).shape == (7, *latent_shape)

    loaded = prior("gaussian-mixture", latent_shape, components=3, covariance=covariance)
    loaded.load_state_dict(fitted.state_dict())
    assert torch.equal(loaded(None).log_prob(test.view(-1, *latent_shape)), actual)


FITTED = {
    "gaussian-mixture": {"components": 3},
    "gaussian-mixture diagonal": {"components": 3, "covariance": "diagonal"},
    "flow": {"hidden": [16], "steps": 60, "lr": 0.01},
    "two-stage": {**SMALL["two-stage"], "steps": 60},
}


@pytest.mark.parametrize("use", FITTED)
@pytest.mark.parametrize(
    ("shift", "scale"),
    [
        ((0.0, 0.0), (1e-3, 1e-3)),
        ((0.0, 0.0), (1e-9, 1e-9)),
        ((0.0, 0.0), (1e9, 1e9)),
        ((0.0, 0.0), (1e-6, 1e3)),
        ((5.0, -3e-3), (1.0, 1e-4)),
        ((-2e4, 0.1), (1e3, 1e-2)),
    ],
)
def test_a_fit_is_equivariant_to_shift_and_scale(use, shift, scale):
    """Shifting and scaling the samples changes the log-density by minus the log-scales only. At scale 1e-3 the mixture
    was once 1.4 times too wide.
    """
    shift, scale = torch.tensor(shift), torch.tensor(scale)
    name, parameters = use.split()[0], FITTED[use]
    z, _ = two_clusters(400)
    test = two_clusters(200, seed=1)[0]
    densities, draws = [], []
    for move, width in ((torch.zeros(2), torch.ones(2)), (shift, scale)):
        torch.manual_seed(0)
        fitted = prior(name, **parameters)
        fitted.fit(move + width * z, None)
        torch.manual_seed(1)
        with torch.no_grad():
            draws.append((fitted(None).sample((2000,)) - move) / width)
            torch.manual_seed(2)
            densities.append((fitted(None).log_prob(move + width * test) + width.log().sum()).mean())
    deviations = draws[0].std(0), draws[1].std(0)
    torch.testing.assert_close(deviations[1], deviations[0], rtol=0.02, atol=0)
    torch.testing.assert_close(draws[1].mean(0), draws[0].mean(0), rtol=0, atol=0.05)
    torch.testing.assert_close(densities[1], densities[0], rtol=0, atol=0.05)


@pytest.mark.parametrize("use", FITTED)
@pytest.mark.parametrize("constant", [0.0, 0.1, -1e6, 1e-20])
def test_a_constant_dimension_stays_constant(use, constant):
    name, parameters = use.split()[0], FITTED[use]
    z = torch.cat([two_clusters(300)[0][:, :1], torch.full((300, 1), constant)], 1)
    torch.manual_seed(0)
    fitted = prior(name, **parameters)
    fitted.fit(z, None)
    with torch.no_grad():
        draws = fitted(None).sample((500,))
        assert fitted(None).log_prob(z).isfinite().all()
    assert (draws[:, 1] - constant).abs().max() <= 1e-5 * max(1.0, abs(constant))
    assert 0.7 < (draws[:, 0].std() / z[:, 0].std()).item() < 1.4


def test_every_fitted_prior_is_tested_for_equivariance():
    """Except the prior over indices, which have no scale."""
    names = [name for name in zoo.list_components("prior") if issubclass(zoo.get("prior", name), zoo.ExPostPrior)]
    assert set(names) == {*(use.split()[0] for use in FITTED), "autoregressive-codes"}


def test_a_mixture_is_standard_normal_before_the_fit():
    z = torch.randn(5, 3)
    expected = Normal(0, 1).log_prob(z).sum(-1)
    torch.testing.assert_close(prior("gaussian-mixture", (3,))(None).log_prob(z), expected)


def test_a_mixture_needs_as_many_draws_as_components(caplog):
    fitted = prior("gaussian-mixture", components=5)
    with pytest.raises(zoo.UsageError, match=r"max\(2, components\) = 5 draws; got 4"):
        fitted.fit(torch.randn(4, 2), None)
    with caplog.at_level(logging.WARNING, "zoo"):
        prior("gaussian-mixture", components=3, iterations=1).fit(two_clusters(500)[0], None)
    assert "did not converge in 1 iterations" in caplog.text


# --- recipes


@pytest.mark.parametrize(
    ("setting", "place"),
    [
        ("{use: mixture, components: 0}", "prior.components"),
        ("{use: vamp, pseudo_inputs: -1}", "prior.pseudo_inputs"),
        ("{use: vamp, data_shape: [1, 2, 2]}", "prior.data_shape"),
        ("{use: flow, architecture: mfa}", "prior.architecture"),
        ("{use: gaussian-mixture, covariance: fulll}", "prior.covariance"),
        ("{use: two-stage, decoder: {hiden: [3]}}", "prior.decoder.hiden"),
    ],
)
def test_parameters_are_checked(setting, place):
    with pytest.raises(zoo.RecipeError) as error:
        zoo.recipe("mlp-vae", [f"prior={setting}"])
    assert [problem.place for problem in error.value.problems] == [place]


@pytest.mark.parametrize(
    ("use", "encoder"), list(product(["mixture", "vamp", "flow", "gaussian-mixture", "two-stage"], ["mlp", "conv"]))
)
def test_every_prior_can_be_trained_with_a_model(use, encoder):
    """Its parameters, if any, have a gradient through the rate, and it can be sampled."""
    parameters = {"prior": {"use": use, **SMALL.get(use, {})}, "encoder": encoder, "latent_dim": 3}
    torch.manual_seed(0)
    vae = zoo.create_model("mlp-vae", data_shape=(1, 8, 8), **parameters)
    assert vae.latent_shape == (3,)
    zoo.create_loss("mlp-vae", data_shape=(1, 8, 8))(vae, zoo.Batch(torch.rand(4, 1, 8, 8)))["rate"].backward()
    assert all((p.grad != 0).any() for p in vae.prior.parameters())
    assert vae.sample(2).shape == (2, 1, 8, 8)
    assert vae.log_likelihood(torch.rand(2, 1, 8, 8).round(), samples=3).isfinite().all()


def test_pseudo_inputs_are_drawn_as_the_published_code():
    """Normal, with the mean and the deviation given; without them uniform in [0, 1]."""
    torch.manual_seed(0)
    pixels = zoo.get("prior", "vamp")(data_shape=(1, 8, 8), pseudo_inputs=200, init=(0.5, 0.02)).pseudo_inputs
    assert pixels.mean().item() == pytest.approx(0.5, abs=0.001)
    assert pixels.std().item() == pytest.approx(0.02, rel=0.02)
    pixels = zoo.get("prior", "vamp")(data_shape=(1, 8, 8), pseudo_inputs=200).pseudo_inputs
    assert pixels.std().item() == pytest.approx((1 / 12) ** 0.5, rel=0.02)
