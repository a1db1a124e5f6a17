"""What distributions are densities of: pairs that agree are compared, and rightly; those that do not are refused."""

from __future__ import annotations

import copy
import math
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch import distributions as td

import zoo
from resuming import TINY, run_main
from toys import GivenPosterior, GivenPrior, LinearGaussian
from zoo.recipes.building import build_prior
from zoo.recipes.schema import ComponentSpec

SHAPE = (1, 4, 4)
CLASSES = 3
SAMPLES = 5000
WITHOUT_LIKELIHOOD = {
    *("ae", "rae-l2", "rae-gp", "wae-mmd", "swae", "ms-ssim-vae"),
    *("vq-vae-mlp", "rvq-vae", "fsq-vae", "vq-vae", "fsq", "vq-gan"),
}
"""No normalised p(x | z), or a posterior that is a point."""
REAL = {"standard-normal", "library", "mixture", "vamp", "flow", "gaussian-mixture", "two-stage", "conditional-normal"}
CODES = {"uniform-codes", "autoregressive-codes", "vamp"}
ACCEPTED = {
    "mlp-vae": REAL,
    "planar": REAL,
    "poincare-vae": REAL | {"wrapped-normal"},
    "hierarchical-vae": REAL | {"two-level"},
    "svae": {"uniform-sphere", "vamp"},
    "gumbel-vae": {"uniform-categorical", "vamp"},
    "joint-vae": {"joint", "vamp"},
    "vq-vae": CODES,
    "vq-vae-mlp": CODES,
    "fsq-vae": CODES,
    "ae": REAL | {"uniform-sphere", "uniform-categorical"},  # no density: such a pair is drawn from and never compared
}
"""The priors that go with the posterior of a model."""
FEW = {
    "hierarchical-vae": ["encoder.upper=2"],
    "ladder-vae": ["encoder.upper=[2]"],
    "vdvae": ["encoder.blocks=[0,0,2]"],
}
"""Few latents above the lowest level too."""
VAMP = "{use: vamp, pseudo_inputs: 20}"


def built(model: str, *overrides: str) -> zoo.VAE:
    torch.manual_seed(0)
    recipe = zoo.recipe(model, ["latent_dim=2", *FEW.get(model, ()), *overrides])
    return zoo.create_model(recipe, data_shape=SHAPE, classes=CLASSES).eval()


def stir(module: nn.Module, size: float) -> None:
    """Move the weights away from where they start."""
    for parameter in module.parameters():
        parameter.add_(size * torch.randn_like(parameter) * parameter.square().mean().sqrt())


PAIRS = [
    *((model, []) for model in zoo.list_models() if model not in WITHOUT_LIKELIHOOD),
    *((model, [f"prior={VAMP}"]) for model in ("svae", "gumbel-vae", "joint-vae")),
    *(("poincare-vae", [f"prior={prior}"]) for prior in ("standard-normal", "flow", VAMP)),
    *(("mlp-vae", [f"prior={prior}"]) for prior in ("gaussian-mixture", "{use: two-stage, samples: 2}")),
]


@pytest.mark.filterwarnings("ignore:x is outside")
@pytest.mark.parametrize(("model", "overrides"), PAIRS, ids=[" ".join([m, *o]) for m, o in PAIRS])
@torch.no_grad()
def test_the_log_likelihood_is_the_log_mean_over_prior_draws(model, overrides):
    """Where few latents stand for few pixels, p(x) is known from draws of the prior alone; the posterior is only a
    faster way to it. A rate that is off by a constant, or of another measure, is off by that here.
    """
    vae = built(model, *overrides)
    for part, size in ((vae.encoder, 0.3), (vae.decoder, 1.0), (vae.prior, 0.3)):
        stir(part, size)
    x = torch.randint(2, (3, *SHAPE)).float()
    labels = torch.arange(CLASSES) if vae.classes else None
    prior = vae.prior(vae.encoder, labels)
    z = prior.sample((SAMPLES,) if prior.batch_shape else (SAMPLES, 1))
    log_px = torch.cat([vae.decode(some, labels).log_prob(x).double() for some in z.split(1000)])
    expected = log_px.logsumexp(0) - math.log(SAMPLES)
    assert log_px.std(0).min() > 0.05, "the latents matter"
    torch.testing.assert_close(vae.log_likelihood(x, SAMPLES, labels, seed=1), expected, rtol=0, atol=0.1)


def test_models_without_a_log_likelihood_refuse_by_name():
    for model in sorted(WITHOUT_LIKELIHOOD):
        with pytest.raises(zoo.ComponentError, match="no log p|estimate log p"):
            built(model).log_likelihood(torch.zeros(1, *SHAPE), 2)


@pytest.mark.parametrize("model", ACCEPTED)
def test_only_priors_over_what_the_posterior_is_over_are_built(model):
    """Every prior of the zoo, with a posterior of each kind: in a recipe, and beside an encoder that is there."""
    encoder, recipe = built(model).encoder, zoo.recipe(model, ["latent_dim=2"])
    accepted = set()
    for prior in zoo.list_components("prior"):
        try:
            built(model, f"prior={prior}")
        except zoo.ComponentError:
            with pytest.raises(zoo.ComponentError):
                build_prior(ComponentSpec(use=prior), recipe, encoder, SHAPE, CLASSES)
        else:
            build_prior(ComponentSpec(use=prior), recipe, encoder, SHAPE, CLASSES)
            accepted.add(prior)
    assert accepted == ACCEPTED[model]


@pytest.mark.parametrize(
    ("model", "prior", "one", "other"),
    [
        ("gumbel-vae", "mixture", "probability mass on one-hot vectors", "density on the real numbers"),
        ("joint-vae", "flow", "density on the real numbers and a probability mass on", "density on the real numbers"),
        ("svae", "standard-normal", "density on UnitSphere", "density on the real numbers"),
        ("vq-vae", "mixture", "probability mass on the codes of a quantizer", "density on the real numbers"),
        ("mlp-vae", "uniform-sphere", "density on the real numbers", "density on UnitSphere"),
        ("mlp-vae", "uniform-categorical", "density on the real numbers", "probability mass on one-hot vectors"),
    ],
)
def test_the_message_names_both_measures(model, prior, one, other):
    with pytest.raises(zoo.ComponentError, match=f"and prior '{prior}' are incompatible: .* is a {one}.* is a {other}"):
        built(model, f"prior={prior}")


def test_a_prior_of_another_measure_is_not_fitted(tmp_path, capsys):
    """It gave 108 nats for images of 64 bits."""
    run = zoo.train("gumbel-vae", [*TINY, "train.epochs=1"], out=tmp_path, device="cpu")
    assert run_main("fit-prior", str(run.path), "gaussian-mixture", "components=2") == 2
    assert "probability mass on one-hot vectors" in capsys.readouterr().err
    assert not (run.path / "prior").exists()


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape)


class Unsaid(td.Distribution):
    """A distribution that says nothing about itself."""

    arg_constraints: ClassVar[dict[str, td.constraints.Constraint]] = {}


class Declared(td.Normal):
    """One that says what `support` does not."""

    base_measure = "density on UnitSphere"


@pytest.mark.parametrize(
    ("distribution", "measure"),
    [
        (td.Normal(0.0, 1.0), "density on the real numbers"),
        (td.MultivariateNormal(zeros(2), torch.eye(2)), "density on the real numbers"),
        (td.StudentT(3.0), "density on the real numbers"),
        (td.Gamma(1.0, 1.0), "density on the real numbers from 0"),
        (td.LogNormal(0.0, 1.0), "density on the real numbers from 0"),
        (td.Beta(1.0, 1.0), "density on the real numbers from 0 to 1"),
        (td.Kumaraswamy(1.0, 1.0), "density on the real numbers from 0 to 1"),
        (td.RelaxedBernoulli(torch.tensor(1.0), 0.5), "density on the real numbers from 0 to 1"),
        (td.Independent(td.Uniform(zeros(3), torch.ones(3)), 1), "density on the real numbers from 0 to 1"),
        (td.Uniform(zeros(3), torch.tensor([1.0, 2.0, 3.0])), None),  # another set for each element
        (td.Dirichlet(torch.ones(3)), "density on the simplex"),
        (td.RelaxedOneHotCategorical(torch.tensor(1.0), torch.ones(3)), "density on the simplex"),
        (td.OneHotCategorical(torch.ones(3)), "probability mass on one-hot vectors"),
        (td.Bernoulli(0.5), "probability mass on the integers from 0 to 1"),
        (td.Categorical(torch.ones(5)), "probability mass on the integers from 0 to 4"),
        (td.Poisson(1.0), "probability mass on the integers from 0"),
        (td.VonMises(0.0, 1.0), "density on angles"),
        (td.Wishart(torch.tensor(3.0), torch.eye(2)), "density on PositiveDefinite"),
        (
            td.MixtureSameFamily(td.Categorical(torch.ones(2)), td.Independent(td.Normal(zeros(2, 2), 1.0), 1)),
            "density on the real numbers",
        ),
        (
            td.TransformedDistribution(td.Normal(0.0, 1.0), td.SigmoidTransform()),
            "density on the real numbers from 0 to 1",
        ),
        (td.TransformedDistribution(td.Bernoulli(0.5), td.AffineTransform(0.0, 2.0)), None),
        (Unsaid(validate_args=False), None),
        (Declared(0.0, 1.0), "density on UnitSphere"),
        (td.Independent(Declared(zeros(2), 1.0), 1), "density on UnitSphere"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, td.Distribution) else "",
)
def test_what_a_distribution_is_a_density_of(distribution, measure):
    """Of torch's own, without a word about them in the zoo, and of those that say it themselves."""
    assert zoo.base_measure(distribution) == measure


def test_a_model_of_ones_own_is_checked_where_its_likelihood_is_asked_for():
    def vae(p: td.Distribution) -> zoo.VAE:
        q = GivenPosterior(lambda x: td.Independent(td.Normal(x.flatten(1), 1.0), 1))
        return zoo.VAE(q, LinearGaussian(torch.eye(2), 1.0), GivenPrior(p))

    x = torch.rand(2, 1, 1, 2)
    for p in (td.OneHotCategorical(torch.ones(2)), td.Dirichlet(torch.ones(2)), Declared(zeros(2), 1.0)):
        with pytest.raises(zoo.ComponentError, match="the posterior and the prior are incompatible"):
            vae(p).log_likelihood(x, 3)
    assert vae(td.Independent(td.Laplace(zeros(2), 1.0), 1)).log_likelihood(x, 3).isfinite().all()


def test_a_rate_without_a_closed_form_is_checked_too():
    """A loop of one's own never goes through a recipe; and relaxed draws have a density, the categories a mass."""
    q = GivenPosterior(lambda x: td.Independent(td.Laplace(x.flatten(1), 1.0), 1))
    vae = zoo.VAE(q, LinearGaussian(torch.eye(2), 1.0), GivenPrior(td.OneHotCategorical(torch.ones(2))))
    trace = vae(torch.rand(3, 1, 1, 2))
    for number in ("kl", "log_weight"):
        with pytest.raises(zoo.ComponentError, match="are incompatible"):
            getattr(trace, number)
    relaxed = built("gumbel-vae").train()(torch.rand(3, *SHAPE))
    assert relaxed.kl.min() >= 0, "of the categories, in closed form"
    with pytest.raises(zoo.ComponentError, match="density on the simplex, but p.z. is a probability mass on one-hot"):
        _ = relaxed.log_weight


DENSITIES = sorted(set(zoo.list_components("posterior")) - {"deterministic", "finite-scalar", "vector-quantized"})


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("size", [1.0, 4.0])
@pytest.mark.parametrize("posterior", DENSITIES)
@torch.no_grad()
def test_a_log_density_is_that_of_the_draw_that_is_used(posterior, size, training):
    """In float32, of every posterior: what comes with a draw, or is worked out for it, is what float64 says of it."""
    torch.manual_seed(0)
    head = zoo.ComponentFactory("posterior", posterior)(features=16, latent_dim=6, data_shape=SHAPE).train(training)
    features = size * torch.randn(3, 16)
    q = head(features)
    z, log_q = q.rsample_and_log_prob((200,)) if hasattr(q, "rsample_and_log_prob") else (q.rsample((200,)), None)
    exact = copy.deepcopy(head).double()(features.double()).log_prob(z.double())
    for log_density in (q.log_prob(z), log_q):
        if log_density is not None:
            torch.testing.assert_close(log_density.double(), exact, rtol=1e-5, atol=2e-2)
            assert (log_density - exact).mean().abs().item() < 1e-3


def test_relaxed_draws_have_a_density_however_sure_the_posterior_is():
    """They underflowed to 0, of which the density is not a number."""
    head = zoo.ComponentFactory("posterior", "gumbel-softmax", temperature=0.1)(features=4, latent_dim=3)
    features = (100 * torch.randn(5, 4)).requires_grad_()
    q = head(features)
    log_q = q.log_prob(q.rsample((100,)))
    (gradient,) = torch.autograd.grad(log_q.sum(), features)
    assert log_q.isfinite().all()
    assert gradient.isfinite().all()


def test_a_fitted_prior_of_the_right_measure_is_accepted_for_codes_of_every_kind():
    """Ex-post density estimation of the autoencoders whose codes have no density themselves, and of quantised ones."""
    for model, prior in (("rae-l2", "gaussian-mixture"), ("ae", "flow"), ("vq-vae", "autoregressive-codes")):
        vae = built(model)
        recipe = zoo.recipe(model, ["latent_dim=2"])
        fitted = build_prior(ComponentSpec(use=prior), recipe, vae.encoder, SHAPE, CLASSES)
        assert isinstance(fitted, zoo.ExPostPrior)
