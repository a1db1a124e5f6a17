"""Every recipe in the modes that torch has: half and double precision, inference mode, and with no examples at all."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.distributions import MixtureSameFamily

import zoo
from zoo_conformance.candidate import candidates

SHAPE = (1, 8, 8)
CLASSES = 3
RECIPES = zoo.list_models()
HALF = {torch.bfloat16: 2**-8, torch.float16: 2**-11}
DEEP = {"autoencoder-kl", "photo-vae"}
"""Deeper networks whose mean is their output, without a sigmoid. Over 8 draws the largest difference was 4 to 8.5
roundings, with an rms of 1.3 in bfloat16 and in float16 alike, so it is rounding; a `resnet-vae` has up to 1.4.
"""


def built(recipe: str, n: int = 5) -> tuple[zoo.VAE, zoo.Loss, zoo.Batch]:
    """A small model, its loss, and binary images with labels."""
    torch.manual_seed(0)
    given = {"data_shape": SHAPE, "classes": CLASSES}
    vae, loss = zoo.create_model(recipe, **given), zoo.create_loss(recipe, **given, train_size=100)
    labels = torch.arange(n) % CLASSES if vae.classes else None
    return vae, loss, zoo.Batch(torch.rand(n, *SHAPE).round(), labels)


def answers(vae: zoo.VAE, batch: zoo.Batch) -> dict[str, torch.Tensor]:
    """What a model is asked for. A number that a model refuses by name is left out."""
    torch.manual_seed(7)
    z = vae.posterior_mean(batch.x, batch.condition)
    questions = {
        "encode": lambda: vae.encode(batch.x, batch.condition).sample(),
        "posterior mean": lambda: z,
        "decode": lambda: vae.decode(z, batch.condition).mean,
        "reconstruct": lambda: vae.reconstruct(batch.x, batch.condition),
        "sample": lambda: vae.sample(4),
        "sample of labels": lambda: vae.sample(2, batch.condition),
        "log p(x | z)": lambda: vae.decode(z, batch.condition).log_prob(batch.x),
        "log p(z)": lambda: vae.trace(batch).log_pz,
        "KL": lambda: vae.trace(batch).kl,
        "log p(x)": lambda: vae.log_likelihood(batch.x, 5, batch.condition, seed=3),
    }
    given = {}
    for name, question in questions.items():
        torch.manual_seed(7)
        try:
            given[name] = question()
        except zoo.ComponentError:
            assert name in ("KL", "log p(x)", "sample", "sample of labels")
    return given


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("recipe", RECIPES)
def test_inference_mode_gives_what_no_grad_gives(recipe, training):
    vae, loss, batch = built(recipe)
    vae.train(training), loss.train(training)
    twin, twin_loss = copy.deepcopy((vae, loss))
    torch.manual_seed(7)
    with torch.no_grad():
        expected = twin_loss(twin, batch) | answers(twin, batch)
    torch.manual_seed(7)
    with torch.inference_mode():
        inferred = loss(vae, batch.map(torch.clone)) | answers(vae, batch.map(torch.clone))
    assert inferred.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(inferred[name], value), name


@pytest.mark.parametrize("recipe", RECIPES)
def test_training_goes_on_after_a_loss_in_inference_mode(recipe):
    """It may have left tensors in buffers; none of them may be one that autograd refuses."""
    vae, loss, batch = built(recipe)
    with torch.inference_mode():
        loss(vae, batch)
    for phase in loss.phases(vae):
        torch.autograd.backward(phase.objective(vae, batch)["loss"], inputs=list(phase.parameters))


def test_a_model_made_in_inference_mode_is_one_like_any_other():
    with torch.inference_mode():
        vae, loss, batch = built("hvae")
        torch.manual_seed(7)
        inferred = loss(vae, batch)["loss"]
    torch.manual_seed(7)
    terms = loss(vae, batch.map(torch.clone))
    assert torch.equal(terms["loss"], inferred)
    terms["loss"].backward()


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("recipe", RECIPES)
def test_half_precision_changes_the_networks_and_no_density(recipe, dtype):
    """Against the same model in float32, its weights rounded in the same way, to a few roundings of the activations."""
    vae, loss, batch = built(recipe)
    half = copy.deepcopy(vae).to(dtype).eval()
    rounded = copy.deepcopy(half).float()
    assert any(parameter.dtype == dtype for parameter in half.encoder.parameters())
    assert any(parameter.dtype == dtype for parameter in half.decoder.parameters())
    with torch.no_grad():
        z = rounded.trace(batch).z
        p, expected = half.decode(z, batch.condition), rounded.decode(z, batch.condition)
        if recipe != "text-vae":  # its mean is a greedy sequence of codes, which changes at a near tie
            torch.testing.assert_close(p.mean, expected.mean, rtol=0, atol=(16 if recipe in DEEP else 8) * HALF[dtype])
        cost = expected.log_prob(batch.x)
        torch.testing.assert_close(p.log_prob(batch.x), cost, rtol=16 * HALF[dtype], atol=0)
        given = answers(half, batch)
        for name, value in given.items():
            assert value.dtype in (torch.float32, torch.float64), name
            assert torch.isfinite(value).all(), name
        # Images in half precision are the same images here: ones and zeros.
        for name, value in answers(half, batch._replace(x=batch.x.to(dtype))).items():
            assert torch.equal(value, given[name]), name
        for term, value in loss.eval()(half, batch).items():
            assert value.dtype == torch.float32, term
            assert torch.isfinite(value), term


@pytest.mark.parametrize("recipe", RECIPES)
def test_half_precision_leaves_the_prior_as_it_was(recipe):
    vae, _, batch = built(recipe)
    vae.eval()
    before = {name: value.clone() for name, value in vae.prior.state_dict().items()}
    vae.to(torch.bfloat16)
    for name, value in vae.prior.state_dict().items():
        assert value.dtype == before[name].dtype, name
        assert torch.equal(value, before[name]), name
    with torch.no_grad():
        assert vae.prior(vae.encoder, batch.condition).sample().dtype == torch.float32


@pytest.mark.parametrize("recipe", RECIPES)
def test_double_precision_agrees_with_single(recipe):
    """Images may stay in single precision."""
    vae, loss, batch = built(recipe)
    double = copy.deepcopy(vae).double().eval()
    vae.eval()
    with torch.no_grad():
        z = vae.trace(batch).z
        for model_batch in (batch, batch._replace(x=batch.x.double())):
            for name, value in answers(double, model_batch).items():
                assert value.dtype == torch.float64 or name == "log p(x)", name
                assert torch.isfinite(value).all(), name
            p = double.decode(z, batch.condition)
            expected = vae.decode(z, batch.condition)
            torch.testing.assert_close(p.mean, expected.mean.double(), rtol=1e-4, atol=1e-5)
            cost = expected.log_prob(batch.x).double()
            torch.testing.assert_close(p.log_prob(model_batch.x).double(), cost, rtol=1e-4, atol=1e-4)
            terms = loss.eval()(double, model_batch)
            assert all(torch.isfinite(value) for value in terms.values())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("recipe", RECIPES)
def test_no_examples_give_empty_tensors(recipe, training):
    vae, _, batch = built(recipe)
    vae.train(training)
    latent = vae.latent_shape
    none = batch.map(lambda values: values[:0])
    with torch.no_grad():
        mean = "sample" not in answers(vae, batch)  # an energy has none
        assert vae.encode(none.x, none.condition).sample().shape == (0, *latent)
        assert vae.encode(none.x, none.condition).rsample((3,)).shape == (3, 0, *latent)
        assert vae.encode(batch.x, batch.condition).sample((0,)).shape == (0, 5, *latent)
        assert vae.posterior_mean(none.x, none.condition).shape == (0, *latent)
        assert vae.reconstruct(none.x, none.condition).shape == (0, *SHAPE)
        assert vae.decode(torch.zeros(3, 0, *latent), none.condition).mean.shape == (3, 0, *SHAPE)
        assert vae.sample(0, mean=mean).shape == (0, *SHAPE)
        if vae.classes:
            assert vae.sample(0, batch.condition, mean=mean).shape == (0, 5, *SHAPE)
            assert vae.sample(2, none.condition, mean=mean).shape == (2, 0, *SHAPE)


@pytest.mark.parametrize("name", zoo.list_components("prior"))
def test_every_prior_can_be_sampled_not_at_all(name):
    (candidate,) = candidates(f"prior/{name}")
    vae, _ = candidate.build()
    prior = vae.prior(vae.encoder)
    for shape in ((0,), (0, 2), (2, 0)):
        draws = prior.sample(shape)
        assert draws.shape == (*shape, *prior.event_shape)
        assert draws.dtype == torch.float32
    assert vae.sample(0).shape == (0, *SHAPE)


def test_no_draws_of_a_mixture_in_the_format_of_the_others():
    class Mixture(zoo.AllowsEmptySamples, MixtureSameFamily):
        pass

    weights = torch.distributions.Categorical(logits=torch.zeros(4, 2))
    mixture = Mixture(weights, torch.distributions.Normal(torch.zeros(4, 2, dtype=torch.float64), 1.0))
    assert mixture.sample((3, 0)).shape == (3, 0, 4)
    assert mixture.sample((0,)).dtype == mixture.sample((2,)).dtype
    torch.manual_seed(0)
    draws = mixture.sample((20_000,))
    assert draws.mean().item() == pytest.approx(0, abs=4 / math.sqrt(80_000))


def test_a_module_that_keeps_float32_moves_and_doubles_as_any_other():
    class Scale(zoo.KeepsFloat32):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(0.1))
            self.inner = nn.Linear(2, 2)
            self.register_buffer("count", torch.tensor(3))

    scale = Scale()
    outer = nn.Sequential(nn.Linear(1, 1), scale)
    for cast in (outer.bfloat16, outer.half):
        cast()
        assert outer[0].weight.dtype in HALF
        assert scale.scale.dtype == scale.inner.weight.dtype == torch.float32
        assert torch.equal(scale.scale.detach(), torch.tensor(0.1)), "never rounded"
    assert outer.double()[1].inner.weight.dtype == torch.float64
    assert outer.to("meta")[1].scale.device.type == "meta"
    assert scale.count.dtype == torch.int64


@pytest.mark.filterwarnings("ignore")  # torch.compile warns of its own machinery
@pytest.mark.parametrize("recipe", ["mlp-vae", "conv-vae", "iwae", "gumbel-vae", "cvae", "factor-vae"])
def test_a_loss_compiles_as_one_graph(recipe):
    """Every phase of it, with its gradient. The values are those of the same draws, taken eagerly."""
    torch._dynamo.reset()
    vae, loss, batch = built(recipe)
    loss(vae, batch)
    for phase in loss.phases(vae):
        compiled = torch.compile(phase.objective, fullgraph=True, backend="eager")
        torch.manual_seed(7)
        expected = phase.objective(vae, batch)
        torch.manual_seed(7)
        terms = compiled(vae, batch)
        for name, value in expected.items():
            torch.testing.assert_close(terms[name], value, rtol=1e-5, atol=1e-5)
        torch.autograd.backward(terms["loss"], inputs=list(phase.parameters))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("recipe", ["hvae", "rhvae", "rae-gp"])
def test_a_loss_that_takes_gradients_compiles_around_them(recipe):
    """As `zoo train --compile` does. Compiled code cannot be differentiated twice, so that part runs eagerly."""
    torch._dynamo.reset()
    vae, loss, batch = built(recipe)
    compiled = torch.compile(loss, backend="aot_eager")
    gradients = []
    for objective in (loss, compiled):
        loss.load_state_dict(copy.deepcopy(built(recipe)[1].state_dict()))
        torch.manual_seed(7)
        vae.zero_grad()
        objective(vae, batch)["loss"].backward()
        gradients.append([parameter.grad.clone() for parameter in vae.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
