from __future__ import annotations

import hashlib
import json
import math
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

import zoo
from toys import GivenPosterior, LinearGaussian, Unnormalized, linear_gaussian_vae
from zoo.cli.main import main
from zoo.evaluation.evaluate import measure
from zoo.recipes.schema import ComponentSpec
from zoo_metrics.frechet import frechet

RECIPE = zoo.recipe("mlp-vae")
UNIT = {"use": "gaussian", "scale": 1.0}


def dataset(n: int = 40, shape: tuple[int, int, int] = (1, 1, 4), labels: bool = True, seed: int = 0) -> zoo.Dataset:
    generator = torch.Generator().manual_seed(seed)

    def images(count: int) -> zoo.Split:
        pixels = torch.randint(0, 256, (count, *shape), generator=generator, dtype=torch.uint8)
        return zoo.Split(pixels, torch.arange(count) % 3 if labels else None)

    return zoo.Dataset(images(2 * n), images(n))


def context_of(
    vae: zoo.VAE, data: zoo.Dataset | None = None, binarize: str = "none", **options: object
) -> zoo.EvaluationContext:
    recipe = zoo.recipe(RECIPE, binarize=binarize)
    return zoo.EvaluationContext(vae, recipe, dataset() if data is None else data, **options)


def evaluate(metric: str, of: zoo.EvaluationContext, **settings: object) -> dict[str, zoo.Measurement]:
    actual = measure(of, [ComponentSpec(use=metric, **settings)], by_default=False).measurements[metric]
    return {one.name: one for one in actual}


class Bits(zoo.Decoder):
    """Independent Bernoulli pixels with fixed probabilities, for every z."""

    def __init__(self, p: float, shape: tuple[int, int, int] = (1, 1, 4)) -> None:
        super().__init__()
        self.head = zoo.get("likelihood", "bernoulli")(data_shape=shape)
        self.logits = nn.Parameter(torch.full((*shape, 1), math.log(p / (1 - p))))

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Distribution:
        return self.head(self.logits.expand(*z.shape[:-1], *self.logits.shape))


def gaussian_posterior(mean, scale: float):
    """q(z | x) = N(mean(x), scale^2)."""

    def q(x: Tensor) -> Distribution:
        loc = mean(x.flatten(1))
        return Independent(Normal(loc, torch.full_like(loc, scale), validate_args=False), 1, validate_args=False)

    return GivenPosterior(q)


def vae_of(mean, scale: float, latent_dim: int, decoder: zoo.Decoder | None = None) -> zoo.VAE:
    prior = zoo.get("prior", "standard-normal")(latent_shape=(latent_dim,))
    return zoo.VAE(gaussian_posterior(mean, scale), decoder or LinearGaussian(torch.ones(4, latent_dim), 1.0), prior)


# --- bounds


def test_the_likelihood_agrees_with_the_exact_one_and_is_above_the_elbo():
    """On a linear Gaussian model."""
    vae = linear_gaussian_vae()
    of = context_of(vae)
    x = torch.cat([batch.x for batch in of.images.in_order()])
    exact = vae.decoder.marginal().log_prob(x.flatten(1)).double()
    actual = evaluate("log-likelihood", of, samples=3000)["log-likelihood"]
    again = torch.stack([vae.log_likelihood(x, samples=3000, seed=seed) for seed in range(4)])
    assert actual.value == pytest.approx(exact.mean().item(), abs=4 * again.mean(1).std().item() + 1e-3)
    assert actual.error == pytest.approx(again[0].std().item() / math.sqrt(len(x)), rel=0.02)
    assert actual.protocol == {"samples": 3000}

    of = context_of(vae, dataset(3000))
    x = torch.cat([batch.x for batch in of.images.in_order()])
    elbo = evaluate("elbo", of)
    exact = vae.decoder.marginal().log_prob(x.flatten(1)).double()
    assert elbo["elbo"].value + 4 * elbo["elbo"].error < exact.mean().item()
    trace = vae.trace(zoo.Batch(x), samples=50)
    expected = {"distortion": -trace.log_px.mean().item(), "rate": trace.kl.mean().item()}
    for name, value in expected.items():
        assert elbo[name].value == pytest.approx(value, abs=5 * elbo[name].error)
    assert elbo["rate"].value == pytest.approx(expected["rate"], rel=1e-5), "in closed form"
    assert elbo["elbo"].value == pytest.approx(-elbo["distortion"].value - elbo["rate"].value, rel=1e-9)


def test_the_likelihood_of_an_image_depends_on_its_seed_only(monkeypatch):
    vae = linear_gaussian_vae()

    def likelihoods(**options) -> Tensor:
        of = context_of(vae, **options)
        return of.each(lambda image, seed: vae.log_likelihood(image.x, 50, seed=seed))

    actual = likelihoods(seed=7)
    assert actual.dtype == torch.float64
    monkeypatch.setattr("zoo.evaluation.metric.BATCH", 3)
    torch.testing.assert_close(likelihoods(seed=7), actual, atol=0, rtol=0)
    torch.testing.assert_close(likelihoods(seed=7, limit=5), actual[:5], atol=0, rtol=0)
    assert (likelihoods(seed=8) != actual).all()


def test_dynamic_binarisation_is_drawn_once_per_image(monkeypatch):
    data = dataset(300, (1, 5, 5))
    vae = vae_of(lambda x: x[:, :2], 1.0, 2, Bits(0.5, (1, 5, 5)))
    of = context_of(vae, data, "dynamic", seed=3)
    bits = torch.cat([batch.x for batch in of.images.in_order()])
    assert set(bits.unique().tolist()) == {0.0, 1.0}
    assert of.no_likelihood == ""
    torch.testing.assert_close(torch.cat([batch.x for batch in of.images.in_order()]), bits, atol=0, rtol=0)
    monkeypatch.setattr("zoo.evaluation.metric.BATCH", 7)
    subset = context_of(vae, data, "dynamic", seed=3, limit=30)
    torch.testing.assert_close(torch.cat([batch.x for batch in subset.images.in_order()]), bits[:30], atol=0, rtol=0)
    other = context_of(vae, data, "dynamic", seed=4)
    assert (torch.cat([batch.x for batch in other.images.in_order()]) != bits).any()
    intensity = data.test.x / 255
    error = (intensity * (1 - intensity)).mean().sqrt() / math.sqrt(bits.numel())
    assert (bits - intensity).mean().abs() < 4 * error, "the probability of a 1 is the intensity"
    assert ((bits - intensity) * (intensity - 0.5)).mean().abs() < 4 * error


@pytest.mark.parametrize("samples", [1, 7])
def test_real_pixels_under_a_bernoulli_are_noted_as_no_likelihood(samples):
    """Trap 13. With a constant decoder both values are the cross-entropy of the pixels, in nats and in bits."""
    vae = vae_of(lambda x: torch.zeros(len(x), 2), 1.0, 2, Bits(0.25))
    of = context_of(vae)
    x = of.dataset.test.x / 255
    cross_entropy = -(x * math.log(0.25) + (1 - x) * math.log(0.75)).sum((1, 2, 3)).double().mean().item()
    actual = {**evaluate("elbo", of), **evaluate("log-likelihood", of, samples=samples)}
    assert actual["elbo"].value == pytest.approx(-cross_entropy, rel=1e-5)
    assert actual["log-likelihood"].value == pytest.approx(-cross_entropy, rel=1e-5)
    for name in ("bits-per-dimension", "log-likelihood-bits"):
        assert actual[name].value == pytest.approx(cross_entropy / 4 / math.log(2), rel=1e-5)
    assert actual["rate"].value == pytest.approx(0, abs=1e-6)
    for name, one in actual.items():
        assert ("no likelihood" in one.note) == (name != "rate"), name

    bits = {**evaluate("elbo", context_of(vae, binarize="threshold"))}
    assert {one.note for one in bits.values()} == {""}


def test_the_bits_of_a_density_are_noted():
    notes = {name: one.note for name, one in evaluate("elbo", context_of(linear_gaussian_vae())).items()}
    assert notes["elbo"] == ""
    assert "density over [0, 1]" in notes["bits-per-dimension"]


def test_an_energy_has_no_likelihood_and_is_noted_in_the_elbo():
    vae = linear_gaussian_vae()
    vae.decoder = Unnormalized()
    with pytest.raises(zoo.ComponentError, match="not a normalized density"):
        evaluate("log-likelihood", context_of(vae), samples=5)
    assert "not normalized" in evaluate("elbo", context_of(vae))["elbo"].note


# --- reconstructions


def test_squared_errors_are_summed_over_pixels_and_averaged_over_images():
    """Trap 9. The decoder mean is z, and z is x plus noise of scale 0.1: errors 0 at the mean, 4 * 0.01 at a draw."""
    vae = vae_of(lambda x: x, 0.1, 4, LinearGaussian(torch.eye(4), 1.0))
    actual = evaluate("reconstruction", context_of(vae, dataset(2000)))
    assert actual["squared-error-at-mean"].value == pytest.approx(0, abs=1e-9)
    assert actual["squared-error-at-draw"].value == pytest.approx(0.04, abs=5 * actual["squared-error-at-draw"].error)
    assert actual["squared-error-at-draw"].error == pytest.approx(0.01 * math.sqrt(2 * 4) / math.sqrt(2000), rel=0.1)
    assert actual["mse-at-draw"].value == pytest.approx(actual["squared-error-at-draw"].value / 4, rel=1e-9)
    shifted = vae_of(lambda x: x + 0.5, 0.1, 4, LinearGaussian(torch.eye(4), 1.0))
    value = evaluate("reconstruction", context_of(shifted))["squared-error-at-mean"].value
    assert value == pytest.approx(1.0, rel=1e-5)


class Meanless(Independent):
    """A distribution without a mean, like a flow."""

    @property
    def mean(self):
        raise NotImplementedError


def test_a_posterior_without_a_mean_is_measured_at_a_draw():
    vae = vae_of(lambda x: x, 0.1, 4)
    q = vae.encoder.q
    vae.encoder = GivenPosterior(lambda x: Meanless(q(x).base_dist, 1))
    of = context_of(vae)
    assert of.representation == "posterior draws"
    assert set(evaluate("reconstruction", of)) == {"squared-error-at-draw", "mse-at-draw"}
    with pytest.raises(zoo.NotApplicable, match="active-units cannot be measured: the posterior has no mean"):
        evaluate("active-units", of)
    torch.testing.assert_close(of.encode(of.images), of.posterior_mean, atol=0, rtol=0)


# --- latents


def test_active_units_use_the_variance_of_the_mean_over_the_split():
    """Trap 15. The variances of the means are 0, just below, just above and far above the threshold; two batches."""
    data = dataset(600)
    x = (data.test.x / 255).flatten(1).double()
    scale = torch.tensor([0.0, 0.09, 0.11, 1.0]) / x.std(0, correction=0).float()
    vae = vae_of(lambda x: x * scale, 5.0, 4)  # the scale of q has no effect
    actual = evaluate("active-units", context_of(vae, data))["active-units"]
    assert (actual.value, actual.unit) == (2, "of 4")
    assert actual.protocol["threshold"] == 0.01
    assert evaluate("active-units", context_of(vae, data), threshold=0.5)["active-units"].value == 1
    assert evaluate("active-units", context_of(vae, data), threshold=0.008)["active-units"].value == 3


def test_the_information_and_the_kl_of_the_aggregate_add_up_to_the_rate():
    data = dataset(700)
    vae = vae_of(lambda x: 2 * x[:, :2] - 1, 0.3, 2)
    of = context_of(vae, data)
    actual = evaluate("information", of, images=600)
    total = actual["mutual-information"].value + actual["aggregate-kl"].value
    assert total == pytest.approx(actual["rate-at-draws"].value, rel=1e-9)
    rate = evaluate("elbo", context_of(vae, data, limit=600))["rate"].value
    assert actual["rate-at-draws"].value == pytest.approx(rate, abs=5 * actual["rate-at-draws"].error)

    # The mixture is two-dimensional, so its KL is computed by quadrature on a grid.
    q = vae.encode(torch.cat([batch.x for batch in of.images.in_order()])[:600])
    axis = torch.linspace(-2.5, 2.5, 101)
    grid = torch.cartesian_prod(axis, axis)
    log_q = torch.cat([q.log_prob(part[:, None]).logsumexp(1) for part in grid.split(500)]).double() - math.log(600)
    log_p = Independent(Normal(torch.zeros(2), 1.0), 1).log_prob(grid).double()
    cell = (axis[1] - axis[0]).item() ** 2
    kl = (log_q.exp() * (log_q - log_p)).sum().item() * cell
    assert actual["aggregate-kl"].value == pytest.approx(kl, abs=0.12)


def test_the_bounds_of_the_information():
    """It is 0 if q does not depend on x, and log N if the posteriors of N images are far apart."""
    collapsed = evaluate("information", context_of(vae_of(lambda x: 0 * x, 1.0, 4)))
    for name in ("mutual-information", "aggregate-kl", "rate-at-draws"):
        assert collapsed[name].value == pytest.approx(0, abs=1e-6)
    separated = evaluate("information", context_of(vae_of(lambda x: 1e3 * x, 1e-3, 4)), images=30)
    assert separated["mutual-information"].value == pytest.approx(math.log(30), rel=1e-6)
    assert separated["mutual-information"].protocol == {"pairs of images": 30, "at most": round(math.log(30), 2)}


class NormalByLabel(zoo.Prior):
    """p(z | y) = N(shift y, scale^2) in the first dimension, N(0, scale^2) in the others."""

    def __init__(self, shift: float, scale: float = 1.0) -> None:
        super().__init__()
        self.shift, self.scale = shift, scale

    def forward(self, encoder: zoo.Encoder, condition: Tensor | None = None) -> Distribution:
        labels = torch.zeros(1) if condition is None else condition.float()
        loc = torch.nn.functional.pad(self.shift * labels.unsqueeze(-1), (0, 1))
        return Independent(Normal(loc, torch.full_like(loc, self.scale)), 1)


class ByLabel(zoo.Encoder):
    """q(z | x, y) = N(mean(x) + shift y, scale^2)."""

    def __init__(self, mean, shift: float, scale: float) -> None:
        super().__init__()
        self.mean, self.prior = mean, NormalByLabel(shift, scale)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Distribution:
        p = self.prior(self, condition).base_dist
        return Independent(Normal(p.loc + self.mean(x.flatten(1)), p.scale), 1)


@pytest.mark.parametrize("shift", [0.0, 3.0, 100.0])
def test_the_information_with_a_conditional_prior(shift):
    """The aggregate of each label is compared with the prior of that label, so neither part is negative.

    30 images with 3 labels: if q(z | x, y) = p(z | y), both parts are 0; if posteriors are far apart, the information
    is log 10, that of one image among those with its label.
    """
    decoder = LinearGaussian(torch.ones(4, 2), 1.0)
    collapsed = zoo.VAE(ByLabel(lambda x: 0 * x[:, :2], shift, 1.0), decoder, NormalByLabel(shift))
    actual = evaluate("information", context_of(collapsed), images=30)
    for name in ("mutual-information", "aggregate-kl", "rate-at-draws"):
        assert actual[name].value == pytest.approx(0, abs=1e-5)
    separated = zoo.VAE(ByLabel(lambda x: 1e3 * x[:, :2], shift, 1e-2), decoder, NormalByLabel(shift, 1e3))
    actual = evaluate("information", context_of(separated), images=30)
    assert actual["mutual-information"].value == pytest.approx(math.log(10), rel=1e-6)
    assert actual["mutual-information"].protocol == {"pairs of images": 30, "given": "the label", "at most": 2.3}
    total = actual["mutual-information"].value + actual["aggregate-kl"].value
    assert total == pytest.approx(actual["rate-at-draws"].value, rel=1e-9)


def test_the_information_of_a_conditional_model():
    """The recipe `cvae`, with priors and posteriors separated by label, as after training."""
    data = dataset(shape=(1, 8, 8))
    recipe = zoo.recipe("cvae", ["latent_dim=2"])
    torch.manual_seed(0)
    vae = zoo.create_model(recipe, data_shape=(1, 8, 8), classes=3)
    with torch.no_grad():
        vae.prior.mean.copy_(10 * torch.randn(3, 2))
    q = vae.encoder.forward
    vae.encoder.forward = lambda x, condition=None: _perturb(q(x, condition), vae.prior.mean[condition])
    actual = evaluate("information", zoo.EvaluationContext(vae, recipe, data))
    assert actual["aggregate-kl"].value > -3 * actual["rate-at-draws"].error
    total = actual["mutual-information"].value + actual["aggregate-kl"].value
    assert total == pytest.approx(actual["rate-at-draws"].value, rel=1e-6)


def _perturb(q: Distribution, by: Tensor) -> Distribution:
    return Independent(Normal(q.mean + by, q.base_dist.scale), 1)


def test_a_linear_probe_predicts_labels_that_the_latent_encodes():
    data = dataset(300)
    labels = {split: (getattr(data, split).x[:, 0, 0, 0] > 127).long() for split in ("train", "test")}
    data = zoo.Dataset(zoo.Split(data.train.x, labels["train"]), zoo.Split(data.test.x, labels["test"]))
    informative = evaluate("linear-probe", context_of(vae_of(lambda x: x[:, :2], 1.0, 2), data))["linear-probe"]
    uninformative = evaluate("linear-probe", context_of(vae_of(lambda x: x[:, 2:], 1.0, 2), data))["linear-probe"]
    assert informative.value > 0.97
    assert uninformative.value == pytest.approx(0.5, abs=0.12)
    assert informative.protocol["fitted to"] == "600 training images"
    assert informative.note == ""
    on_train = evaluate("linear-probe", context_of(vae_of(lambda x: x[:, :2], 1.0, 2), data, split="train"))
    assert "fitted to" in on_train["linear-probe"].note


# --- Frechet distance


def test_the_frechet_distance_of_two_gaussians():
    """Against |m - m'|^2 + sum (s - s')^2 for commuting covariances, and scipy's matrix square root for others."""
    from scipy.linalg import sqrtm

    torch.manual_seed(0)
    a = torch.randn(500, 3, dtype=torch.float64)
    scale, shift = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64), torch.tensor([0.0, 1.0, -2.0])
    a = (a - a.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(a.T))).T  # exactly white
    assert frechet(a, a * scale + shift) == pytest.approx(5 + 1 + 0.25, rel=1e-9)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)
    b = torch.randn(400, 3, dtype=torch.float64) @ torch.randn(3, 3, dtype=torch.float64)
    c, d = torch.cov(a.T).numpy(), torch.cov(b.T).numpy()
    expected = (a.mean(0) - b.mean(0)).square().sum().item() + (c + d - 2 * sqrtm(c @ d).real).trace()
    assert frechet(a, b) == pytest.approx(expected, rel=1e-6)
    low = torch.randn(50, 2, dtype=torch.float64) @ torch.randn(2, 6, dtype=torch.float64)  # singular
    assert frechet(low, low) == pytest.approx(0, abs=1e-6)


class Flat(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


@pytest.fixture(params=["pt", "pt2"])
def extractor(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The identity, as TorchScript and as an exported program."""
    path, example = tmp_path / f"pixels.{request.param}", torch.zeros(3, 1, 1, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates one of the two
        if request.param == "pt":
            torch.jit.save(torch.jit.trace(Flat(), example), path)
        else:
            shapes = {"x": {0: torch.export.Dim("n", min=1)}}
            torch.export.save(torch.export.export(Flat(), (example,), dynamic_shapes=shapes), path)
    return path


def test_the_distance_is_named_after_its_extractor(extractor):
    """Trap 15: the protocol states count and digest, and only the Inception weights make it an FID."""
    vae = vae_of(lambda x: x, 1.0, 2, LinearGaussian(torch.tensor([[0.3, 0], [0, 0.2], [0, 0], [0.1, 0.1]]), 1.0))
    data = dataset(2000)
    of = context_of(vae, data)
    (one,) = evaluate("frechet", of, extractor=str(extractor)).values()
    assert one.name == "frechet_pixels"
    digest = hashlib.sha256(extractor.read_bytes()).hexdigest()
    assert one.protocol == {"samples": 2000, "features": 4, "extractor sha256": digest}
    # samples are W z, exactly N(0, W W^T), so many samples of it have nearly the same distance
    x = (data.test.x / 255).flatten(1)
    w = vae.decoder.weight.detach()
    assert one.value == pytest.approx(frechet(x, torch.randn(100_000, 2) @ w.T), rel=0.05)
    (fid,) = evaluate("frechet", of, extractor=str(extractor), inception=True).values()
    assert fid.name == "fid"


def test_invalid_extractors_are_an_error(tmp_path):
    of = context_of(vae_of(lambda x: x, 1.0, 4))
    with pytest.raises(zoo.DataError, match="feature extractor .* does not exist"):
        evaluate("frechet", of, extractor=str(tmp_path / "absent.pt"))
    for name in ("broken.pt", "broken.pt2"):
        (tmp_path / name).write_bytes(b"not a module")
        with pytest.raises(zoo.DataError, match=name):
            evaluate("frechet", of, extractor=str(tmp_path / name))
    with pytest.raises(zoo.RecipeError, match="extractor: is required"):
        evaluate("frechet", of)


# --- selection, omission and failure


def test_inapplicable_metrics_are_omitted_with_a_reason():
    of = context_of(vae_of(lambda x: x, 1.0, 4), dataset(labels=False))
    evaluation = measure(of)
    assert evaluation.left_out == {"linear-probe": "the data have no labels"}
    assert {"elbo", "active-units", "information", "reconstruction"} <= set(evaluation.measurements)
    assert not {"log-likelihood", "frechet"} & set(evaluation.measurements)
    with pytest.raises(zoo.NotApplicable, match="linear-probe cannot be measured: the data have no labels"):
        evaluate("linear-probe", of)
    with pytest.raises(zoo.UnknownName, match="Did you mean 'elbo'"):
        evaluate("elbow", of)
    with pytest.raises(zoo.RecipeError, match="Did you mean 'threshold'"):
        evaluate("active-units", of, treshold=1.0)
    with pytest.raises(zoo.RecipeError, match="samples"):
        evaluate("log-likelihood", of, samples=0)


def test_a_non_finite_value_is_never_reported():
    """Scenario 23: NaN weights give a reason instead of a value, and an error if the metric was selected by name."""
    vae = vae_of(lambda x: x, 1.0, 4, Bits(0.5))
    nn.init.constant_(vae.decoder.logits, math.nan)
    evaluation = measure(context_of(vae))
    assert {"elbo", "reconstruction"} <= set(evaluation.left_out)
    assert evaluation.left_out["elbo"].startswith("elbo is nan")
    assert all(math.isfinite(m["value"]) for m in evaluation.to_json()["measurements"])
    with pytest.raises(zoo.ZooError, match="log-likelihood is nan"):
        evaluate("log-likelihood", context_of(vae), samples=3)


def test_metrics_have_independent_random_numbers():
    """The value of a metric does not depend on the metrics measured before it."""
    vae, data = vae_of(lambda x: x, 1.0, 4), dataset(50)
    alone = evaluate("reconstruction", context_of(vae, data))["mse-at-draw"].value
    torch.manual_seed(123)
    assert measure(context_of(vae, data))["mse-at-draw"].value == alone
    assert evaluate("reconstruction", context_of(vae, data, seed=1))["mse-at-draw"].value != alone


def test_a_third_party_metric(install):
    install(
        "acme-metrics",
        """
        import zoo
        from pydantic import PositiveFloat

        class Sparsity(zoo.Metric):
            def __init__(self, threshold: PositiveFloat = 0.1) -> None:
                self.threshold = threshold

            def __call__(self, subject):
                share = (subject.posterior_mean.abs() < self.threshold).double().mean().item()
                return [zoo.Measurement("sparsity", share, protocol={"threshold": self.threshold})]

        class Broken(zoo.Metric):
            def __call__(self, subject):
                raise RuntimeError("the licence has expired")

        class Wrong(zoo.Metric):
            by_default = False

            def __call__(self, subject):
                return [0.5]

        @zoo.hookimpl
        def zoo_components():
            yield zoo.Component("metric", "sparsity", "acme_metrics:Sparsity")
            yield zoo.Component("metric", "broken", "acme_metrics:Broken")
            yield zoo.Component("metric", "wrong", "acme_metrics:Wrong")
            yield zoo.Component("metric", "absent", "acme_metrics:Absent")
        """,
    )
    of = context_of(vae_of(lambda x: 0 * x, 1.0, 4))
    evaluation = measure(of)
    assert evaluation["sparsity"].value == 1
    assert evaluation.left_out["broken"] == "RuntimeError: the licence has expired"
    assert "could not be imported" in evaluation.left_out["absent"]
    assert evaluate("sparsity", of, threshold=0.5)["sparsity"].protocol == {"threshold": 0.5}
    with pytest.raises(zoo.ComponentError, match="returned a float, not a zoo.Measurement"):
        evaluate("wrong", of)


# --- the command line


@pytest.fixture
def zoo_evaluate(digits_run, capsys):
    """Run ``zoo evaluate`` on a run of mlp-vae-2d and return its output."""

    def evaluate(*arguments: object, code: int = 0) -> str:
        with pytest.raises(SystemExit) as end:
            main(["evaluate", str(digits_run), "--device", "cpu", *map(str, arguments)])
        assert end.value.code == code
        out, err = capsys.readouterr()
        return err if code else out

    return evaluate


def test_table_and_json_agree(zoo_evaluate):
    arguments = ("--limit", "60", "--samples", "8", "--seed", "2")
    table = zoo_evaluate(*arguments)
    actual = json.loads(zoo_evaluate(*arguments, "--json"))
    assert actual["protocol"] == {"split": "test", "images": 60, "binarize": "none", "seed": 2}
    assert (actual["model"], actual["data"], actual["left_out"]) == ("mlp-vae-2d", "digits", {})
    values = {one["name"]: one for one in actual["measurements"]}
    assert values["log-likelihood"]["protocol"] == {**actual["protocol"], "samples": 8}
    assert values["elbo"]["value"] < values["log-likelihood"]["value"] < 0
    assert "no likelihood" in values["log-likelihood"]["note"]
    lines = table.splitlines()
    assert lines[0] == "mlp-vae-2d on digits: 60 test images, binarize none, seed 2"
    assert lines[1].split() == ["NAME", "VALUE", "UNIT", "PROTOCOL"]
    assert any(line.startswith("[1] no likelihood") for line in lines)
    assert max(map(len, lines)) < 120
    printed = dict(re.match(r"(\S+)(?: \[\d\])?\s+(\S+)", line).groups() for line in lines[2:] if line[0] != "[")
    assert set(printed) == set(values)
    for name, text in printed.items():
        assert float(text) == pytest.approx(values[name]["value"], rel=0.05, abs=0.05), name


def test_the_likelihood_is_the_same_with_two_processes(digits_run):
    """Distributing the images over processes does not change the result."""
    command = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "zoo", "evaluate", digits_run)
    arguments = ("--device", "cpu", "--limit", "25", "--metric", "log-likelihood", "--samples", "16", "--json")
    done = subprocess.run([sys.executable, "-m", *command, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    one = zoo.evaluate(digits_run, ["log-likelihood"], limit=25, samples=16, device="cpu")
    assert json.loads(done.stdout)["measurements"] == one.to_json()["measurements"]


def test_mistakes_are_explained(zoo_evaluate):
    assert "Did you mean 'elbo'?" in zoo_evaluate("--metric", "elbow", code=2)
    assert "expected METRIC.SETTING=VALUE" in zoo_evaluate("elbo=3", code=2)
    assert "feature extractor nets.pt does not exist" in zoo_evaluate(
        "frechet.extractor=nets.pt", "--metric", "frechet", code=2
    )


def test_library_and_command_agree(digits_run, zoo_evaluate):
    settings = {"active-units": {"threshold": 0.5}}
    evaluation = zoo.evaluate(digits_run, ["elbo"], settings, limit=40, samples=4, device="cpu")
    assert list(evaluation.measurements) == ["elbo", "active-units", "log-likelihood"]
    assert evaluation["active-units"].protocol["threshold"] == 0.5
    command = ("--metric", "elbo", "active-units.threshold=0.5", "--limit", "40", "--samples", "4", "--json")
    assert json.loads(zoo_evaluate(*command))["measurements"] == evaluation.to_json()["measurements"]
    with pytest.raises(KeyError):
        _ = evaluation["fid"]
    with pytest.raises(zoo.UsageError, match="split must be one of test, train, validation, not 'dev'"):
        zoo.evaluate(digits_run, split="dev")
    features = zoo.evaluate(digits_run, settings={"frechet": {"extractor": str(digits_run)}}, limit=40)
    assert features["frechet_mlp-vae-2d"].value > 0
    assert features["frechet_mlp-vae-2d"].protocol["features"] == 2
