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
    """A model of float64, its loss and a batch."""
    torch.manual_seed(0)
    changes = {**TINY, "data_shape": data_shape}
    use = zoo.recipe(model).loss.use
    vae = zoo.create_model(model, **changes).double()
    objective = zoo.create_loss(model, **changes, loss={"use": use, **loss}).double()
    return vae, objective, zoo.Batch(torch.rand(5, *data_shape, dtype=torch.float64))


def terms_of(loss: zoo.Loss, vae: zoo.VAE, batch: zoo.Batch, seed: int = 1) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return loss(vae, batch)


class ScaledCode(zoo.Encoder):
    """The code of an image is a multiple of its first pixels."""

    def __init__(self, factor: float, latent_dim: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor, dtype=torch.float64))
        self.latent_dim = latent_dim

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Distribution:
        return PointMass(self.factor * x.flatten(1)[:, : self.latent_dim])


def linear_autoencoder(factor: float, weight: Tensor) -> zoo.VAE:
    prior = zoo.get("prior", "standard-normal")(latent_shape=(weight.shape[1],)).double()
    return zoo.VAE(ScaledCode(factor, weight.shape[1]), LinearGaussian(weight, 1.0), prior)


# --- the deterministic posterior


def test_every_draw_is_the_code():
    point = torch.randn(4, 3, requires_grad=True)
    q = PointMass(point)
    assert (q.batch_shape, q.event_shape) == ((4,), (3,))
    for draw in (q.rsample(), q.sample(), q.mean, q.mode, *q.rsample((2,))):
        assert torch.equal(draw, point)
    assert q.rsample((5, 2)).shape == (5, 2, 4, 3)
    assert not q.variance.any()
    (gradient,) = torch.autograd.grad(q.rsample((5,)).sum(), point)
    assert torch.equal(gradient, torch.full((4, 3), 5.0)), "each draw carries its gradient back"


def test_the_code_is_linear_in_the_features_and_in_float32():
    head = zoo.get("posterior", "deterministic")(features=4, latent_dim=2)
    features = torch.randn(3, 4)
    torch.testing.assert_close(head(features).mean, features @ head.linear.weight.T + head.linear.bias)
    assert head.bfloat16()(features.bfloat16()).mean.dtype == torch.float32


def test_a_point_has_no_density_and_nothing_that_needs_one():
    """A KL or a likelihood of the zoo's would be a number that means nothing."""
    vae, _, batch = tiny("ae")
    trace = vae.trace(batch)
    for density in ("log_qz", "kl", "log_weight"):
        with pytest.raises(zoo.ComponentError, match=r"single point: it has no density.*posterior=gaussian"):
            getattr(trace, density)
    vae.decoder.likelihood = zoo.get("likelihood", "gaussian")(data_shape=(1, 3, 3)).double()
    with pytest.raises(zoo.ComponentError, match=r"no rate and no log p\(x\)"):
        vae.log_likelihood(batch.x, samples=2)


def test_a_loss_with_a_rate_refuses_a_point_before_training(tmp_path):
    with pytest.raises(zoo.ComponentError, match="The posterior is a single point"):
        zoo.train("ae", ["loss=elbo", "data=[digits]"], out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_terms_without_a_rate_are_selected_and_printed(tmp_path):
    with pytest.raises(zoo.RecipeError, match=r"has no term 'rate'\. There are: loss, distortion\."):
        zoo.train("ae", ["train.monitor=rate", "data=[digits]"], out=tmp_path)
    run = zoo.train("ae", ["train.monitor=distortion", "data=[digits]", "train.epochs=1"], out=tmp_path)
    (epoch,) = run.epochs()
    assert list(epoch.test) == ["loss", "distortion"]
    assert f"test {epoch.test['loss']:8.2f} nats   (distortion {epoch.test['distortion']:.2f})" in describe(epoch, 1)


# --- maximum mean discrepancy


def kernel_by_hand(name: str, a: Tensor, b: Tensor, scales: tuple[float, ...]) -> float:
    squared = float(((a - b) ** 2).sum())
    constants = [2 * len(a) * scale for scale in scales]
    return sum(c / (c + squared) if name == "imq" else math.exp(-squared / c) for c in constants)


@pytest.mark.parametrize("kernel", ["imq", "rbf"])
@pytest.mark.parametrize("scales", [(1.0,), (0.1, 2.0, 5.0)])
@pytest.mark.parametrize(("n", "m"), [(4, 4), (5, 3), (30, 30)])
def test_the_discrepancy_is_that_of_its_definition(kernel, scales, n, m):
    """Algorithm 2 of arXiv 1711.01558 in loops. (At 26 points cdist would switch to a less exact way.)"""
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
    """Two pairs of points, each in one place, r apart: MMD = 2 k(0) - 2 k(r), and C = 2 d = 4."""
    for r, imq, rbf in ((0.0, 1.0, 1.0), (2.0, 0.5, math.exp(-1)), (4.0, 0.2, math.exp(-4))):
        z, w = torch.zeros(2, 2), torch.zeros(2, 2) + torch.tensor([r, 0.0])
        assert mmd(z, w, "imq").item() == pytest.approx(2 - 2 * imq, abs=1e-6)
        assert mmd(z, w, "rbf").item() == pytest.approx(2 - 2 * rbf, abs=1e-6)


@pytest.mark.parametrize("kernel", ["imq", "rbf"])
def test_the_estimate_is_unbiased_where_the_distributions_are_the_same(kernel):
    torch.manual_seed(0)
    estimates = torch.stack([mmd(*torch.randn(2, 8, 4, dtype=torch.float64), kernel) for _ in range(1500)])
    standard_error = estimates.std().item() / math.sqrt(1500)
    assert abs(estimates.mean().item()) < 4 * standard_error
    assert (estimates < 0).float().mean() > 0.3
    # With the pairs of a draw with itself the mean would be 2/8 (1 - E k), which would have been seen.
    assert standard_error < 0.01


@pytest.mark.parametrize("n", [4, 64])
def test_the_estimate_has_the_mean_of_two_known_gaussians_for_every_batch_size(n):
    """r = x - y is N(m, 2), so E exp(-r^2 / C) = (1 + 4 / C)^(-d/2) exp(-m^2 / (C + 4)); here d = 3, C = 6."""
    torch.manual_seed(0)
    mean = torch.tensor([1.0, -0.5, 0.0], dtype=torch.float64)
    exact = 2 * (1 + 4 / 6) ** -1.5 * (1 - math.exp(-1.25 / 10))
    draws = torch.randn(2, 8000 // n, n, 3, dtype=torch.float64)
    estimates = torch.stack([mmd(z + mean, w, "rbf") for z, w in zip(*draws, strict=True)])
    assert abs(estimates.mean().item() - exact) < 4 * estimates.std().item() / math.sqrt(len(estimates))
    assert exact > 0.1


def test_the_gradient_of_the_discrepancy_is_finite_where_codes_coincide():
    z = torch.zeros(6, 3, requires_grad=True)
    for kernel in ("imq", "rbf"):
        (gradient,) = torch.autograd.grad(mmd(z, torch.randn(6, 3), kernel), z)
        assert torch.isfinite(gradient).all()
        assert gradient.any()


def test_the_loss_of_the_wasserstein_autoencoder_is_its_equation():
    """Trap 9 too: the squared error is summed over pixels and averaged over the batch, and nothing else."""
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
def test_the_divergence_has_a_gradient_for_the_encoder_alone(model):
    """The prior is what the codes are brought to; the decoder has no part in it."""
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
def test_a_prior_for_each_label_is_drawn_from_once_for_each_image(model):
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
def test_without_a_weight_on_the_discrepancy_it_is_the_elbo_or_the_beta_vae(alpha, weight, beta):
    """arXiv 1706.02262: alpha = 0 and lambda = 1 give the ELBO, alpha + lambda = 1 the beta-VAE."""
    vae, loss, batch = tiny("info-vae", alpha=alpha, weight=weight)
    terms = terms_of(loss, vae, batch)
    expected = terms_of(zoo.get("loss", "elbo")(beta=beta).double(), vae, batch)
    for name in ("loss", "distortion", "rate"):
        torch.testing.assert_close(terms[name], expected[name])
    parameters = list(vae.parameters())
    ours, theirs = (torch.autograd.grad(found["loss"], parameters) for found in (terms, expected))
    torch.testing.assert_close(ours, theirs)


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


def test_on_a_line_it_is_the_least_cost_over_all_pairings():
    torch.manual_seed(0)
    z, w = torch.randn(6, 1, dtype=torch.float64), 2 * torch.randn(6, 1, dtype=torch.float64) + 1
    pairings = (w[list(order)] for order in itertools.permutations(range(6)))
    least = min(((z - pairing) ** 2).mean().item() for pairing in pairings)
    assert sliced_wasserstein(z, w, projections=3).item() == pytest.approx(least, rel=1e-10)


def test_between_known_gaussians():
    """Along theta, W^2 of N(m, s^2) and N(0, 1) is (theta m)^2 + (s - 1)^2, of mean |m|^2 / d + (s - 1)^2."""
    torch.manual_seed(0)
    mean = torch.tensor([1.0, 2.0, 0.0, -1.0])
    found = sliced_wasserstein(3 * torch.randn(4000, 4) + mean, torch.randn(4000, 4), projections=500)
    assert found.item() == pytest.approx(6 / 4 + 4, rel=0.05)


def test_a_shift_costs_its_square_along_each_direction():
    """Directions of length 1, uniform on the sphere: |c|^2 / d in the mean, and at most |c|^2."""
    torch.manual_seed(0)
    z, shift = torch.randn(10, 3, dtype=torch.float64), torch.tensor([0.0, 3.0, 4.0], dtype=torch.float64)
    assert sliced_wasserstein(z, z + shift, projections=20000).item() == pytest.approx(25 / 3, rel=0.02)
    assert all(sliced_wasserstein(z, z + shift, projections=1) <= 25 for _ in range(50))


def test_the_order_of_the_batch_is_of_no_account():
    torch.manual_seed(0)
    z, w = torch.randn(2, 9, 3, dtype=torch.float64)
    found = []
    for order in (torch.arange(9), torch.randperm(9)):
        torch.manual_seed(1)
        found.append(sliced_wasserstein(z[order], w, projections=7))
    torch.testing.assert_close(*found)


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
    """Have the penalty take every image of signs, one after the other; their mean is exact."""
    images = list(itertools.product((-1.0, 1.0), repeat=pixels))
    remaining = iter(images)

    def signs(image: Tensor) -> Tensor:
        return torch.tensor(next(remaining), dtype=image.dtype).view(image.shape[1:]).expand_as(image)

    monkeypatch.setattr(torch, "randn_like", signs)
    return images


def test_the_gradient_penalty_is_the_squared_jacobian_of_the_mean_image_by_the_code(monkeypatch):
    """Trap 10. The Jacobian by finite differences of the decoder in the code; the input has no part in it."""
    vae, loss, batch = tiny("rae-gp", data_shape=(1, 2, 3))
    z, h = vae.encode(batch.x).mean.detach(), 1e-5
    columns = [(vae.decode(z + h * e).mean - vae.decode(z - h * e).mean) / (2 * h) for e in torch.eye(2).double()]
    exact = sum((column.detach() ** 2).sum() for column in columns) / 5
    images = signs_in_turn(monkeypatch, pixels=6)
    found = torch.stack([loss(vae, batch)["penalty"].detach() for _ in images]).mean()
    torch.testing.assert_close(found, exact, rtol=1e-7, atol=0)


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_the_gradient_penalty_of_a_linear_decoder_does_not_depend_on_the_encoder(factor, monkeypatch):
    """Trap 10: taken with respect to the image, it would be 10000 times as large for the one as for the other."""
    weight = torch.tensor([[1.0, 0.5, 0.0], [0.0, 2.0, -1.0], [3.0, 0.0, 0.25], [0.0, 0.0, 1.0]], dtype=torch.float64)
    vae = linear_autoencoder(factor, weight)
    loss = zoo.get("loss", "rae-gp")()
    images = signs_in_turn(monkeypatch, pixels=4)
    batch = zoo.Batch(torch.rand(5, 1, 1, 4, dtype=torch.float64))
    found = torch.stack([loss(vae, batch)["penalty"].detach() for _ in images]).mean()
    torch.testing.assert_close(found, (weight**2).sum())


def test_the_directions_are_signs_and_drawn_for_each_image():
    """One pixel leaves nothing to chance. Of two that are alike, |v J|^2 is 4 J^2 or 0, each half of the time."""
    loss, slope = zoo.get("loss", "rae-gp")(), torch.tensor([[2.0]], dtype=torch.float64)
    torch.manual_seed(0)
    one = linear_autoencoder(1.0, slope), zoo.Batch(torch.rand(50, 1, 1, 1, dtype=torch.float64))
    assert loss(*one)["penalty"].item() == pytest.approx(4)
    two = linear_autoencoder(1.0, slope.expand(2, 1)), zoo.Batch(torch.rand(50, 1, 1, 2, dtype=torch.float64))
    found = torch.stack([loss(*two)["penalty"].detach() for _ in range(200)])
    assert found.mean().item() == pytest.approx(8, rel=0.04)
    assert found.std().item() == pytest.approx(8 / math.sqrt(50), rel=0.2)


def test_the_gradient_penalty_is_worked_out_without_a_graph_too():
    """As when the terms of the test set are averaged, under no_grad."""
    vae, loss, batch = tiny("rae-gp")
    with torch.no_grad(), evaluating(vae, loss):
        tested = terms_of(loss, vae, batch)
    torch.testing.assert_close(tested["penalty"], terms_of(loss, vae, batch)["penalty"].detach())
    assert tested["penalty"] > 0


@pytest.mark.parametrize("model", ["rae-gp", "rae-l2", "wae-mmd", "swae", "info-vae", "log-cosh-vae"])
def test_gradients_agree_with_finite_differences(model):
    """Every parameter of a small model, in float64, the draws the same in each evaluation: (L(p+h) - L(p-h)) / 2h.
    For rae-gp these are second derivatives of the decoder.
    """
    vae, loss, batch = tiny(model)
    terms_of(loss, vae, batch)["loss"].backward()
    h = 1e-5
    for name, parameter in vae.named_parameters():
        found = torch.empty_like(parameter)
        with torch.no_grad():
            for value, slot in zip(parameter.view(-1), found.view(-1), strict=True):
                value += h
                above = terms_of(loss, vae, batch)["loss"]
                value -= 2 * h
                slot.copy_((above - terms_of(loss, vae, batch)["loss"]) / (2 * h))
                value += h
        torch.testing.assert_close(parameter.grad, found, rtol=1e-5, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


# --- any of them with any other part


LOSSES = ["reconstruction", "rae-l2", "rae-gp", "wae-mmd", "swae"]
LIKELIHOODS = ["squared-error", "ms-ssim", "log-cosh", "bernoulli", "continuous-bernoulli"]


@pytest.mark.parametrize("loss", [*LOSSES, "info-vae", "elbo"])
@pytest.mark.parametrize("posterior", ["deterministic", "gaussian"])
def test_any_likelihood_and_posterior_and_a_batch_of_one(loss, posterior):
    """Scenario 29: a batch of one says nothing of a distribution, and stops nothing."""
    if posterior == "deterministic" and loss not in LOSSES:
        pytest.skip("a rate is refused, which is tested above")
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
    """A batch and the same images thrice over cost the same, but for what is estimated from a batch as a whole."""
    vae, loss, batch = tiny(model)
    once, thrice = (terms_of(loss, vae, zoo.Batch(batch.x.repeat(n, 1, 1, 1))) for n in (1, 3))
    for name in set(once) - {"loss", "mmd", "sliced_wasserstein"}:
        torch.testing.assert_close(once[name], thrice[name])


@pytest.mark.parametrize("model", RECIPES)
def test_a_step_in_mixed_precision_is_taken_in_float32(model):
    """The variances of ms-ssim, the kernels and the projections would be wrong in bfloat16."""
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
def test_settings_are_checked(model, setting):
    place, _, value = setting.rpartition("=")
    block, _, name = place.rpartition(".")
    inherited = zoo.recipe(model).decoder.parameters.get("likelihood")
    override = setting if block == "loss" else f"{block}={{use: {inherited}, {name}: {value}}}"
    with pytest.raises(zoo.RecipeError, match=place.replace(".", r"\.")):
        zoo.recipe(model, [override])


@pytest.mark.parametrize(
    ("alpha", "weight"), [(0.5, 0.25), (0.0, 0.0), (-3.0, 3.5), (1.0, 0.0), (0.0, 1.0), (-3.0, 4.0)]
)
def test_the_discrepancy_of_info_vae_has_no_negative_weight(alpha, weight):
    """alpha + weight - 1 (arXiv 1706.02262, eq. 6). At 0 it is the ELBO with a weight on its rate."""
    make = zoo.ComponentFactory("loss", "info-vae", alpha=alpha, weight=weight)
    if alpha + weight < 1:
        with pytest.raises(zoo.ComponentError, match=f"it is {alpha + weight - 1:g} with alpha={alpha:g}"):
            make()
    else:
        assert make().alpha == alpha


# --- costs between images


def test_the_squared_error_is_summed_over_pixels():
    """Trap 9: a mean over pixels would be another weight for every image size."""
    for shape in ((1, 2, 2), (3, 7, 5)):
        p = SquaredErrorEnergy(shape)(torch.zeros(2, 4, *shape, 1))
        assert torch.equal(p.mean, torch.full((2, 4, *shape), 0.5))
        cost = -p.log_prob(torch.full((4, *shape), 0.9))
        torch.testing.assert_close(cost, torch.full((2, 4), 0.16 * math.prod(shape)))


@pytest.mark.parametrize("use", ["squared-error", "ms-ssim"])
def test_an_energy_has_no_likelihood_and_no_draws(use):
    vae = zoo.create_model("mlp-vae", data_shape=(1, 8, 8), decoder={"likelihood": use})
    with pytest.raises(zoo.ComponentError, match="not a normalized density"):
        vae.log_likelihood(torch.rand(2, 1, 8, 8), samples=2)
    with pytest.raises(NotImplementedError):
        vae.decode(torch.randn(2, 40)).sample()


# --- structural similarity


def ssim_by_hand(x: Tensor, y: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Similarity of two grey images, and its second factor (contrast and structure), from the definition: Gaussian
    weights about each pixel, over the image reflected at its borders; the factor where the window lies inside.
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


def test_the_similarity_agrees_with_its_definition():
    """One scale on 8x8 pixels; two on 12x12, the second halved by means of four pixels. Windows of 21 pixels and more,
    which a library widened to 23, since it chose them by their standard deviation.
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


def test_an_image_costs_nothing_beside_itself_and_more_beside_others():
    torch.manual_seed(0)
    logits = torch.randn(4, 3, 16, 16, 1)
    p = MultiScaleSSIM((3, 16, 16))(logits)
    torch.testing.assert_close(p.log_prob(p.mean), torch.zeros(4), atol=1e-3, rtol=0)
    noise = torch.randn_like(p.mean)
    costs = torch.stack([-p.log_prob((p.mean + s * noise).clamp(0, 1)) for s in (0.0, 0.05, 0.2, 0.5)])
    assert (costs.diff(dim=0) > 0).all()


def test_any_sample_dimensions_of_an_energy_agree_with_one_at_a_time():
    torch.manual_seed(0)
    head, logits, x = MultiScaleSSIM((2, 8, 9)), torch.randn(2, 3, 4, 2, 8, 9, 1), torch.rand(4, 2, 8, 9)
    found = head(logits).log_prob(x)
    assert found.shape == (2, 3, 4)
    for i, j, k in itertools.product(range(2), range(3), range(4)):
        torch.testing.assert_close(found[i, j, k], head(logits[i, j, k]).log_prob(x[k]))


@pytest.mark.parametrize(
    ("side", "window", "scales"),
    [(3, 3, 1), (4, 3, 1), (8, 7, 1), (13, 7, 1), (14, 7, 2), (28, 7, 3), (36, 9, 3), (64, 11, 3), (176, 11, 5)],
)
def test_the_window_and_the_scales_that_an_image_holds(side, window, scales):
    head = MultiScaleSSIM((1, side, 2 * side))
    assert (head.window, head.scales) == (window, scales)
    assert sum(head.exponents) == pytest.approx(1)
    logits = torch.randn(1, side, 2 * side, 1, requires_grad=True)
    cost = head(logits).log_prob(torch.rand(1, side, 2 * side))
    cost.backward()
    assert torch.isfinite(cost)
    assert torch.isfinite(logits.grad).all(), "where a factor is negative too"


@pytest.mark.parametrize(
    ("side", "settings", "message"),
    [
        (2, {}, "a side of 2 has no structure"),
        (8, {"window": 11}, r"1 scale\(s\) of a 11-pixel window need 11 pixels a side, and the images have 8"),
        (28, {"scales": 4}, r"4 scale\(s\) of a 7-pixel window need 63 pixels a side, and the images have 28"),
        (28, {"window": 4}, "must be odd; got 4"),
    ],
)
def test_what_does_not_fit_is_refused(side, settings, message):
    with pytest.raises(zoo.ComponentError, match=message):
        zoo.create_model("mlp-vae", data_shape=(1, side, side), decoder={"likelihood": {"use": "ms-ssim", **settings}})


# --- log-cosh


@pytest.mark.parametrize(("sharpness", "scale"), [(10.0, 1.0), (1.0, 0.2), (0.3, 2.0)])
def test_the_density_is_that_of_the_cost_and_integrates_to_one(sharpness, scale):
    p = LogCosh(torch.tensor(0.4, dtype=torch.float64), sharpness, scale)
    grid = torch.linspace(-60, 60, 1_200_001, dtype=torch.float64)
    density = p.log_prob(grid).exp()
    assert torch.trapezoid(density, grid).item() == pytest.approx(1, abs=1e-6)
    assert torch.trapezoid(density * (grid - 0.4) ** 2, grid).item() == pytest.approx(p.variance.item(), rel=1e-6)
    near = torch.linspace(-2, 2, 101, dtype=torch.float64)
    cost = torch.log(torch.cosh(sharpness * (near - 0.4) / scale)) / sharpness
    torch.testing.assert_close(p.log_prob(torch.tensor(0.4)) - p.log_prob(near), cost)


def test_no_error_is_too_large_for_it():
    """cosh(2 * 10^5) is infinite. The cost is then |x - mean| - log 2 / a, and its slope tanh, +-1."""
    x = torch.tensor([-2e4, -30.0, -0.01, 0.0, 0.01, 30.0, 2e4], requires_grad=True)
    p = LogCosh(torch.zeros(()), 10.0, 1.0)
    cost = p.log_prob(torch.zeros(())) - p.log_prob(x)
    torch.testing.assert_close(cost[[0, 1, 5, 6]], x[[0, 1, 5, 6]].abs() - math.log(2) / 10)
    cost.sum().backward()
    torch.testing.assert_close(x.grad, torch.tanh(10 * x.detach()))


def test_it_lies_between_a_gaussian_and_a_laplace_distribution():
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
def test_draws_have_the_distribution_of_the_density(sharpness, scale):
    """A Kolmogorov-Smirnov test against the integral of the density: beyond 1.95 / sqrt(n) once in a thousand."""
    torch.manual_seed(0)
    p = LogCosh(torch.tensor(0.4, dtype=torch.float64), sharpness, scale)
    grid = torch.linspace(-40, 40, 400_001, dtype=torch.float64)
    integral = torch.cumulative_trapezoid(p.log_prob(grid).exp(), grid)
    n = 20000
    draws = p.sample((n,)).sort().values
    expected = integral[(torch.searchsorted(grid, draws) - 1).clamp(0, len(integral) - 1)]
    ranks = torch.arange(1, n + 1) / n
    assert (expected - ranks).abs().max().item() < 1.95 / math.sqrt(n)


def test_it_is_a_likelihood():
    """Summed over the image, with a bound and an importance-sampled estimate that are what they say."""
    vae = zoo.create_model("log-cosh-vae", data_shape=(1, 4, 4), latent_dim=2)
    x = torch.rand(3, 1, 4, 4)
    assert vae.log_likelihood(x, samples=5).shape == (3,)
    parameters = torch.randn(2, 3, 1, 4, 4, 1)
    p = LogCoshLikelihood((1, 4, 4), sharpness=2.0)(parameters)
    single = LogCosh(parameters.squeeze(-1), 2.0, 1.0).log_prob(x)
    torch.testing.assert_close(p.log_prob(x), single.sum((-3, -2, -1)))
