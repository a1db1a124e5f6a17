"""Networks with a spatial latent, and the heads, priors and viewers on it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence

import zoo
from zoo_images.layers import SelfAttention, Upsample, extended
from zoo_images.spatial import latent_grid

SMALL = {
    "encoder": {"channels": [4, 6, 8], "blocks": 1, "groups": 2},
    "decoder": {"channels": [8, 6, 4], "blocks": 1, "groups": 2},
}
PARTS = ("encoder", "decoder")
QUANTIZERS = {
    "vector-quantized": {"dim": 3, "codebook_size": 5},
    "residual": {"use": "vector-quantized", "dim": 3, "codebook_size": 4, "quantizers": 3},
    "finite-scalar": {"levels": [4, 3]},
}


def small(model: str = "photo-vae", shape: tuple[int, ...] = (3, 8, 8), **changes: object) -> zoo.VAE:
    torch.manual_seed(0)
    return zoo.create_model(zoo.recipe(model, data="digits", **{**SMALL, **changes}), data_shape=shape)


@pytest.mark.parametrize("size", [*range(1, 18), 28, 33, 40])
def test_images_of_any_size(size):
    """The grid is the size divided by 4, rounded up; the reconstruction has the size of the image."""
    height, width = size, max(1, 41 - size)
    vae = small(shape=(2, height, width), latent_dim=3)
    x = torch.rand(2, 2, height, width)
    grid = (math.ceil(height / 4), math.ceil(width / 4))
    assert vae.latent_shape == (*grid, 3) == (*latent_grid(height, width, 3), 3)
    trace = vae.trace(zoo.Batch(x), samples=2)
    assert (trace.q.batch_shape, trace.q.event_shape) == ((2,), (*grid, 3))
    assert (trace.p.batch_shape, trace.p.event_shape) == ((2, 2), (2, height, width))
    assert vae.reconstruct(x).shape == x.shape
    assert vae.sample(3).shape == (3, 2, height, width)


def test_an_odd_image_is_the_corner_of_the_one_it_is_extended_to():
    """Encoding repeats the last row and column; decoding crops."""
    odd, even = small(shape=(3, 6, 7)).double(), small(shape=(3, 8, 8)).double()
    even.load_state_dict(odd.state_dict())
    x = torch.rand(2, 3, 6, 7).double()
    whole = torch.cat([x, x[..., -1:]], -1)
    whole = torch.cat([whole, whole[..., -1:, :], whole[..., -1:, :]], -2)
    torch.testing.assert_close(extended(x, 8, 8), whole, rtol=0, atol=0)
    torch.testing.assert_close(odd.encode(x).mean, even.encode(whole).mean)
    z = torch.randn(2, 2, 2, 16).double()
    torch.testing.assert_close(odd.decode(z).mean, even.decode(z).mean[..., :6, :7])


def test_stages_set_the_factor():
    four = {"encoder": {**SMALL["encoder"], "channels": [4] * 4}, "decoder": {**SMALL["decoder"], "channels": [4] * 4}}
    assert small(shape=(3, 20, 16), **four).latent_shape == (3, 2, 16)


def test_the_gaussian_head_acts_on_each_position():
    """The posterior at a position is the flat head at its features, and the KL is the sum over positions."""
    vae = small(latent_dim=3).double()
    head, features = vae.encoder.posterior, torch.randn(5, 2, 4, 6).double()
    spatial, flat = head(features), head(features.reshape(40, 6))
    torch.testing.assert_close(spatial.mean, flat.mean.view(5, 2, 4, 3))
    torch.testing.assert_close(spatial.stddev, flat.stddev.view(5, 2, 4, 3))
    prior = zoo.get("prior", "standard-normal")
    kl = kl_divergence(spatial, prior(latent_shape=(2, 4, 3)).double()(None))
    by_position = kl_divergence(flat, prior(latent_shape=(3,)).double()(None))
    torch.testing.assert_close(kl, by_position.view(5, 8).sum(1))


def test_the_decoder_takes_channels_last_latents():
    """(h, w, *rest) is flattened to channels; a permutation of the examples commutes with decoding."""
    vae = small("vq-vae", (3, 8, 12), encoder={**SMALL["encoder"], "posterior": QUANTIZERS["vector-quantized"]})
    assert vae.latent_shape == (2, 3, 1, 3)
    z = torch.randn(4, 2, 2, 3, 1, 3)
    seen: list[Tensor] = []
    vae.decoder.post_quant.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    p = vae.decode(z)
    assert p.batch_shape == (4, 2)
    assert torch.equal(seen[0], z.reshape(8, 2, 3, 3).permute(0, 3, 1, 2))


def test_upsampling_repeats_pixels():
    layer = Upsample(2)
    torch.nn.init.dirac_(layer.conv.weight)
    torch.nn.init.zeros_(layer.conv.bias)
    x = torch.rand(2, 2, 3, 4)
    torch.testing.assert_close(layer(x), torch.nn.functional.interpolate(x, scale_factor=2.0))


def test_attention_against_its_equation():
    layer = SelfAttention(4, groups=2).double()
    x = torch.randn(2, 4, 3, 5).double()
    flat = layer.norm(x).reshape(2, 4, 15)
    query, key, value = (
        torch.einsum("oc,ncp->nop", linear.weight, flat) + linear.bias[:, None]
        for linear in (layer.query, layer.key, layer.value)
    )
    weights = (torch.einsum("nci,ncj->nij", query, key) / math.sqrt(4)).softmax(-1)
    h = torch.einsum("nij,ncj->nci", weights, value)
    expected = x.reshape(2, 4, 15) + torch.einsum("oc,ncp->nop", layer.output.weight, h) + layer.output.bias[:, None]
    torch.testing.assert_close(layer(x), expected.view_as(x))


@pytest.mark.parametrize("model", ["photo-vae", "autoencoder-kl", "vq-vae"])
def test_a_model_of_larger_images_starts_from_one_of_smaller_images(model, tmp_path):
    """Every tensor of the networks has the same shape at every size; without learning, the result is the start."""
    if model == "vq-vae":
        pytest.importorskip("vector_quantize_pytorch")
    parts = {f"{part}.{key}": value for part in PARTS for key, value in SMALL[part].items()}
    overrides = {**parts, "train.steps": 1, "train.batch_size": 4, "train.optimizer": {"use": "SGD", "lr": 0.01}}
    options = {"out": tmp_path, "figures": False}
    first = zoo.train(model, overrides, data=torch.rand(6, 3, 8, 8), **options)
    overrides = {**overrides, "train.optimizer": {"use": "SGD", "lr": 0.0}, "train.freeze": ["encoder"]}
    second = zoo.train(model, overrides, data=torch.rand(6, 3, 20, 16), init=first, **options)
    assert second.environment["init"]["not_initialized"] == []
    assert second.load().latent_shape[:2] == (5, 4)
    expected = first.load().state_dict()
    for name, value in second.load().state_dict().items():
        if "likelihood" not in name:  # the optimal scale follows the data
            torch.testing.assert_close(value, expected[name])


# --- quantizers on a grid


def quantized(name: str, latent_dim: int = 1, prior: object = "uniform-codes") -> zoo.VAE:
    pytest.importorskip("vector_quantize_pytorch")
    posterior = {"use": name, **QUANTIZERS[name]}
    encoder = {**SMALL["encoder"], "features": 6, "posterior": posterior}
    return small("vq-vae", (3, 8, 12), latent_dim=latent_dim, encoder=encoder, prior=prior)


@pytest.mark.parametrize("latent_dim", [1, 2])
def test_every_position_becomes_its_nearest_vector(latent_dim):
    vae = quantized("vector-quantized", latent_dim).eval()
    head, features = vae.encoder.posterior, torch.randn(4, 2, 3, 6)
    q = head(features)
    points, codebook = head.linear(features).view(4, 2, 3, latent_dim, 3), head.codebooks[0]
    for index in torch.cartesian_prod(*(torch.arange(n) for n in (4, 2, 3, latent_dim))):
        n, row, column, code = index.tolist()
        distances = (codebook - points[n, row, column, code]).square().sum(-1)
        assert q.indices[n, row, column, code].tolist() == [distances.argmin()]
        torch.testing.assert_close(q.mean[n, row, column, code], codebook[distances.argmin()])
    torch.testing.assert_close(q.commitment, (points - q.mean).square().sum((1, 2, 3, 4)))


@pytest.mark.parametrize("name", QUANTIZERS)
def test_a_quantizer_on_a_grid_is_the_flat_one_at_each_position(name):
    """In training mode too: the flat head sees the same points in the same order, so its codebook moves alike."""
    for training in (False, True):
        heads = [quantized(name, 2).encoder.posterior.train(training) for _ in range(2)]
        features = torch.randn(4, 2, 3, 6)
        with zoo.seeded(0):
            spatial = heads[0](features)
        with zoo.seeded(0):
            flat = heads[1](features.reshape(24, 6))
        assert spatial.event_shape == (2, 3, *flat.event_shape)
        assert torch.equal(spatial.indices.reshape(flat.indices.shape), flat.indices)
        torch.testing.assert_close(spatial.mean.reshape(flat.mean.shape), flat.mean)
        torch.testing.assert_close(spatial.commitment, flat.commitment.view(4, 6).sum(1))
        torch.testing.assert_close(spatial.code_perplexity, flat.code_perplexity)
        assert torch.equal(heads[0].indices_of(spatial.mean), spatial.indices)
        for name_, value in heads[0].state_dict().items():
            torch.testing.assert_close(value, heads[1].state_dict()[name_])


@pytest.mark.parametrize("name", QUANTIZERS)
def test_priors_over_codes_on_a_grid(name):
    """The uniform rate is the number of indices times log K; the autoregressive prior is normalized and is fitted."""
    vae = quantized(name).eval()
    x = torch.rand(5, 3, 8, 12)
    trace = vae.trace(zoo.Batch(x))
    quantizers, size = vae.encoder.posterior.indices_shape[-1], vae.encoder.posterior.codebook_size
    torch.testing.assert_close(trace.kl, torch.full((5,), 6 * quantizers * math.log(size)))
    assert vae.sample(2).shape == (2, 3, 8, 12)
    prior = zoo.ComponentFactory("prior", "autoregressive-codes", hidden=8, steps=200, lr=0.02)(
        model_encoder=vae.encoder, latent_shape=vae.latent_shape
    )
    p = prior(vae.encoder)
    draws = p.sample((2, 3))
    assert draws.shape == (2, 3, *vae.latent_shape)
    torch.testing.assert_close(p.log_prob(draws[1]), p.log_prob(draws)[1])
    # Fitted to two sets of codes, one of them three times as frequent.
    z = p.sample((2,))
    assert not torch.equal(z[0], z[1])
    prior.fit(z[[0, 1, 0, 0] * 20], vae.encoder)
    torch.testing.assert_close(p.log_prob(z).exp(), torch.tensor([0.75, 0.25]), atol=0.1, rtol=0)


# --- priors, losses and viewers


@pytest.mark.parametrize(
    "prior",
    [
        {"use": "standard-normal"},
        {"use": "mixture", "components": 3},
        {"use": "vamp", "pseudo_inputs": 3},
        {"use": "flow", "hidden": [4]},
        {"use": "gaussian-mixture", "components": 2},
        {"use": "two-stage", "samples": 2},
    ],
    ids=lambda prior: prior["use"],
)
def test_priors_of_a_spatial_latent(prior):
    """A density of the whole latent: one number per example, finite, with samples of its shape."""
    if prior["use"] == "flow":
        pytest.importorskip("zuko")
    vae = small(shape=(1, 8, 8), latent_dim=2, prior=prior)
    x = torch.rand(4, 1, 8, 8)
    trace = vae.trace(zoo.Batch(x), samples=2)
    assert trace.log_pz.shape == (2, 4)
    assert trace.log_pz.isfinite().all()
    assert vae.prior(vae.encoder).sample((3,)).shape == (3, 2, 2, 2)
    assert vae.log_likelihood(x, samples=3).isfinite().all()


def test_a_conditional_prior_of_a_spatial_latent():
    """The density is that of the flattened latent."""
    factory = zoo.ComponentFactory("prior", "conditional-normal")
    prior, flat = factory(latent_shape=(2, 2, 3), classes=4), factory(latent_shape=(12,), classes=4)
    torch.nn.init.normal_(prior.mean)
    flat.load_state_dict({name: value.flatten(1) for name, value in prior.state_dict().items()})
    z, labels = torch.randn(5, 2, 2, 3), torch.tensor([0, 3, 2, 2, 1])
    for condition in (labels, None):
        expected = flat(None, condition).log_prob(z.flatten(1))
        torch.testing.assert_close(prior(None, condition).log_prob(z), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": "mlp"}, r"decoder 'spatial' with 3 stages needs latents of shape \(2, 2, ...\)"),
        ({"decoder": {"channels": [8, 4]}}, r"decoder 'spatial' with 2 stages needs latents of shape \(4, 4, ...\)"),
        ({"prior": "uniform-sphere"}, r"'uniform-sphere' needs a latent of shape \(d \+ 1,\); got \(2, 2, 16\)"),
        ({"prior": "uniform-categorical"}, "encoder 'spatial' and prior 'uniform-categorical' are incompatible"),
        ({"prior": "uniform-codes"}, "needs a quantiser"),
        ({"encoder": {"posterior": "iaf"}}, "The posterior 'iaf' is for flat latents"),
        ({"encoder": {"posterior": "planar"}}, "The posterior 'planar' is for flat latents"),
        (
            {"encoder": {"posterior": "von-mises-fisher"}},
            r"batch shape \(N,\), not \(N, 2, 2\): \w+ is for flat latents",
        ),
        ({"encoder": {"posterior": "joint"}}, "decoder 'spatial'"),
    ],
)
def test_what_does_not_fit_a_spatial_latent_is_refused_when_the_model_is_built(changes, message):
    with pytest.raises(zoo.ComponentError, match=message):
        small(**changes)


@pytest.mark.parametrize("loss", ["rae-gp", "hvae"])
def test_losses_that_differentiate_twice(loss):
    """Attention has a second derivative."""
    posterior = "deterministic" if loss == "rae-gp" else "gaussian"
    changes = {"loss": loss, "encoder": {**SMALL["encoder"], "posterior": posterior}, "latent_dim": 2}
    vae = small(shape=(1, 8, 8), **changes)
    objective = zoo.create_loss("photo-vae", data_shape=(1, 8, 8), **{**SMALL, **changes})
    (phase,) = objective.phases(vae)
    phase.objective(vae, zoo.Batch(torch.rand(3, 1, 8, 8)))["loss"].backward()
    assert vae.decoder.middle[1].query.weight.grad.abs().sum() > 0


def test_viewers_of_flat_latents_refuse_a_spatial_one():
    from zoo_figures.traversal import traversals

    with pytest.raises(zoo.UsageError, match=r"needs a vector as latent; this model has shape \(2, 2, 16\)"):
        traversals(small(shape=(1, 8, 8)))


@pytest.mark.parametrize("model", ["photo-vae", "vq-vae", "fsq"])
@torch.no_grad()
def test_spatial_models_are_exported_for_any_batch_size(model, tmp_path):
    from zoo_export.export import export_model

    if model != "photo-vae":
        pytest.importorskip("vector_quantize_pytorch")
    vae = small(model, (1, 6, 8)).eval()
    export_model(vae, (1, 6, 8), tmp_path / "exported", "torch")
    encoder, decoder = (torch.export.load(tmp_path / "exported" / f"{part}.pt2").module() for part in PARTS)
    for n in (1, 3):
        x = torch.rand(n, 1, 6, 8)
        mean = vae.encode(x).mean
        torch.testing.assert_close(encoder(x)[0], mean)
        torch.testing.assert_close(decoder(mean)[0], vae.decode(mean).mean)
