"""The estimator of scikit-learn: its contract, and its numbers against closed forms."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

import zoo
from zoo.sklearn import VAE
from zoo_sklearn.scaling import Scaling

SMALL = {
    "latent_dim": 2,
    "epochs": 2,
    "batch_size": 16,
    "importance_samples": 5,
    "overrides": ("encoder.hidden=[8]", "decoder.hidden=[8]"),
}
LINEAR = {
    "overrides": (
        "encoder.hidden=[]",
        "decoder.hidden=[]",
        "encoder.posterior={use: gaussian, scale: shared}",
        "train.scheduler={use: CosineAnnealingLR, T_max: 100}",
    ),
    "lr": 0.01,
}


def checks() -> list[object]:
    return [
        pytest.param(estimator, check, id=f"{estimator.model or 'default'}-{check.func.__name__}")
        for model in (None, "table-vae")
        for estimator, check in estimator_checks_generator(VAE(model, **SMALL))
        # scikit-learn skips it unless SCIPY_ARRAY_API is set, and it is for estimators that declare its support.
        if check.func.__name__ != "check_array_api_input"
    ]


@pytest.mark.parametrize(("estimator", "check"), checks())
def test_contract(estimator, check):
    """Every check of scikit-learn, without an expected failure."""
    check(estimator)


@pytest.mark.parametrize("model", [None, "table-vae"])
def test_no_check_is_expected_to_fail(model):
    assert VAE(model).__sklearn_tags__().no_validation is False
    assert VAE(model).__sklearn_tags__().input_tags.allow_nan


@pytest.fixture(scope="module")
def X() -> np.ndarray:
    """Gaussian rows with two strong directions, in units far from 1."""
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(1000, 2)) @ generator.normal(size=(2, 5)) * 2 + generator.normal(size=(1000, 5)) * 0.5
    return rows * [1, 10, 0.1, 5, 100] + [0, 50, 3, -7, 1000]


@pytest.fixture(scope="module")
def linear(X) -> VAE:
    return VAE(latent_dim=2, epochs=100, batch_size=50, random_state=0, **LINEAR).fit(X)


def test_score_is_the_log_likelihood_of_probabilistic_pca_in_the_units_of_x(linear, X):
    """A linear VAE equals probabilistic PCA of the standardized columns (arXiv 1911.02469); the units of X add -log of
    the standard deviations.
    """
    expected = PCA(2).fit((X - X.mean(0)) / X.std(0)).score_samples((X - X.mean(0)) / X.std(0)) - np.log(X.std(0)).sum()
    assert linear.score(X) == pytest.approx(expected.mean(), abs=0.05)
    np.testing.assert_allclose(linear.score_samples(X), expected, atol=0.5)
    assert np.corrcoef(linear.score_samples(X), expected)[0, 1] > 0.99


def test_samples_have_the_moments_of_the_data(linear, X):
    samples = linear.sample(20_000)
    np.testing.assert_allclose((samples.mean(0) - X.mean(0)) / X.std(0), 0, atol=0.1)
    np.testing.assert_allclose(samples.std(0) / X.std(0), 1, atol=0.1)
    np.testing.assert_allclose(np.corrcoef(samples.T), np.corrcoef(X.T), atol=0.1)
    assert np.array_equal(linear.sample(4), linear.sample(4))
    assert not np.array_equal(linear.sample(4, random_state=1), linear.sample(4))


def test_inverse_transform_reconstructs_as_pca_does(linear, X):
    scale = X.std(0)
    pca = make_pipeline(StandardScaler(), PCA(2)).fit(X)
    best = np.square((pca.inverse_transform(pca.transform(X)) - X) / scale).mean()
    error = np.square((linear.inverse_transform(linear.transform(X)) - X) / scale).mean()
    assert best < error < 1.3 * best


def test_missing_values_are_integrated_out(linear, X):
    """Without an entry, the log-likelihood is that of the others under the marginal of the model."""
    rows = X[:50].copy()
    rows[:, [1, 3]] = np.nan
    model = linear.model_
    weight = model.decoder.trunk[1].weight.numpy()
    mean = model.decoder.trunk[1].bias.numpy()
    p = model.decode(model.prior(model.encoder).sample((1,)).double())
    noise = p.base_dist.scale.flatten()[0].item() ** 2
    covariance = weight @ weight.T + noise * np.eye(5)
    kept = [0, 2, 4]
    z = ((rows - X.mean(0)) / X.std(0) - mean)[:, kept]
    inverse = np.linalg.inv(covariance[np.ix_(kept, kept)])
    log_det = np.linalg.slogdet(2 * np.pi * covariance[np.ix_(kept, kept)])[1]
    expected = -0.5 * np.einsum("ni,ij,nj->n", z, inverse, z) - 0.5 * log_det - np.log(X.std(0)[kept]).sum()
    wide = copy.deepcopy(linear).set_params(importance_samples=20_000)
    wide.model_.encoder.posterior.log_variance.zero_()  # the posterior of complete rows is too narrow for these
    np.testing.assert_allclose(wide.score_samples(rows), expected, atol=0.15)


def test_results_do_not_depend_on_other_rows(linear, X):
    np.testing.assert_allclose(linear.score_samples(X[5:7]), linear.score_samples(X)[5:7], rtol=1e-9)
    np.testing.assert_allclose(linear.transform(X[5:7]), linear.transform(X)[5:7], rtol=1e-9, atol=1e-12)


def test_pipeline_grid_search_and_names():
    X, y = load_iris(return_X_y=True, as_frame=True)
    pipeline = make_pipeline(VAE(**{**SMALL, "epochs": 30, "random_state": 0}), LogisticRegression())
    search = GridSearchCV(pipeline, {"vae__latent_dim": [1, 3], "vae__lr": [1e-3, 1e-2]}, cv=2).fit(X, y)
    assert search.best_score_ > 0.6
    assert list(search.best_estimator_[:-1].get_feature_names_out()) == [
        f"vae{i}" for i in range(search.best_params_["vae__latent_dim"])
    ]
    latents = VAE(**SMALL).set_output(transform="pandas").fit_transform(X)
    assert list(latents.columns) == ["vae0", "vae1"]
    by_likelihood = GridSearchCV(VAE(**{**SMALL, "random_state": 0}), {"epochs": [1, 40]}, cv=2).fit(X)
    assert by_likelihood.best_params_ == {"epochs": 40}


def test_pickles_clones_and_joblib(linear, X, tmp_path):
    copies = [pickle.loads(pickle.dumps(linear))]
    joblib.dump(linear, tmp_path / "vae.joblib")
    copies.append(joblib.load(tmp_path / "vae.joblib"))
    for each in copies:
        assert np.array_equal(each.transform(X), linear.transform(X))
        assert np.array_equal(each.score_samples(X[:9]), linear.score_samples(X[:9]))
        assert np.array_equal(each.sample(3), linear.sample(3))
    assert clone(linear).get_params() == linear.get_params()
    assert not hasattr(clone(linear), "model_")


def test_fit_is_silent_leaves_no_file_and_depends_on_the_seed_alone(X, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    first, second, third = (VAE(**SMALL, random_state=seed).fit(X[:50]).transform(X) for seed in (0, 0, 1))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, third)
    assert tuple(capfd.readouterr()) == ("", "")
    assert not list(tmp_path.iterdir())


def test_models_of_images_and_of_the_unit_interval():
    digits = zoo.load_dataset("digits").train.x[:60].flatten(1).numpy() / 255
    vae = VAE("conv-vae", **{**SMALL, "overrides": ()}, data_shape=(1, 8, 8), standardize=False).fit(digits)
    assert vae.transform(digits).shape == (60, 2)
    restored = vae.inverse_transform(vae.transform(digits))
    assert restored.shape == digits.shape
    assert ((restored > 0) & (restored < 1)).all()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"model": "mpl-vae"}, "Did you mean 'mlp-vae'"),
        ({"overrides": ("encoder.hiden=[8]",)}, "encoder.hiden: unknown key. Did you mean 'hidden'"),
        ({"latent_dim": 0}, "latent_dim"),
        ({"data_shape": (2, 2)}, "does not have the 5 entries of a row of X"),
    ],
)
def test_wrong_parameters_are_explained(X, parameters, message):
    with pytest.raises(zoo.UsageError, match=message):
        VAE(**{**SMALL, **parameters}).fit(X)


def test_a_model_without_a_likelihood_says_so(X):
    vae = VAE("ae", **SMALL, standardize=True).fit(X)
    with pytest.raises(zoo.NotApplicable, match="PointMass, has no density"):
        vae.score(X)


def test_wrong_input_is_explained(linear):
    with pytest.raises(ValueError, match="expecting 5 features"):
        linear.transform(np.zeros((3, 4)))
    with pytest.raises(ValueError, match="Z has 3 columns, but the latent has 2 dimensions"):
        linear.inverse_transform(np.zeros((3, 3)))
    with pytest.raises(ValueError, match="n_samples must be a positive integer"):
        linear.sample(0)
    with pytest.raises(ValueError, match="infinity"):
        linear.transform(np.full((3, 5), np.inf))


# --- tables


@pytest.fixture(scope="module")
def frame() -> object:
    """Numbers, text, a date and gaps: the height depends on the species."""
    pandas = pytest.importorskip("pandas")
    generator = np.random.default_rng(0)
    species = generator.choice(["oak", "fir", "yew"], 300)
    height = np.select([species == "oak", species == "fir"], [10.0, 30.0], 20.0) + generator.normal(size=300)
    height[::7] = np.nan
    return pandas.DataFrame(
        {
            "species": species,
            "height": height,
            "nests": generator.poisson(3, 300),
            "planted": pandas.to_datetime("2020-01-01")
            + pandas.to_timedelta(generator.integers(0, 900, 300), unit="D"),
        }
    )


@pytest.fixture(scope="module")
def fitted(frame) -> VAE:
    return VAE(latent_dim=2, epochs=60, lr=5e-3, random_state=0).fit(frame)


def test_a_frame_with_text_is_a_table(fitted, frame):
    assert fitted.recipe_.name == "table-vae"
    assert list(fitted.feature_names_in_) == list(frame.columns)
    latents = fitted.transform(frame)
    assert latents.shape == (300, 2)
    restored = fitted.inverse_transform(latents)
    assert list(restored.columns) == list(frame.columns)
    assert (restored["species"] == frame["species"]).mean() > 0.9
    assert (restored["height"] - frame["height"]).abs().mean() < 3
    samples = fitted.sample(500)
    assert set(samples["species"]) == {"oak", "fir", "yew"}
    assert samples["planted"].dtype.kind == "M"
    assert abs(samples["nests"].mean() - 3) < 0.5


def test_the_density_of_a_table_is_in_its_units(fitted, frame):
    """In centimetres instead of metres, each observed height has the density of 1 / 100."""
    other = frame.assign(height=frame["height"] * 100)
    same = VAE(latent_dim=2, epochs=60, lr=5e-3, random_state=0).fit(other)
    observed = frame["height"].notna().to_numpy()
    difference = fitted.score_samples(frame) - same.score_samples(other)
    np.testing.assert_allclose(difference, np.log(100) * observed, atol=0.1)


def test_an_unknown_category_counts_as_missing(fitted, frame):
    rows = frame.iloc[:2].assign(species=["elm", None])
    gone = frame.iloc[:2].assign(species=[None, None])
    with pytest.warns(UserWarning, match="'species': 1 value counts as missing, since 'elm' in row 1"):
        transformed = fitted.transform(rows)
    np.testing.assert_allclose(transformed, fitted.transform(gone))


def test_columns_that_are_left_out_are_reported_once_per_search(frame, caplog):
    """As warnings, which Python shows once; the row number is left out of every fold, too."""
    rows = frame.assign(number=range(1, len(frame) + 1))
    with pytest.warns(UserWarning, match="'number' is left out: it identifies the rows") as warned:
        search = GridSearchCV(VAE(**SMALL), {"latent_dim": [1, 2]}, cv=2, error_score="raise").fit(rows)
    assert len(warned) == 5
    assert "number" not in [column.name for column in search.best_estimator_._rows.columns]
    assert search.best_estimator_.sample(2)["number"].isna().all()
    assert not caplog.records


def test_tables_pickle_and_select_columns_by_kind(fitted, frame):
    each = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(each.transform(frame), fitted.transform(frame))
    vae = VAE(**SMALL, columns={"nests": "count"}).fit(frame)
    kinds = {column.name: column.kind for column in vae._rows.columns}
    assert kinds == {"species": "categorical", "height": "real", "nests": "count", "planted": "real"}


def test_wrong_frames_are_explained(fitted, frame):
    with pytest.raises(ValueError, match="feature names should match"):
        fitted.transform(frame.rename(columns={"height": "size"}))
    with pytest.raises(ValueError, match="columns without numbers, which mlp-vae does not take; try model='table-vae'"):
        VAE("mlp-vae").fit(frame)


def test_scaling_ignores_missing_values_and_keeps_constant_columns():
    rows = np.array([[1.0, 5.0, np.nan, 1e200], [3.0, 5.0, np.nan, -1e200], [np.nan, 5.0, np.nan, 1e200]])
    scaling = Scaling.of(rows)
    np.testing.assert_allclose(scaling.mean, [2, 5, 0, 1e200 / 3])
    np.testing.assert_allclose(scaling.scale, [1, 1, 1, np.sqrt(8 / 9) * 1e200])
    np.testing.assert_allclose(scaling.restore_rows(scaling.scale_rows(rows)), rows)


def test_importing_zoo_does_not_import_scikit_learn():
    program = "import sys, zoo; assert 'sklearn' not in sys.modules; from zoo.sklearn import VAE; print(VAE.__module__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ, check=True)
    assert done.stdout == "zoo_sklearn.estimator\n"
