from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, kl_divergence

import zoo
from toys import LinearGaussian, linear_gaussian_vae

M, K = 2, 3
LOSSES = ("iwae", "miwae", "ciwae", "piwae")


def loss(use: str, **parameters: object) -> zoo.Loss:
    return zoo.ComponentFactory("loss", use, **parameters)()


def small(recipe: str, **parameters: object) -> tuple[zoo.VAE, zoo.Loss, zoo.Batch]:
    """A small VAE in float64, the loss of a recipe, and five images."""
    changes = {
        "data_shape": (1, 2, 2),
        "latent_dim": 2,
        "encoder": {"hidden": [3], "activation": "tanh"},
        "decoder": {"hidden": [3], "activation": "tanh"},
        "loss": parameters,
    }
    torch.manual_seed(0)
    vae = zoo.create_model(recipe, **changes).double()
    batch = zoo.Batch(torch.rand(5, 1, 2, 2, dtype=torch.float64).round())
    return vae, zoo.create_loss(recipe, **changes).double(), batch


def seeded(function, *arguments: object):
    """Evaluate a loss with fixed noise."""
    torch.manual_seed(1)
    return function(*arguments)


# --- values


def normal(value: float, mean: float, scale: float) -> float:
    return -0.5 * ((value - mean) / scale) ** 2 - math.log(scale) - 0.5 * math.log(2 * math.pi)


def weight_by_hand(decoder: LinearGaussian, q: Normal, x: Tensor, z: Tensor) -> float:
    """w = p(x | z) p(z) / q(z | x) of one z (2,) and one image of the linear Gaussian model."""
    moments = zip(z.tolist(), q.mean.tolist(), q.stddev.tolist(), strict=True)
    log_w = sum(normal(value, 0, 1) - normal(value, mean, scale) for value, mean, scale in moments)
    image = (decoder.weight @ z).tolist()
    log_w += sum(normal(p, mean, decoder.scale) for p, mean in zip(x.flatten().tolist(), image, strict=True))
    return math.exp(log_w)


def test_the_bounds_against_explicit_loops():
    """Trap 2: M and K swapped, which M = K would hide. Here M = 2 bounds with K = 3 samples, and seven images."""
    vae = linear_gaussian_vae().double()
    batch = zoo.Batch(torch.randn(7, 1, 1, 4, dtype=torch.float64))
    z = seeded(lambda: vae.trace(batch, samples=M * K).z)
    moments = vae.encode(batch.x).base_dist
    q = [Normal(moments.mean[n], moments.stddev[n]) for n in range(7)]
    w = [[weight_by_hand(vae.decoder, q[n], batch.x[n], z[draw, n]) for draw in range(M * K)] for n in range(7)]

    def multiply(outer: int, inner: int) -> float:
        total = 0.0
        for n in range(7):
            for m in range(outer):
                inside = 0.0
                for k in range(inner):
                    inside += w[n][m * inner + k] / inner
                total += math.log(inside) / outer / 7
        return -total

    elbo, beta = multiply(M * K, 1), 0.3
    expected = {
        ("iwae", ("samples", M * K)): multiply(1, M * K),
        ("miwae", ("bounds", M), ("samples", K)): multiply(M, K),
        ("miwae", ("bounds", K), ("samples", M)): multiply(K, M),
        ("miwae", ("bounds", 1), ("samples", M * K)): multiply(1, M * K),
        ("miwae", ("bounds", M * K), ("samples", 1)): elbo,
        ("piwae", ("bounds", M), ("samples", K)): multiply(1, M * K),
        ("ciwae", ("samples", M * K), ("beta", beta)): beta * elbo + (1 - beta) * multiply(1, M * K),
        ("ciwae", ("samples", M * K), ("beta", 0)): multiply(1, M * K),
        ("ciwae", ("samples", M * K), ("beta", 1)): elbo,
    }
    assert abs(multiply(M, K) - multiply(K, M)) > 0.01, "the test would not detect a swap"
    for (use, *parameters), value in expected.items():
        actual = seeded(loss(use, **dict(parameters)), vae, batch)["loss"]
        assert actual.item() == pytest.approx(value, rel=1e-9), (use, parameters)

    objectives = {phase.name: phase.objective for phase in loss("piwae", bounds=M, samples=K).phases(vae)}
    assert seeded(objectives["inference"], vae, batch)["loss"].item() == pytest.approx(multiply(M, K), rel=1e-9)
    assert seeded(objectives["generative"], vae, batch)["loss"].item() == pytest.approx(multiply(1, M * K), rel=1e-9)


@pytest.mark.parametrize("use", LOSSES)
def test_with_one_sample_every_bound_is_the_elbo(use):
    """distortion + log q - log p at the same sample."""
    vae, objective, batch = small(use, samples=1, **({"bounds": 1} if "bounds" in vars(loss(use)) else {}))
    terms = seeded(objective, vae, batch)
    trace = seeded(vae.trace, batch, 1)
    torch.testing.assert_close(terms["loss"], (-trace.log_px + trace.log_qz - trace.log_pz).mean())
    torch.testing.assert_close(terms["distortion"], -trace.log_px.mean())
    torch.testing.assert_close(terms["rate"], kl_divergence(trace.q, trace.prior).mean())


def expected_bound(vae: zoo.VAE, x: Tensor, draws: int) -> float:
    """E[log 1/K sum_k w_k] for a one-dimensional latent, by Gauss-Hermite quadrature over all K samples."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    q = vae.encode(x).base_dist
    z = q.mean + q.stddev * torch.as_tensor(nodes, dtype=torch.float32)[:, None, None]
    log_w = vae.decode(z).log_prob(x) + vae.prior(vae.encoder).log_prob(z) - vae.encode(x).log_prob(z)
    log_w = log_w[:, 0].detach().double().numpy()
    probability = weights / weights.sum()
    grid = np.stack(np.meshgrid(*[log_w] * draws, indexing="ij"))
    joint = np.prod(np.stack(np.meshgrid(*[probability] * draws, indexing="ij")), axis=0)
    return float((joint * (np.logaddexp.reduce(grid, axis=0) - math.log(draws))).sum())


def test_the_bound_increases_with_k_from_the_elbo_to_the_log_likelihood():
    """In expectation, against quadrature for 1, 2 and 3 samples and the exact ELBO and log p(x)."""
    vae = linear_gaussian_vae(latent_dim=1, pixels=2, scale=1.5)
    vae.encoder.q = lambda x: Independent(Normal(x[..., 0, 0, :1] + 0.5, torch.full((len(x), 1), 1.1)), 1)
    x = torch.tensor([[[[0.4, -1.1]]]])
    log_p = vae.decoder.marginal().log_prob(x.flatten()).item()
    posterior = vae.decoder.posterior(x)
    true = Independent(Normal(posterior.mean, posterior.stddev), 1)
    elbo = log_p - kl_divergence(vae.encode(x), true).item()

    bounds = [expected_bound(vae, x, draws) for draws in (1, 2, 3)]
    assert bounds[0] == pytest.approx(elbo, abs=1e-4)
    assert bounds[0] + 0.02 < bounds[1]
    assert bounds[1] + 0.005 < bounds[2] < log_p

    many = zoo.Batch(x.expand(100_000, 1, 1, 2))
    torch.manual_seed(0)
    for draws, bound in enumerate(bounds, start=1):
        for use, extra in (("iwae", {}), ("miwae", {"bounds": 2})):
            actual = -loss(use, samples=draws, **extra)(vae, many)["loss"].item()
            assert actual == pytest.approx(bound, abs=0.012), (use, draws)  # five standard errors
    large_batch = zoo.Batch(x.expand(500, 1, 1, 2))
    assert -loss("iwae", samples=2000)(vae, large_batch)["loss"].item() == pytest.approx(log_p, abs=0.01)


# --- gradients


def gradient(objective, vae: zoo.VAE, batch: zoo.Batch, parameters: list[nn.Parameter]) -> list[Tensor]:
    return list(torch.autograd.grad(seeded(objective, vae, batch)["loss"], parameters))


def test_the_gradient_uses_normalised_importance_weights():
    """Trap 8: softmax of +loss instead of -loss, or weights that are not constants (arXiv 1509.00519, section 3)."""
    vae, objective, batch = small("iwae", samples=4)
    parameters = list(vae.parameters())
    actual = gradient(objective, vae, batch, parameters)
    log_w = seeded(vae.trace, batch, 4).log_weight
    share = log_w.detach().exp() / log_w.detach().exp().sum(0)
    expected = torch.autograd.grad(-(share * log_w).sum(0).mean(), parameters)
    torch.testing.assert_close(actual, list(expected))


@pytest.mark.parametrize("use", LOSSES)
def test_gradients_agree_with_finite_differences(use):
    """Every parameter of every phase, with fixed noise."""
    vae, objective, batch = small(use)
    h = 1e-5
    for phase in objective.phases(vae):
        parameters = list(phase.parameters)
        for parameter, actual in zip(parameters, gradient(phase.objective, vae, batch, parameters), strict=True):
            expected = torch.empty_like(parameter)
            with torch.no_grad():
                for value, slot in zip(parameter.view(-1), expected.view(-1), strict=True):
                    value += h
                    above = seeded(phase.objective, vae, batch)["loss"]
                    value -= 2 * h
                    slot.copy_((above - seeded(phase.objective, vae, batch)["loss"]) / (2 * h))
                    value += h
            torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-8)


class LearnedPrior(zoo.Prior):
    """N(mean, 1) with a learned mean and a fixed scale."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(2))
        self.log_scale = nn.Parameter(torch.zeros(2), requires_grad=False)

    def forward(self, encoder: zoo.Encoder, condition: Tensor | None = None) -> Distribution:
        return Independent(Normal(self.mean, self.log_scale.exp()), 1)


def test_piwae_gives_each_network_the_gradient_of_its_own_bound():
    """Traps 2 and 3: the gradient of the encoder is that of MIWAE, that of decoder and prior is that of IWAE with M K
    samples, and neither phase has a gradient in the parameters of the other.
    """
    vae, piwae, batch = small("piwae", bounds=M, samples=K)
    vae.prior = LearnedPrior().double()
    generative, inference = piwae.phases(vae)
    assert {id(p) for p in inference.parameters} == {id(p) for p in vae.encoder.parameters()}
    assert {id(p) for p in generative.parameters} == {id(p) for p in (*vae.decoder.parameters(), vae.prior.mean)}

    def accumulate(phase: zoo.Phase) -> dict[str, Tensor]:
        vae.zero_grad()
        torch.autograd.backward(seeded(phase.objective, vae, batch)["loss"], inputs=list(phase.parameters))
        return {name: p.grad.clone() for name, p in vae.named_parameters() if p.grad is not None}

    def of(objective: zoo.Loss) -> dict[str, Tensor]:
        vae.zero_grad()
        seeded(objective, vae, batch)["loss"].backward()
        return {name: p.grad.clone() for name, p in vae.named_parameters() if p.grad is not None}

    miwae, iwae = of(loss("miwae", bounds=M, samples=K)), of(loss("iwae", samples=M * K))
    encoder = {name for name in miwae if name.startswith("encoder")}
    for_encoder, for_decoder = accumulate(inference), accumulate(generative)
    assert for_encoder.keys() == encoder
    assert for_decoder.keys() == miwae.keys() - encoder
    for name in miwae:
        assert not torch.allclose(miwae[name], iwae[name]), "the test would not distinguish the two"
        if name in encoder:
            torch.testing.assert_close(for_encoder[name], miwae[name])
        else:
            torch.testing.assert_close(for_decoder[name], iwae[name])


@pytest.mark.parametrize(
    "setting", ["samples=0", "samples=2.5", "beta=1.5", "beta=-0.1", "bounds=2"], ids=lambda setting: setting
)
def test_parameters_are_checked(setting):
    with pytest.raises(zoo.RecipeError, match=f"loss.{setting.partition('=')[0]}"):
        zoo.recipe("ciwae", [f"loss.{setting}"])
