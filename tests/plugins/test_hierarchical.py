from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

import zoo
from toys import GivenPosterior, LinearGaussian
from zoo_hierarchical.ladder import precision_weighted
from zoo_hierarchical.levels import Levels, gaussian
from zoo_hierarchical.two_level import TwoLevelPrior

SHAPE = (1, 4, 4)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def normal(mean: Tensor, variance: Tensor) -> Distribution:
    return Independent(Normal(mean, variance.sqrt()), 1)


def model(name: str, **encoder: object) -> zoo.VAE:
    vae = zoo.create_model(name, data_shape=SHAPE, latent_dim=3, encoder=encoder)
    return vae.double()


def gaussian_of(network: torch.nn.Module, z: Tensor) -> Distribution:
    mean, log_variance = network.network(z).chunk(2, -1)
    return normal(mean, log_variance.exp())


def test_the_joint_density_level_by_level():
    """The two-level model written out: q bottom-up, p top-down, z_1 first in the event."""
    vae = model("hierarchical-vae", upper=2)
    x = torch.rand(4, *SHAPE, dtype=torch.float64)
    q, p = vae.encode(x), vae.prior(vae.encoder)
    assert (q.batch_shape, q.event_shape, p.batch_shape, p.event_shape) == ((4,), (5,), (), (5,))
    z = torch.randn(6, 4, 5, dtype=torch.float64)
    lower, upper = z[..., :3], z[..., 3:]
    of_lower, of_upper = vae.encoder.lower(x).log_prob(lower), gaussian_of(vae.encoder.upper, lower).log_prob(upper)
    torch.testing.assert_close(q.log_prob_by_level(z), torch.stack([of_lower, of_upper]))
    torch.testing.assert_close(q.log_prob(z), of_lower + of_upper)
    of_lower = gaussian_of(vae.prior.lower, upper).log_prob(lower)
    of_upper = normal(torch.zeros(2).double(), torch.ones(2).double()).log_prob(upper)
    torch.testing.assert_close(p.log_prob_by_level(z), torch.stack([of_lower, of_upper]))
    torch.testing.assert_close(p.log_prob(z), of_lower + of_upper)


@pytest.mark.parametrize("name", ["hierarchical-vae", "ladder-vae"])
@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
def test_samples_are_returned_with_their_density(name, shape):
    vae = model(name)
    q = vae.encode(torch.rand(4, *SHAPE, dtype=torch.float64))
    for distribution, batch in ((q, (4,)), (vae.prior(vae.encoder), ())):
        z, log_density = distribution.rsample_and_log_prob(torch.Size(shape))
        assert z.shape == (*shape, *batch, 23)
        torch.testing.assert_close(log_density, distribution.log_prob(z))
        torch.manual_seed(5)
        plain = distribution.rsample(torch.Size(shape))
        torch.manual_seed(5)
        torch.testing.assert_close(distribution.rsample_and_log_prob(torch.Size(shape))[0], plain)


def test_two_levels_integrate_to_one_and_samples_follow_the_density():
    """By brute force on a grid; mean and covariance of samples against those on the grid."""
    torch.manual_seed(3)
    prior = TwoLevelPrior(latent_dim=1, latent_shape=(2,), hidden=[4]).double()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.copy_(torch.randn_like(parameter))
    axis = torch.linspace(-25, 25, 1001, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    p = prior(None)
    weights = p.log_prob(grid).exp() * (axis[1] - axis[0]) ** 2
    assert weights.sum().item() == pytest.approx(1, abs=1e-3)
    z = p.sample((20_000,))
    mean = weights @ grid
    torch.testing.assert_close(z.mean(0), mean, rtol=0.05, atol=0.05)
    covariance = (grid - mean).T @ ((grid - mean) * weights.unsqueeze(-1))
    torch.testing.assert_close(z.T.cov(), covariance, rtol=0.1, atol=0.1)


def test_precisions_add_up():
    """By hand, N(1, 4) times N(6, 1) is proportional to N(5, 4/5); and the normalised product on a grid."""
    p, evidence = (
        normal(torch.tensor([1.0]).double(), torch.tensor([4.0]).double()),
        normal(torch.tensor([6.0]).double(), torch.tensor([1.0]).double()),
    )
    actual = precision_weighted(p, evidence)
    assert (actual.mean.item(), actual.variance.item()) == pytest.approx((5.0, 0.8))
    z = torch.linspace(-10, 15, 20_001, dtype=torch.float64).unsqueeze(-1)
    product = (p.log_prob(z) + evidence.log_prob(z)).exp()
    expected = product / torch.trapezoid(product, z[:, 0])
    torch.testing.assert_close(actual.log_prob(z).exp(), expected)


def test_the_ladder_shares_its_top_down_network_with_the_prior():
    """Three levels, written out."""
    vae = model("ladder-vae", upper=[2, 1], hidden=[8, 6, 5])
    encoder, x = vae.encoder, torch.rand(4, *SHAPE, dtype=torch.float64)
    z = torch.randn(4, 6, dtype=torch.float64)
    z1, z2, z3 = z.split([3, 2, 1], dim=-1)
    d1 = encoder.up[0](x.flatten(1))
    d2 = encoder.up[1](d1)
    d3 = encoder.up[2](d2)
    prior2, prior1 = gaussian_of(encoder.down[1], z3), gaussian_of(encoder.down[0], z2)
    expected = torch.stack(
        [
            precision_weighted(prior1, gaussian_of(encoder.seen[0], d1)).log_prob(z1),
            precision_weighted(prior2, gaussian_of(encoder.seen[1], d2)).log_prob(z2),
            gaussian_of(encoder.seen[2], d3).log_prob(z3),
        ]
    )
    torch.testing.assert_close(encoder(x).log_prob_by_level(z), expected)
    top = normal(torch.zeros(1).double(), torch.ones(1).double())
    expected = torch.stack([prior1.log_prob(z1), prior2.log_prob(z2), top.log_prob(z3)])
    torch.testing.assert_close(vae.prior(encoder).log_prob_by_level(z), expected)
    assert list(vae.prior.parameters()) == []


@pytest.mark.parametrize("name", ["hierarchical-vae", "ladder-vae"])
def test_the_rates_of_the_levels_add_up_and_beta_weights_their_sum(name):
    vae, loss = model(name), zoo.create_loss(name, data_shape=SHAPE).double()
    loss.beta.schedule(0, 0.5)
    assert loss.beta().item() == 0.25, "after half an epoch of two"
    batch = zoo.Batch(torch.rand(5, *SHAPE, dtype=torch.float64).round())
    torch.manual_seed(7)
    terms = loss(vae, batch)
    torch.testing.assert_close(terms["rate_1"] + terms["rate_2"], terms["rate"])
    torch.testing.assert_close(terms["loss"], terms["distortion"] + 0.25 * terms["rate"])
    torch.manual_seed(7)
    trace = vae.trace(batch)
    torch.testing.assert_close(terms["rate"], (trace.log_qz - trace.log_pz).mean())
    torch.testing.assert_close(terms["distortion"], -trace.log_px.mean())


def test_the_decoder_depends_on_the_lowest_level_only():
    vae = model("hierarchical-vae")
    z = torch.randn(4, 23, dtype=torch.float64)
    above, below = z.clone(), z.clone()
    above[:, 3:] += 1
    below[:, 2] += 1
    torch.testing.assert_close(vae.decode(above).mean, vae.decode(z).mean, rtol=0, atol=0)
    assert not torch.allclose(vae.decode(below).mean, vae.decode(z).mean)


class OfTheLowestLevel(LinearGaussian):
    def forward(self, z: Tensor, condition: Tensor | None = None) -> Distribution:
        return super().forward(z[..., :2])


def test_the_elbo_of_a_linear_hierarchy_against_its_exact_likelihood():
    """z_2 ~ N(0, 1), z_1 = A z_2 + b + noise, x = W z_1 + noise: all Gaussian. With the exact posterior the bound is
    tight for every sample; with another, the gap is its KL, and importance sampling closes it.
    """
    prior = TwoLevelPrior(latent_dim=2, latent_shape=(3,), hidden=[]).double()
    linear = prior.lower.network[0]
    with torch.no_grad():
        linear.weight[2:].zero_()  # the noise does not depend on z_2
    a, (b, log_variance) = linear.weight[:2].detach(), linear.bias.detach().chunk(2)
    decoder = OfTheLowestLevel(torch.randn(4, 2, dtype=torch.float64), 0.5).double()
    w, eye = decoder.weight.detach(), torch.eye
    covariance = a @ a.T + log_variance.exp().diag()
    x = torch.randn(3, 1, 1, 4, dtype=torch.float64)
    exact = MultivariateNormal(w @ b, w @ covariance @ w.T + 0.25 * eye(4).double()).log_prob(x.flatten(1))

    gain = covariance @ w.T @ torch.linalg.inv(w @ covariance @ w.T + 0.25 * eye(4).double())
    mean, spread = b + (x.flatten(1) - w @ b) @ gain.T, covariance - gain @ w @ covariance
    back = a.T @ torch.linalg.inv(covariance)

    def posterior(widened: float) -> zoo.Encoder:
        def q(images: Tensor) -> Distribution:
            lower = MultivariateNormal(mean[: len(images)], spread * widened)
            upper = eye(1).double() - back @ a
            return Levels(lower, [lambda z: gaussian((z - b) @ back.T, upper.sqrt()[0])], (2, 1), downward=False)

        return GivenPosterior(q)

    loss = zoo.create_loss("hierarchical-vae", data_shape=(1, 1, 4))
    for _ in range(3):
        terms = loss(zoo.VAE(posterior(1.0), decoder, prior), zoo.Batch(x))
        assert -terms["loss"].item() == pytest.approx(exact.mean().item(), abs=1e-6)
    wide = zoo.VAE(posterior(2.0), decoder, prior)
    trace = wide.trace(zoo.Batch(x), samples=20_000)
    gap = exact - trace.log_weight.mean(0)
    torch.testing.assert_close(gap, torch.full_like(gap, 1 - torch.tensor(2.0).log().item()), rtol=0.05, atol=0.02)
    closed = trace.log_weight.logsumexp(0) - torch.tensor(20_000.0).log()
    torch.testing.assert_close(closed, exact, rtol=0, atol=0.03)


def test_incompatible_parts_are_an_error():
    with pytest.raises(zoo.ComponentError, match="latent_dim = 3 dimensions"):
        zoo.create_model("mlp-vae", data_shape=SHAPE, latent_dim=3, decoder="lowest-level")
    with pytest.raises(zoo.ComponentError, match="'two-level' needs a latent with more than"):
        zoo.create_model("mlp-vae", data_shape=SHAPE, latent_dim=3, prior="two-level")
    with pytest.raises(zoo.ComponentError, match=r"got 3 level\(s\) .* and 2 width\(s\)"):
        zoo.create_model("ladder-vae", data_shape=SHAPE, encoder={"upper": [4, 2]})
    with pytest.raises(zoo.ComponentError, match="got MLPEncoder. Use encoder=ladder"):
        zoo.create_model("mlp-vae", data_shape=SHAPE, prior="ladder")
    with pytest.raises(zoo.ComponentError, match="a posterior and a prior with the same levels"):
        zoo.create_loss("ladder-vae", data_shape=SHAPE)(
            zoo.create_model("mlp-vae", data_shape=SHAPE), zoo.Batch(torch.rand(2, *SHAPE))
        )
