"""The checks of `zoo diagnose` against closed forms, above all at the optimum of a linear VAE (arXiv 1911.02469)."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch.distributions import Categorical, Independent, Normal

import zoo
from toys import GivenPosterior, linear_gaussian_vae
from zoo.cli.main import main
from zoo_diagnose.checks import CHECKS, effective_sample_size, examine, two_sample_auc
from zoo_diagnose.diagnose import diagnose
from zoo_discrete.codebook import CodebookUse
from zoo_reproduce.exact import fixed_scale_active_units

LATENTS, SCALE = 32, 0.355
LINEAR = {
    "latent_dim": LATENTS,
    "encoder": {"use": "mlp", "hidden": [], "posterior": {"use": "gaussian", "scale": "shared"}},
    "decoder": {"use": "mlp", "hidden": [], "likelihood": {"use": "gaussian", "scale": SCALE}},
    "data": "digits",
}


@pytest.fixture(scope="module")
def recipe() -> zoo.Recipe:
    return zoo.recipe("mlp-vae", **LINEAR)


@pytest.fixture(scope="module")
def digits() -> zoo.Dataset:
    return zoo.load_dataset("digits")


@pytest.fixture(scope="module")
def optimum(recipe, digits) -> tuple[zoo.VAE, torch.Tensor]:
    """The linear VAE at its global optimum, and the rate of each dimension on the training split.

    With the eigenvalues l of the covariance of the data and s the scale, W = U (l - s^2)^(1/2); the posterior has the
    variance s^2 / l and the mean W^T (x - m) / l, and a dimension with l < s^2 collapses.
    """
    x = digits.train.x.flatten(1).double() / 255
    mean = x.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0))
    values, vectors = values.flip(0)[:LATENTS], vectors.flip(1)[:, :LATENTS]
    used = values.clamp_min(SCALE**2)
    weight = vectors * (values - SCALE**2).clamp_min(0).sqrt()
    vae = zoo.create_model(recipe, data_shape=(1, 8, 8))
    head, out = vae.encoder.posterior, vae.decoder.trunk[1]
    with torch.no_grad():
        head.linear.weight.copy_((weight / used).T)
        head.linear.bias.copy_(-(weight / used).T @ mean)
        head.log_variance.copy_((SCALE**2 / used).log())
        out.weight.copy_(weight)
        out.bias.copy_(mean)
    ratio = SCALE**2 / used
    rate = ((values - SCALE**2).clamp_min(0) * values / used**2 + ratio - 1 - ratio.log()) / 2
    return vae.eval(), rate


def context_of(vae: zoo.VAE, recipe: zoo.Recipe, dataset: zoo.Dataset, **options: object) -> zoo.EvaluationContext:
    return zoo.EvaluationContext(vae, recipe, dataset, **{"split": "train", **options})


def finding(name: str, context: zoo.EvaluationContext):
    with torch.no_grad():
        return examine(name, context)


def test_collapsed_dimensions_of_a_linear_vae_are_those_of_small_variance(optimum, recipe, digits):
    """22 of 32 dimensions; the rate of the others is known."""
    vae, expected = optimum
    result = finding("collapsed-dimensions", context_of(vae, recipe, digits))
    assert result.value == 22 == int((expected == 0).sum())
    assert result.verdict == "warn"
    torch.testing.assert_close(
        torch.tensor(result.details["rates"], dtype=torch.float64), expected, rtol=1e-3, atol=1e-5
    )


def test_active_units_of_a_linear_vae(optimum, recipe, digits):
    result = finding("active-units", context_of(optimum[0], recipe, digits))
    assert result.value == 10 == fixed_scale_active_units(digits, recipe, "train")
    assert (result.verdict, result.threshold) == ("warn", 16)


def test_an_exact_posterior_has_no_gap_and_equal_weights(optimum, recipe, digits):
    context = context_of(optimum[0], recipe, digits)
    gap, size = finding("amortization-gap", context), finding("effective-sample-size", context)
    assert gap.value == pytest.approx(0, abs=1e-3)
    assert size.value == pytest.approx(100, abs=0.01)
    assert (gap.verdict, size.verdict) == ("ok", "ok")


def test_a_perturbed_posterior_has_its_kl_as_the_gap(optimum, recipe, digits):
    """All means are shifted by one standard deviation: KL = 1/2 for each of 32 dimensions."""
    vae, _ = optimum
    encoder = vae.encoder

    def shifted(x: torch.Tensor) -> torch.distributions.Distribution:
        base = encoder(x).base_dist
        return Independent(Normal(base.loc + base.scale, base.scale), 1)

    result = finding(
        "amortization-gap", context_of(zoo.VAE(GivenPosterior(shifted), vae.decoder, vae.prior), recipe, digits)
    )
    assert result.value == pytest.approx(LATENTS / 2, rel=0.03)
    assert result.verdict == "warn"
    assert result.threshold == pytest.approx(0.1 * result.details["rate"])


def test_effective_sample_size_of_known_weights():
    """(sum w)^2 / sum w^2: 4 equal weights, 1 of 4, and 1, 2, 3, 4 with 100 / 30."""
    weights = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 2.0], [1.0, 0.0, 3.0], [1.0, 0.0, 4.0]])
    expected = torch.tensor([4.0, 1.0, 100 / 30])
    torch.testing.assert_close(effective_sample_size(weights.log()), expected)
    torch.testing.assert_close(effective_sample_size(weights.double().log() - 500), expected.double())


def test_two_sample_auc():
    """Equal distributions are inseparable; N(0, 1) and N(1, 1) have the AUC Phi(1 / sqrt 2) = 0.760."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 3000, 1, generator=generator)
    assert two_sample_auc(a, b) == pytest.approx(0.5, abs=0.03)
    assert two_sample_auc(a, b + 1) == pytest.approx(0.760, abs=0.02)
    assert two_sample_auc(a, b + 50) == pytest.approx(1.0, abs=1e-4)
    with pytest.raises(zoo.NotApplicable, match="at least 5 examples"):
        two_sample_auc(a[:4], b)


def test_holes_of_a_prior_that_the_posterior_never_fills(recipe):
    """q(z) = N(3, 1) against p(z) = N(0, 1): AUC Phi(3 / sqrt 2) = 0.983 for one dimension."""
    vae = linear_gaussian_vae(latent_dim=1)
    vae.encoder = GivenPosterior(lambda x: Independent(Normal(torch.full((len(x), 1), 3.0), 1.0), 1))
    split = zoo.Split(torch.randn(1000, 1, 1, 4, generator=torch.Generator().manual_seed(0)))
    result = finding("prior-holes", context_of(vae, recipe, zoo.Dataset(split, split)))
    assert result.value == pytest.approx(0.983, abs=0.01)
    assert result.threshold == pytest.approx(0.62 + 2 * (2001 / (12 * 1000**2)) ** 0.5, rel=1e-3)
    assert result.verdict == "warn"


@pytest.mark.parametrize("name", ["vq-vae", "rvq-vae"])
def test_codebook_use_is_the_perplexity_of_the_indices(name, digits):
    vae = zoo.create_model(name, data_shape=(1, 8, 8)).eval()
    context = zoo.EvaluationContext(vae, zoo.recipe(name), digits)
    with torch.no_grad():
        q = vae.encode(digits.test.x.float() / 255)
        perplexity, used = CodebookUse()(context)
    assert perplexity.value == pytest.approx(q.code_perplexity.item(), rel=1e-4)
    indices = q.indices.movedim(-1, 0).flatten(1)
    assert used.value == pytest.approx(sum(len(row.unique()) for row in indices) / len(indices) / q.codebook_size)
    result = finding("codebook-use", context)
    assert result.threshold == q.codebook_size / 4
    assert result.verdict == ("ok" if perplexity.value >= result.threshold else "warn")


def test_codebook_use_of_categorical_variables(digits):
    vae = zoo.create_model("gumbel-vae", data_shape=(1, 8, 8)).eval()
    with torch.no_grad():
        probabilities = vae.encode(digits.test.x.float() / 255).base_dist.probs.mean(0)
        perplexity, _ = CodebookUse()(zoo.EvaluationContext(vae, zoo.recipe("gumbel-vae"), digits))
    assert perplexity.value == pytest.approx(Categorical(probabilities).entropy().exp().mean().item(), rel=1e-4)


# --- runs and the command


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> zoo.Run:
    return zoo.train(
        "mlp-vae",
        data="digits",
        epochs=1,
        folder=tmp_path_factory.mktemp("diagnose") / "run",
        figures=False,
        progress=False,
        latent_dim=3,
        encoder={"hidden": [16]},
        decoder={"hidden": [16]},
    )


def test_the_split_is_named(run, tmp_path):
    assert diagnose(run, limit=20).protocol["split"] == "test"
    held_out = zoo.train(
        *("mlp-vae", ["data.validation=50"]),
        data="digits",
        epochs=1,
        folder=tmp_path / "run",
        figures=False,
        progress=False,
    )
    assert diagnose(held_out, limit=20).protocol["split"] == "validation"
    assert diagnose(held_out, limit=20, split="test").protocol["split"] == "test"


def test_findings_are_reproducible_and_complete(run):
    first, second = diagnose(run, limit=50), diagnose(run, limit=50)
    assert [one.name for one in first.findings] == list(CHECKS)
    assert first.to_json() == second.to_json()
    assert first["codebook-use"].verdict == "not applicable"
    assert first["codebook-use"].meaning == "the latent has no codes"
    assert all(math.isfinite(one.value) for one in first.findings if one.value is not None)


def test_command(run, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["diagnose", str(run.path), "--limit", "50", "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["protocol"]["images"] == 50
    assert printed == {
        "run": str(run.path),
        "model": "mlp-vae",
        **json.loads(zoo.to_json(diagnose(run, limit=50).to_json())),
    }
    with pytest.raises(SystemExit, match="0"):
        main(["diagnose", str(run.path), "--limit", "50"])
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "mlp-vae on digits: 50 test examples, seed 0"
    for one in diagnose(run, limit=50).findings:
        if one.verdict == "warn":
            assert f"{one.name}: {one.advice}" in out


def test_wrong_arguments_are_explained(run):
    with pytest.raises(zoo.UsageError, match="The data have no split 'validation'"):
        diagnose(run, split="validation")
    with pytest.raises(zoo.UsageError, match="limit must be at least 1"):
        diagnose(run, limit=0)
