from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

import zoo
from zoo_hierarchical.residual import Bottleneck, BottomUp

SHAPE = (1, 4, 4)


def model(data_shape: tuple[int, ...] = SHAPE, likelihood: object = "bernoulli", **encoder: object) -> zoo.VAE:
    """Perturbed, since some weights start close to zero."""
    torch.manual_seed(0)
    encoder = {"blocks": [1, 0, 2], "width": 6, "bottleneck": 4} | encoder
    recipe = zoo.recipe("vdvae", latent_dim=2, encoder=encoder, decoder={"bottleneck": 4, "likelihood": likelihood})
    vae = zoo.create_model(recipe, data_shape=data_shape)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return vae.double()


def images(n: int, data_shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.rand(n, *data_shape, dtype=torch.float64).round()


def normal(parameters: Tensor) -> Independent:
    mean, log_scale = parameters.chunk(2, 1)
    return Independent(Normal(mean, log_scale.exp()), 3)


def written_out(
    vae: zoo.VAE, x: Tensor, z: Tensor
) -> tuple[list[Independent], list[Independent], list[Tensor], Tensor]:
    """The posteriors, the priors and the latents of three blocks (two at 1x1, one at 4x4), and the last features."""
    evidence = vae.encoder.bottom_up(x)
    points = [part.unflatten(-1, (2, s, s)) for part, s in zip(z.split([2, 2, 32], -1), (1, 1, 4), strict=True)]
    h = torch.zeros(1, 6, 1, 1, dtype=torch.float64)
    posteriors, priors = [], []
    for block, point in zip(vae.encoder.top_down.blocks, points, strict=True):
        side = point.shape[-1]
        h = nn.functional.interpolate(h, size=(side, side))
        h = (h if block.bias is None else h + block.bias).expand(len(x), -1, -1, -1)
        posteriors.append(normal(block.posterior_network.network(torch.cat([h, evidence[side, side]], 1))))
        parameters = block.prior_network.network(h)
        priors.append(normal(parameters[:, :4]))
        h = h + parameters[:, 4:] + block.projection(point)
        h = h + block.residual.network(h)
    return posteriors, priors, points, h


def test_the_joint_densities_are_products_of_conditionals():
    """Written out for three blocks (arXiv 2011.10650, section 2 and figure 3); p(x | z) from the last features."""
    vae, x = model(), images(5)
    z = torch.randn(5, 36, dtype=torch.float64)
    posteriors, priors, points, h = written_out(vae, x, z)
    q, p = vae.encode(x), vae.prior(vae.encoder)
    assert (q.batch_shape, q.event_shape, p.batch_shape, p.event_shape) == ((5,), (36,), (), (36,))
    log_q = torch.stack([level.log_prob(point) for level, point in zip(posteriors, points, strict=True)])
    log_p = torch.stack([level.log_prob(point) for level, point in zip(priors, points, strict=True)])
    torch.testing.assert_close(q.log_prob_by_level(z), log_q)
    torch.testing.assert_close(p.log_prob_by_level(z), log_p)
    torch.testing.assert_close(q.log_prob(z), log_q.sum(0))
    torch.testing.assert_close(p.log_prob(z), log_p.sum(0))
    rates = [kl_divergence(a, b) for a, b in zip(posteriors, priors, strict=True)]
    torch.testing.assert_close(q.rates(z, p), torch.stack(rates))
    assert q.names == p.names == ("1x1_1", "1x1_2", "4x4_1")
    refine, convolution, _ = vae.decoder.output
    torch.testing.assert_close(vae.decode(z).base_dist.logits, convolution(h + refine.network(h)))


def test_bottom_up_features():
    """Blocks, then the average of 2x2 pixels; a window at an odd edge averages the pixels that it covers."""
    torch.manual_seed(0)
    network = BottomUp(1, 3, 2, {(3, 3): 1, (2, 2): 0, (1, 1): 2}).double()
    x = torch.rand(2, 1, 3, 3, dtype=torch.float64)
    features = network(x)
    fine = network.stages[0](network.input(x))
    torch.testing.assert_close(features[3, 3], fine)
    corner, edge = fine[..., :2, :2].mean((-1, -2)), fine[..., 2, :2].mean(-1)
    torch.testing.assert_close(features[2, 2][..., 0, 0], corner)
    torch.testing.assert_close(features[2, 2][..., 1, 0], edge)
    torch.testing.assert_close(features[2, 2][..., 1, 1], fine[..., 2, 2])
    torch.testing.assert_close(features[1, 1], network.stages[2](features[2, 2].mean((-1, -2), keepdim=True)))


@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
def test_draws_come_with_their_density_and_rates(shape):
    vae = model()
    q, p = vae.encode(images(4)), vae.prior(vae.encoder)
    for distribution, batch in ((q, (4,)), (p, ())):
        z, log_density = distribution.rsample_and_log_prob(torch.Size(shape))
        assert z.shape == (*shape, *batch, 36)
        torch.testing.assert_close(log_density, distribution.log_prob(z))
    z, _ = q.rsample_and_log_prob(torch.Size(shape))
    of_the_draw = q.rates(z, p)
    torch.testing.assert_close(of_the_draw, q.rates(z.clone(), p))
    assert of_the_draw.shape == (3, *shape, 4)


def test_rates_in_closed_form_have_the_expectation_of_log_ratios():
    vae = model()
    q, p = vae.encode(images(1)), vae.prior(vae.encoder)
    z = q.sample((20_000,))
    closed, sampled = q.rates(z, p), q.log_prob_by_level(z) - p.log_prob_by_level(z)
    error = sampled.std(1) / math.sqrt(len(z)) + closed.std(1) / math.sqrt(len(z))
    assert ((closed.mean(1) - sampled.mean(1)).abs() < 4 * error).all()
    assert (closed >= 0).all()
    assert (sampled < 0).any()


@pytest.mark.parametrize("free_nats", [0.0, 1.5])
def test_the_rates_add_up_and_free_bits_limit_them_from_below(free_nats):
    vae, batch = model(), zoo.Batch(images(6))
    loss = zoo.create_loss(zoo.recipe("vdvae", loss={"free_nats": free_nats, "beta": 0.5}), data_shape=SHAPE).double()
    torch.manual_seed(3)
    terms = loss(vae, batch)
    rates = torch.stack([terms[f"rate_{name}"] for name in ("1x1_1", "1x1_2", "4x4_1")])
    torch.testing.assert_close(terms["rate"], rates.sum())
    limited = sum(max(rate, free_nats) for rate in rates.tolist())
    assert limited > terms["rate"].item() if free_nats else limited == pytest.approx(terms["rate"].item())
    assert terms["loss"].item() == pytest.approx(terms["distortion"].item() + 0.5 * limited)
    torch.manual_seed(3)
    trace = vae.trace(batch)
    torch.testing.assert_close(terms["rate"], trace.q.rates(trace.z.clone(), trace.prior).sum(0).mean())
    torch.testing.assert_close(terms["distortion"], -trace.log_px.mean())


def test_a_level_below_its_free_bits_has_no_gradient_of_the_rate():
    vae, batch = model(), zoo.Batch(images(3))
    loss = zoo.create_loss(zoo.recipe("vdvae", loss={"free_nats": 1e6, "beta": 1.0}), data_shape=SHAPE).double()
    terms = loss(vae, batch)
    parameters = list(vae.encoder.top_down.blocks[0].prior_network.parameters())
    expected = torch.autograd.grad(terms["distortion"], parameters, retain_graph=True)
    actual = torch.autograd.grad(terms["loss"], parameters)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b)


def linear_gaussian(gain: float) -> tuple[zoo.VAE, MultivariateNormal, Tensor, Tensor]:
    """Without nonlinearities and with constant scales, every conditional is a linear Gaussian.

    Args:
        gain: factor on the weights of the conditionals of the prior.

    Returns:
        The model, p(z) in closed form (from the gradient and the Hessian of its density), and W and c of the mean of x.
    """
    shape = (1, 2, 2)
    vae = model(shape, {"use": "gaussian", "scale": 2.0}, blocks=[1, 2])
    with torch.no_grad():
        for module in vae.modules():
            if isinstance(module, Bottleneck):
                module.network = nn.Sequential(*(layer for layer in module.network if not isinstance(layer, nn.GELU)))
        for name, parameter in vae.named_parameters():
            if name.endswith("bias"):
                parameter.mul_(0.2)
        for block in vae.encoder.top_down.blocks:
            prior, posterior = block.prior_network.network[-1], block.posterior_network.network[-1]
            prior.weight.mul_(gain)
            for convolution in (prior, posterior):
                convolution.weight[2:4].zero_()  # log-scales
            posterior.bias[2:4] = 0.2  # wide enough for importance sampling
    p = vae.prior(vae.encoder)
    zero = torch.zeros(p.event_shape, dtype=torch.float64)
    precision = -torch.autograd.functional.hessian(p.log_prob, zero)
    slope = torch.autograd.functional.jacobian(p.log_prob, zero)
    closed = MultivariateNormal(torch.linalg.solve(precision, slope), precision_matrix=(precision + precision.T) / 2)
    w = torch.autograd.functional.jacobian(lambda z: vae.decode(z[None]).mean.flatten(), zero)
    return vae, closed, w, vae.decode(zero[None]).mean.flatten().detach()


def test_the_prior_of_a_linear_hierarchy_is_the_gaussian_of_its_conditionals():
    """log p(z) is that of the normalised Gaussian with its curvature, and ancestral samples have its moments."""
    vae, closed, _, _ = linear_gaussian(8)
    p = vae.prior(vae.encoder)
    z = 2 * torch.randn(50, 12, dtype=torch.float64)
    torch.testing.assert_close(p.log_prob(z), closed.log_prob(z))
    assert closed.covariance_matrix[:4, 4:].abs().max() > 0.05, "levels depend on the levels above"
    samples = p.sample((40_000,))
    error = closed.stddev / 200
    assert ((samples.mean(0) - closed.mean).abs() < 4.5 * error).all()
    covariance = closed.covariance_matrix
    spread = (covariance.diag().outer(covariance.diag()) + covariance.square()).sqrt() / 200
    assert ((samples.T.cov() - covariance).abs() < 4.5 * spread).all()


def test_bounds_and_samples_of_a_linear_hierarchy_against_its_exact_marginal():
    """ELBO <= importance-sampled estimate ~ exact log p(x) = log N(x; W m + c, W S W^T + s^2 I)."""
    vae, closed, w, c = linear_gaussian(3)
    eye = torch.eye(4, dtype=torch.float64)
    marginal = MultivariateNormal(w @ closed.mean + c, w @ closed.covariance_matrix @ w.T + 4 * eye)
    x = marginal.sample((3,)).view(3, 1, 2, 2)
    exact = marginal.log_prob(x.flatten(1))
    torch.manual_seed(1)
    trace = vae.trace(zoo.Batch(x), samples=4000)
    elbo = (trace.log_px - trace.q.rates(trace.z, trace.prior).sum(0)).mean(0)
    estimate = vae.log_likelihood(x, 4000, seed=0)
    assert (elbo < estimate).all()
    assert (estimate < exact + 0.1).all()
    torch.testing.assert_close(vae.log_likelihood(x, 100_000, seed=0), exact, rtol=0, atol=0.1)
    torch.manual_seed(2)
    with torch.no_grad():
        samples = vae.sample(40_000).flatten(1)
    assert ((samples.mean(0) - marginal.mean).abs() < 4.5 * marginal.stddev / 200).all()
    spread = marginal.variance.outer(marginal.variance).sqrt() * math.sqrt(2) / 200
    assert ((samples.T.cov() - marginal.covariance_matrix).abs() < 4.5 * spread).all()


def test_the_decoder_shares_the_network_of_the_encoder_in_every_copy():
    vae = model()
    z = torch.randn(2, 36, dtype=torch.float64)
    clone = copy.deepcopy(vae)
    names = [name for name, _ in vae.decoder.named_parameters()]
    assert all(name.startswith("output.") for name in names)
    assert list(vae.prior.parameters()) == []
    with torch.no_grad():
        for parameter in clone.encoder.top_down.parameters():
            parameter.zero_()
    assert not torch.allclose(clone.decode(z).mean, vae.decode(z).mean)
    torch.testing.assert_close(clone.decode(z).mean, clone.decode(2 * z).mean, rtol=0, atol=0)
    vae.load_state_dict(clone.state_dict())
    torch.testing.assert_close(vae.decode(z).mean, clone.decode(z).mean, rtol=0, atol=0)


def test_every_parameter_learns_and_every_level_starts_close_to_its_prior():
    torch.manual_seed(0)
    vae = zoo.create_model("vdvae", data_shape=(1, 8, 8))
    terms = zoo.create_loss("vdvae", data_shape=(1, 8, 8))(vae, zoo.Batch(torch.rand(8, 1, 8, 8).round()))
    assert list(terms)[3:] == ["rate_1x1_1", "rate_1x1_2", "rate_2x2_1", "rate_2x2_2", "rate_4x4_1"]
    assert all(0 < terms[name] < 3 for name in list(terms)[3:]), terms
    terms["loss"].backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in vae.parameters())


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
def test_the_first_update_of_the_recipe_is_not_skipped(shape):
    torch.manual_seed(0)
    vae, loss = zoo.create_model("vdvae", data_shape=shape), zoo.create_loss("vdvae", data_shape=shape)
    loss(vae, zoo.Batch((torch.rand(4, *shape) < 0.15).float()))["loss"].backward()
    norm = torch.cat([parameter.grad.flatten() for parameter in vae.parameters()]).norm()
    assert 5 * norm < zoo.recipe("vdvae").train.skip_grad_norm


def test_blocks_below_1x1_are_at_1x1():
    vae = model(blocks=[0, 1, 1, 1, 1])
    assert vae.encode(images(1)).names == ("1x1_1", "1x1_2", "1x1_3", "2x2_1")


def test_incompatible_parts_are_an_error():
    with pytest.raises(zoo.ComponentError, match="got MLPEncoder. Use encoder=very-deep or another prior"):
        zoo.create_model("mlp-vae", data_shape=SHAPE, prior="very-deep")
    with pytest.raises(zoo.ComponentError, match="got MLPEncoder. Use encoder=very-deep or another decoder"):
        zoo.create_model("mlp-vae", data_shape=SHAPE, decoder="very-deep")
    with pytest.raises(zoo.ComponentError, match=r"at least one block; got blocks=\[0, 0\]"):
        zoo.create_model("vdvae", data_shape=SHAPE, encoder={"blocks": [0, 0]})
    with pytest.raises(zoo.ComponentError, match=r"needs images of shape \(C, H, W\)"):
        zoo.create_model("vdvae", data_shape=(5,))
