"""Anomaly scores against closed forms of a linear Gaussian model, and the command as a user runs it."""

from __future__ import annotations

import csv
import json
import math
import re

import numpy as np
import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

import zoo
from toys import GivenPosterior, linear_gaussian_vae
from zoo.cli.main import main
from zoo_score.methods import METHODS, Settings, draws
from zoo_score.posteriors import draw, optimize, parametrize
from zoo_score.score import score

N, SCALE = 6, 0.5


@pytest.fixture
def batch() -> zoo.Batch:
    return zoo.Batch(torch.randn(N, 1, 1, 4, generator=torch.Generator().manual_seed(3)))


def multivariate(q: Independent) -> MultivariateNormal:
    return MultivariateNormal(q.mean, torch.diag_embed(q.variance))


def best_factorized(posterior: MultivariateNormal) -> MultivariateNormal:
    """The independent normal that minimizes KL(q || p): the mean of p, and the diagonal of its precision."""
    return MultivariateNormal(
        posterior.mean, torch.diag_embed(1 / posterior.precision_matrix.diagonal(dim1=-2, dim2=-1))
    )


def scores(name: str, vae: zoo.VAE, batch: zoo.Batch, **settings: int) -> torch.Tensor:
    with torch.no_grad():
        return METHODS[name](vae, batch, Settings(**settings))


def test_negative_elbo_is_the_negative_log_likelihood_plus_the_kl_to_the_posterior(batch):
    vae = linear_gaussian_vae()
    gap = kl_divergence(multivariate(vae.encode(batch.x)), vae.decoder.posterior(batch.x))
    expected = gap - vae.decoder.marginal().log_prob(batch.x.flatten(1))
    actual = scores("elbo", vae, batch, samples=50_000)
    torch.testing.assert_close(actual, expected.double(), rtol=5e-3, atol=0.03)


def test_importance_weighted_score_is_the_negative_log_likelihood(batch):
    vae = linear_gaussian_vae()
    expected = -vae.decoder.marginal().log_prob(batch.x.flatten(1))
    torch.testing.assert_close(
        scores("log-likelihood", vae, batch, samples=50_000), expected.double(), rtol=0, atol=0.01
    )


def test_reconstruction_is_the_expected_negative_log_density(batch):
    vae = linear_gaussian_vae(scale=SCALE)
    q, w = vae.encode(batch.x), vae.decoder.weight.detach()
    at_mean = -vae.decode(q.mean).log_prob(batch.x)
    spread = (q.variance * w.square().sum(0)).sum(-1) / (2 * SCALE**2)
    actual = scores("reconstruction", vae, batch, samples=50_000)
    torch.testing.assert_close(actual, (at_mean + spread).detach().double(), rtol=5e-3, atol=0.03)


def test_regret_is_the_difference_of_two_kl_divergences(batch):
    """The posterior is not diagonal, so the optimum within the family has a positive KL of its own."""
    vae = linear_gaussian_vae()
    exact, q = vae.decoder.posterior(batch.x), multivariate(vae.encode(batch.x))
    expected = kl_divergence(q, exact) - kl_divergence(best_factorized(exact), exact)
    assert expected.min() > 0.05
    actual = scores("regret", vae, batch, samples=20_000, steps=300)
    torch.testing.assert_close(actual, expected.double(), rtol=0.03, atol=0.01)


def diagonal_vae(shift: float, widening: float) -> zoo.VAE:
    """A linear Gaussian model whose exact posterior is diagonal, with a perturbed one as its encoder."""
    vae = linear_gaussian_vae()
    vae.decoder.weight.data = torch.linalg.qr(vae.decoder.weight.data).Q * torch.tensor([2.0, 0.7])

    def q(x):
        exact = vae.decoder.posterior(x)
        spread = exact.variance.sqrt()
        return Independent(Normal(exact.mean + shift * spread, widening * spread), 1)

    vae.encoder = GivenPosterior(q)
    return vae


def test_regret_of_an_exact_posterior_is_zero(batch):
    assert scores("regret", diagonal_vae(0.0, 1.0), batch, samples=10).abs().max() < 1e-4


@pytest.mark.parametrize(("shift", "widening"), [(0.5, 1.0), (0.0, 1.5), (-1.0, 0.5)])
def test_regret_of_a_perturbed_posterior_is_its_kl(batch, shift, widening):
    """KL = sum over 2 dimensions of (widening^2 + shift^2 - 1) / 2 - log widening."""
    expected = (widening**2 + shift**2 - 1) - 2 * math.log(widening)
    actual = scores("regret", diagonal_vae(shift, widening), batch, samples=20_000, steps=300)
    torch.testing.assert_close(actual, torch.full((N,), expected).double(), rtol=0.05, atol=0.01)


@pytest.mark.parametrize("name", METHODS)
def test_missing_entries_do_not_contribute(batch, name):
    """Every score of a masked example is that of the model of the observed entries."""
    vae = linear_gaussian_vae()
    mask = torch.ones_like(batch.x, dtype=torch.bool)
    mask[..., 2:] = False
    other = batch.x.clone()
    other[..., 2:] = 7.0
    posterior = vae.encode(batch.x)
    vae.encoder = GivenPosterior(lambda x: posterior)
    masked = scores(name, vae, zoo.Batch(other, None, mask), samples=50)
    part = linear_gaussian_vae()
    part.decoder.weight.data, part.encoder = part.decoder.weight.data[:2], vae.encoder
    expected = scores(name, part, zoo.Batch(batch.x[..., :2]), samples=50)
    close = {"rtol": 0, "atol": 0.02} if name == "regret" else {}  # missing entries change the noise of the optimizer
    torch.testing.assert_close(masked, expected, **close)


@pytest.mark.parametrize("name", METHODS)
def test_a_score_does_not_depend_on_the_rest_of_the_batch(batch, name):
    vae = linear_gaussian_vae()
    whole = scores(name, vae, batch, samples=20)
    rows = torch.tensor([4, 1])
    torch.testing.assert_close(scores(name, vae, zoo.Batch(batch.x[rows]), samples=20), whole[rows])


def test_optimization_leaves_the_model_unchanged(batch):
    vae = linear_gaussian_vae()
    before = vae.decoder.weight.clone()
    optimize(vae, batch, steps=3)
    assert torch.equal(vae.decoder.weight, before)
    assert vae.decoder.weight.grad is None


@pytest.mark.parametrize(
    "q",
    [
        Independent(Normal(torch.randn(5, 2), torch.rand(5, 2) + 0.1), 1),
        Independent(zoo.Gaussian(torch.randn(5, 3, 2), torch.randn(5, 3, 2)), 2),
        Independent(torch.distributions.Laplace(torch.randn(5, 2), torch.rand(5, 2) + 0.1), 1),
        MultivariateNormal(torch.randn(5, 2), covariance_matrix=torch.eye(2).expand(5, 2, 2) * 2),
    ],
    ids=lambda q: type(getattr(q, "base_dist", q)).__name__,
)
def test_a_posterior_is_a_function_of_its_parameters(q):
    parameters, rebuild = parametrize(q)
    z = q.sample((3,))
    torch.testing.assert_close(rebuild(parameters).log_prob(z), q.log_prob(z))
    moved = rebuild({name: value + 0.5 * ("loc" in name or "mean" in name) for name, value in parameters.items()})
    torch.testing.assert_close(moved.log_prob(z + 0.5), q.log_prob(z))


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        ("svae", "density on UnitSphere, not a density on the real numbers"),
        ("gumbel-vae", "are not reparameterized|probability mass"),
        ("fsq-vae", "a Quantized, has no density"),
        ("ae", "a PointMass, has no density"),
        ("planar", "not determined by parameters of each example"),
    ],
)
def test_other_posteriors_are_refused_with_the_reason(recipe, reason):
    vae = zoo.create_model(recipe, data_shape=(1, 8, 8)).eval()
    with pytest.raises(zoo.NotApplicable, match=reason):
        parametrize(vae.encode(torch.rand(3, 1, 8, 8)))


def test_draws_have_the_density_of_the_posterior():
    q = Independent(Normal(torch.tensor([[1.0, -2.0], [0.0, 3.0]]), torch.tensor([[0.5, 2.0], [1.0, 0.1]])), 1)
    torch.manual_seed(0)
    z, log_qz = draw(q, 40_000)
    torch.testing.assert_close(z.mean(0), q.mean, rtol=0, atol=0.03)
    torch.testing.assert_close(z.std(0), q.stddev, rtol=0.02, atol=0)
    torch.testing.assert_close(log_qz, q.log_prob(z))


def test_weights_average_to_the_likelihood(batch):
    vae = linear_gaussian_vae()
    with torch.no_grad():
        log_weight = draws(vae, batch, vae.encode(batch.x), 50_000, 0).log_weight
    expected = vae.decoder.marginal().log_prob(batch.x.flatten(1)).exp()
    torch.testing.assert_close(log_weight.exp().mean(0), expected.double(), rtol=0.02, atol=0)


# --- the command


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> zoo.Run:
    """A model of the digits 0 to 8, of which 9 is an anomaly."""
    digits = zoo.load_dataset("digits")

    def normal(split: zoo.Split) -> zoo.Split:
        rows = split.labels != 9
        return zoo.Split(split.x[rows], split.labels[rows])

    return zoo.train(
        "mlp-vae",
        data=zoo.Dataset(normal(digits.train), normal(digits.test)),
        epochs=4,
        folder=tmp_path_factory.mktemp("score") / "run",
        figures=False,
        progress=False,
        latent_dim=8,
        encoder={"hidden": [64]},
        decoder={"hidden": [64]},
    )


@pytest.fixture(scope="module")
def scored(run) -> object:
    return score(run, "digits", ["elbo", "reconstruction"], anomaly=9, samples=10, device="cpu")


def test_scores_are_those_of_every_example(run, scored):
    assert len(scored) == 1797
    assert scored.array().shape == (1797, 2)
    digits = zoo.load_dataset("digits")
    assert scored.anomalous.sum() == sum(int((split.labels == 9).sum()) for split in digits.splits.values())
    vae = run.load()
    last = zoo.Batch(digits.test.x[-1:].float() / 255)
    expected = scores("elbo", vae, last, samples=10).item()
    assert scored.values["elbo"][-1] == pytest.approx(expected, rel=1e-5)


def test_separation_is_that_of_the_ranks(scored):
    values, anomalous = scored.values["elbo"], scored.anomalous
    pairs = values[anomalous][:, None] - values[~anomalous]
    auroc = ((pairs > 0) + 0.5 * (pairs == 0)).mean()
    assert scored.separation()["elbo"].auroc == pytest.approx(auroc)
    hits = anomalous[np.argsort(-values)]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    assert scored.separation()["elbo"].average_precision == pytest.approx(precision[hits].mean(), abs=1e-4)
    assert scored.ranking()[0] == values.argmax()


def test_csv_and_npy_have_the_scores(scored, tmp_path):
    scored.save(tmp_path / "scores.csv")
    rows = list(csv.DictReader((tmp_path / "scores.csv").read_text().splitlines()))
    assert list(rows[0]) == ["index", "label", "anomaly", "elbo", "reconstruction"]
    assert [float(row["elbo"]) for row in rows] == scored.values["elbo"].tolist()
    assert [int(row["anomaly"]) for row in rows] == scored.anomalous.astype(int).tolist()
    scored.save(tmp_path / "scores.npy")
    assert np.array_equal(np.load(tmp_path / "scores.npy"), scored.array())


def test_command(run, tmp_path, capsys):
    out = tmp_path / "s.csv"
    command = ["score", str(run.path), "digits", "--anomaly", "9", "--samples", "2", "-o", str(out)]
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--top", "3", "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert len(printed["top"]) == 3
    assert printed["top"][0]["elbo"] >= printed["top"][1]["elbo"]
    assert 0 < printed["separation"]["elbo"]["auroc"] < 1
    assert printed["scores"] == str(out)
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--top", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["EXAMPLE", "LABEL", "ELBO"]
    assert lines[4].split() == ["METHOD", "AUROC", "AVERAGE", "PRECISION"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "elbow"}, "There is no method 'elbow'. Choose from: elbo, log-likelihood, reconstruction, regret. "
         "Did you mean 'elbo'?"),
        ({"anomaly": "nine"}, "No example has the label 'nine'. Labels: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9."),
        ({"anomaly": 11}, "No example has the label 11."),
        ({"anomaly": list(range(10))}, "Every example is an anomaly"),
        ({"samples": 0}, "samples must be at least 1, not 0"),
        ({"data": torch.rand(5, 1, 6, 6)}, "was trained on data of shape (1, 8, 8); got (1, 6, 6)."),
        ({"data": torch.rand(5, 1, 8, 8), "anomaly": 1}, "The data have no labels"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_explained(run, arguments, message):
    with pytest.raises(zoo.UsageError, match=re.escape(message)):
        score(run, **{"data": "digits", **arguments})


def test_wrong_format_is_refused_before_anything_is_computed(run, tmp_path):
    with pytest.raises(SystemExit):
        main(["score", str(run.path), "-o", str(tmp_path / "scores.txt")])
    assert not list(tmp_path.iterdir())


def test_labels_of_a_conditional_model_are_matched_by_name(tmp_path):
    x = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = torch.arange(40) % 2
    data = zoo.Dataset(zoo.Split(x, y), zoo.Split(x[:4], y[:4]), label_names=("cat", "dog"))
    run = zoo.train("cvae", data=data, epochs=1, folder=tmp_path / "run", figures=False, progress=False)
    both = score(run, data, samples=5).values["elbo"]
    dogs = zoo.Dataset(zoo.Split(x[y == 1], 0 * y[y == 1]), zoo.Split(x[1:2], 0 * y[1:2]), label_names=("dog",))
    np.testing.assert_allclose(score(run, dogs, samples=5).values["elbo"][:20], both[:40][y.numpy() == 1], rtol=1e-5)
    foxes = zoo.Dataset(zoo.Split(x, y), zoo.Split(x[:4], y[:4]), label_names=("cat", "fox"))
    with pytest.raises(zoo.UsageError, match="was trained without fox"):
        score(run, foxes)
    with pytest.raises(zoo.UsageError, match="the data have none"):
        score(run, x)
