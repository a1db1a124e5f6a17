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


def subject(
    vae: zoo.VAE, data: zoo.Dataset | None = None, binarize: str = "none", **given: object
) -> zoo.EvaluationContext:
    recipe = zoo.recipe(RECIPE, binarize=binarize)
    return zoo.EvaluationContext(vae, recipe, dataset() if data is None else data, **given)


def measured(metric: str, of: zoo.EvaluationContext, **settings: object) -> dict[str, zoo.Measurement]:
    found = measure(of, [ComponentSpec(use=metric, **settings)], by_default=False).measurements[metric]
    return {one.name: one for one in found}


class Bits(zoo.Decoder):
    """Independent bits with given probabilities, whatever the latent."""

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


def test_the_likelihood_agrees_with_the_exact_one_and_the_bound_is_below():
    """Item 2 of what the evaluation must show, on a linear-Gaussian model."""
    vae = linear_gaussian_vae()
    of = subject(vae)
    x = torch.cat([batch.x for batch in of.images.in_order()])
    exact = vae.decoder.marginal().log_prob(x.flatten(1)).double()
    found = measured("log-likelihood", of, samples=3000)["log-likelihood"]
    again = torch.stack([vae.log_likelihood(x, samples=3000, seed=seed) for seed in range(4)])
    assert found.value == pytest.approx(exact.mean().item(), abs=4 * again.mean(1).std().item() + 1e-3)
    assert found.error == pytest.approx(again[0].std().item() / math.sqrt(len(x)), rel=0.02)
    assert found.protocol == {"samples": 3000}

    of = subject(vae, dataset(3000))
    x = torch.cat([batch.x for batch in of.images.in_order()])
    elbo = measured("elbo", of)
    exact = vae.decoder.marginal().log_prob(x.flatten(1)).double()
    assert elbo["elbo"].value + 4 * elbo["elbo"].error < exact.mean().item()
    trace = vae.trace(zoo.Batch(x), samples=50)
    expected = {"distortion": -trace.log_px.mean().item(), "rate": trace.kl.mean().item()}
    for name, value in expected.items():
        assert elbo[name].value == pytest.approx(value, abs=5 * elbo[name].error)
    assert elbo["rate"].value == pytest.approx(expected["rate"], rel=1e-5), "in closed form"
    assert elbo["elbo"].value == pytest.approx(-elbo["distortion"].value - elbo["rate"].value, rel=1e-9)


def test_neither_batches_nor_the_other_images_change_the_likelihood(monkeypatch):
    vae = linear_gaussian_vae()

    def likelihoods(**given) -> Tensor:
        of = subject(vae, **given)
        return of.each(lambda image, seed: vae.log_likelihood(image.x, 50, seed=seed))

    found = likelihoods(seed=7)
    assert found.dtype == torch.float64
    monkeypatch.setattr("zoo.evaluation.metric.BATCH", 3)
    torch.testing.assert_close(likelihoods(seed=7), found, atol=0, rtol=0)
    torch.testing.assert_close(likelihoods(seed=7, limit=5), found[:5], atol=0, rtol=0)
    assert (likelihoods(seed=8) != found).all()


def test_dynamic_binarisation_is_drawn_once_for_each_image(monkeypatch):
    data = dataset(300, (1, 5, 5))
    vae = vae_of(lambda x: x[:, :2], 1.0, 2, Bits(0.5, (1, 5, 5)))
    of = subject(vae, data, "dynamic", seed=3)
    bits = torch.cat([batch.x for batch in of.images.in_order()])
    assert set(bits.unique().tolist()) == {0.0, 1.0}
    assert of.no_likelihood == ""
    torch.testing.assert_close(torch.cat([batch.x for batch in of.images.in_order()]), bits, atol=0, rtol=0)
    monkeypatch.setattr("zoo.evaluation.metric.BATCH", 7)
    few = subject(vae, data, "dynamic", seed=3, limit=30)
    torch.testing.assert_close(torch.cat([batch.x for batch in few.images.in_order()]), bits[:30], atol=0, rtol=0)
    other = subject(vae, data, "dynamic", seed=4)
    assert (torch.cat([batch.x for batch in other.images.in_order()]) != bits).any()
    intensity = data.test.x / 255
    error = (intensity * (1 - intensity)).mean().sqrt() / math.sqrt(bits.numel())
    assert (bits - intensity).mean().abs() < 4 * error, "a bit is 1 with the probability of its intensity"
    assert ((bits - intensity) * (intensity - 0.5)).mean().abs() < 4 * error


@pytest.mark.parametrize("samples", [1, 7])
def test_real_pixels_under_a_bernoulli_are_said_to_be_no_likelihood(samples):
    """Trap 13. A constant decoder makes both numbers known: the cross entropy of each pixel, in nats and in bits."""
    vae = vae_of(lambda x: torch.zeros(len(x), 2), 1.0, 2, Bits(0.25))
    of = subject(vae)
    x = of.dataset.test.x / 255
    cross_entropy = -(x * math.log(0.25) + (1 - x) * math.log(0.75)).sum((1, 2, 3)).double().mean().item()
    found = {**measured("elbo", of), **measured("log-likelihood", of, samples=samples)}
    assert found["elbo"].value == pytest.approx(-cross_entropy, rel=1e-5)
    assert found["log-likelihood"].value == pytest.approx(-cross_entropy, rel=1e-5)
    for name in ("bits-per-dimension", "log-likelihood-bits"):
        assert found[name].value == pytest.approx(cross_entropy / 4 / math.log(2), rel=1e-5)
    assert found["rate"].value == pytest.approx(0, abs=1e-6)
    for name, one in found.items():
        assert ("no likelihood" in one.note) == (name != "rate"), name

    bits = {**measured("elbo", subject(vae, binarize="threshold"))}
    assert {one.note for one in bits.values()} == {""}


def test_a_density_says_what_its_bits_are_of():
    notes = {name: one.note for name, one in measured("elbo", subject(linear_gaussian_vae())).items()}
    assert notes["elbo"] == ""
    assert "density over [0, 1]" in notes["bits-per-dimension"]


def test_an_energy_is_refused_as_a_likelihood_and_marked_in_the_bound():
    vae = linear_gaussian_vae()
    vae.decoder = Unnormalized()
    with pytest.raises(zoo.ComponentError, match="not a normalized density"):
        measured("log-likelihood", subject(vae), samples=5)
    assert "not normalized" in measured("elbo", subject(vae))["elbo"].note


# --- reconstructions


def test_squared_errors_are_summed_over_pixels_and_averaged_over_images():
    """Trap 9. Decoded is z itself, and z is x plus noise of scale 0.1: errors 0 at the mean, 4 * 0.01 at a draw."""
    vae = vae_of(lambda x: x, 0.1, 4, LinearGaussian(torch.eye(4), 1.0))
    found = measured("reconstruction", subject(vae, dataset(2000)))
    assert found["squared-error-at-mean"].value == pytest.approx(0, abs=1e-9)
    assert found["squared-error-at-draw"].value == pytest.approx(0.04, abs=5 * found["squared-error-at-draw"].error)
    assert found["squared-error-at-draw"].error == pytest.approx(0.01 * math.sqrt(2 * 4) / math.sqrt(2000), rel=0.1)
    assert found["mse-at-draw"].value == pytest.approx(found["squared-error-at-draw"].value / 4, rel=1e-9)
    shifted = vae_of(lambda x: x + 0.5, 0.1, 4, LinearGaussian(torch.eye(4), 1.0))
    assert measured("reconstruction", subject(shifted))["squared-error-at-mean"].value == pytest.approx(1.0, rel=1e-5)


class Meanless(Independent):
    """A flow, say: it can be drawn from, and has no mean."""

    @property
    def mean(self):
        raise NotImplementedError


def test_a_posterior_without_a_mean_is_measured_at_draws_alone():
    vae = vae_of(lambda x: x, 0.1, 4)
    q = vae.encoder.q
    vae.encoder = GivenPosterior(lambda x: Meanless(q(x).base_dist, 1))
    of = subject(vae)
    assert of.representation == "posterior draws"
    assert set(measured("reconstruction", of)) == {"squared-error-at-draw", "mse-at-draw"}
    with pytest.raises(zoo.NotApplicable, match="active-units cannot be measured: the posterior has no mean"):
        measured("active-units", of)
    torch.testing.assert_close(of.encoded(of.images), of.posterior_mean, atol=0, rtol=0)


# --- latents


def test_active_units_count_the_variance_of_the_mean_over_the_whole_split():
    """Trap 15. Five latents whose means vary by 0, below, just above the threshold, and much; two batches."""
    data = dataset(600)
    x = (data.test.x / 255).flatten(1).double()
    scale = torch.tensor([0.0, 0.09, 0.11, 1.0]) / x.std(0, correction=0).float()
    vae = vae_of(lambda x: x * scale, 5.0, 4)  # the scale of q itself does not count
    found = measured("active-units", subject(vae, data))["active-units"]
    assert (found.value, found.unit) == (2, "of 4")
    assert found.protocol["threshold"] == 0.01
    assert measured("active-units", subject(vae, data), threshold=0.5)["active-units"].value == 1
    assert measured("active-units", subject(vae, data), threshold=0.008)["active-units"].value == 3


def test_the_information_and_the_kl_of_the_aggregate_add_up_to_the_rate():
    data = dataset(700)
    vae = vae_of(lambda x: 2 * x[:, :2] - 1, 0.3, 2)
    of = subject(vae, data)
    found = measured("information", of, images=600)
    total = found["mutual-information"].value + found["aggregate-kl"].value
    assert total == pytest.approx(found["rate-at-draws"].value, rel=1e-9)
    rate = measured("elbo", subject(vae, data, limit=600))["rate"].value
    assert found["rate-at-draws"].value == pytest.approx(rate, abs=5 * found["rate-at-draws"].error)

    # The mixture is one of products of two, so its entropy is that of a histogram-fine grid: by quadrature.
    q = vae.encode(torch.cat([batch.x for batch in of.images.in_order()])[:600])
    axis = torch.linspace(-2.5, 2.5, 101)
    grid = torch.cartesian_prod(axis, axis)
    log_q = torch.cat([q.log_prob(part[:, None]).logsumexp(1) for part in grid.split(500)]).double() - math.log(600)
    log_p = Independent(Normal(torch.zeros(2), 1.0), 1).log_prob(grid).double()
    cell = (axis[1] - axis[0]).item() ** 2
    kl = (log_q.exp() * (log_q - log_p)).sum().item() * cell
    assert found["aggregate-kl"].value == pytest.approx(kl, abs=0.12)


def test_the_information_between_its_bounds():
    """No code tells nothing; codes far apart tell which of N images it was: log N."""
    nothing = measured("information", subject(vae_of(lambda x: 0 * x, 1.0, 4)))
    for name in ("mutual-information", "aggregate-kl", "rate-at-draws"):
        assert nothing[name].value == pytest.approx(0, abs=1e-6)
    all_of_it = measured("information", subject(vae_of(lambda x: 1e3 * x, 1e-3, 4)), images=30)
    assert all_of_it["mutual-information"].value == pytest.approx(math.log(30), rel=1e-6)
    assert all_of_it["mutual-information"].protocol == {"pairs of images": 30, "at most": round(math.log(30), 2)}


class NormalByLabel(zoo.Prior):
    """p(z | y) = N(shift y, scale^2), far apart; the first latent of one that has several is shifted."""

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
def test_the_information_under_a_prior_for_each_label(shift):
    """The aggregate of a label is compared with the prior of that label: neither part can be negative.

    30 images of 3 labels: with q(z | x, y) = p(z | y) both parts are 0; with codes far apart, the information is
    that of one image among the 10 of its label.
    """
    decoder = LinearGaussian(torch.ones(4, 2), 1.0)
    nothing = zoo.VAE(ByLabel(lambda x: 0 * x[:, :2], shift, 1.0), decoder, NormalByLabel(shift))
    found = measured("information", subject(nothing), images=30)
    for name in ("mutual-information", "aggregate-kl", "rate-at-draws"):
        assert found[name].value == pytest.approx(0, abs=1e-5)
    everything = zoo.VAE(ByLabel(lambda x: 1e3 * x[:, :2], shift, 1e-2), decoder, NormalByLabel(shift, 1e3))
    found = measured("information", subject(everything), images=30)
    assert found["mutual-information"].value == pytest.approx(math.log(10), rel=1e-6)
    assert found["mutual-information"].protocol == {"pairs of images": 30, "given": "the label", "at most": 2.3}
    total = found["mutual-information"].value + found["aggregate-kl"].value
    assert total == pytest.approx(found["rate-at-draws"].value, rel=1e-9)


def test_the_information_of_a_conditional_model():
    """Of `cvae`, whose priors and posteriors are moved apart as training does."""
    data = dataset(shape=(1, 8, 8))
    recipe = zoo.recipe("cvae", ["latent_dim=2"])
    torch.manual_seed(0)
    vae = zoo.create_model(recipe, data_shape=(1, 8, 8), classes=3)
    with torch.no_grad():
        vae.prior.mean.copy_(10 * torch.randn(3, 2))
    q = vae.encoder.forward
    vae.encoder.forward = lambda x, condition=None: _moved(q(x, condition), vae.prior.mean[condition])
    found = measured("information", zoo.EvaluationContext(vae, recipe, data))
    assert found["aggregate-kl"].value > -3 * found["rate-at-draws"].error
    total = found["mutual-information"].value + found["aggregate-kl"].value
    assert total == pytest.approx(found["rate-at-draws"].value, rel=1e-6)


def _moved(q: Distribution, by: Tensor) -> Distribution:
    return Independent(Normal(q.mean + by, q.base_dist.scale), 1)


def test_a_probe_reads_labels_that_are_in_the_code_and_guesses_those_that_are_not():
    data = dataset(300)
    labels = {split: (getattr(data, split).x[:, 0, 0, 0] > 127).long() for split in ("train", "test")}
    data = zoo.Dataset(zoo.Split(data.train.x, labels["train"]), zoo.Split(data.test.x, labels["test"]))
    seen = measured("linear-probe", subject(vae_of(lambda x: x[:, :2], 1.0, 2), data))["linear-probe"]
    unseen = measured("linear-probe", subject(vae_of(lambda x: x[:, 2:], 1.0, 2), data))["linear-probe"]
    assert seen.value > 0.97
    assert unseen.value == pytest.approx(0.5, abs=0.12)
    assert seen.protocol["fitted to"] == "600 training images"
    assert seen.note == ""
    on_train = measured("linear-probe", subject(vae_of(lambda x: x[:, :2], 1.0, 2), data, split="train"))
    assert "fitted to" in on_train["linear-probe"].note


# --- Frechet distance


def test_the_frechet_distance_of_two_gaussians():
    """Against |m - m'|^2 + sum (s - s')^2 for commuting covariances, and scipy's square root for others."""
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
        warnings.simplefilter("ignore")  # torch would rather have the one or the other
        if request.param == "pt":
            torch.jit.save(torch.jit.trace(Flat(), example), path)
        else:
            shapes = {"x": {0: torch.export.Dim("n", min=1)}}
            torch.export.save(torch.export.export(Flat(), (example,), dynamic_shapes=shapes), path)
    return path


def test_the_distance_is_named_after_its_extractor(extractor):
    """Trap 15: count and digest are stated, and nothing but the Inception weights makes it an FID."""
    vae = vae_of(lambda x: x, 1.0, 2, LinearGaussian(torch.tensor([[0.3, 0], [0, 0.2], [0, 0], [0.1, 0.1]]), 1.0))
    data = dataset(2000)
    of = subject(vae, data)
    (one,) = measured("frechet", of, extractor=str(extractor)).values()
    assert one.name == "frechet_pixels"
    digest = hashlib.sha256(extractor.read_bytes()).hexdigest()
    assert one.protocol == {"samples": 2000, "features": 4, "extractor sha256": digest}
    # samples are W z: the Gaussian N(0, W W') exactly, so many draws of it have nearly the same distance
    x = (data.test.x / 255).flatten(1)
    w = vae.decoder.weight.detach()
    assert one.value == pytest.approx(frechet(x, torch.randn(100_000, 2) @ w.T), rel=0.05)
    (fid,) = measured("frechet", of, extractor=str(extractor), inception=True).values()
    assert fid.name == "fid"


def test_extractors_that_are_none(tmp_path):
    of = subject(vae_of(lambda x: x, 1.0, 4))
    with pytest.raises(zoo.DataError, match="no feature extractor"):
        measured("frechet", of, extractor=str(tmp_path / "absent.pt"))
    for name in ("broken.pt", "broken.pt2"):
        (tmp_path / name).write_bytes(b"not a module")
        with pytest.raises(zoo.DataError, match=name):
            measured("frechet", of, extractor=str(tmp_path / name))
    with pytest.raises(zoo.RecipeError, match="extractor: is required"):
        measured("frechet", of)


# --- choosing, leaving out, failing


def test_what_cannot_be_had_is_left_out_with_its_reason():
    of = subject(vae_of(lambda x: x, 1.0, 4), dataset(labels=False))
    evaluation = measure(of)
    assert evaluation.left_out == {"linear-probe": "the data have no labels"}
    assert {"elbo", "active-units", "information", "reconstruction"} <= set(evaluation.measurements)
    assert not {"log-likelihood", "frechet"} & set(evaluation.measurements)
    with pytest.raises(zoo.NotApplicable, match="linear-probe cannot be measured: the data have no labels"):
        measured("linear-probe", of)
    with pytest.raises(zoo.UnknownName, match="Did you mean 'elbo'"):
        measured("elbow", of)
    with pytest.raises(zoo.RecipeError, match="Did you mean 'threshold'"):
        measured("active-units", of, treshold=1.0)
    with pytest.raises(zoo.RecipeError, match="samples"):
        measured("log-likelihood", of, samples=0)


def test_a_number_that_is_not_finite_is_never_reported():
    """Scenario 23: weights that are NaN give no number, but a reason; and an error when it was asked for."""
    vae = vae_of(lambda x: x, 1.0, 4, Bits(0.5))
    nn.init.constant_(vae.decoder.logits, math.nan)
    evaluation = measure(subject(vae))
    assert {"elbo", "reconstruction"} <= set(evaluation.left_out)
    assert evaluation.left_out["elbo"].startswith("elbo is nan")
    assert all(math.isfinite(m["value"]) for m in evaluation.to_json()["measurements"])
    with pytest.raises(zoo.ZooError, match="log-likelihood is nan"):
        measured("log-likelihood", subject(vae), samples=3)


def test_every_metric_has_draws_of_its_own():
    """What is measured before does not change a number."""
    vae, data = vae_of(lambda x: x, 1.0, 4), dataset(50)
    alone = measured("reconstruction", subject(vae, data))["mse-at-draw"].value
    torch.manual_seed(123)
    assert measure(subject(vae, data))["mse-at-draw"].value == alone
    assert measured("reconstruction", subject(vae, data, seed=1))["mse-at-draw"].value != alone


def test_a_third_party_brings_a_metric(install):
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
    of = subject(vae_of(lambda x: 0 * x, 1.0, 4))
    evaluation = measure(of)
    assert evaluation["sparsity"].value == 1
    assert evaluation.left_out["broken"] == "RuntimeError: the licence has expired"
    assert "could not be imported" in evaluation.left_out["absent"]
    assert measured("sparsity", of, threshold=0.5)["sparsity"].protocol == {"threshold": 0.5}
    with pytest.raises(zoo.ComponentError, match="returned a float, not a zoo.Measurement"):
        measured("wrong", of)


# --- the command line


@pytest.fixture
def zoo_evaluate(digits_run, capsys):
    """``zoo evaluate`` on a run of mlp-vae-2d; what it printed."""

    def evaluate(*arguments: object, code: int = 0) -> str:
        with pytest.raises(SystemExit) as end:
            main(["evaluate", str(digits_run), *map(str, arguments)])
        assert end.value.code == code
        out, err = capsys.readouterr()
        return err if code else out

    return evaluate


def test_the_table_and_the_json_hold_the_same_numbers(zoo_evaluate):
    arguments = ("--limit", "60", "--samples", "8", "--seed", "2")
    table = zoo_evaluate(*arguments)
    found = json.loads(zoo_evaluate(*arguments, "--json"))
    assert found["protocol"] == {"split": "test", "images": 60, "binarize": "none", "seed": 2}
    assert (found["model"], found["data"], found["left_out"]) == ("mlp-vae-2d", "digits", {})
    values = {one["name"]: one for one in found["measurements"]}
    assert values["log-likelihood"]["protocol"] == {**found["protocol"], "samples": 8}
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


def test_two_processes_give_the_likelihood_of_one(digits_run):
    """Sharing the images out among processes changes no number."""
    command = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "zoo", "evaluate", digits_run)
    arguments = ("--limit", "25", "--metric", "log-likelihood", "--samples", "16", "--json")
    done = subprocess.run([sys.executable, "-m", *command, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    one = zoo.evaluate(digits_run, ["log-likelihood"], limit=25, samples=16)
    assert json.loads(done.stdout)["measurements"] == one.to_json()["measurements"]


def test_mistakes_are_explained(zoo_evaluate):
    assert "Did you mean 'elbo'?" in zoo_evaluate("--metric", "elbow", code=2)
    assert "expected METRIC.SETTING=VALUE" in zoo_evaluate("elbo=3", code=2)
    assert "no feature extractor nets.pt" in zoo_evaluate("frechet.extractor=nets.pt", "--metric", "frechet", code=2)


def test_the_library_gives_what_the_command_gives(digits_run, zoo_evaluate):
    settings = {"active-units": {"threshold": 0.5}}
    evaluation = zoo.evaluate(digits_run, ["elbo"], settings, limit=40, samples=4)
    assert list(evaluation.measurements) == ["elbo", "active-units", "log-likelihood"]
    assert evaluation["active-units"].protocol["threshold"] == 0.5
    command = ("--metric", "elbo", "active-units.threshold=0.5", "--limit", "40", "--samples", "4", "--json")
    assert json.loads(zoo_evaluate(*command))["measurements"] == evaluation.to_json()["measurements"]
    with pytest.raises(KeyError):
        _ = evaluation["fid"]
    with pytest.raises(zoo.UsageError, match="no split 'dev'"):
        zoo.evaluate(digits_run, split="dev")
    features = zoo.evaluate(digits_run, settings={"frechet": {"extractor": str(digits_run)}}, limit=40)
    assert features["frechet_mlp-vae-2d"].value > 0
    assert features["frechet_mlp-vae-2d"].protocol["features"] == 2
