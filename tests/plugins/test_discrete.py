"""The discrete family, against brute force, enumeration and the formulas of the papers."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, OneHotCategorical, kl_divergence

import zoo
from resuming import assert_same, essence, perturb_generators, stopped
from zoo.model.context import evaluating
from zoo_discrete.categorical import OneHot, RelaxedOneHot, StraightThroughOneHot
from zoo_discrete.codes import AutoregressiveCodes, UniformCodes
from zoo_discrete.joint import Concatenated
from zoo_discrete.losses import VQ
from zoo_discrete.quantizer import Quantized
from zoo_discrete.scalar import FiniteScalar
from zoo_discrete.vector import VectorQuantized

SHAPE = (1, 4, 4)
QUANTIZERS = {
    "vq-vae-mlp": {"use": "vector-quantized", "dim": 3, "codebook_size": 5},
    "rvq-vae": {"use": "vector-quantized", "dim": 3, "codebook_size": 4, "quantizers": 3},
    "fsq-vae": {"use": "finite-scalar", "levels": [4, 3]},
}


def tiny(model: str, latent_dim: int = 2, **changes: object) -> zoo.VAE:
    """A small model of a recipe in training mode, with spread codebooks."""
    torch.manual_seed(0)
    block = {"encoder": {"hidden": [8], "posterior": QUANTIZERS[model]}} if model in QUANTIZERS else {}
    vae = zoo.create_model(model, data_shape=SHAPE, latent_dim=latent_dim, **{**block, **changes})
    for layer in getattr(getattr(vae.encoder, "posterior", None), "layers", ()):
        layer._codebook.embed.normal_()
        layer._codebook.embed_avg.copy_(layer._codebook.embed)
    return vae


# --- relaxed categorical variables


def test_relaxed_samples_are_inside_the_simplex_and_hard_ones_are_vertices():
    head = zoo.get("posterior", "gumbel-softmax")(features=4, latent_dim=3, categories=5)
    features = torch.randn(7, 4)
    soft = head(features).rsample((2,))
    assert soft.shape == (2, 7, 3, 5)
    torch.testing.assert_close(soft.sum(-1), torch.ones(2, 7, 3))
    assert ((soft > 0) & (soft < 1)).any(-1).all()
    for hard in (head.eval()(features).rsample((2,)), _hard(head)(features).rsample((2,))):
        assert set(hard.unique().tolist()) == {0.0, 1.0}
        assert (hard.sum(-1) == 1).all()


def _hard(head: nn.Module) -> nn.Module:
    head.train()
    head.hard = True
    return head


def test_hard_samples_have_the_gradient_of_relaxed_ones():
    """Straight-through (arXiv 1611.01144, section 2.2), with the same noise."""
    temperature, weights = torch.tensor(0.7), torch.randn(4)
    logits = torch.randn(6, 4, requires_grad=True)
    gradients = []
    for kind in (RelaxedOneHot, StraightThroughOneHot):
        torch.manual_seed(3)
        (gradient,) = torch.autograd.grad((kind(temperature, logits).rsample() * weights).sum(), logits)
        gradients.append(gradient)
    torch.testing.assert_close(gradients[0], gradients[1])
    assert gradients[0].abs().sum() > 0


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_the_argmax_of_a_sample_follows_the_categorical(temperature):
    """At every temperature; a chi-squared variable with 3 degrees of freedom exceeds 16.3 once in 1000."""
    torch.manual_seed(0)
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    n = 20_000
    for kind in (RelaxedOneHot, StraightThroughOneHot):
        draws = kind(torch.tensor(temperature), probabilities.log()).rsample((n,))
        counts = torch.bincount(draws.argmax(-1), minlength=4)
        chi_square = ((counts - n * probabilities) ** 2 / (n * probabilities)).sum()
        assert chi_square < 16.3, (kind, counts)


def test_the_relaxed_density_matches_the_paper_and_integrates_to_one():
    """arXiv 1611.00712, definition 1; the integral is over two categories, where the simplex is one-dimensional."""
    temperature, alpha = 0.6, torch.tensor([0.7, 2.0, 1.1], dtype=torch.float64)
    q = RelaxedOneHot(torch.tensor(temperature, dtype=torch.float64), alpha.log())
    x = q.rsample((5,))
    n = 3
    expected = math.factorial(n - 1) * temperature ** (n - 1) * (alpha * x ** (-temperature - 1)).prod(-1)
    expected = expected / ((alpha * x**-temperature).sum(-1) ** n)
    torch.testing.assert_close(q.log_prob(x).exp(), expected)

    t = torch.linspace(0, 1, 200_001, dtype=torch.float64)[1:-1]
    q = RelaxedOneHot(torch.tensor(1.3, dtype=torch.float64), alpha[:2].log())
    density = q.log_prob(torch.stack([t, 1 - t], -1)).exp()
    assert torch.trapezoid(density, t).item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("training", [True, False])
def test_the_rate_is_the_kl_of_the_categorical_variables(training):
    """By enumeration of all 3^2 outcomes of two variables, in training and in evaluation mode."""
    vae = tiny("gumbel-vae", encoder={"hidden": [8], "posterior": {"categories": 3}}).train(training)
    x = torch.rand(4, *SHAPE)
    actual = vae.trace(zoo.Batch(x)).kl
    log_q = vae.encode(x).base_dist.logits.log_softmax(-1)
    expected = torch.zeros(4)
    for i, j in itertools.product(range(3), repeat=2):
        log_joint = log_q[:, 0, i] + log_q[:, 1, j]
        expected += log_joint.exp() * (log_joint + 2 * math.log(3))
    torch.testing.assert_close(actual, expected)


def test_a_relaxed_sample_has_probability_zero_under_the_prior():
    """A density divided by a mass is no importance weight."""
    prior = zoo.get("prior", "uniform-categorical")(latent_shape=(2, 3))(None)
    corner = torch.tensor([[1.0, 0, 0], [0, 0, 1.0]])
    assert prior.log_prob(corner).item() == pytest.approx(-2 * math.log(3))
    assert prior.log_prob(0.8 * corner + 0.2 / 3).item() == -math.inf
    assert (prior.sample((9,)).sum(-1) == 1).all()
    assert kl_divergence(OneHot(torch.zeros(3)), OneHot(torch.zeros(3))).item() == 0


def test_in_evaluation_the_likelihood_is_that_of_the_discrete_model():
    """The importance-sampled estimate of log p(x) against enumeration of the nine latents."""
    vae = tiny("gumbel-vae", encoder={"hidden": [8], "posterior": {"categories": 3}}).eval()
    x = (torch.rand(3, *SHAPE) > 0.5).float()
    corners = torch.eye(3)
    z = torch.stack([torch.stack([corners[i], corners[j]]) for i, j in itertools.product(range(3), repeat=2)])
    exact = torch.stack([vae.decode(one.expand(3, 2, 3)).log_prob(x) for one in z]).logsumexp(0) - 2 * math.log(3)
    torch.manual_seed(0)
    estimated = vae.log_likelihood(x, samples=4000)
    torch.testing.assert_close(estimated, exact.double(), atol=0.02, rtol=0)


def test_the_temperature_is_a_pure_function_of_the_step():
    """arXiv 1611.01144, section 4. Trap 11: it is part of the state and written in place."""
    make = zoo.get("posterior", "gumbel-softmax")
    head = make(features=2, latent_dim=1, temperature=2.0, min_temperature=0.5, anneal=0.01)
    buffer = head.temperature
    for step in (0, 10, 100, 138, 139, 10_000, 10):
        head.schedule(step, 0.0)
        assert head.temperature is buffer
        assert buffer.item() == pytest.approx(max(0.5, 2 * math.exp(-0.01 * step)))
    assert head.state_dict()["temperature"].item() == pytest.approx(2 * math.exp(-0.1))
    low = make(features=2, latent_dim=1, temperature=0.3)
    low.schedule(5, 0.0)
    assert low.temperature.item() == pytest.approx(0.3), "it must not rise to the minimum"


# --- joint continuous and discrete latents


def joint(**changes: object) -> zoo.VAE:
    return tiny("joint-vae", encoder={"hidden": [8], "posterior": {"variables": 2, **changes}})


@pytest.mark.parametrize("training", [True, False])
def test_the_joint_rate_is_the_sum(training):
    vae = joint().train(training)
    trace = vae.trace(zoo.Batch(torch.rand(4, *SHAPE)))
    assert vae.latent_shape == (2 + 2 * 10,)
    (z, c), (pz, _) = trace.q.parts, trace.prior.parts
    uniform = OneHotCategorical(logits=torch.zeros(2, 10))
    categories = Independent(OneHotCategorical(logits=c.base_dist.logits), 1)
    expected = kl_divergence(z, pz) + kl_divergence(categories, Independent(uniform, 1))
    torch.testing.assert_close(trace.kl, expected)


def test_the_joint_density_is_the_product():
    vae = joint().eval()
    q = vae.encode(torch.rand(4, *SHAPE))
    z = q.rsample((3,))
    continuous, discrete = z[..., :2], z[..., 2:].unflatten(-1, (2, 10))
    expected = q.parts[0].log_prob(continuous) + q.parts[1].log_prob(discrete)
    torch.testing.assert_close(q.log_prob(z), expected)
    torch.testing.assert_close(q.mean[:, :2], q.parts[0].mean)
    samples = vae.prior(vae.encoder).sample((5,))
    assert (samples[:, 2:].unflatten(-1, (2, 10)).sum(-1) == 1).all()


def test_a_joint_posterior_takes_any_heads():
    """A Gaussian and a quantiser: the rates add up, with K^2 equally probable codes."""
    vae = tiny(
        "joint-vae",
        encoder={"hidden": [8], "posterior": {"variables": 2, "discrete": QUANTIZERS["vq-vae-mlp"]}},
        prior={"use": "joint", "discrete": "uniform-codes"},
    )
    trace = vae.trace(zoo.Batch(torch.rand(4, *SHAPE)))
    continuous = kl_divergence(trace.q.parts[0], trace.prior.parts[0])
    torch.testing.assert_close(trace.kl, continuous + 2 * math.log(5))


@pytest.mark.parametrize(("step", "c_z", "c_c"), [(0, 0, 0), (5, 2.0, 1.5), (10, 4.0, 2 * math.log(10))])
def test_the_capacities_of_the_joint_loss(step, c_z, c_c):
    """arXiv 1804.00104, eq. 7; the discrete capacity never exceeds log 10 for each of two variables."""
    vae = joint()
    loss = zoo.get("loss", "joint-capacity")(gamma=7.0, continuous=4.0, discrete=3.0 if step < 10 else 30.0, steps=10)
    loss.schedule(step, 0.0)
    batch = zoo.Batch(torch.rand(4, *SHAPE))
    torch.manual_seed(1)
    terms = loss(vae, batch)
    torch.manual_seed(1)
    trace = vae.trace(batch)
    (z, c), (pz, pc) = trace.q.parts, trace.prior.parts
    excess = (kl_divergence(z, pz) - c_z).abs() + (kl_divergence(c, pc) - c_c).abs()
    torch.testing.assert_close(terms["loss"], (7 * excess - trace.log_px).mean())
    torch.testing.assert_close(terms["rate"], terms["rate_continuous"] + terms["rate_discrete"])
    assert set(loss.state_dict()) == {"progress"}


def test_incompatible_parts_are_an_error():
    batch = zoo.Batch(torch.rand(2, *SHAPE))
    with pytest.raises(zoo.ComponentError, match="posterior=joint"):
        zoo.create_model("mlp-vae", data_shape=SHAPE, prior="joint")
    with pytest.raises(zoo.ComponentError, match="posterior=joint and prior=joint"):
        zoo.create_loss("joint-vae", data_shape=SHAPE)(zoo.create_model("mlp-vae", data_shape=SHAPE), batch)
    with pytest.raises(zoo.ComponentError, match="needs a quantiser"):
        VQ()(zoo.create_model("mlp-vae", data_shape=SHAPE), batch)
    for prior in ("uniform-codes", "autoregressive-codes"):
        with pytest.raises(zoo.ComponentError, match="needs a quantiser"):
            zoo.create_model("mlp-vae", data_shape=SHAPE, prior=prior).sample(1)
    with pytest.raises(zoo.RecipeError, match="encoder.posterior.levels"):
        zoo.recipe("fsq-vae", ["encoder.posterior={use: finite-scalar, levels: [2, 3]}"])


# --- vector quantisers


def points_of(vae: zoo.VAE, x: Tensor) -> Tensor:
    """The points of the encoder before quantisation."""
    head = vae.encoder.posterior
    return head.linear(vae.encoder.trunk(x)).unflatten(-1, (head.latent_dim, head.dim))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("model", ["vq-vae-mlp", "rvq-vae"])
def test_every_point_becomes_its_nearest_vector(model, training):
    """By brute force, one quantiser at a time; the codes are bit-identical to the vectors."""
    vae = tiny(model).train(training)
    x = torch.rand(6, *SHAPE)
    points = points_of(vae, x).detach()
    codebooks = [codebook.clone() for codebook in vae.encoder.posterior.codebooks]
    q = vae.encode(x)
    for n, i in itertools.product(range(6), range(2)):
        left, indices = points[n, i], []
        for codebook in codebooks:
            indices.append(min(range(len(codebook)), key=lambda k: (left - codebook[k]).square().sum().item()))
            left = left - codebook[indices[-1]]
        assert q.indices[n, i].tolist() == indices
        code = sum(codebook[k] for codebook, k in zip(codebooks, indices, strict=True))
        torch.testing.assert_close(q.mean[n, i], code, rtol=0, atol=1e-6 if len(codebooks) > 1 else 0)


@pytest.mark.parametrize("model", ["vq-vae-mlp", "rvq-vae"])
def test_the_gradient_of_a_quantiser_is_straight_through(model):
    head = tiny(model).encoder.posterior
    points = torch.randn(4, 2, 3, requires_grad=True)
    codes, _, _ = head.quantize(points)
    weights = torch.randn_like(codes)
    (gradient,) = torch.autograd.grad((codes * weights).sum(), points)
    assert torch.equal(gradient, weights)


@pytest.mark.parametrize("model", ["vq-vae-mlp", "rvq-vae"])
def test_an_empty_batch_does_not_change_a_codebook(model):
    vae = tiny(model).train()
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    q = vae.encode(torch.zeros(0, *SHAPE))
    assert q.indices.shape == (0, *vae.encoder.posterior.indices_shape)
    for name, value in vae.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_codebook_update_by_hand():
    """One step of arXiv 1711.00937, appendix A.1, from counts of 1 and sums equal to the vectors."""
    head = VectorQuantized(features=4, latent_dim=2, dim=3, codebook_size=4, decay=0.9, revive_below=0.0)
    (layer,) = head.layers
    before = layer.codebook.clone()
    points = torch.randn(20, 2, 3)
    _, indices, _ = head.quantize(points)
    for k in range(4):
        mine = points[indices[..., 0] == k]
        count = 0.9 * 1 + 0.1 * len(mine)
        total = 0.9 * before[k] + 0.1 * mine.sum(0)
        torch.testing.assert_close(layer.codebook[k], total / count, rtol=1e-3, atol=1e-4)


def test_a_dead_vector_is_moved_to_a_point_of_the_batch():
    """Vectors in use are not."""
    head = VectorQuantized(features=4, latent_dim=2, dim=3, codebook_size=4, decay=0.5, revive_below=1.0)
    (layer,) = head.layers
    with torch.no_grad():
        layer.codebook.copy_(torch.tensor([[0.0, 0, 0], [1, 1, 1], [50, 50, 50], [-70, 70, 0]]))
        layer._codebook.embed_avg.copy_(layer._codebook.embed)
    points = torch.cat([0.1 * torch.randn(8, 2, 3), 1 + 0.1 * torch.randn(8, 2, 3)])
    head.quantize(points)
    among = [(points.flatten(0, 1) == vector).all(-1).any().item() for vector in layer.codebook]
    assert among == [False, False, True, True]
    _, indices, _ = head.quantize(points)
    assert set(indices.unique().tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("model", ["vq-vae-mlp", "rvq-vae"])
def test_the_codebook_changes_once_per_training_pass_and_never_in_evaluation(model):
    """Trap 11: it is part of the state, and neither figures nor evaluation nor the preflight step change it."""
    vae, loss = tiny(model), VQ()
    batch = zoo.Batch(torch.rand(8, *SHAPE))
    calls = []
    for layer in vae.encoder.posterior.layers:
        layer._codebook.register_forward_hook(lambda module, *_: calls.append(module.training))
    before = copy.deepcopy(vae.state_dict())
    with evaluating(vae):
        for _ in range(2):
            loss(vae, batch)
            vae.sample(3), vae.reconstruct(batch.x)
    assert_same(dict(vae.state_dict()), dict(before))
    assert calls
    assert not any(calls)
    calls.clear()
    loss(vae, batch)["loss"].backward()
    assert calls == [True] * len(vae.encoder.posterior.layers)
    changed = {name for name, value in vae.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.rpartition(".")[2] for name in changed} == {"cluster_size", "embed_avg", "embed"}
    copy.deepcopy(vae.double())


@pytest.mark.parametrize("model", QUANTIZERS)
def test_mixed_precision_does_not_reach_the_codes(model):
    """The codebook and its averages are computed in float32."""
    vae = tiny(model)
    points = torch.randn(4, *vae.latent_shape)
    head = vae.encoder.posterior
    head.linear = nn.Identity()
    expected = copy.deepcopy(head)(points.flatten(1))
    with torch.autocast("cpu", torch.bfloat16):
        actual = head(points.flatten(1))
    assert torch.equal(actual.mean, expected.mean)
    assert actual.mean.dtype == torch.float32


@pytest.mark.parametrize("model", QUANTIZERS)
def test_no_term_depends_on_the_size_of_the_batch(model):
    """Trap 5: a commitment summed over the batch, a distortion averaged. In evaluation mode, with a fixed codebook."""
    vae = tiny(model).eval()
    x = torch.rand(4, *SHAPE)
    once, thrice = (VQ()(vae, zoo.Batch(batch)) for batch in (x, x.repeat(3, 1, 1, 1)))
    torch.testing.assert_close(once, thrice)
    each = [VQ()(vae, zoo.Batch(image)) for image in x.split(1)]
    for name in ("loss", "distortion", "rate", "commitment"):
        torch.testing.assert_close(once[name], torch.stack([terms[name] for terms in each]).mean())


def test_the_commitment_is_summed_over_codes_and_partial_sums():
    vae = tiny("rvq-vae").eval()
    x = torch.rand(5, *SHAPE)
    points, q = points_of(vae, x), vae.encode(x)
    partial, expected = torch.zeros_like(points), torch.zeros(5)
    for layer, index in zip(vae.encoder.posterior.layers, q.indices.unbind(-1), strict=True):
        partial = partial + layer.codebook[index]
        expected = expected + (points - partial).square().flatten(1).sum(1)
    torch.testing.assert_close(q.commitment, expected)
    terms = zoo.get("loss", "vq")(weight=0.5)(vae, zoo.Batch(x))
    torch.testing.assert_close(terms["loss"], terms["distortion"] + terms["rate"] + 0.5 * expected.mean())


@pytest.mark.parametrize(("model", "values", "indices"), [("vq-vae-mlp", 5, 2), ("rvq-vae", 4, 6), ("fsq-vae", 12, 2)])
def test_the_rate_under_a_uniform_prior_is_a_constant(model, values, indices):
    vae = tiny(model)
    rate = VQ()(vae, zoo.Batch(torch.rand(3, *SHAPE)))["rate"]
    assert rate.item() == pytest.approx(indices * math.log(values))
    assert not rate.requires_grad


def test_the_perplexity_by_hand():
    z, commitment = torch.zeros(4, 2, 1), torch.zeros(4)
    one = torch.zeros(4, 2, 1, dtype=torch.int64)
    four = torch.arange(8).view(4, 2, 1) % 4
    skewed = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1]).view(4, 2, 1)
    assert Quantized(z, one, commitment, 6).code_perplexity.item() == pytest.approx(1)
    assert Quantized(z, four, commitment, 6).code_perplexity.item() == pytest.approx(4)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert Quantized(z, skewed, commitment, 6).code_perplexity.item() == pytest.approx(math.exp(entropy))
    both = torch.cat([one, four], -1)
    assert Quantized(z, both, commitment, 6).code_perplexity.item() == pytest.approx((1 + 4) / 2)


@pytest.mark.parametrize("model", QUANTIZERS)
def test_indices_and_codes_are_inverse_to_each_other(model):
    """The indices are recovered from the codes, also where greedy quantisation of the sums fails."""
    vae = tiny(model).eval()
    head = vae.encoder.posterior
    generator = torch.Generator().manual_seed(1)
    indices = torch.randint(head.codebook_size, (50, 3, *head.indices_shape), generator=generator)
    z = head.codes_of(indices)
    assert z.shape == (50, 3, *vae.latent_shape)
    assert torch.equal(head.indices_of(z), indices)
    q = vae.encode(torch.rand(5, *SHAPE))
    torch.testing.assert_close(head.codes_of(q.indices), q.mean)


def test_a_quantised_posterior_has_no_importance_weight():
    vae = tiny("vq-vae-mlp").eval()
    with pytest.raises(zoo.ComponentError, match="distortion \\+ rate"):
        vae.log_likelihood(torch.rand(2, *SHAPE).round(), samples=2)


# --- the finite scalar quantiser


def test_the_implicit_codebook_holds_all_levels():
    """Each combination of levels occurs once, and the levels are evenly spaced."""
    head = FiniteScalar(features=4, latent_dim=2, levels=[5, 4, 3])
    assert head.codebook_size == 5 * 4 * 3
    every = head.codes_of(torch.arange(60).view(-1, 1))
    assert len({tuple(code.tolist()) for code in every}) == 60
    for dim, levels in enumerate((5, 4, 3)):
        steps = every[:, dim].unique()
        assert len(steps) == levels
        torch.testing.assert_close(steps.diff(), torch.full((levels - 1,), 1 / (levels // 2)))


def test_scalars_are_bounded_and_rounded_to_the_nearest_level():
    """arXiv 2309.15505, section 3.1, for odd levels: round(L // 2 tanh(z)), with the gradient of the tanh."""
    head = FiniteScalar(features=4, latent_dim=1, levels=[5, 3])
    points = torch.linspace(-3, 3, 40).view(20, 1, 2).requires_grad_()
    codes, indices, commitment = head.quantize(points)
    half = torch.tensor([2.0, 1.0])
    torch.testing.assert_close(codes, (points.tanh() * half * 1.001).round() / half)
    assert torch.equal(head.codes_of(indices), codes.detach())
    (gradient,) = torch.autograd.grad(codes.sum(), points)
    torch.testing.assert_close(gradient, 1.001 * (1 - points.tanh() ** 2))
    assert commitment.tolist() == [0.0] * 20


# --- the prior over the codes


def every_sequence(values: int, positions: int) -> Tensor:
    return torch.tensor(list(itertools.product(range(values), repeat=positions)))


def fitted_to(model: str, indices: Tensor, **settings: object) -> tuple[zoo.VAE, AutoregressiveCodes]:
    """A prior fitted to the codes of indices (N, latent_dim, quantizers)."""
    vae = tiny(model).eval()
    torch.manual_seed(0)
    prior = AutoregressiveCodes(
        vae.encoder, vae.latent_shape, **{"hidden": 12, "lr": 0.02, "batch_size": 64, "steps": 150, **settings}
    )
    prior.fit(vae.encoder.posterior.codes_of(indices), vae.encoder)
    return vae, prior


@pytest.mark.parametrize("model", QUANTIZERS)
def test_the_probabilities_of_all_codes_sum_to_one(model):
    """By enumeration, from codes to indices to log p."""
    vae = tiny(model, latent_dim=1 if model == "rvq-vae" else 2).eval()
    head = vae.encoder.posterior
    indices = every_sequence(head.codebook_size, math.prod(head.indices_shape)).unflatten(-1, head.indices_shape)
    with torch.no_grad():
        for prior in (UniformCodes(vae.latent_shape), AutoregressiveCodes(vae.encoder, vae.latent_shape, hidden=6)):
            log_p = prior(vae.encoder).log_prob(head.codes_of(indices))
            assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_a_fit_recovers_a_skewed_distribution_and_samples_follow_it():
    """Two codes of five values: the second equals the first or its successor. Likelihood and samples match this."""
    torch.manual_seed(0)
    first = torch.multinomial(torch.tensor([0.5, 0.2, 0.2, 0.1, 0.0]), 2000, replacement=True)
    second = first + torch.bernoulli(torch.full((2000,), 0.3)).long()
    indices = torch.stack([first, second], 1).unsqueeze(-1)
    vae, prior = fitted_to("vq-vae-mlp", indices)
    head, p = vae.encoder.posterior, prior(vae.encoder)
    z = head.codes_of(indices)
    with torch.no_grad():
        log_p = p.log_prob(z).mean().item()
        untrained = AutoregressiveCodes(vae.encoder, vae.latent_shape, hidden=12)(vae.encoder).log_prob(z).mean().item()
    counts = torch.bincount(first * 5 + second, minlength=25) / 2000
    entropy = torch.special.entr(counts).sum().item()
    assert untrained < -2.9
    assert log_p == pytest.approx(-entropy, abs=0.05)

    with torch.no_grad():
        expected = p.log_prob(head.codes_of(every_sequence(5, 2).unsqueeze(-1))).exp()
    torch.manual_seed(1)
    samples = head.indices_of(p.sample((4000,))).flatten(1)
    actual = torch.bincount(samples[:, 0] * 5 + samples[:, 1], minlength=25) / 4000
    assert (actual - expected).abs().max() < 0.03, "three standard deviations of a frequency of one half"
    assert p.sample((2, 3)).shape == (2, 3, 2, 3)


def test_sequential_samples_follow_the_joint_probabilities():
    """The recurrent state is carried across indices as in one pass, also with several quantisers."""
    vae = tiny("rvq-vae").eval()
    net = AutoregressiveCodes(vae.encoder, vae.latent_shape, hidden=6)
    nn.init.normal_(net.position)
    with torch.no_grad():
        net.linear.weight.mul_(200)  # nearly deterministic
        samples = net.draw(4)
        assert (net.logits(samples).argmax(-1) == samples).all()
        assert len(samples[0].unique()) > 1


def test_a_fit_is_determined_by_the_seed_and_does_not_change_the_encoder():
    indices = torch.randint(5, (40, 2, 1), generator=torch.Generator().manual_seed(0))
    (vae, one), (_, two) = (fitted_to("vq-vae-mlp", indices, steps=3) for _ in range(2))
    assert_same(dict(one.state_dict()), dict(two.state_dict()))
    assert_same(dict(vae.state_dict()), dict(tiny("vq-vae-mlp").eval().state_dict()))
    assert not any("codebook" in name for name in one.state_dict()), "the prior must not contain the encoder"
    with pytest.raises(zoo.UsageError, match="two draws"):
        one.fit(torch.zeros(1, 2, 3), vae.encoder)


def test_a_prior_trained_with_the_model_has_no_gradient_in_the_encoder():
    vae = tiny("vq-vae-mlp", prior={"use": "autoregressive-codes", "hidden": 6})
    VQ()(vae, zoo.Batch(torch.rand(4, *SHAPE)))["rate"].backward()
    assert all(parameter.grad is not None for parameter in vae.prior.parameters())
    assert all(parameter.grad is None for parameter in vae.encoder.parameters())


# --- trainings


@pytest.mark.parametrize("more", [["train.ema_decay=0.9"], ["train.precision=bfloat16", "train.microbatches=2"]])
def test_a_codebook_resumes_bit_identically(more, tmp_path, monkeypatch):
    """Scenarios 13 and 14: moving averages and revived vectors, with averaged weights, microbatches and clipping."""
    monkeypatch.setattr("zoo_figures.callback.DrawFigures.on_train_end", lambda *_, **__: None)
    overrides = ["data=[{use: digits}]", "train.epochs=2", "train.batch_size=256", "encoder.hidden=[16]", *more]
    run = stopped("rvq-vae", overrides, 8, tmp_path)
    perturb_generators()
    assert_same(essence(zoo.resume(run.path)), essence(zoo.train("rvq-vae", overrides, out=tmp_path)))


def test_schedules_reach_the_parts_of_a_joint_posterior():
    vae = joint()
    scheduled = [module for module in vae.modules() if isinstance(module, zoo.Scheduled)]
    assert len(scheduled) == 1
    scheduled[0].schedule(10**6, 0.0)
    assert isinstance(vae.encode(torch.rand(1, *SHAPE)), Concatenated)
    assert vae.state_dict()["encoder.posterior.heads.1.temperature"].item() == 0.5


@pytest.mark.parametrize("model", ["rvq-vae", "fsq-vae"])
def test_a_prior_fitted_to_a_run_takes_its_sizes_from_the_quantiser(model, tmp_path, monkeypatch):
    """It is rebuilt from the run folder before its state is loaded."""
    monkeypatch.setattr("zoo_figures.callback.DrawFigures.on_train_end", lambda *_, **__: None)
    overrides = ["data=[{use: digits}]", "train.epochs=1", "train.batch_size=256", "encoder.hidden=[16]"]
    run = zoo.train(model, overrides, out=tmp_path)
    fit = zoo.fit_prior(run, "autoregressive-codes", steps=2, hidden=4)
    assert math.isfinite(fit["log_likelihood"]["test"])
    vae = zoo.load(run)
    assert isinstance(vae.prior, AutoregressiveCodes)
    head = vae.encoder.posterior
    assert vae.prior.bias.shape == (math.prod(head.indices_shape), head.codebook_size)
    assert vae.sample(2).shape == (2, 1, 8, 8)
    assert isinstance(zoo.load(run, prior="original").prior, UniformCodes)


@pytest.mark.parametrize("levels", [[10**9], [2**12, 2**13], [3] * 40])
def test_too_many_codes_are_an_error(levels):
    with pytest.raises(zoo.ComponentError, match="at most 16,777,216 codes"):
        zoo.create_model("fsq-vae", data_shape=SHAPE, encoder={"posterior": {"levels": levels}})
