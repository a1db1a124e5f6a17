from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

import zoo
from toys import GivenPosterior, LinearGaussian
from zoo.evaluation.evaluate import measure
from zoo.recipes.schema import ComponentSpec
from zoo_disentanglement import dci, mig, sap
from zoo_disentanglement.capacity import AnnealedCapacity
from zoo_disentanglement.dip import AggregateCovariance, MeanCovariance
from zoo_disentanglement.dsprites import FILE, dsprites
from zoo_disentanglement.factor import FactorLoss, permute_dims
from zoo_disentanglement.shapes import COUNTS, draw, shapes
from zoo_disentanglement.total_correlation import BetaTC, mixture_weights

ESTIMATORS = ("stratified", "weighted")


def gaussian(mean: Tensor, scale: float) -> Distribution:
    return Independent(Normal(mean, torch.full_like(mean, scale), validate_args=False), 1, validate_args=False)


def vae_of(mean=lambda x: x, scale: float = 0.5, latent_dim: int = 2, pixels: int = 2) -> zoo.VAE:
    """A VAE with q(z | x) = N(mean(x), scale^2), whose mean has parameters."""

    class Encoder(zoo.Encoder):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(latent_dim))

        def forward(self, x: Tensor, condition: Tensor | None = None) -> Distribution:
            return gaussian(mean(x.flatten(1)) + self.shift, scale)

    prior = zoo.get("prior", "standard-normal")(latent_shape=(latent_dim,))
    return zoo.VAE(Encoder(), LinearGaussian(torch.ones(pixels, latent_dim), 1.0), prior)


def batch(n: int, pixels: int = 2, seed: int = 0) -> zoo.Batch:
    return zoo.Batch(torch.randn(n, 1, 1, pixels, generator=torch.Generator().manual_seed(seed)))


# --- annealed capacity


def test_the_capacity_rises_linearly_and_is_a_function_of_the_epoch():
    """Trap 11."""
    loss = AnnealedCapacity(capacity=20.0, warmup_epochs=4.0)
    for epoch, expected in ((1.0, 5.0), (9.0, 20.0), (0.0, 0.0), (2.0, 10.0), (4.0, 20.0)):
        loss.capacity.schedule(7, epoch)
        assert loss.capacity().item() == expected
    assert loss.state_dict()["capacity.value"] == 20.0
    fixed = AnnealedCapacity(capacity=20.0, warmup_epochs=0.0)
    fixed.capacity.schedule(0, 0.0)
    assert fixed.capacity().item() == 20.0


@pytest.mark.parametrize("capacity", [0.5, 5.0])
def test_the_deviation_of_the_rate_from_the_capacity_is_penalised(capacity):
    """arXiv 1804.03599, eq. 8. KL(N(m, s^2) || N(0, 1)) = (m^2 + s^2 - 1)/2 - log s, for two latents."""
    vae = vae_of(lambda x: torch.full_like(x, 1.5))
    terms = AnnealedCapacity(gamma=10.0, capacity=capacity, warmup_epochs=0.0)(vae, batch(3))
    rate = 2 * ((1.5**2 + 0.25 - 1) / 2 - math.log(0.5))
    assert 0.5 < rate < 5.0
    assert terms["rate"].item() == pytest.approx(rate)
    assert (terms["loss"] - terms["distortion"]).item() == pytest.approx(10 * abs(rate - capacity), rel=1e-5)
    assert terms["capacity"].item() == capacity


# --- total correlation from a batch


def test_a_conditional_prior_is_an_error():
    """The KL of the aggregate over all labels to the prior of one label is no divergence; it was negative."""
    recipe = zoo.recipe("cvae", ["loss=beta-tc", "latent_dim=2"])
    vae = zoo.create_model(recipe, data_shape=(1, 4, 4), classes=2)
    loss = zoo.create_loss(recipe, data_shape=(1, 4, 4), classes=2)
    with pytest.raises(zoo.ComponentError, match="the same prior for all images"):
        loss(vae, zoo.Batch(torch.rand(3, 1, 4, 4), torch.tensor([0, 1, 1])))


def test_the_stratified_weights_lie_on_the_diagonal():
    """Trap 4, by hand: N = 10, B = 3, so M = 2; 1/N, (N - M) / (N M) and 1/M."""
    expected = torch.tensor([[0.1, 0.4, 0.5], [0.5, 0.1, 0.4], [0.4, 0.5, 0.1]])
    torch.testing.assert_close(mixture_weights("stratified", 10, 3), expected)
    torch.testing.assert_close(mixture_weights("weighted", 10, 3), torch.full((3, 3), 1 / 3))
    for size in (2, 5, 10):
        torch.testing.assert_close(mixture_weights("stratified", 10, size).sum(1), torch.ones(size))
    torch.testing.assert_close(mixture_weights("stratified", 4, 4).diagonal(), torch.full((4,), 0.25))
    torch.testing.assert_close(mixture_weights("stratified", 0, 1), torch.ones(1, 1))


def test_the_stratified_estimate_is_unbiased():
    """Averaged over all ordered batches of 3 out of 5 images, the stratified estimate is q(z); in the weighted one, the
    image itself has weight 1/3 (arXiv 1802.04942, appendix C)."""
    generator = torch.Generator().manual_seed(1)
    means, z = torch.randn(5, generator=generator), torch.randn(5, generator=generator)
    density = Normal(means, 0.7).log_prob(z.unsqueeze(1)).exp()  # of the sample of one image under each image
    exact = density.mean(1)
    actual: dict[str, list[list[Tensor]]] = {name: [[] for _ in range(5)] for name in ESTIMATORS}
    for chosen in itertools.permutations(range(5), 3):
        index = torch.tensor(chosen)
        for name in ESTIMATORS:
            estimates = (mixture_weights(name, 5, 3) * density[index][:, index]).sum(1)
            for image, estimate in zip(chosen, estimates, strict=True):
                actual[name][image].append(estimate)
    stratified = torch.stack([torch.stack(values).mean() for values in actual["stratified"]])
    torch.testing.assert_close(stratified, exact)
    weighted = torch.stack([torch.stack(values).mean() for values in actual["weighted"]])
    own = density.diagonal()
    torch.testing.assert_close(weighted, own / 3 + (density.sum(1) - own) / 4 * 2 / 3)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_parts_of_the_rate_agree_with_those_of_a_gaussian(estimator):
    """x ~ N(0, S) and q(z | x) = N(x, s^2), so q(z) = N(0, S + s^2) and all parts are known. If the batch is the whole
    data set, both estimates are exact."""
    covariance, n, s = torch.tensor([[1.0, 0.8], [0.8, 1.0]]), 1500, 0.5
    torch.manual_seed(0)
    x = MultivariateNormal(torch.zeros(2), covariance).sample((n,)).view(n, 1, 1, 2)
    with torch.no_grad():
        terms = BetaTC(n, estimator=estimator)(vae_of(scale=s), zoo.Batch(x))
    aggregate = MultivariateNormal(torch.zeros(2), covariance + s**2 * torch.eye(2))
    entropy, conditional = aggregate.entropy(), 2 * Normal(0.0, s).entropy()
    product = 2 * Normal(0.0, math.sqrt(1 + s**2)).entropy()
    dimension_kl = 2 * (s**2 / 2 - math.log(math.sqrt(1 + s**2)))
    assert terms["mutual_information"].item() == pytest.approx((entropy - conditional).item(), abs=0.06)
    assert terms["total_correlation"].item() == pytest.approx((product - entropy).item(), abs=0.04)
    assert terms["dimension_kl"].item() == pytest.approx(dimension_kl, abs=0.08)
    assert (product - entropy).item() == pytest.approx(0.2637, abs=1e-3), "far from 0"


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("size", [1, 2, 7])
def test_the_parts_add_up_to_the_rate_and_each_has_its_weight(estimator, size):
    vae, loss = vae_of(), BetaTC(50, alpha=2.0, beta=3.0, gamma=5.0, estimator=estimator)
    torch.manual_seed(2)
    terms = loss(vae, batch(size))
    torch.manual_seed(2)
    trace = vae.trace(batch(size))
    torch.testing.assert_close(terms["rate"], (trace.log_qz - trace.log_pz).mean())
    torch.testing.assert_close(terms["distortion"], -trace.log_px.mean())
    weighted = 2 * terms["mutual_information"] + 3 * terms["total_correlation"] + 5 * terms["dimension_kl"]
    torch.testing.assert_close(terms["loss"], terms["distortion"] + weighted)
    torch.manual_seed(2)
    bound = BetaTC(50, beta=1.0, estimator=estimator)(vae, batch(size))
    torch.testing.assert_close(bound["loss"], trace.log_weight.mean().neg())


def test_a_batch_larger_than_the_training_set_is_the_whole():
    """A test batch can be; (N - M) / (N M) would then be negative."""
    terms = BetaTC(3, estimator="stratified")(vae_of(), batch(8))
    assert all(torch.isfinite(value) for value in terms.values())


def test_dependent_dimensions_are_an_error():
    def q(x: Tensor) -> Distribution:
        return MultivariateNormal(x.flatten(1), torch.eye(2))

    vae = zoo.VAE(GivenPosterior(q), vae_of().decoder, vae_of().prior)
    with pytest.raises(zoo.ComponentError, match="independent dimensions; those of MultivariateNormal are not"):
        BetaTC(10)(vae, batch(4))


def test_train_size_is_injected(tmp_path, monkeypatch):
    def fail_with_size(vae, loss, *_, **__):
        raise zoo.UsageError(f"{loss.train_size} images")

    monkeypatch.setattr("zoo.session.Trainer", fail_with_size)
    with pytest.raises(zoo.UsageError, match="^1438 images"):
        zoo.train("beta-tc-vae", ["data=[{use: digits}]"], out=tmp_path)
    assert zoo.create_loss("beta-tc-vae", data_shape=(1, 4, 4), train_size=17).train_size == 17
    assert zoo.create_loss("beta-tc-vae", data_shape=(1, 4, 4)).train_size == 0
    with pytest.raises(zoo.RecipeError, match=r"loss.train_size.*set by the zoo"):
        zoo.recipe("beta-tc-vae", ["loss.train_size=5"])


# --- FactorVAE


def constant_ratio(loss: FactorLoss, value: float) -> FactorLoss:
    *_, last, _ = loss.discriminator
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, value)
    return loss


def test_dimensions_are_permuted_independently():
    """Each column keeps its values, all permutations are equally likely, and those of two columns are independent."""
    torch.manual_seed(0)
    z = torch.tensor([[0.0, 10.0], [1.0, 11.0], [2.0, 12.0]])
    counts: dict[tuple[float, ...], int] = {}
    draws = 3600
    for _ in range(draws):
        shuffled = permute_dims(z)
        key = (*shuffled[:, 0].tolist(), *shuffled[:, 1].tolist())
        assert sorted(key[:3]) == [0, 1, 2]
        assert sorted(key[3:]) == [10, 11, 12]
        counts[key] = counts.get(key, 0) + 1
    assert len(counts) == 36
    assert all(abs(count - 100) < 50 for count in counts.values()), "five standard deviations"
    assert permute_dims(torch.zeros(4, 2, 3)).shape == (4, 2, 3)


def test_the_two_objectives_of_factor_vae_by_hand():
    loss = constant_ratio(FactorLoss((2,), gamma=7.0, hidden=(4,)), 0.3)
    terms = loss(vae_of(), batch(6))
    assert terms["total_correlation"].item() == pytest.approx(0.3)
    torch.testing.assert_close(terms["loss"], terms["distortion"] + terms["rate"] + 7 * terms["total_correlation"])
    sigmoid = 1 / (1 + math.exp(-0.3))
    actual = loss.discriminator_loss(vae_of(), batch(6))
    assert actual["loss"].item() == pytest.approx(-(math.log(sigmoid) + math.log(1 - sigmoid)) / 2)
    assert actual["accuracy"].item() == 0.5


def test_model_and_discriminator_do_not_update_each_other():
    """Trap 3 and scenario 25: a plain ``backward`` of the discriminator's loss has no gradient in the encoder."""
    vae, loss = vae_of(), FactorLoss((2,), hidden=(8,))
    model, critic = loss.phases(vae)
    critic.objective(vae, batch(6))["loss"].backward()
    assert all(p.grad is None for p in vae.parameters())
    assert all(p.grad is not None and (p.grad != 0).any() for p in critic.parameters)
    loss.zero_grad()
    torch.autograd.backward(model.objective(vae, batch(6))["loss"], inputs=list(model.parameters))
    assert all(p.grad is None for p in loss.parameters())
    assert all(p.grad is not None for p in vae.parameters())
    without = vae_of()
    torch.manual_seed(0)
    constant_ratio(loss, 0.3)(vae_of(), batch(6))
    torch.manual_seed(0)
    gradient = {}
    for gamma in (0.0, 50.0):
        torch.manual_seed(0)
        other = FactorLoss((2,), gamma=gamma, hidden=(8,))
        (gradient[gamma],) = torch.autograd.grad(other(without, batch(6))["loss"], [without.encoder.shift])
    assert (gradient[0.0] - gradient[50.0]).abs().max() > 0.1, "the encoder must have a gradient"


def test_the_discriminator_estimates_the_total_correlation_of_a_gaussian():
    """-log(1 - r^2) / 2 for two dimensions of correlation r."""
    torch.manual_seed(0)
    r = 0.8
    images = MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, r], [r, 1.0]]))
    vae, loss = vae_of(scale=1e-3), FactorLoss((2,), hidden=(32, 32))
    optimizer = torch.optim.Adam(loss.parameters(), lr=3e-3)
    for _ in range(300):
        terms = loss.discriminator_loss(vae, zoo.Batch(images.sample((256,)).view(-1, 1, 1, 2)))
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
    with torch.no_grad():
        actual = loss(vae, zoo.Batch(images.sample((5000,)).view(-1, 1, 1, 2)))["total_correlation"].item()
    assert actual == pytest.approx(-math.log(1 - r**2) / 2, abs=0.1)


# --- DIP-VAE


def test_the_covariance_penalties_by_hand():
    """arXiv 1711.00848. The means (1, 1) and (-1, -1) have a covariance of ones; DIP-VAE-II adds the variance of the
    posterior, 1/4, to the diagonal."""
    x = zoo.Batch(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]).view(2, 1, 1, 2))
    first = MeanCovariance(off_diagonal=10.0, diagonal=100.0)(vae_of(scale=0.5), x)
    assert first["covariance"].item() == pytest.approx(10 * 2)
    second = AggregateCovariance(off_diagonal=10.0, diagonal=7.0)(vae_of(scale=0.5), x)
    assert second["covariance"].item() == pytest.approx(10 * 2 + 7 * 2 * 0.25**2)
    wide = MeanCovariance(off_diagonal=0.0, diagonal=3.0)(vae_of(lambda x: 2 * x), x)
    assert wide["covariance"].item() == pytest.approx(3 * 2 * (4 - 1) ** 2)
    for terms in (first, second, wide):
        torch.testing.assert_close(terms["loss"], terms["distortion"] + terms["rate"] + terms["covariance"])


def test_the_penalty_does_not_depend_on_the_number_of_images():
    """Related to trap 5: repeating the images does not change the covariance. That of a single image is 0, not NaN."""
    once = batch(5)
    twice = zoo.Batch(torch.cat([once.x, once.x]))
    for loss in (MeanCovariance(), AggregateCovariance()):
        torch.testing.assert_close(loss(vae_of(), once)["covariance"], loss(vae_of(), twice)["covariance"])
    assert MeanCovariance(diagonal=3.0)(vae_of(), batch(1))["covariance"].item() == pytest.approx(6.0)


def test_a_full_covariance_is_included():
    within = torch.tensor([[0.5, 0.3], [0.3, 0.5]])
    means = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    q = MultivariateNormal(means, within.expand(2, 2, 2))
    torch.testing.assert_close(AggregateCovariance().covariance(q), within + torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
    draws = q.sample((40_000,)).flatten(0, 1)
    torch.testing.assert_close(AggregateCovariance().covariance(q), draws.T.cov(), atol=0.03, rtol=0)


# --- factors in the data


def graded(values: int = 4, copies: int = 8, third: bool = False) -> zoo.Dataset:
    """All pairs of two factors, which are the two pixels; optionally a constant third factor."""
    factors = torch.cartesian_prod(torch.arange(values), torch.arange(values)).repeat(copies, 1)
    pixels = (factors * (240 // (values - 1))).to(torch.uint8).view(-1, 1, 1, 2)
    if third:
        factors = torch.cat([factors, torch.zeros(len(factors), 1, dtype=torch.int64)], dim=1)
    images = zoo.Split(pixels, factors=factors)
    return zoo.Dataset(images, images, factor_names=("left", "right", "still")[: factors.shape[1]])


@pytest.mark.parametrize(
    "factors", [torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64), torch.zeros(2, 2, dtype=torch.int64)]
)
def test_invalid_factors_are_an_error(factors):
    with pytest.raises(zoo.DataError, match=r"Factors must be an int64 tensor of shape \(3, F\)"):
        zoo.Split(torch.zeros(3, 1, 4, 4, dtype=torch.uint8), factors=factors)


def test_factors_have_names_and_change_the_digest():
    images = graded().train
    with pytest.raises(zoo.DataError, match="train split has 2 factors, and factor_names has 1"):
        zoo.Dataset(images, images, factor_names=("left",))
    with pytest.raises(zoo.DataError, match="test split has 0 factors"):
        zoo.Dataset(images, zoo.Split(images.x), factor_names=("left", "right"))
    changed = images.factors.clone()
    changed[5, 1] += 1
    other = zoo.Dataset(images, zoo.Split(images.x, factors=changed), factor_names=("left", "right"))
    assert other.sha256() != graded().sha256()


# --- metrics


def context_of(
    mean, scale: float = 0.1, latent_dim: int = 2, data: zoo.Dataset | None = None, **options
) -> zoo.EvaluationContext:
    vae = vae_of(mean, scale, latent_dim)
    return zoo.EvaluationContext(vae, zoo.recipe("mlp-vae"), graded() if data is None else data, **options)


def evaluate(metric: str, of: zoo.EvaluationContext, **settings: object) -> dict[str, zoo.Measurement]:
    actual = measure(of, [ComponentSpec(use=metric, **settings)], by_default=False).measurements[metric]
    return {one.name: one for one in actual}


def one_to_one(x: Tensor) -> Tensor:
    """One latent per factor, permuted and scaled."""
    return torch.stack([3 * x[:, 1], -2 * x[:, 0]], dim=1)


def mixed(x: Tensor) -> Tensor:
    """Both factors in both latents."""
    return torch.stack([x[:, 0] + x[:, 1], x[:, 0] - x[:, 1]], dim=1)


PERFECT = [
    ("mig", {}, "mig"),
    ("sap", {}, "sap"),
    ("dci", {"trees": 5}, "dci-disentanglement"),
    ("dci", {"trees": 5}, "dci-completeness"),
    ("dci", {"trees": 5}, "dci-informativeness"),
    ("factor-vae-score", {"votes": 100}, "factor-vae-score"),
]


@pytest.mark.parametrize(("metric", "settings", "name"), PERFECT)
def test_one_latent_per_factor_scores_one(metric, settings, name):
    """Trap 15: the protocol of every measurement states means or samples, the split and the number of images."""
    of = context_of(one_to_one)
    actual = evaluate(metric, of, **settings)[name]
    assert actual.value == pytest.approx(1.0, abs=1e-6)
    assert actual.protocol["representation"] == "posterior means"
    assert actual.protocol["factors"] == ["left", "right"]
    assert {"split": "test", "images": 128}.items() <= of.protocol.items()


@pytest.mark.parametrize(
    ("metric", "settings", "name", "low", "high"),
    [
        ("mig", {}, "mig", 0.0, 1e-9),
        ("sap", {}, "sap", 0.0, 1e-9),
        ("dci", {"trees": 5}, "dci-disentanglement", 0.0, 0.15),
        ("dci", {"trees": 5}, "dci-completeness", 0.0, 0.15),
        ("factor-vae-score", {"votes": 300}, "factor-vae-score", 0.4, 0.62),
    ],
)
def test_latents_that_mix_the_factors_evenly_score_zero(metric, settings, name, low, high):
    """The latents are sum and difference: by symmetry there is no gap, and half of the votes are correct by chance."""
    assert low <= evaluate(metric, context_of(mixed), **settings)[name].value <= high


@pytest.mark.parametrize("metric", ["mig", "sap", "dci", "factor-vae-score"])
def test_factors_must_be_known_and_vary(metric):
    images = zoo.Split(graded().train.x)
    with pytest.raises(zoo.NotApplicable, match="generating factors of the images are unknown"):
        evaluate(metric, context_of(one_to_one, data=zoo.Dataset(images, images)))
    with pytest.raises(zoo.NotApplicable, match="no factor takes more than one value"):
        evaluate(metric, context_of(one_to_one, limit=1))
    protocol = next(iter(evaluate(metric, context_of(one_to_one, data=graded(third=True))).values())).protocol
    assert protocol["factors"] == ["left", "right"], "constant factors are ignored"


@pytest.mark.parametrize(
    ("metric", "settings"),
    [
        ("mig", {"estimator": "posterior", "images": 16}),
        ("mig", {"estimator": "histogram"}),
        ("sap", {}),
        ("dci", {"trees": 5, "images": 16}),
        ("factor-vae-score", {"votes": 50}),
    ],
)
def test_a_factor_that_is_constant_in_the_first_images_is_ignored(metric, settings):
    """The first 16 images agree in `left`, the others do not. MIG was 0 / 0, and completeness included a forest without
    splits.
    """
    data = graded()
    order = (data.test.factors[:, 0] != 0).long().sort(stable=True).indices
    images = zoo.Split(data.test.x[order], factors=data.test.factors[order])
    assert images.factors[:16, 0].unique().tolist() == [0]
    of = context_of(one_to_one, 0.01, data=zoo.Dataset(images, images, factor_names=data.factor_names))
    for actual in evaluate(metric, of, **settings).values():
        assert actual.value == pytest.approx(1.0, abs=1e-6)
        assert actual.protocol["factors"] == (["right"] if "images" in settings else ["left", "right"])


def test_a_forest_needs_a_factor_that_varies():
    data = graded()
    constant = zoo.Split(data.train.x[:8], factors=torch.zeros_like(data.train.factors[:8]))
    of = context_of(one_to_one, data=zoo.Dataset(constant, data.test, factor_names=data.factor_names))
    with pytest.raises(zoo.NotApplicable, match="first 8 training images"):
        evaluate("dci", of)


@pytest.mark.parametrize("metric", ["mig", "sap", "dci", "factor-vae-score"])
def test_a_collapsed_posterior_scores_zero(metric):
    actual = evaluate(metric, context_of(torch.zeros_like))
    assert next(iter(actual.values())).value == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("scale", [1e-10, 1e-3, 1e6])
@pytest.mark.parametrize("metric", ["mig", "sap"])
def test_scores_do_not_depend_on_the_scale_of_the_latents(metric, scale):
    actual = evaluate(metric, context_of(lambda x: scale * one_to_one(x)))[metric]
    assert actual.value == pytest.approx(1.0, abs=1e-6)


def test_the_limit_restricts_the_images():
    of = context_of(one_to_one, limit=5)
    assert of.factors.tolist() == [[0, 0], [0, 1], [0, 2], [0, 3], [1, 0]]
    assert len(of.train_factors) == 128


def test_the_mutual_information_of_a_histogram_by_hand():
    """The first latent equals the factor; the second differs for one image of four (arXiv 1802.04942, eq. 6)."""
    values = torch.tensor([0, 0, 1, 1])
    z = torch.tensor([[0.0, 5.0], [0.1, 5.0], [9.0, 5.0], [9.1, 7.0]], dtype=torch.float64)
    second = 0.5 * math.log(4 / 3) + 0.25 * math.log(2 / 3) + 0.25 * math.log(2)
    actual = mig.histogram_information(z, values, bins=2)
    torch.testing.assert_close(actual, torch.tensor([math.log(2), second], dtype=torch.float64))


def test_the_mutual_information_of_the_posterior_agrees_with_quadrature():
    """One latent, N(-1, s^2) or N(1, s^2) depending on the factor (arXiv 1802.04942)."""
    factors = torch.arange(2).repeat(400).unsqueeze(1)
    pixels = (factors * 255).to(torch.uint8).view(-1, 1, 1, 1).repeat(1, 1, 1, 2)
    images = zoo.Split(pixels, factors=factors)
    data = zoo.Dataset(images, images, factor_names=("side",))
    of = context_of(lambda x: 2 * x[:, :1] - 1, scale=0.9, latent_dim=1, data=data)
    actual = evaluate("mig", of, estimator="posterior")["mig"]
    z = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    p = [Normal(side, 0.9).log_prob(z) for side in (-1.0, 1.0)]
    mixture = torch.logsumexp(torch.stack(p), 0) - math.log(2)
    exact = torch.trapezoid(p[0].exp() * (p[0] - mixture), z).item() / math.log(2)
    assert 0.2 < exact < 0.8
    assert actual.value == pytest.approx(exact, abs=0.06)
    assert actual.protocol["representation"] == "posterior draws"
    values = [
        evaluate("mig", context_of(mean, 0.01), estimator="posterior")["mig"].value for mean in (one_to_one, mixed)
    ]
    assert values[0] == pytest.approx(1.0, abs=1e-6)
    assert values[1] == pytest.approx(0.0, abs=0.01)


def test_r_squared_and_balanced_accuracy_by_hand():
    """R^2 of a linear regression for ordinal values; thresholds for categorical ones, also if they are not sorted."""
    values = torch.tensor([0, 0, 1, 1])
    z = torch.tensor([[0.0, 1.0, 5.0], [0.0, 1.0, 5.0], [2.0, 1.0, 5.0], [0.0, 9.0, 5.0]], dtype=torch.float64)
    expected = torch.tensor([1 / 3, 1 / 3, 0.0], dtype=torch.float64)
    torch.testing.assert_close(sap.r_squared(z, values), expected)
    names = torch.tensor([2, 2, 0, 0, 1, 1])
    z = torch.tensor([[1.0, 4.0], [1.1, 4.0], [2.0, 4.0], [2.1, 4.0], [3.0, 4.0], [3.1, 4.0]], dtype=torch.float64)
    expected = torch.tensor([1.0, 1 / 3], dtype=torch.float64)
    torch.testing.assert_close(sap.balanced_accuracy(z, names), expected)
    imbalanced = torch.tensor([0, 0, 0, 0, 0, 1])  # predicting 0 has accuracy 5/6 and balanced accuracy 1/2
    torch.testing.assert_close(sap.balanced_accuracy(z, imbalanced)[1], torch.tensor(0.5, dtype=torch.float64))


@pytest.mark.parametrize(
    ("importances", "disentanglement", "completeness"),
    [
        ([[1, 0], [0, 1], [0, 0]], 1.0, 1.0),
        ([[1, 1], [1, 1]], 0.0, 0.0),
        ([[3, 1], [0, 4]], 0.5 * (1 - 0.811278) + 0.5, (1 + 1 - 0.721928) / 2),
        ([[1, 0], [1, 0], [0, 2]], 1.0, (1 - math.log(2) / math.log(3) + 1) / 2),
    ],
)
def test_disentanglement_and_completeness_by_hand(importances, disentanglement, completeness):
    matrix = torch.tensor(importances, dtype=torch.float64)
    assert dci.disentanglement(matrix) == pytest.approx(disentanglement, abs=1e-6)
    assert dci.completeness(matrix) == pytest.approx(completeness, abs=1e-6)


def test_dci_notes_evaluation_on_training_images():
    assert "fitted to" in evaluate("dci", context_of(one_to_one, split="train"))["dci-informativeness"].note


# --- data with known factors


def test_every_combination_of_factors_occurs_once_and_all_shapes_differ():
    data = shapes(repeat=1)
    factors = torch.cat([data.train.factors, data.test.factors])
    pixels = torch.cat([data.train.x, data.test.x])
    assert len(factors.unique(dim=0)) == len(factors) == math.prod(COUNTS) == 4608
    assert len(pixels.flatten(1).unique(dim=0)) == 4608
    assert set(pixels.unique().tolist()) == {0, 255}
    assert torch.equal(data.test.labels, data.test.factors[:, 0])
    torch.testing.assert_close(draw(data.test.factors[:50]), data.test.x[:50])
    for column, count in zip(data.test.factors.unbind(1), COUNTS, strict=True):
        shares = column.bincount(minlength=count) / len(column) * count
        assert (shares > 0.75).all()
        assert (shares < 1.25).all()
    assert data.sha256() == shapes(repeat=1).sha256()
    assert len(shapes(repeat=2).train) == 2 * len(data.train)


def test_each_factor_of_the_shapes_changes_the_image_as_named():
    """x and y translate the shape by two pixels and change nothing else; a larger scale has more white pixels."""
    place = torch.arange(32.0)
    for shape, scale, rotation in itertools.product(range(3), range(3), (0, 3, 7)):
        steps = torch.arange(8)
        fixed = [torch.full((8,), value) for value in (shape, scale, rotation)]
        for axis, moved in ((2, [*fixed, steps, torch.full((8,), 4)]), (1, [*fixed, torch.full((8,), 4), steps])):
            white = draw(torch.stack(moved, dim=1)).squeeze(1).float() / 255
            assert len(white.sum((1, 2)).unique()) == 1
            centres = (white.sum(3 - axis) * place).sum(1) / white.sum((1, 2))
            torch.testing.assert_close(centres.diff(), torch.full((7,), 2.0))
    sizes = draw(torch.tensor([[0, scale, 2, 4, 4] for scale in range(3)])).flatten(1).bool().sum(1)
    assert (sizes.diff() > 0).all()


@pytest.fixture
def sprites(tmp_path, monkeypatch):
    """A file in the format of dSprites with 40 images; the first pixels of image i are the binary digits of i."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def write(**changed: object):
        images = np.zeros((40, 64, 64), dtype=np.uint8)
        images[:, 0, :6] = np.arange(40)[:, None] >> np.arange(6) & 1
        classes = np.stack([np.zeros(40), *(np.arange(40) // 10**i % 3 for i in range(5))], axis=1).astype(np.int64)
        arrays = {
            "metadata": np.array({"author": "somebody"}, dtype=object),
            "imgs": images,
            "latents_classes": classes,
            **changed,
        }
        np.savez_compressed(tmp_path / FILE, **{k: v for k, v in arrays.items() if v is not None})
        return tmp_path, classes

    return write


def test_sprites_keep_their_factors_and_are_cached(sprites, monkeypatch):
    root, classes = sprites()
    data = dsprites(root)
    assert (len(data.train), len(data.test), data.shape) == (36, 4, (1, 64, 64))
    indices = []
    for split in (data.train, data.test):
        index = (split.x[:, 0, 0, :6].long() // 255 * 2 ** torch.arange(6)).sum(1)
        assert torch.equal(split.factors, torch.from_numpy(classes)[index, 1:])
        assert torch.equal(split.labels, split.factors[:, 0])
        indices += index.tolist()
    assert sorted(indices) == list(range(40))
    monkeypatch.setattr("zipfile.ZipFile.extract", lambda *_: pytest.fail("unpacked again"))
    assert dsprites(root).sha256() == data.sha256()
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(root / "cache"))
    subset = dsprites(root, images=10)
    assert (len(subset.train), len(subset.test)) == (9, 1)
    assert torch.equal(subset.test.x[0], data.test.x[0])


def test_missing_and_damaged_files_are_named(sprites, tmp_path):
    """Scenarios 28 and 32: pickles in the file are never loaded."""
    with pytest.raises(zoo.DataUnavailable, match=f"{FILE} is not in .*github.com"):
        dsprites(tmp_path)
    for changed in (
        {"imgs": None},
        {"imgs": np.zeros((39, 64, 64), dtype=np.uint8)},
        {"imgs": np.zeros((40, 64, 64), dtype=np.float32)},
        {"imgs": np.full(40, None, dtype=object)},
        {"latents_classes": np.zeros((40, 3), dtype=np.int64)},
        {"latents_classes": np.full((40, 6), None, dtype=object)},
    ):
        root, _ = sprites(**changed)
        with pytest.raises(zoo.DataError, match=f"{FILE} is damaged") as caught:
            dsprites(root)
        assert not isinstance(caught.value, zoo.DataUnavailable)
    (root / FILE).write_bytes((root / FILE).read_bytes()[:-200])
    with pytest.raises(zoo.DataError, match="is damaged"):
        dsprites(root)
