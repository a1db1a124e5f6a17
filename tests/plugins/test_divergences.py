from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Laplace, Normal

import zoo
from toys import GivenPosterior, LinearGaussian
from zoo.model.context import evaluating
from zoo.training.preflight import preflight
from zoo.training.progress import describe
from zoo_divergences.energies import SquaredErrorEnergy
from zoo_divergences.log_cosh import LogCosh, LogCoshLikelihood
from zoo_divergences.mmd import mmd
from zoo_divergences.ms_ssim import EXPONENTS, MultiScaleSSIM
from zoo_divergences.posterior import PointMass
from zoo_divergences.sliced import sliced_wasserstein

RECIPES = ["ae", "rae-l2", "rae-gp", "wae-mmd", "swae", "info-vae", "log-cosh-vae", "ms-ssim-vae"]
TINY = {
    "latent_dim": 2,
    "encoder": {"hidden": [4], "activation": "tanh"},
    "decoder": {"hidden": [4], "activation": "tanh"},
}


def tiny(
    model: str, data_shape: tuple[int, int, int] = (1, 3, 3), **loss: object
) -> tuple[zoo.VAE, zoo.Loss, zoo.Batch]:
    """A small model in float64, its loss and a batch."""
    torch.manual_seed(0)
    changes = {**TINY, "data_shape": data_shape}
    use = zoo.recipe(model).loss.use
    vae = zoo.create_model(model, **changes).double()
    objective = zoo.create_loss(model, **changes, loss={"use": use, **loss}).double()
    return vae, objective, zoo.Batch(torch.rand(5, *data_shape, dtype=torch.float64))


def terms_of(loss: zoo.Loss, vae: zoo.VAE, batch: zoo.Batch, seed: int = 1) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return loss(vae, batch)


class ScaledPixels(zoo.Encoder):
    """The posterior is a point mass on a multiple of the first pixels."""

    def __init__(self, factor: float, latent_dim: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor, dtype=torch.float64))
        self.latent_dim = latent_dim

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Distribution:
        return PointMass(self.factor * x.flatten(1)[:, : self.latent_dim])


def linear_autoencoder(factor: float, weight: Tensor) -> zoo.VAE:
    prior = zoo.get("prior", "standard-normal")(latent_shape=(weight.shape[1],)).double()
    return zoo.VAE(ScaledPixels(factor, weight.shape[1]), LinearGaussian(weight, 1.0), prior)


# --- the deterministic posterior


def test_every_sample_is_the_point():
    point = torch.randn(4, 3, requires_grad=True)
    q = PointMass(point)
    assert (q.batch_shape, q.event_shape) == ((4,), (3,))
    for draw in (q.rsample(), q.sample(), q.mean, q.mode, *q.rsample((2,))):
        assert torch.equal(draw, point)
    assert q.rsample((5, 2)).shape == (5, 2, 4, 3)
    assert not q.variance.any()
    (gradient,) = torch.autograd.grad(q.rsample((5,)).sum(), point)
    assert torch.equal(gradient, torch.full((4, 3), 5.0)), "every sample must have a gradient in the point"


def test_the_point_is_linear_in_the_features_and_in_float32():
    head = zoo.get("posterior", "deterministic")(features=4, latent_dim=2)
    features = torch.randn(3, 4)
    torch.testing.assert_close(head(features).mean, features @ head.linear.weight.T + head.linear.bias)
    assert head.bfloat16()(features.bfloat16()).mean.dtype == torch.float32


def test_a_point_mass_has_no_density():
    """A KL or an importance-sampled likelihood would be meaningless."""
    vae, _, batch = tiny("ae")
    trace = vae.trace(batch)
    for density in ("log_qz", "kl", "log_weight"):
        with pytest.raises(zoo.ComponentError, match=r"deterministic posterior has no density.*posterior=gaussian"):
            getattr(trace, density)
    vae.decoder.likelihood = zoo.get("likelihood", "gaussian")(data_shape=(1, 3, 3)).double()
    with pytest.raises(zoo.ComponentError, match=r"no rate and no log p\(x\)"):
        vae.log_likelihood(batch.x, samples=2)


def test_a_loss_with_a_rate_rejects_a_point_mass_before_training(tmp_path):
    with pytest.raises(zoo.ComponentError, match="A deterministic posterior has no density"):
        zoo.train("ae", ["loss=elbo", "data=[digits]"], out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_loss_without_a_rate_can_be_monitored(tmp_path):
    with pytest.raises(zoo.RecipeError, match=r"has no term 'rate'\. There are: loss, distortion\."):
        zoo.train("ae", ["train.monitor=rate", "data=[digits]"], out=tmp_path)
    run = zoo.train("ae", ["train.monitor=distortion", "data=[digits]", "train.epochs=1"], out=tmp_path)
    (epoch,) = run.epochs()
    assert list(epoch.test) == ["loss", "distortion"]
    assert f"test {epoch.test['loss']:8.2f} nats   (test: distortion {epoch.test['distortion']:.2f})" in describe(
        epoch, 1
    )


# --- maximum mean discrepancy


def kernel_by_hand(name: str, a: Tensor, b: Tensor, scales: tuple[float, ...]) -> float:
    squared = float(((a - b) ** 2).sum())
    constants = [2 * len(a) * scale for scale in scales]
    return sum(c / (c + squared) if name == "imq" else math.exp(-squared / c) for c in constants)


@pytest.mark.parametrize("kernel", ["imq", "rbf"])
@pytest.mark.parametrize("scales", [(1.0,), (0.1, 2.0, 5.0)])
@pytest.mark.parametrize(("n", "m"), [(4, 4), (5, 3), (30, 30)])
def test_the_mmd_against_its_definition(kernel, scales, n, m):
    """arXiv 1711.01558, algorithm 2, in loops. (By default cdist uses a less accurate algorithm from 26 points on.)"""
    torch.manual_seed(0)
    z, w = torch.randn(n, 3, dtype=torch.float64) + 0.5, torch.randn(m, 3, dtype=torch.float64)
    expected = 0.0
    for sample in (z, w):
        size = len(sample)
        pairs = itertools.permutations(range(size), 2)
        expected += sum(kernel_by_hand(kernel, sample[i], sample[j], scales) for i, j in pairs) / (size * (size - 1))
    expected -= 2 * sum(kernel_by_hand(kernel, a, b, scales) for a in z for b in w) / (n * m)
    assert mmd(z, w, kernel, scales).item() == pytest.approx(expected, rel=1e-10)


def test_the_kernels_at_known_distances():
    """Two pairs of coinciding points at distance r: MMD = 2 k(0) - 2 k(r), with C = 2 d = 4."""
    for r, imq, rbf in ((0.0, 1.0, 1.0), (2.0, 0.5, math.exp(-1)), (4.0, 0.2, math.exp(-4))):
        z, w = torch.zeros(2, 2), torch.zeros(2, 2) + torch.tensor([r, 0.0])
        assert mmd(z, w, "imq").item() == pytest.approx(2 - 2 * imq, abs=1e-6)
        assert mmd(z, w, "rbf").item() == pytest.approx(2 - 2 * rbf, abs=1e-6)


@pytest.mark.parametrize("kernel", ["imq", "rbf"])
def test_the_estimate_is_unbiased_for_equal_distributions(kernel):
    torch.manual_seed(0)
    estimates = torch.stack([mmd(*torch.randn(2, 8, 4, dtype=torch.float64), kernel) for _ in range(1500)])
    standard_error = estimates.std().item() / math.sqrt(1500)
    assert abs(estimates.mean().item()) < 4 * standard_error
    assert (estimates < 0).float().mean() > 0.3
    # Including pairs of a sample with itself, the mean would be 2/8 (1 - E k), far above this bound.
    assert standard_error < 0.01


@pytest.mark.parametrize("n", [4, 64])
def test_the_estimate_is_unbiased_for_two_gaussians_at_every_batch_size(n):
    """r = x - y is N(m, 2), so E exp(-r^2 / C) = (1 + 4 / C)^(-d/2) exp(-m^2 / (C + 4)), with d = 3 and C = 6."""
    torch.manual_seed(0)
    mean = torch.tensor([1.0, -0.5, 0.0], dtype=torch.float64)
    exact = 2 * (1 + 4 / 6) ** -1.5 * (1 - math.exp(-1.25 / 10))
    draws = torch.randn(2, 8000 // n, n, 3, dtype=torch.float64)
    estimates = torch.stack([mmd(z + mean, w, "rbf") for z, w in zip(*draws, strict=True)])
    assert abs(estimates.mean().item() - exact) < 4 * estimates.std().item() / math.sqrt(len(estimates))
    assert exact > 0.1


def test_the_gradient_of_the_mmd_is_finite_for_coinciding_points():
    z = torch.zeros(6, 3, requires_grad=True)
    for kernel in ("imq", "rbf"):
        (gradient,) = torch.autograd.grad(mmd(z, torch.randn(6, 3), kernel), z)
        assert torch.isfinite(gradient).all()
        assert gradient.any()


def test_the_loss_of_the_wasserstein_autoencoder_is_its_equation():
    """Including trap 9: the squared error is summed over pixels and averaged over the batch."""
    vae, loss, batch = tiny("wae-mmd", weight=3.0, kernel="rbf", scales=[0.5, 2.0])
    terms = terms_of(loss, vae, batch)
    torch.manual_seed(1)
    z = vae.encode(batch.x).mean
    prior = vae.prior(vae.encoder).sample((5,))
    distortion = sum(((batch.x[i] - vae.decode(z[i : i + 1]).mean[0]) ** 2).sum() for i in range(5)) / 5
    torch.testing.assert_close(terms["distortion"], distortion)
    torch.testing.assert_close(terms["mmd"], mmd(z, prior, "rbf", (0.5, 2.0)))
    torch.testing.assert_close(terms["loss"], distortion + 3 * terms["mmd"])


@pytest.mark.parametrize("model", ["wae-mmd", "swae", "info-vae"])
def test_the_divergence_has_a_gradient_in_the_encoder_only(model):
    """Neither prior nor decoder is trained by it."""
    vae, loss, batch = tiny(model)
    vae.prior.loc = nn.Parameter(vae.prior.loc)
    terms = terms_of(loss, vae, batch)
    name = "sliced_wasserstein" if model == "swae" else "mmd"
    others = [*vae.decoder.parameters(), vae.prior.loc]
    gradients = torch.autograd.grad(terms[name], [*vae.encoder.parameters(), *others], allow_unused=True)
    count = len(list(vae.encoder.parameters()))
    assert all(gradient is not None and gradient.any() for gradient in gradients[:count])
    assert all(gradient is None for gradient in gradients[count:])


@pytest.mark.parametrize("model", ["wae-mmd", "swae"])
def test_a_conditional_prior_is_sampled_once_per_image(model):
    class ByLabel(zoo.Prior):
        def forward(self, encoder, condition=None):
            loc = condition.double().unsqueeze(-1).expand(-1, 2)
            return Independent(Normal(loc, 1e-6 + torch.zeros_like(loc)), 1)

    vae, loss, batch = tiny(model)
    labels = torch.tensor([3, 1, 4, 1, 5])
    vae.prior = ByLabel()
    vae.encoder = GivenPosterior(lambda x: PointMass(labels.double().unsqueeze(-1).expand(-1, 2)))
    terms = terms_of(loss, vae, zoo.Batch(batch.x, labels))
    if model == "swae":
        assert terms["sliced_wasserstein"].item() == pytest.approx(0, abs=1e-6)
    else:
        z = labels.double().unsqueeze(-1).expand(-1, 2)
        torch.testing.assert_close(terms["mmd"], mmd(z, z, "imq"), atol=1e-5, rtol=0)


# --- InfoVAE


@pytest.mark.parametrize(("alpha", "weight", "beta"), [(0.0, 1.0, 1.0), (-3.0, 4.0, 4.0), (0.75, 0.25, 0.25)])
def test_with_a_weight_of_zero_on_the_mmd_it_is_the_elbo_or_the_beta_vae(alpha, weight, beta):
    """arXiv 1706.02262: alpha = 0 and lambda = 1 give the ELBO, alpha + lambda = 1 the beta-VAE."""
    vae, loss, batch = tiny("info-vae", alpha=alpha, weight=weight)
    terms = terms_of(loss, vae, batch)
    expected = terms_of(zoo.get("loss", "elbo")(beta=beta).double(), vae, batch)
    for name in ("loss", "distortion", "rate"):
        torch.testing.assert_close(terms[name], expected[name])
    parameters = list(vae.parameters())
    gradients = [torch.autograd.grad(loss, parameters) for loss in (terms["loss"], expected["loss"])]
    torch.testing.assert_close(*gradients)


def test_the_coefficients_are_those_of_the_paper():
    vae, loss, batch = tiny("info-vae", alpha=0.4, weight=7.0, kernel="imq")
    terms = terms_of(loss, vae, batch)
    expected = terms["distortion"] + 0.6 * terms["rate"] + 6.4 * terms["mmd"]
    torch.testing.assert_close(terms["loss"], expected)
    torch.manual_seed(1)
    z = vae.trace(batch).z
    torch.testing.assert_close(terms["mmd"], mmd(z, torch.randn(5, 2).double(), "imq"))


def test_without_a_rate_it_is_the_wasserstein_autoencoder():
    vae, loss, batch = tiny("info-vae", alpha=1.0, weight=7.0, kernel="imq")
    wasserstein = zoo.get("loss", "wae-mmd")(weight=7.0)
    torch.testing.assert_close(terms_of(loss, vae, batch)["loss"], terms_of(wasserstein, vae, batch)["loss"])


# --- the sliced Wasserstein distance


def test_in_one_dimension_it_is_the_minimum_cost_over_all_pairings():
    torch.manual_seed(0)
    z, w = torch.randn(6, 1, dtype=torch.float64), 2 * torch.randn(6, 1, dtype=torch.float64) + 1
    pairings = (w[list(order)] for order in itertools.permutations(range(6)))
    least = min(((z - pairing) ** 2).mean().item() for pairing in pairings)
    assert sliced_wasserstein(z, w, projections=3).item() == pytest.approx(least, rel=1e-10)


def test_between_known_gaussians():
    """Along theta, W^2 of N(m, s^2) and N(0, 1) is (theta m)^2 + (s - 1)^2, with mean |m|^2 / d + (s - 1)^2."""
    torch.manual_seed(0)
    mean = torch.tensor([1.0, 2.0, 0.0, -1.0])
    actual = sliced_wasserstein(3 * torch.randn(4000, 4) + mean, torch.randn(4000, 4), projections=500)
    assert actual.item() == pytest.approx(6 / 4 + 4, rel=0.05)


def test_a_shift_costs_its_square_along_each_direction():
    """For directions uniform on the unit sphere: |c|^2 / d on average, and at most |c|^2."""
    torch.manual_seed(0)
    z, shift = torch.randn(10, 3, dtype=torch.float64), torch.tensor([0.0, 3.0, 4.0], dtype=torch.float64)
    assert sliced_wasserstein(z, z + shift, projections=20000).item() == pytest.approx(25 / 3, rel=0.02)
    assert all(sliced_wasserstein(z, z + shift, projections=1) <= 25 for _ in range(50))


def test_the_order_of_the_batch_does_not_matter():
    torch.manual_seed(0)
    z, w = torch.randn(2, 9, 3, dtype=torch.float64)
    actual = []
    for order in (torch.arange(9), torch.randperm(9)):
        torch.manual_seed(1)
        actual.append(sliced_wasserstein(z[order], w, projections=7))
    torch.testing.assert_close(*actual)


def test_the_loss_of_the_sliced_wasserstein_autoencoder_is_its_equation():
    vae, loss, batch = tiny("swae", weight=3.0, projections=4)
    terms = terms_of(loss, vae, batch)
    torch.manual_seed(1)
    z = vae.encode(batch.x).mean
    expected = sliced_wasserstein(z, vae.prior(vae.encoder).sample((5,)), 4)
    torch.testing.assert_close(terms["sliced_wasserstein"], expected)
    torch.testing.assert_close(terms["distortion"], (batch.x - vae.decode(z).mean).square().sum() / 5)
    torch.testing.assert_close(terms["loss"], terms["distortion"] + 3 * expected)


# --- autoencoders, plain and regularised


def test_the_loss_of_the_autoencoder_is_the_squared_error():
    vae, loss, batch = tiny("ae")
    terms = terms_of(loss, vae, batch)
    assert list(terms) == ["loss", "distortion"]
    torch.testing.assert_close(terms["loss"], (batch.x - vae.reconstruct(batch.x)).square().sum() / 5)


def test_the_penalty_on_the_weights_by_hand():
    vae, loss, batch = tiny("rae-l2", beta=0.3, weight=0.7)
    terms = terms_of(loss, vae, batch)
    z = vae.encode(batch.x).mean
    torch.testing.assert_close(terms["code"], sum(0.5 * (code @ code) for code in z) / 5)
    squares = sum((parameter.detach() ** 2).sum() for parameter in vae.decoder.parameters())
    torch.testing.assert_close(terms["penalty"].detach(), squares)
    torch.testing.assert_close(terms["loss"], terms["distortion"] + 0.3 * terms["code"] + 0.7 * terms["penalty"])
    gradients = torch.autograd.grad(terms["penalty"], list(vae.parameters()), allow_unused=True)
    for (name, parameter), gradient in zip(vae.named_parameters(), gradients, strict=True):
        if name.startswith("decoder"):
            torch.testing.assert_close(gradient, 2 * parameter.detach())
        else:
            assert gradient is None, name


def signs_in_turn(monkeypatch: pytest.MonkeyPatch, pixels: int) -> list[tuple[float, ...]]:
    """Replace the random signs by all sign vectors in turn, whose mean is exact."""
    images = list(itertools.product((-1.0, 1.0), repeat=pixels))
    remaining = iter(images)

    def signs(image: Tensor) -> Tensor:
        return torch.tensor(next(remaining), dtype=image.dtype).view(image.shape[1:]).expand_as(image)

    monkeypatch.setattr(torch, "randn_like", signs)
    return images


def test_the_gradient_penalty_is_the_squared_jacobian_of_the_decoder_mean(monkeypatch):
    """Trap 10: the Jacobian is that of the decoder in z, here by finite differences, not that in the input image."""
    vae, loss, batch = tiny("rae-gp", data_shape=(1, 2, 3))
    z, h = vae.encode(batch.x).mean.detach(), 1e-5
    columns = [(vae.decode(z + h * e).mean - vae.decode(z - h * e).mean) / (2 * h) for e in torch.eye(2).double()]
    exact = sum((column.detach() ** 2).sum() for column in columns) / 5
    images = signs_in_turn(monkeypatch, pixels=6)
    actual = torch.stack([loss(vae, batch)["penalty"].detach() for _ in images]).mean()
    torch.testing.assert_close(actual, exact, rtol=1e-7, atol=0)


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_the_gradient_penalty_of_a_linear_decoder_does_not_depend_on_the_encoder(factor, monkeypatch):
    """Trap 10: with respect to the image, the two penalties would differ by a factor of 10000."""
    weight = torch.tensor([[1.0, 0.5, 0.0], [0.0, 2.0, -1.0], [3.0, 0.0, 0.25], [0.0, 0.0, 1.0]], dtype=torch.float64)
    vae = linear_autoencoder(factor, weight)
    loss = zoo.get("loss", "rae-gp")()
    images = signs_in_turn(monkeypatch, pixels=4)
    batch = zoo.Batch(torch.rand(5, 1, 1, 4, dtype=torch.float64))
    actual = torch.stack([loss(vae, batch)["penalty"].detach() for _ in images]).mean()
    torch.testing.assert_close(actual, (weight**2).sum())


def test_the_signs_are_drawn_independently_for_each_image():
    """For one pixel the estimate is exact. For two equal pixels |v J|^2 is 4 J^2 or 0 with probability 1/2 each."""
    loss, slope = zoo.get("loss", "rae-gp")(), torch.tensor([[2.0]], dtype=torch.float64)
    torch.manual_seed(0)
    one = linear_autoencoder(1.0, slope), zoo.Batch(torch.rand(50, 1, 1, 1, dtype=torch.float64))
    assert loss(*one)["penalty"].item() == pytest.approx(4)
    two = linear_autoencoder(1.0, slope.expand(2, 1)), zoo.Batch(torch.rand(50, 1, 1, 2, dtype=torch.float64))
    actual = torch.stack([loss(*two)["penalty"].detach() for _ in range(200)])
    assert actual.mean().item() == pytest.approx(8, rel=0.04)
    assert actual.std().item() == pytest.approx(8 / math.sqrt(50), rel=0.2)


def test_the_gradient_penalty_works_under_no_grad():
    """As in the evaluation of the test split."""
    vae, loss, batch = tiny("rae-gp")
    with torch.no_grad(), evaluating(vae, loss):
        tested = terms_of(loss, vae, batch)
    torch.testing.assert_close(tested["penalty"], terms_of(loss, vae, batch)["penalty"].detach())
    assert tested["penalty"] > 0


@pytest.mark.parametrize("model", ["rae-gp", "rae-l2", "wae-mmd", "swae", "info-vae", "log-cosh-vae"])
def test_gradients_agree_with_finite_differences(model):
    """Every parameter of a small model in float64, with fixed noise: (L(p + h) - L(p - h)) / 2h. For rae-gp these are
    second derivatives of the decoder.
    """
    vae, loss, batch = tiny(model)
    terms_of(loss, vae, batch)["loss"].backward()
    h = 1e-5
    for name, parameter in vae.named_parameters():
        actual = torch.empty_like(parameter)
        with torch.no_grad():
            for value, slot in zip(parameter.view(-1), actual.view(-1), strict=True):
                value += h
                above = terms_of(loss, vae, batch)["loss"]
                value -= 2 * h
                slot.copy_((above - terms_of(loss, vae, batch)["loss"]) / (2 * h))
                value += h
        torch.testing.assert_close(parameter.grad, actual, rtol=1e-5, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


# --- combinations with other parts


LOSSES = ["reconstruction", "rae-l2", "rae-gp", "wae-mmd", "swae"]
LIKELIHOODS = ["squared-error", "ms-ssim", "log-cosh", "bernoulli", "continuous-bernoulli"]


@pytest.mark.parametrize("loss", [*LOSSES, "info-vae", "elbo"])
@pytest.mark.parametrize("posterior", ["deterministic", "gaussian"])
def test_any_likelihood_and_posterior_and_a_batch_of_one(loss, posterior):
    """Scenario 29: a batch of one gives finite losses, although it has no divergence."""
    if posterior == "deterministic" and loss not in LOSSES:
        pytest.skip("a loss with a rate raises an error, tested above")
    for trunk, likelihood in zip(("mlp", "conv", "gated", "mlp", "resnet"), LIKELIHOODS, strict=True):
        changes = {
            "data_shape": (2, 5, 6),
            "latent_dim": 3,
            "encoder": {"use": trunk, "posterior": posterior},
            "decoder": {"use": trunk, "likelihood": likelihood},
            "loss": loss,
        }
        torch.manual_seed(0)
        vae, objective = zoo.create_model("mlp-vae", **changes), zoo.create_loss("mlp-vae", **changes)
        for n in (8, 1):
            vae.zero_grad()
            terms = objective(vae, zoo.Batch(torch.rand(n, 2, 5, 6)))
            terms["loss"].backward()
            assert all(torch.isfinite(value) and value.ndim == 0 for value in terms.values())
            assert all(torch.isfinite(p.grad).all() for p in vae.parameters()), (trunk, likelihood, n)


@pytest.mark.parametrize("model", ["ae", "rae-l2", "wae-mmd", "swae"])
def test_the_loss_does_not_scale_with_the_batch(model):
    """Repeating the images three times does not change the loss, except for divergences estimated from the batch."""
    vae, loss, batch = tiny(model)
    once, thrice = (terms_of(loss, vae, zoo.Batch(batch.x.repeat(n, 1, 1, 1))) for n in (1, 3))
    for name in set(once) - {"loss", "mmd", "sliced_wasserstein"}:
        torch.testing.assert_close(once[name], thrice[name])


@pytest.mark.parametrize("model", RECIPES)
def test_sensitive_terms_are_computed_in_float32_under_autocast(model):
    """The variances of ms-ssim, the kernels and the projections would be too inaccurate in bfloat16."""
    recipe = zoo.recipe(model, ["train.precision=bfloat16"])
    torch.manual_seed(0)
    vae, loss = (make(recipe, data_shape=(1, 12, 12)) for make in (zoo.create_model, zoo.create_loss))
    batch = zoo.Batch(torch.rand(6, 1, 12, 12))
    preflight(recipe.train, vae, loss, batch)
    exact = terms_of(loss, vae, batch)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = terms_of(loss, vae, batch)
    for name, value in mixed.items():
        assert value.dtype == torch.float32, name
        torch.testing.assert_close(value, exact[name], rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("model", "setting"),
    [
        ("wae-mmd", "loss.weight=-1"),
        ("wae-mmd", "loss.kernel=gauss"),
        ("wae-mmd", "loss.scales=[]"),
        ("wae-mmd", "loss.scales=[1,0]"),
        ("info-vae", "loss.alpha=1.5"),
        ("swae", "loss.projections=0"),
        ("rae-gp", "loss.beta=-1"),
        ("log-cosh-vae", "decoder.likelihood.sharpness=0"),
        ("log-cosh-vae", "decoder.likelihood.scale=.inf"),
        ("ms-ssim-vae", "decoder.likelihood.scales=6"),
        ("ms-ssim-vae", "decoder.likelihood.window=1"),
    ],
)
def test_parameters_are_checked(model, setting):
    place, _, value = setting.rpartition("=")
    block, _, name = place.rpartition(".")
    inherited = zoo.recipe(model).decoder.parameters.get("likelihood")
    override = setting if block == "loss" else f"{block}={{use: {inherited}, {name}: {value}}}"
    with pytest.raises(zoo.RecipeError, match=place.replace(".", r"\.")):
        zoo.recipe(model, [override])


@pytest.mark.parametrize(
    ("alpha", "weight"), [(0.5, 0.25), (0.0, 0.0), (-3.0, 3.5), (1.0, 0.0), (0.0, 1.0), (-3.0, 4.0)]
)
def test_a_negative_weight_of_the_mmd_in_info_vae_is_an_error(alpha, weight):
    """The weight is alpha + weight - 1 (arXiv 1706.02262, eq. 6); 0 is allowed and gives a beta-VAE."""
    make = zoo.ComponentFactory("loss", "info-vae", alpha=alpha, weight=weight)
    if alpha + weight < 1:
        with pytest.raises(zoo.ComponentError, match=f"it is {alpha + weight - 1:g} with alpha={alpha:g}"):
            make()
    else:
        assert make().alpha == alpha


# --- energies


def test_the_squared_error_is_summed_over_pixels():
    """Trap 9: with a mean over pixels, the effective weight would depend on the image size."""
    for shape in ((1, 2, 2), (3, 7, 5)):
        p = SquaredErrorEnergy(shape)(torch.zeros(2, 4, *shape, 1))
        assert torch.equal(p.mean, torch.full((2, 4, *shape), 0.5))
        cost = -p.log_prob(torch.full((4, *shape), 0.9))
        torch.testing.assert_close(cost, torch.full((2, 4), 0.16 * math.prod(shape)))


@pytest.mark.parametrize("use", ["squared-error", "ms-ssim"])
def test_an_energy_has_no_likelihood_and_cannot_be_sampled(use):
    vae = zoo.create_model("mlp-vae", data_shape=(1, 8, 8), decoder={"likelihood": use})
    with pytest.raises(zoo.ComponentError, match="not a normalized density"):
        vae.log_likelihood(torch.rand(2, 1, 8, 8), samples=2)
    with pytest.raises(NotImplementedError):
        vae.decode(torch.randn(2, 40)).sample()


# --- structural similarity


def ssim_by_hand(x: Tensor, y: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """SSIM of two grey images and its contrast-structure factor, from the definition: Gaussian weights around
    each pixel of the image with reflection padding; the factor is averaged over pixels that need no padding.
    """
    radius = window // 2
    offset = torch.arange(-radius, radius + 1, dtype=x.dtype)
    weights = torch.exp(-0.5 * (offset / (0.3 * radius)) ** 2)
    weights = torch.outer(weights, weights) / weights.sum() ** 2
    c1, c2 = 0.01**2, 0.03**2
    height, width = x.shape

    def reflected(i: int, n: int) -> int:
        return -i if i < 0 else 2 * (n - 1) - i if i >= n else i

    similarity, factor = torch.zeros_like(x), torch.zeros_like(x)
    for i in range(height):
        for j in range(width):
            rows = [reflected(i + k, height) for k in range(-radius, radius + 1)]
            columns = [reflected(j + k, width) for k in range(-radius, radius + 1)]
            a, b = x[rows][:, columns], y[rows][:, columns]
            ma, mb = (weights * a).sum(), (weights * b).sum()
            va, vb = (weights * (a - ma) ** 2).sum(), (weights * (b - mb) ** 2).sum()
            covariance = (weights * (a - ma) * (b - mb)).sum()
            factor[i, j] = (2 * covariance + c2) / (va + vb + c2)
            similarity[i, j] = factor[i, j] * (2 * ma * mb + c1) / (ma**2 + mb**2 + c1)
    return similarity.mean(), factor[radius : height - radius, radius : width - radius].mean()


def test_ssim_and_ms_ssim_agree_with_their_definition():
    """One scale for 8x8 pixels; two for 12x12, the second from 2x2 average pooling. Also windows of 21 pixels and more,
    which a library that chose them by standard deviation enlarged to 23.
    """
    torch.manual_seed(0)
    for side, window, scales in (
        (8, 7, 1),
        (12, 5, 2),
        (20, 19, 1),
        (22, 21, 1),
        (23, 23, 1),
        (42, 21, 2),
        (32, 31, 1),
    ):
        head = MultiScaleSSIM((1, side, side), window=window, weight=0.5)
        assert head.scales == scales
        x, logits = torch.rand(1, side, side).double(), torch.randn(1, side, side, 1).double()
        y = torch.sigmoid(logits[..., 0])
        factors = [ssim_by_hand(x[0], y[0], window)]
        if scales == 2:
            half_x, half_y = (nn.functional.avg_pool2d(image, 2)[0] for image in (x, y))
            factors.append(ssim_by_hand(half_x, half_y, window))
        values = [factor for _, factor in factors[:-1]] + [factors[-1][0]]
        exponents = [e / sum(EXPONENTS[:scales]) for e in EXPONENTS[:scales]]
        similarity = math.prod(((v.item() + 1) / 2) ** e for v, e in zip(values, exponents, strict=True))
        assert -head(logits).log_prob(x).item() == pytest.approx(0.5 * side**2 * (1 - similarity), rel=1e-5)


def test_the_energy_is_zero_at_the_mean_and_increases_with_the_error():
    torch.manual_seed(0)
    logits = torch.randn(4, 3, 16, 16, 1)
    p = MultiScaleSSIM((3, 16, 16))(logits)
    torch.testing.assert_close(p.log_prob(p.mean), torch.zeros(4), atol=1e-3, rtol=0)
    noise = torch.randn_like(p.mean)
    costs = torch.stack([-p.log_prob((p.mean + s * noise).clamp(0, 1)) for s in (0.0, 0.05, 0.2, 0.5)])
    assert (costs.diff(dim=0) > 0).all()


def test_energies_broadcast_over_sample_dimensions():
    torch.manual_seed(0)
    head, logits, x = MultiScaleSSIM((2, 8, 9)), torch.randn(2, 3, 4, 2, 8, 9, 1), torch.rand(4, 2, 8, 9)
    actual = head(logits).log_prob(x)
    assert actual.shape == (2, 3, 4)
    for i, j, k in itertools.product(range(2), range(3), range(4)):
        torch.testing.assert_close(actual[i, j, k], head(logits[i, j, k]).log_prob(x[k]))


@pytest.mark.parametrize(
    ("side", "window", "scales"),
    [(3, 3, 1), (4, 3, 1), (8, 7, 1), (13, 7, 1), (14, 7, 2), (28, 7, 3), (36, 9, 3), (64, 11, 3), (176, 11, 5)],
)
def test_the_default_window_and_scales(side, window, scales):
    head = MultiScaleSSIM((1, side, 2 * side))
    assert (head.window, head.scales) == (window, scales)
    assert sum(head.exponents) == pytest.approx(1)
    logits = torch.randn(1, side, 2 * side, 1, requires_grad=True)
    cost = head(logits).log_prob(torch.rand(1, side, 2 * side))
    cost.backward()
    assert torch.isfinite(cost)
    assert torch.isfinite(logits.grad).all(), "also if a factor is negative"


@pytest.mark.parametrize(
    ("side", "settings", "message"),
    [
        (2, {}, "at least 3 pixels per side; got 2"),
        (8, {"window": 11}, r"11 pixels per side for 1 scale\(s\) of a 11-pixel window; the images have 8"),
        (28, {"scales": 4}, r"63 pixels per side for 4 scale\(s\) of a 7-pixel window; the images have 28"),
        (28, {"window": 4}, "needs an odd window; got 4"),
    ],
)
def test_a_window_or_scales_that_do_not_fit_are_an_error(side, settings, message):
    with pytest.raises(zoo.ComponentError, match=message):
        zoo.create_model("mlp-vae", data_shape=(1, side, side), decoder={"likelihood": {"use": "ms-ssim", **settings}})


# --- log-cosh


@pytest.mark.parametrize(("sharpness", "scale"), [(10.0, 1.0), (1.0, 0.2), (0.3, 2.0)])
def test_the_log_cosh_density_matches_its_cost_and_integrates_to_one(sharpness, scale):
    p = LogCosh(torch.tensor(0.4, dtype=torch.float64), sharpness, scale)
    grid = torch.linspace(-60, 60, 1_200_001, dtype=torch.float64)
    density = p.log_prob(grid).exp()
    assert torch.trapezoid(density, grid).item() == pytest.approx(1, abs=1e-6)
    assert torch.trapezoid(density * (grid - 0.4) ** 2, grid).item() == pytest.approx(p.variance.item(), rel=1e-6)
    near = torch.linspace(-2, 2, 101, dtype=torch.float64)
    cost = torch.log(torch.cosh(sharpness * (near - 0.4) / scale)) / sharpness
    torch.testing.assert_close(p.log_prob(torch.tensor(0.4)) - p.log_prob(near), cost)


def test_log_cosh_does_not_overflow():
    """cosh(2 * 10^5) is infinite, but the cost is |x - mean| - log 2 / a and its derivative +-1."""
    x = torch.tensor([-2e4, -30.0, -0.01, 0.0, 0.01, 30.0, 2e4], requires_grad=True)
    p = LogCosh(torch.zeros(()), 10.0, 1.0)
    cost = p.log_prob(torch.zeros(())) - p.log_prob(x)
    torch.testing.assert_close(cost[[0, 1, 5, 6]], x[[0, 1, 5, 6]].abs() - math.log(2) / 10)
    cost.sum().backward()
    torch.testing.assert_close(x.grad, torch.tanh(10 * x.detach()))


def test_log_cosh_approaches_a_gaussian_and_a_laplace_distribution():
    x = torch.linspace(-2, 2, 41, dtype=torch.float64)
    zero = torch.zeros((), dtype=torch.float64)
    torch.testing.assert_close(
        LogCosh(zero, 1e-6, 0.5e-3).log_prob(x), Normal(zero, 0.5).log_prob(x), rtol=1e-5, atol=1e-5
    )
    away = x[x.abs() > 0.05]
    torch.testing.assert_close(
        LogCosh(zero, 1e5, 0.7).log_prob(away), Laplace(zero, 0.7).log_prob(away), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(("sharpness", "scale"), [(10.0, 1.0), (0.5, 0.3)])
def test_samples_follow_the_density(sharpness, scale):
    """Kolmogorov-Smirnov test against the integral of the density; D exceeds 1.95 / sqrt(n) once in 1000."""
    torch.manual_seed(0)
    p = LogCosh(torch.tensor(0.4, dtype=torch.float64), sharpness, scale)
    grid = torch.linspace(-40, 40, 400_001, dtype=torch.float64)
    integral = torch.cumulative_trapezoid(p.log_prob(grid).exp(), grid)
    n = 20000
    draws = p.sample((n,)).sort().values
    expected = integral[(torch.searchsorted(grid, draws) - 1).clamp(0, len(integral) - 1)]
    ranks = torch.arange(1, n + 1) / n
    assert (expected - ranks).abs().max().item() < 1.95 / math.sqrt(n)


def test_log_cosh_is_a_normalised_likelihood():
    """It is summed over the image, and log p(x) can be estimated."""
    vae = zoo.create_model("log-cosh-vae", data_shape=(1, 4, 4), latent_dim=2)
    x = torch.rand(3, 1, 4, 4)
    assert vae.log_likelihood(x, samples=5).shape == (3,)
    parameters = torch.randn(2, 3, 1, 4, 4, 1)
    p = LogCoshLikelihood((1, 4, 4), sharpness=2.0)(parameters)
    single = LogCosh(parameters.squeeze(-1), 2.0, 1.0).log_prob(x)
    torch.testing.assert_close(p.log_prob(x), single.sum((-3, -2, -1)))
