from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

import zoo
from toys import GivenPosterior
from zoo_gaussian.mlp import ACTIVATIONS

SHAPE = (2, 3, 4)


def closed_form_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(q || N(0, I)), the negative of the formula in arXiv 1312.6114, appendix B."""
    return -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(-1)


def likelihood(use: str, **parameters: object) -> zoo.Likelihood:
    return zoo.ComponentFactory("likelihood", use, **parameters)(data_shape=SHAPE)


class Constant(zoo.Decoder):
    """p(x | z) = N(x; mean, 1), with one learned mean image for every z."""

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.mean = nn.Parameter(mean)

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Distribution:
        mean = self.mean.expand(*z.shape[:-1], *self.mean.shape)
        return Independent(Normal(mean, torch.ones_like(mean)), 3)


def constant_vae(mean: Tensor, q_mean: Tensor, q_scale: Tensor) -> zoo.VAE:
    """A VAE with rate and distortion in closed form."""

    def q(x: Tensor) -> Distribution:
        return Independent(Normal(q_mean.expand(len(x), -1), q_scale.expand(len(x), -1)), 1)

    prior = zoo.get("prior", "standard-normal")(latent_shape=q_mean.shape)
    return zoo.VAE(GivenPosterior(q), Constant(mean), prior)


# --- the posterior and the prior


def posterior_from(mean: Tensor, log_variance: Tensor) -> Independent:
    """The posterior of a head whose linear layer returns (mean, log_variance)."""
    head = zoo.get("posterior", "gaussian")(features=1, latent_dim=len(mean)).to(mean.dtype)
    with torch.no_grad():
        head.linear.weight.zero_()
        head.linear.bias.copy_(torch.cat([mean, log_variance]))
    return head(torch.ones(1, 1, dtype=mean.dtype))


def test_the_mean_comes_first_and_the_log_variance_second():
    """Trap 1: if they are swapped nothing fails, but the rate is wrong."""
    mean = torch.tensor([0.3, -2.0, 1.5], dtype=torch.float64)
    log_variance = torch.tensor([-1.0, 0.7, -6.0], dtype=torch.float64)
    q = posterior_from(mean, log_variance)
    torch.testing.assert_close(q.mean[0], mean)
    torch.testing.assert_close(q.variance[0], log_variance.exp())

    prior = zoo.get("prior", "standard-normal")(latent_shape=(3,)).double()
    kl = torch.distributions.kl_divergence(q, prior(None))
    expected = closed_form_kl(mean, log_variance)
    torch.testing.assert_close(kl, expected[None])
    assert (kl - closed_form_kl(log_variance, mean)).abs() > 1, "the test would not detect a swap"


@pytest.mark.parametrize("log_variance", [-20.0, -6.0, 0.0, 1.0, 4.0])
def test_the_scale_is_the_exponential_of_half_the_log_variance(log_variance):
    """Trap 6: softplus in one place and exp in another."""
    q = posterior_from(torch.zeros(1, dtype=torch.float64), torch.tensor([log_variance], dtype=torch.float64))
    assert q.base_dist.scale.item() == pytest.approx(math.exp(log_variance / 2), rel=1e-12)


def test_the_prior_is_standard_normal_and_has_no_state():
    prior = zoo.get("prior", "standard-normal")(latent_shape=(2, 3)).double()
    z = torch.randn(5, 2, 3, dtype=torch.float64)
    expected = (-0.5 * z**2 - 0.5 * math.log(2 * math.pi)).sum((-2, -1))
    torch.testing.assert_close(prior(None).log_prob(z), expected)
    assert list(prior.parameters()) == []
    assert prior.state_dict() == {}, "a prior without parameters must not restrict which weights load"


# --- the likelihoods


def bernoulli(parameters: Tensor, x: Tensor) -> Tensor:
    p = torch.sigmoid(parameters[..., 0])
    return x * p.log() + (1 - x) * (1 - p).log()


def continuous_bernoulli(parameters: Tensor, x: Tensor) -> Tensor:
    """With the normalising constant of arXiv 1907.06845, section 3: C = 2 atanh(1 - 2p) / (1 - 2p)."""
    p = torch.sigmoid(parameters[..., 0])
    return bernoulli(parameters, x) + (2 * torch.atanh(1 - 2 * p) / (1 - 2 * p)).log()


def normal(mean: Tensor, scale: Tensor | float, x: Tensor) -> Tensor:
    scale = torch.as_tensor(scale, dtype=x.dtype)
    return -0.5 * ((x - mean) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)


LIKELIHOODS = {
    "bernoulli": ("bernoulli", {}, bernoulli),
    "continuous-bernoulli": ("continuous-bernoulli", {}, continuous_bernoulli),
    "gaussian": ("gaussian", {}, lambda p, x: normal(p.squeeze(-1), 1.0, x)),
    "gaussian-fixed": ("gaussian", {"scale": 0.25}, lambda p, x: normal(p.squeeze(-1), 0.25, x)),
    "gaussian-whole": ("gaussian", {"scale": 2}, lambda p, x: normal(p.squeeze(-1), 2.0, x)),
    "gaussian-shared": ("gaussian", {"scale": "shared"}, lambda p, x: normal(p.squeeze(-1), 1e-3 + math.exp(-1.5), x)),
    "gaussian-pixelwise": (
        "gaussian",
        {"scale": "pixelwise"},
        lambda p, x: normal(p[..., 0], 1e-3 + p[..., 1].exp(), x),
    ),
}


@pytest.mark.parametrize("case", LIKELIHOODS)
@pytest.mark.parametrize("leading", [(5,), (3, 5), (2, 3, 5)])
def test_log_densities_sum_over_the_image_and_keep_the_leading_dimensions(case, leading):
    use, parameters, by_hand = LIKELIHOODS[case]
    head = likelihood(use, **parameters).double()
    if parameters.get("scale") == "shared":
        nn.init.constant_(head.log_scale, -1.5)
    torch.manual_seed(0)
    maps = torch.randn(*leading, *SHAPE, head.parameters_per_entry, dtype=torch.float64)
    x = torch.rand(5, *SHAPE, dtype=torch.float64)
    p = head(maps)
    assert (p.batch_shape, p.event_shape) == (leading, SHAPE)
    log_p = p.log_prob(x)
    assert log_p.shape == leading
    with torch.no_grad():
        torch.testing.assert_close(p.log_prob(x), log_p)
        torch.testing.assert_close(p.log_prob(x[:1]), p.log_prob(x[:1].expand_as(x)))
    # A fixed scale is stored as its float32 logarithm, hence the tolerance of 1e-6.
    torch.testing.assert_close(log_p, by_hand(maps, x).sum((-3, -2, -1)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("logit", [-200.0, -20.0, 20.0, 200.0])
def test_a_bernoulli_does_not_saturate(logit):
    """Trap 13: computed from probabilities, a wrong pixel would cost at most 100 nats and have no gradient."""
    head = likelihood("bernoulli")
    maps = torch.full((1, 1, 1, 1, 1), logit, requires_grad=True)
    wrong = torch.full((1, 1, 1, 1), float(logit < 0))
    log_p = head(maps).log_prob(wrong)
    with torch.no_grad():  # a separate code path
        assert head(maps).log_prob(wrong).item() == pytest.approx(-abs(logit), abs=1e-6)
    assert log_p.item() == pytest.approx(-abs(logit), abs=1e-6)
    log_p.sum().backward()
    assert maps.grad.item() == pytest.approx(-math.copysign(1, logit), abs=1e-6)
    assert head(maps).log_prob(1 - wrong).item() == pytest.approx(0, abs=1e-6)


LOGITS = [0.0, 1e-6, -1e-3, 4e-3, 0.05, -0.099, 0.101, 1.0, -5.0, 17.0, -40.0, 200.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("logit", LOGITS)
def test_the_continuous_bernoulli_integrates_to_one(logit, dtype):
    """torch's implementation does not for logits above 16 in float32: 0.40 at 40."""
    head = likelihood("continuous-bernoulli")
    x = torch.linspace(0, 1, 100_001, dtype=dtype)
    density = head(torch.full((1, 1, 1, 1, 1), logit, dtype=dtype)).log_prob(x.view(-1, 1, 1, 1)).exp()
    assert torch.trapezoid(density.double(), x.double()).item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("logit", LOGITS)
def test_mean_and_gradient_of_the_continuous_bernoulli(logit):
    """The mean and the score x - E[x] in float32 against E[x] by quadrature in float64."""
    grid = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    weight = (logit * (grid - float(logit > 0))).exp()
    mean = (torch.trapezoid(weight * grid, grid) / torch.trapezoid(weight, grid)).item()
    head = likelihood("continuous-bernoulli")
    maps = torch.full((1, 1, 1, 1, 1), logit, requires_grad=True)
    p = head(maps)
    assert p.mean.item() == pytest.approx(mean, abs=2e-6)
    p.log_prob(torch.full((1, 1, 1, 1), 0.2)).sum().backward()
    assert maps.grad.item() == pytest.approx(0.2 - mean, abs=2e-6)
    maps.grad = None
    head(maps).mean.sum().backward()
    variance = (torch.trapezoid(weight * grid**2, grid) / torch.trapezoid(weight, grid)).item() - mean**2
    assert maps.grad.item() == pytest.approx(variance, abs=5e-5)


@pytest.mark.parametrize("logit", [0.0, 0.05, 3.0, -40.0])
def test_samples_of_the_continuous_bernoulli_have_its_moments(logit):
    torch.manual_seed(0)
    p = likelihood("continuous-bernoulli")(torch.full((1, 1, 1, 1, 1), logit))
    x = p.sample((100_000,))
    assert p.support.check(x).all()
    assert x.mean().item() == pytest.approx(p.mean.item(), abs=5 * 0.29 / math.sqrt(100_000))


@pytest.mark.parametrize("scale", [0.01, 1.0, "shared", "pixelwise"])
def test_the_gaussian_likelihood_of_one_pixel_integrates_to_one(scale):
    head = likelihood("gaussian", scale=scale).double()
    x = torch.linspace(-10, 10, 200_001, dtype=torch.float64)
    maps = torch.full((1, 1, 1, 1, head.parameters_per_entry), 0.3, dtype=torch.float64)
    density = head(maps).log_prob(x.view(-1, 1, 1, 1)).exp()
    assert torch.trapezoid(density, x).item() == pytest.approx(1, abs=1e-6)


def test_which_scales_are_learned_and_saved():
    fixed, shared, pixelwise = (likelihood("gaussian", scale=scale) for scale in (0.5, "shared", "pixelwise"))
    assert list(fixed.parameters()) == []
    assert dict(shared.named_parameters()).keys() == {"log_scale"}
    assert "log_scale" in shared.state_dict()
    assert list(pixelwise.parameters()) == []
    assert (fixed.parameters_per_entry, shared.parameters_per_entry, pixelwise.parameters_per_entry) == (1, 1, 2)

    nn.init.constant_(shared.log_scale, -0.7)
    another = likelihood("gaussian", scale="shared")
    another.load_state_dict(shared.state_dict())
    assert another(torch.zeros(1, *SHAPE, 1)).stddev.unique().item() == pytest.approx(1e-3 + math.exp(-0.7))


def test_the_gradient_of_a_shared_scale():
    """d/ds sum log N(x; 0, t^2) = sum(x^2 / t^2 - 1) e^s / t with t = m + e^s, zero at the root mean square of x."""
    head = likelihood("gaussian", scale="shared").double()
    x = torch.rand(5, *SHAPE, dtype=torch.float64)
    nn.init.constant_(head.log_scale, -0.4)
    head(torch.zeros(5, *SHAPE, 1, dtype=torch.float64)).log_prob(x).sum().backward()
    scale = 1e-3 + math.exp(-0.4)
    expected = (x**2 / scale**2 - 1).sum() * math.exp(-0.4) / scale
    torch.testing.assert_close(head.log_scale.grad, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("floor", [1e-3, 0.1])
def test_only_a_learned_scale_is_bounded_below(floor):
    shared, pixelwise = (likelihood("gaussian", scale=scale, min_scale=floor) for scale in ("shared", "pixelwise"))
    nn.init.constant_(shared.log_scale, -40)
    assert shared(torch.zeros(1, *SHAPE, 1)).stddev.unique().item() == pytest.approx(floor)
    assert pixelwise(torch.full((1, *SHAPE, 2), -40.0)).stddev.unique().item() == pytest.approx(floor)
    assert pixelwise(torch.full((1, *SHAPE, 2), 0.5)).stddev.unique().item() == pytest.approx(floor + math.exp(0.5))
    below = torch.full((1, *SHAPE, 2), 0.0)
    below[..., 1] = math.log(floor) - 3
    below.requires_grad_()
    pixelwise(below).log_prob(torch.ones(SHAPE)).sum().backward()
    assert (below.grad[..., 1] > 0).all()  # an error of 1 increases the scale, even from far below the bound
    fixed = likelihood("gaussian", scale=1e-4, min_scale=floor)
    assert fixed(torch.zeros(1, *SHAPE, 1)).stddev.unique().item() == pytest.approx(1e-4)


@pytest.mark.parametrize("scale", ["-1", "0", "wide", "'0.5'", "true", "[1]", "null", ".nan", ".inf"])
def test_an_invalid_scale_is_an_error(scale):
    with pytest.raises(zoo.RecipeError) as error:
        zoo.recipe("mlp-vae", [f"decoder.likelihood={{use: gaussian, scale: {scale}}}"])
    assert error.value.problems
    assert all(problem.place.startswith("decoder.likelihood.scale") for problem in error.value.problems)


@pytest.mark.parametrize("setting", ["min_scale: 0", "min_scale: -1", "min_scale: .inf", "sale: 1"])
def test_other_parameters_of_the_gaussian_are_checked(setting):
    with pytest.raises(zoo.RecipeError, match="decoder.likelihood.(min_scale|sale)"):
        zoo.recipe("mlp-vae", [f"decoder.likelihood={{use: gaussian, {setting}}}"])


# --- the losses


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 4.0])
def test_the_elbo_by_hand(beta):
    """Two images of three pixels, decoder mean (0, 1, 0), q = N((1, -2), diag(1, 1/4)) and p(x | z) = N(x; mean, 1)."""
    vae = constant_vae(torch.tensor([[[0.0, 1.0, 0.0]]]), torch.tensor([1.0, -2.0]), torch.tensor([1.0, 0.5]))
    x = torch.tensor([[0.0, 1.0, 0.5], [1.0, 1.0, 1.0]]).view(2, 1, 1, 3)
    terms = zoo.get("loss", "elbo")(beta=beta)(vae, zoo.Batch(x))
    distortion = 3 * 0.5 * math.log(2 * math.pi) + (0.25 + 2.0) / 2 / 2
    rate = 0.5 * (1**2 + 2**2 + 0.25 - 1 - math.log(0.25))
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(
        {"loss": distortion + beta * rate, "distortion": distortion, "rate": rate}
    )


@pytest.mark.parametrize("beta", [0.0, 1.0, 4.0])
def test_the_squared_error_by_hand(beta):
    """The same model: squared errors of 1/4 and 2, summed over pixels and averaged over images."""
    vae = constant_vae(torch.tensor([[[0.0, 1.0, 0.0]]]), torch.tensor([1.0, -2.0]), torch.tensor([1.0, 0.5]))
    x = torch.tensor([[0.0, 1.0, 0.5], [1.0, 1.0, 1.0]]).view(2, 1, 1, 3)
    terms = zoo.get("loss", "mse")(beta=beta)(vae, zoo.Batch(x))
    rate = 0.5 * (1**2 + 2**2 + 0.25 - 1 - math.log(0.25))
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(
        {"loss": 1.125 + beta * rate, "distortion": 1.125, "rate": rate}
    )


@pytest.mark.parametrize("model", ["mlp-vae", "conv-vae", "mlp-vae-mse"])
@pytest.mark.parametrize("beta", [0.0, 0.3, 4.0])
def test_the_loss_is_the_distortion_plus_beta_times_the_rate(model, beta):
    changes = {"data_shape": (1, 8, 8), "latent_dim": 3, "loss": {"beta": beta}}
    torch.manual_seed(0)
    terms = zoo.create_loss(model, **changes)(zoo.create_model(model, **changes), zoo.Batch(torch.rand(5, 1, 8, 8)))
    torch.testing.assert_close(terms["loss"], terms["distortion"] + beta * terms["rate"])
    assert all(value.ndim == 0 for value in terms.values())


@pytest.mark.parametrize("use", ["elbo", "mse"])
def test_no_term_depends_on_the_size_of_the_batch(use):
    vae = constant_vae(torch.rand(2, 3, 3), torch.zeros(2), torch.full((2,), 0.7))
    x = torch.rand(4, 2, 3, 3)
    once, thrice = (zoo.get("loss", use)()(vae, zoo.Batch(batch)) for batch in (x, x.repeat(3, 1, 1, 1)))
    torch.testing.assert_close(once, thrice)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 4, 4), (3, 4, 4), (1, 8, 6)])
def test_the_squared_error_is_a_sum_over_pixels(shape):
    """Trap 9: with a mean over pixels, the effective beta would depend on the image size."""
    vae = constant_vae(torch.zeros(shape), torch.zeros(2), torch.full((2,), 0.7))
    terms = zoo.get("loss", "mse")()(vae, zoo.Batch(torch.full((5, *shape), 0.5)))
    assert terms["distortion"].item() == pytest.approx(0.25 * math.prod(shape))
    assert terms["rate"].item() == pytest.approx(2 * 0.5 * (0.49 - 1 - math.log(0.49)))


def test_the_squared_error_is_the_elbo_with_a_gaussian_of_variance_one_half():
    """-log N(x; m, 1/2) = (x - m)^2 + log(pi) / 2: equal gradients, and losses that differ by a constant."""
    changes = {"data_shape": (1, 4, 4), "latent_dim": 3, "encoder": {"hidden": [7]}}
    x = torch.rand(5, 1, 4, 4)
    gradients, losses = [], []
    for loss, scale in (("mse", 1.0), ("elbo", math.sqrt(0.5))):
        head = {"hidden": [7], "likelihood": {"use": "gaussian", "scale": scale}}
        torch.manual_seed(0)
        vae = zoo.create_model("mlp-vae", **changes, decoder=head)
        torch.manual_seed(1)
        terms = zoo.create_loss("mlp-vae", **changes, loss=loss)(vae, zoo.Batch(x))
        terms["loss"].backward()
        gradients.append({name: parameter.grad for name, parameter in vae.named_parameters()})
        losses.append(terms["loss"].item())
    torch.testing.assert_close(gradients[0], gradients[1])
    assert losses[1] - losses[0] == pytest.approx(16 * 0.5 * math.log(math.pi), abs=1e-4)


@pytest.mark.parametrize("use", ["elbo", "mse"])
def test_beta_rises_linearly_and_then_stays_constant(use):
    loss = zoo.get("loss", use)(beta=4.0, warmup_epochs=10)
    for epoch, beta in ((0.0, 0.0), (0.5, 0.2), (2.5, 1.0), (10.0, 4.0), (10.5, 4.0), (1000.0, 4.0)):
        loss.beta.schedule(round(100 * epoch), epoch)
        assert loss.beta().item() == pytest.approx(beta)


def test_the_schedule_is_a_pure_function_of_the_step():
    """So a resumed training has the same beta as an uninterrupted one."""
    straight, resumed = (zoo.get("loss", "elbo")(beta=2.0, warmup_epochs=4) for _ in range(2))
    for step in range(31):
        straight.beta.schedule(step, step / 10)
    resumed.beta.schedule(30, 3.0)
    assert straight.beta().item() == resumed.beta().item() == 1.5
    straight.beta.schedule(10, 1.0)
    assert straight.beta().item() == 0.5


def test_beta_is_state_and_what_the_loss_uses():
    """Trap 11: a counter outside state_dict is lost on resume; a Python number is a constant in a captured graph."""
    loss = zoo.get("loss", "elbo")(beta=4.0, warmup_epochs=10)
    before = loss.beta()
    loss.beta.schedule(25, 2.5)
    assert loss.beta() is before, "the buffer must be written in place"
    assert loss.state_dict()["beta.value"].item() == 1.0

    restored = zoo.get("loss", "elbo")(beta=4.0, warmup_epochs=10)
    restored.load_state_dict(loss.state_dict())
    vae = constant_vae(torch.zeros(1, 2, 2), torch.ones(2), torch.ones(2))
    terms = restored(vae, zoo.Batch(torch.zeros(3, 1, 2, 2)))
    torch.testing.assert_close(terms["loss"], terms["distortion"] + 1.0 * terms["rate"])


def test_without_a_warm_up_beta_is_constant():
    loss = zoo.get("loss", "elbo")(beta=0.5)
    loss.beta.schedule(0, 0.0)
    assert loss.beta().item() == 0.5


@pytest.mark.parametrize("setting", ["beta=-1", "beta=.nan", "warmup_epochs=-2", "warm_up=3"])
def test_parameters_of_the_loss_are_checked(setting):
    with pytest.raises(zoo.RecipeError, match=f"loss.{setting.partition('=')[0]}"):
        zoo.recipe("mlp-vae", [f"loss.{setting}"])


@pytest.mark.parametrize("head", ["bernoulli", "continuous-bernoulli", "gaussian", "shared", "pixelwise"])
def test_gradients_agree_with_finite_differences(head):
    """Every parameter of a small VAE in float64, with fixed noise: (L(p + h) - L(p - h)) / 2h."""
    block = {"use": "gaussian", "scale": head} if head in ("shared", "pixelwise") else head
    changes = {
        "data_shape": (1, 2, 2),
        "latent_dim": 2,
        "encoder": {"hidden": [3], "activation": "tanh"},
        "decoder": {"hidden": [3], "activation": "tanh", "likelihood": block},
        "loss": {"beta": 0.7},
    }
    torch.manual_seed(0)
    vae = zoo.create_model("mlp-vae", **changes).double()
    loss = zoo.create_loss("mlp-vae", **changes).double()
    batch = zoo.Batch(torch.rand(3, 1, 2, 2, dtype=torch.float64))

    def evaluate() -> Tensor:
        torch.manual_seed(1)
        return loss(vae, batch)["loss"]

    evaluate().backward()
    h = 1e-5
    for name, parameter in vae.named_parameters():
        numerical = torch.empty_like(parameter)
        with torch.no_grad():
            for value, slot in zip(parameter.view(-1), numerical.view(-1), strict=True):
                value += h
                above = evaluate()
                value -= 2 * h
                slot.copy_((above - evaluate()) / (2 * h))
                value += h
        torch.testing.assert_close(parameter.grad, numerical, rtol=1e-6, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}")


# --- the multilayer perceptrons


def widths(trunk: nn.Module) -> list[tuple[int, int]]:
    return [(layer.in_features, layer.out_features) for layer in trunk.modules() if isinstance(layer, nn.Linear)]


@pytest.mark.parametrize(
    ("hidden", "encoder", "decoder"),
    [
        ([], [], [(2, 24)]),
        ([5], [(24, 5)], [(2, 5), (5, 24)]),
        ([5, 1, 7], [(24, 5), (5, 1), (1, 7)], [(2, 5), (5, 1), (1, 7), (7, 24)]),
    ],
)
def test_hidden_layers_have_the_given_widths_in_order(hidden, encoder, decoder):
    """Trap 12: `hidden.reverse()` on the caller's list."""
    argument = list(hidden)
    changes = {"encoder": {"hidden": argument}, "decoder": {"hidden": argument}}
    vae = zoo.create_model("mlp-vae", data_shape=SHAPE, latent_dim=2, **changes)
    assert widths(vae.encoder.trunk) == encoder
    assert widths(vae.decoder.trunk) == decoder
    assert argument == hidden
    x = torch.rand(4, *SHAPE)
    assert vae.encode(x).batch_shape == (4,)
    assert vae.reconstruct(x).shape == x.shape

    direct = zoo.get("decoder", "mlp")(data_shape=SHAPE, latent_shape=(2,), hidden=argument)
    assert widths(direct.trunk) == decoder
    assert argument == hidden


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_follows_every_hidden_layer(activation):
    torch.manual_seed(0)
    block = {"hidden": [6, 5], "activation": activation}
    vae = zoo.create_model("mlp-vae", data_shape=SHAPE, latent_dim=2, encoder=block, decoder=block)
    for trunk in (vae.encoder.trunk, vae.decoder.trunk):
        assert sum(isinstance(layer, ACTIVATIONS[activation]) for layer in trunk.modules()) == 2
    zoo.create_loss("mlp-vae", data_shape=SHAPE)(vae, zoo.Batch(torch.rand(9, *SHAPE)))["loss"].backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in vae.parameters())


def test_one_layer_by_hand():
    torch.manual_seed(0)
    vae = zoo.create_model("mlp-vae", data_shape=SHAPE, latent_dim=2, encoder={"hidden": [5]}, decoder={"hidden": [5]})
    x = torch.rand(4, *SHAPE)
    first = vae.encoder.trunk[1]
    features = torch.relu(x.reshape(4, 24) @ first.weight.T + first.bias)
    head = vae.encoder.posterior.linear
    torch.testing.assert_close(vae.encode(x).mean, (features @ head.weight.T + head.bias)[:, :2])

    z = torch.randn(4, 2)
    first, last = (layer for layer in vae.decoder.trunk if isinstance(layer, nn.Linear))
    logits = torch.relu(z @ first.weight.T + first.bias) @ last.weight.T + last.bias
    torch.testing.assert_close(vae.decode(z).mean, torch.sigmoid(logits).view(4, *SHAPE))


def test_a_latent_of_several_dimensions_is_flattened():
    decoder = zoo.get("decoder", "mlp")(data_shape=SHAPE, latent_shape=(2, 3), hidden=[5])
    z = torch.randn(7, 4, 2, 3)
    assert decoder(z).batch_shape == (7, 4)
    torch.testing.assert_close(decoder(z).mean[2, 1], decoder(z[2, 1:2]).mean[0])


# --- options of published protocols


def test_softplus_and_shared_scales_and_a_clipped_log_variance():
    features = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    head = zoo.get("posterior", "gaussian")(features=2, latent_dim=3, scale="softplus").double()
    mean, raw = head.linear(features).chunk(2, -1)
    q = head(features)
    torch.testing.assert_close(q.mean, mean)
    torch.testing.assert_close(q.base_dist.scale, torch.nn.functional.softplus(raw))

    head = zoo.get("posterior", "gaussian")(features=2, latent_dim=3, scale="shared").double()
    with torch.no_grad():
        head.log_variance.copy_(torch.tensor([0.0, -1.0, 2.0]))
    q = head(features.expand(4, 2))
    torch.testing.assert_close(q.variance, torch.tensor([0.0, -1.0, 2.0]).double().exp().expand(4, 3))

    head = zoo.get("posterior", "gaussian")(features=2, latent_dim=2, clip=(-6.0, 2.0)).double()
    with torch.no_grad():
        head.linear.bias[2:] = torch.tensor([-50.0, 50.0])
    torch.testing.assert_close(head(features).variance.log(), torch.tensor([[-6.0, 2.0]], dtype=torch.float64))


def test_a_centered_decoder_starts_at_the_training_mean(tmp_path):
    """With the decoder's last layer at zero, E[x | z] is the mean of the training data, clipped to [0.001, 0.999]."""
    digits = zoo.load_dataset("digits")
    seen = {}

    class Look(zoo.Callback):
        def on_train_begin(self, trainer: zoo.Training) -> None:
            likelihood = trainer.vae.decoder.likelihood
            seen["mean"] = likelihood(torch.zeros(1, 1, 8, 8, 1)).mean[0]

    overrides = ["data=digits", "decoder.likelihood={use: bernoulli, centered: true}", "train.epochs=1"]
    run = zoo.train("mlp-vae", overrides, out=tmp_path, callbacks=[Look()])
    expected = (digits.train.x.double() / 255).mean(0).clamp(0.001, 0.999)
    torch.testing.assert_close(seen["mean"], expected.float(), rtol=1e-5, atol=1e-6)
    loaded = zoo.load(run).decoder.likelihood.center.logits
    torch.testing.assert_close(loaded, expected.logit().float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("init", "deviation"), [("xavier-uniform", (2 / 300) ** 0.5), ("kaiming-normal", 0.1)])
def test_weights_are_drawn_as_the_papers_say(init, deviation):
    """Uniform with the variance 2 / (in + out), or normal with 2 / in; biases 0."""
    torch.manual_seed(0)
    encoder = zoo.get("encoder", "mlp")(data_shape=(200,), latent_dim=5, hidden=[100], init=init)
    layer = encoder.trunk[1]
    assert layer.weight.std().item() == pytest.approx(deviation, rel=0.03)
    assert layer.bias.abs().max() == encoder.posterior.linear.bias.abs().max() == 0
    if init == "xavier-uniform":
        assert layer.weight.abs().max().item() <= (6 / 300) ** 0.5


def test_a_mean_over_observed_values_and_bytes():
    mask = torch.tensor([[True, False], [True, True]])
    split = zoo.Split(torch.tensor([[1.0, 9.0], [2.0, 4.0]]), mask=mask)
    torch.testing.assert_close(split.mean(), torch.tensor([1.5, 4.0]))
