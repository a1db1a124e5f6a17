from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Independent, Normal, StudentT

import zoo
from toys import GivenPosterior, LinearGaussian, Unnormalized, linear_gaussian_vae
from zoo_export.codes import encode
from zoo_export.export import export
from zoo_figures import figures
from zoo_report.report import report
from zoo_sweep.comparison import compare


@pytest.fixture
def data():
    vae = linear_gaussian_vae()
    torch.manual_seed(1)
    return vae, vae.decoder.marginal().sample((6,)).view(6, 1, 1, 4)


def test_importance_sampling_agrees_with_the_exact_marginal(data):
    vae, x = data
    exact = vae.decoder.marginal().log_prob(x.flatten(1)).double()
    estimates = torch.stack([vae.log_likelihood(x, samples=2000) for _ in range(20)])
    standard_error = estimates.std(0) / math.sqrt(len(estimates))
    assert estimates.dtype == torch.float64
    assert ((estimates.mean(0) - exact).abs() < 4 * standard_error + 1e-3).all()
    assert (standard_error < 0.01).all()


def test_the_bound_rises_from_the_elbo_to_the_marginal(data):
    vae, x = data
    exact = vae.decoder.marginal().log_prob(x.flatten(1)).double().mean()
    bound = {k: torch.stack([vae.log_likelihood(x, samples=k) for _ in range(80)]).mean(1) for k in (1, 5, 50)}
    mean = {k: values.mean() for k, values in bound.items()}
    error = {k: values.std() / math.sqrt(len(values)) for k, values in bound.items()}
    assert mean[1] + 4 * error[1] < mean[5] - 4 * error[5], "the difference is significant"
    assert mean[5] < mean[50] < exact + 4 * error[50]
    trace = vae.trace(zoo.Batch(x), samples=40000)
    elbo = (trace.log_px - trace.kl).double().mean()
    assert (mean[1] - elbo).abs() < 4 * error[1] + 0.01


def test_an_estimate_depends_on_the_image_and_its_index_only(data):
    """Trap 7: chunks are merged with logsumexp, so neither their size nor other images affect the estimate."""
    vae, x = data
    expected = vae.log_likelihood(x, samples=1200, seed=3)
    for chunk_size in (13, 250, 999, 10**6):
        same = vae.log_likelihood(x, samples=1200, seed=3, chunk_size=chunk_size)
        torch.testing.assert_close(same, expected, atol=2e-6, rtol=0)
    torch.testing.assert_close(vae.log_likelihood(x[:2], samples=1200, seed=3), expected[:2], atol=0, rtol=0)
    assert (vae.log_likelihood(x, samples=2500, seed=4) != expected).all()
    twins = vae.log_likelihood(x[:1].repeat(2, 1, 1, 1), samples=10, seed=3)
    assert twins[0] != twins[1], "each image has its own draws"


def test_an_estimate_does_not_advance_the_global_generator(data):
    vae, x = data
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    vae.log_likelihood(x, samples=3, seed=1)
    torch.testing.assert_close(torch.rand(3), expected, atol=0, rtol=0)
    torch.manual_seed(0)
    first = vae.log_likelihood(x, samples=3)
    second = vae.log_likelihood(x, samples=3)
    torch.manual_seed(0)
    torch.testing.assert_close(vae.log_likelihood(x, samples=3), first, atol=0, rtol=0)
    assert (first != second).all()


@pytest.mark.parametrize("samples", [1, 25, 1000, 1001, 2300])
def test_all_samples_are_drawn_and_merged(data, samples):
    """Trap 7: an ignored number of samples, or a mean of log-mean-exp over chunks. Compared with brute force."""
    vae, x = data
    base, draws = vae.encoder.q, []

    class Recording(Normal):
        def rsample(self, sample_shape=torch.Size()):
            draws.append(super().rsample(sample_shape))
            return draws[-1]

    vae.encoder = GivenPosterior(lambda x: Independent(Recording(base(x).base_dist.loc, base(x).base_dist.scale), 1))
    (estimate,) = vae.log_likelihood(x[:1], samples=samples, seed=5, chunk_size=64)
    z = torch.cat(draws[1:])  # the first draw serves to check the likelihood
    assert len(z) == samples
    trace = vae.trace(zoo.Batch(x[:1]))
    log_weight = vae.decode(z).log_prob(x[:1]) + trace.prior.log_prob(z) - trace.q.log_prob(z)
    assert estimate.item() == pytest.approx(log_weight.double().exp().mean().log().item(), abs=1e-5)


def test_a_perfect_posterior_gives_the_marginal_with_one_sample():
    vae = linear_gaussian_vae()
    vae.encoder = GivenPosterior(vae.decoder.posterior)
    x = vae.decoder.marginal().sample((3,)).view(3, 1, 1, 4)
    exact = vae.decoder.marginal().log_prob(x.flatten(1)).double()
    torch.testing.assert_close(vae.log_likelihood(x, samples=1), exact, atol=1e-4, rtol=0)


def test_the_closed_form_kl_agrees_with_quadrature():
    """KL(N(m, s^2) || N(0, 1)) by the trapezoidal rule on [-15, 15], in float64: exact to rounding."""
    mean, scale = torch.tensor([[0.7], [-2.0]]), torch.tensor([[0.3], [1.8]])
    prior = zoo.get("prior", "standard-normal")(latent_shape=(1,))
    vae = zoo.VAE(
        GivenPosterior(lambda x: Independent(Normal(mean, scale), 1)), LinearGaussian(torch.ones(4, 1), 1.0), prior
    )
    kl = vae.trace(zoo.Batch(torch.rand(2, 1, 1, 4))).kl
    grid = torch.linspace(-15, 15, 20001, dtype=torch.float64)
    q = Normal(mean.double(), scale.double())
    density = q.log_prob(grid).exp()
    integrand = density * (q.log_prob(grid) - Normal(0.0, 1.0).log_prob(grid))
    torch.testing.assert_close(kl.double(), torch.trapezoid(integrand, grid), atol=1e-6, rtol=1e-6)


def test_without_a_closed_form_the_kl_is_estimated_at_the_draws():
    torch.manual_seed(0)
    prior = zoo.get("prior", "standard-normal")(latent_shape=(1,))
    student = Independent(StudentT(torch.full((1, 1), 5.0)), 1)
    vae = zoo.VAE(GivenPosterior(lambda x: student), LinearGaussian(torch.ones(4, 1), 1.0), prior)
    trace = vae.trace(zoo.Batch(torch.rand(1, 1, 1, 4)), samples=200_000)
    # E_q[log p] = -log sqrt(2 pi) - E[z^2] / 2, and E[z^2] = 5 / 3 for five degrees of freedom
    exact = -student.entropy().item() + 0.5 * math.log(2 * math.pi) + 5 / 6
    assert trace.kl.shape == (200_000, 1)
    assert trace.kl.mean().item() == pytest.approx(exact, abs=0.01)


def test_a_joint_draw_and_density_are_taken_from_one_call():
    class Flow(Normal):
        calls = 0

        def rsample_and_log_prob(self, shape=torch.Size()):
            Flow.calls += 1
            z = self.rsample(shape)
            return z, Normal.log_prob(self, z).sum(-1)

        def log_prob(self, value):
            raise AssertionError("the flow was inverted, which is expensive and unnecessary")

    flow = Flow(torch.zeros(1, 2), torch.ones(1, 2))
    vae = linear_gaussian_vae()
    vae.encoder = GivenPosterior(lambda x: flow)
    trace = vae.trace(zoo.Batch(torch.rand(1, 1, 1, 4)), samples=3)
    assert trace.log_weight.shape == (3, 1)
    assert Flow.calls == 1


def test_real_valued_pixels_under_a_bernoulli_cause_a_warning():
    vae = zoo.create_model("mlp-vae", data_shape=(1, 4, 4))
    with pytest.warns(UserWarning, match="outside the support"):
        vae.log_likelihood(torch.full((2, 1, 4, 4), 0.5), samples=2)
    vae.log_likelihood(torch.ones(2, 1, 4, 4), samples=2)


def test_an_energy_has_no_likelihood():
    vae = linear_gaussian_vae()
    vae.decoder = Unnormalized()
    with pytest.raises(zoo.ComponentError, match="not a normalized density"):
        vae.log_likelihood(torch.rand(2, 1, 1, 4), samples=2)


def test_reconstruction_is_the_likelihood_mean_at_the_posterior_mean():
    vae = linear_gaussian_vae()
    x = torch.rand(3, 1, 1, 4)
    expected = vae.encode(x).mean @ vae.decoder.weight.T
    torch.testing.assert_close(vae.reconstruct(x).flatten(1), expected)


def test_noise_is_normal():
    """Trap 1: the tutorial draws uniform noise. Draws from q = N(2, 3^2) have its moments, and values below 2."""
    vae = linear_gaussian_vae()
    vae.encoder = GivenPosterior(lambda x: Independent(Normal(torch.full((1, 2), 2.0), torch.full((1, 2), 3.0)), 1))
    torch.manual_seed(0)
    z = vae.trace(zoo.Batch(torch.rand(1, 1, 1, 4)), samples=100_000).z
    assert z.mean().item() == pytest.approx(2, abs=0.03)
    assert z.std().item() == pytest.approx(3, abs=0.03)
    assert ((z - 2) / 3).pow(4).mean().item() == pytest.approx(3, abs=0.1)


# --- invalid input


EXPECTED = r"The model takes data of shape \(N, 1, 8, 8\), not "
WRONG = {
    "another size": (torch.rand(5, 1, 28, 28), EXPECTED + r"\(5, 1, 28, 28\)"),
    "other channels": (torch.rand(5, 3, 8, 8), EXPECTED + r"\(5, 3, 8, 8\)"),
    "flat": (torch.rand(5, 64), EXPECTED + r"\(5, 64\)"),
    "no batch": (torch.rand(1, 8, 8), EXPECTED + r"\(1, 8, 8\). A batch of one is x\[None\]"),
    "an array": (torch.rand(5, 1, 8, 8).numpy(), "takes data as a tensor, not a ndarray"),
    "bytes": (torch.ones(5, 1, 8, 8, dtype=torch.uint8), "takes floats, not torch.uint8. Divide uint8 images by 255"),
}
USES = {
    "encode": lambda vae, x: vae.encode(x),
    "codes": lambda vae, x: vae.posterior_mean(x),
    "reconstruct": lambda vae, x: vae.reconstruct(x),
    "forward": lambda vae, x: vae(x),
    "log_likelihood": lambda vae, x: vae.log_likelihood(x, 2),
    "figure": lambda vae, x: figures.reconstructions(vae, x),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("model", ["mlp-vae", "conv-vae", "vq-vae"])
@pytest.mark.parametrize("wrong", WRONG)
def test_invalid_data_are_explained(wrong, model, use):
    """Even if the encoder accepts any size."""
    x, message = WRONG[wrong]
    vae = zoo.create_model(model, data_shape=(1, 8, 8)).eval()
    with pytest.raises(zoo.UsageError, match=message):
        USES[use](vae, x)


@pytest.mark.parametrize("z", [torch.rand(5, 7), torch.ones(5, 2, dtype=torch.int64), [0.0]])
def test_invalid_latents_are_explained(z):
    vae = zoo.create_model("mlp-vae", data_shape=(1, 8, 8), latent_dim=2)
    with pytest.raises(zoo.UsageError, match="The model takes latents "):
        vae.decode(z)


@pytest.mark.parametrize("shape", [64, (), (0, 8, 8), (1, -8, 8), (1, 8.0, 8), (True,), "188", None, {}])
@pytest.mark.parametrize("create", [zoo.create_model, zoo.create_loss])
def test_invalid_data_shapes_are_refused(create, shape):
    with pytest.raises(zoo.UsageError, match="data_shape must be the shape of one example in positive integers.*; got"):
        create("mlp-vae", data_shape=shape)


@pytest.mark.parametrize("run", [None, 5, ["runs"], b"runs", zoo.Batch(torch.rand(1, 1, 8, 8)), "vae"])
def test_every_function_refuses_an_argument_that_is_not_a_run(run):
    run = zoo.create_model("mlp-vae", data_shape=(1, 8, 8)) if run == "vae" else run
    uses = [zoo.evaluate, zoo.load, zoo.resume, encode, export, report, zoo.Run.open, compare]
    for use in (*uses, lambda run: zoo.fit_prior(run, "gaussian-mixture")):
        with pytest.raises(zoo.RunError, match=f"A run is a folder.*or a zoo.Run; got a {type(run).__name__}"):
            use(run)
