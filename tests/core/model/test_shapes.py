"""Data of any event shape, with and without missing entries."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal

import zoo

SHAPES = [(7,), (2, 30), (3, 8, 8)]


def split(n: int, shape: tuple[int, ...], seed: int = 0, missing: bool = False) -> zoo.Split:
    """Standard normal float32 data; with `missing`, a third of the entries are NaN."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, *shape, generator=generator)
    mask = torch.rand(n, *shape, generator=generator) > 1 / 3
    return zoo.Split(x.where(mask, torch.nan), mask=mask) if missing else zoo.Split(x)


def gaussian_mlp(shape: tuple[int, ...], use: str = "mlp", posterior: str = "gaussian") -> zoo.VAE:
    encoder = {"use": use, "posterior": posterior, "hidden": [8]}
    decoder = {"use": use, "likelihood": {"use": "gaussian", "scale": "pixelwise"}, "hidden": [8]}
    return zoo.create_model("mlp-vae", data_shape=shape, latent_dim=3, encoder=encoder, decoder=decoder)


def reference(p: Independent, x: Tensor) -> Tensor:
    """The log-density of each entry under torch's Normal."""
    return Normal(p.base_dist.loc, p.base_dist.scale).log_prob(x)


@pytest.mark.parametrize("posterior", ["gaussian", "full-covariance"])
@pytest.mark.parametrize("use", ["mlp", "gated"])
@pytest.mark.parametrize("shape", SHAPES)
def test_log_densities_over_any_event_shape(shape, use, posterior):
    vae = gaussian_mlp(shape, use, posterior)
    x = torch.randn(5, *shape)
    trace = vae.trace(zoo.Batch(x), samples=4)
    assert (trace.p.batch_shape, trace.p.event_shape) == ((4, 5), shape)
    torch.testing.assert_close(trace.log_px, reference(trace.p, x).flatten(2).sum(2))
    assert vae.sample(2).shape == vae.reconstruct(x[:2]).shape == (2, *shape)
    assert vae.log_likelihood(x, samples=3).shape == (5,)


@pytest.mark.parametrize("likelihood", ["bernoulli", "continuous-bernoulli", "gaussian", "log-cosh", "squared-error"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_likelihood_of_any_event_shape_factorizes_over_entries(likelihood, shape):
    """One entry at a time, with the parameters on the last axis."""
    factory = zoo.ComponentFactory("likelihood", likelihood)
    head, entry = factory(data_shape=shape), factory(data_shape=(1,))
    parameters, x = torch.randn(2, 4, *shape, 1), torch.rand(4, *shape).round()
    p = head(parameters)
    assert (p.batch_shape, p.event_shape) == ((2, 4), shape)
    expected = entry(parameters.reshape(-1, 1, 1)).log_prob(x.expand(2, 4, *shape).reshape(-1, 1))
    torch.testing.assert_close(p.log_prob(x), expected.view(2, 4, -1).sum(2))


@pytest.mark.parametrize("use", ["gaussian", "deterministic", "full-covariance", "categorical"])
def test_a_head_acts_on_the_last_axis(use):
    """Each cell of a spatial latent (h, w, latent_dim) equals the flat latent of its features."""
    if use not in zoo.list_components("posterior"):
        pytest.skip("not installed")
    head = zoo.ComponentFactory("posterior", use)(features=6, latent_dim=4).eval()
    features = torch.randn(5, 2, 3, 6)
    q, flat = head(features), head(features.flatten(0, 2))
    assert q.batch_shape == (5,)
    assert q.event_shape == (2, 3, *flat.event_shape)
    try:
        mean = flat.mean
    except NotImplementedError:
        return
    torch.testing.assert_close(q.mean, mean.view_as(q.mean))


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("use", ["mlp", "gated"])
@pytest.mark.parametrize("shape", SHAPES)
def test_training_on_any_event_shape(shape, use, missing):
    data = zoo.Dataset(split(20, shape, 0, missing), split(10, shape, 1, missing), split(6, shape, 2, missing))
    vae = gaussian_mlp(shape, use)
    before = [parameter.clone() for parameter in vae.parameters()]
    config = zoo.TrainConfig(steps=2, batch_size=10)
    history = zoo.Trainer(vae, zoo.create_loss("mlp-vae", data_shape=shape), data, config, device="cpu").fit()
    assert history is not False
    assert all(parameter.isfinite().all() for parameter in vae.parameters())
    assert any(not torch.equal(*pair) for pair in zip(before, vae.parameters(), strict=True))


@pytest.mark.parametrize("shape", [(7,), (2, 30), (2, 3, 8, 8)])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *(("encoder", "conv"), ("decoder", "conv"), ("encoder", "resnet"), ("decoder", "resnet")),
        *(("loss", "vae-gan"), ("likelihood", "ms-ssim")),
    ],
)
def test_image_components_refuse_other_shapes_by_name(kind, name, shape):
    changes = {"decoder": {"likelihood": name}} if kind == "likelihood" else {kind: name}
    with pytest.raises(zoo.ComponentError, match=f"{kind} '{name}' needs images of shape .C, H, W.; data_shape is"):
        zoo.build(zoo.recipe("mlp-vae", **changes), shape)


@pytest.mark.parametrize("samples", [None, 3])
def test_the_likelihood_of_a_masked_batch_is_that_of_the_observed_entries(samples):
    vae = gaussian_mlp((7,))
    x, mask = torch.randn(5, 7), torch.rand(5, 7) > 0.5
    mask[0] = False
    hidden = x.where(mask, torch.nan)
    torch.manual_seed(0)
    trace = vae.trace(zoo.Batch(hidden, mask=mask), samples)
    entries = reference(trace.p, x)
    expected = torch.stack([entries[..., i, mask[i]].sum(-1) for i in range(5)], dim=-1)
    torch.testing.assert_close(trace.log_px, expected)
    assert (trace.log_px[..., 0] == 0).all()
    trace.log_px.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in vae.parameters() if parameter.grad is not None)


def test_values_of_missing_entries_have_no_effect():
    vae, mask = gaussian_mlp((7,)), torch.arange(7).expand(4, 7) % 3 > 0
    x = torch.randn(4, 7)
    numbers = [
        vae.log_likelihood(x.where(mask, other), samples=20, mask=mask, seed=3) for other in (0.0, 9.0, math.nan)
    ]
    torch.testing.assert_close(numbers[0], numbers[1], rtol=0, atol=0)
    torch.testing.assert_close(numbers[0], numbers[2], rtol=0, atol=0)
    complete = torch.ones_like(mask)
    torch.testing.assert_close(
        vae.log_likelihood(x, samples=2000, mask=complete, seed=3),
        vae.log_likelihood(x, samples=2000, seed=3),
        rtol=0,
        atol=0.5,
    )


def test_the_likelihood_of_observed_bits():
    """log p of bits 1, ?, 0 with probabilities 0.8, 0.1, 0.4 is log 0.8 + log 0.6."""
    p = Independent(Bernoulli(torch.tensor([[[0.8], [0.1], [0.4]]])), 2)
    x, mask = torch.tensor([[[1.0], [0.5], [0.0]]]), torch.tensor([[[True], [False], [True]]])
    value = zoo.observed_log_prob(p, x, mask)
    assert value.item() == pytest.approx(math.log(0.8) + math.log(0.6))


def test_the_squared_error_of_observed_entries():
    vae, loss = gaussian_mlp((7,)), zoo.ComponentFactory("loss", "mse")()
    x, mask = torch.randn(5, 7), torch.rand(5, 7) > 0.5
    torch.manual_seed(0)
    distortion = loss(vae, zoo.Batch(x.where(mask, torch.nan), mask=mask))["distortion"]
    torch.manual_seed(0)
    mean = vae.trace(zoo.Batch(x, mask=mask)).p.mean
    torch.testing.assert_close(distortion, (x - mean)[mask].square().sum() / 5)


@pytest.mark.parametrize("likelihood", ["squared-error", "ms-ssim"])
def test_a_likelihood_that_does_not_factorize_refuses_a_mask(likelihood):
    vae = zoo.create_model("mlp-vae", data_shape=(1, 8, 8), decoder={"likelihood": likelihood})
    x = torch.rand(2, 1, 8, 8)
    with pytest.raises(zoo.ComponentError, match="must factorize over entries.*; a Energy does not"):
        zoo.create_loss("mlp-vae", data_shape=(1, 8, 8))(vae, zoo.Batch(x, mask=x > 0.5))


def test_a_correlated_likelihood_refuses_a_mask():
    p = MultivariateNormal(torch.zeros(2, 3), torch.eye(3))
    with pytest.raises(zoo.ComponentError, match="a MultivariateNormal does not"):
        zoo.observed_log_prob(p, torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool))


def test_a_loss_that_requires_complete_images_refuses_a_mask():
    vae, loss = (make("vae-gan", data_shape=(1, 8, 8)) for make in (zoo.create_model, zoo.create_loss))
    x = torch.rand(2, 1, 8, 8)
    with pytest.raises(zoo.ComponentError, match="loss 'vae-gan' .* complete images"):
        loss(vae, zoo.Batch(x, mask=x > 0.5))


def test_the_latent_shape_does_not_run_the_prior(monkeypatch):
    vae = zoo.create_model("vamp-vae", data_shape=(1, 8, 8), latent_dim=3)
    monkeypatch.setattr(vae.prior, "forward", None)
    assert vae.latent_shape == (3,)
    own = zoo.VAE(vae.encoder, vae.decoder, zoo.get("prior", "standard-normal")(latent_shape=(3,)))
    assert own.latent_shape == own.latent_shape == (3,)


def test_sample_draws_and_mean_returns_means():
    vae = zoo.create_model("mlp-vae", data_shape=(1, 8, 8)).eval()
    torch.manual_seed(0)
    draws = vae.sample(3)
    torch.manual_seed(0)
    means = vae.sample(3, mean=True)
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    assert ((means > 0) & (means < 1)).all()
    torch.manual_seed(0)
    torch.testing.assert_close(means, vae.decode(vae.prior(vae.encoder).sample((3,))).mean)
    energy = zoo.create_model("mlp-vae", data_shape=(1, 8, 8), decoder={"likelihood": "squared-error"})
    assert energy.sample(2, mean=True).shape == (2, 1, 8, 8)
    with pytest.raises(zoo.ComponentError, match="cannot be sampled. Use sample.n, mean=True."):
        energy.sample(2)
