"""Missing values: bounds and imputations against closed forms and quadrature."""

import math
import re

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from torch import nn
from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal

import zoo
import zoo_missing
from toys import GivenPosterior, Unnormalized
from zoo_missing import imputation as imputation_module
from zoo_missing.breast_cancer import breast_cancer
from zoo_missing.losses import MIWAE, NotMIWAE
from zoo_missing.metric import ImputationError
from zoo_missing.missingness import Missingness, MissingNotAtRandom
from zoo_missing.student import StudentTLikelihood, StudentTPosterior

W = torch.tensor([[1.0, 0.3], [-0.5, 0.8], [0.7, -0.9], [0.2, 1.1]])
SCALE = 0.5
COVARIANCE = W @ W.T + SCALE**2 * torch.eye(4)


class Linear(zoo.Decoder):
    """p(x | z) = N(W z, s^2)."""

    def __init__(self, weight=W, scale=SCALE):
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.scale = scale
        self.decoded = []

    def forward(self, z, condition=None):
        mean = z @ self.weight.T
        self.decoded.append(mean.numel())
        return Independent(Normal(mean, self.scale), 1)


def linear_vae(q=None, decoder=None, dims=2):
    """A linear Gaussian model whose posterior is a wide Gaussian, whatever x is."""
    wide = GivenPosterior(lambda x: Independent(Normal(torch.zeros(len(x), dims), 1.5), 1))
    prior = zoo.get("prior", "standard-normal")(latent_shape=(dims,))
    return zoo.VAE(wide if q is None else GivenPosterior(q), decoder or Linear(), prior)


def conditional(x, mask):
    """Mean and covariance of the missing entries given the observed ones, for one example."""
    gain = COVARIANCE[~mask][:, mask] @ torch.linalg.inv(COVARIANCE[mask][:, mask])
    return gain @ x[mask], COVARIANCE[~mask][:, ~mask] - gain @ COVARIANCE[mask][:, ~mask]


class TestBound:
    def test_is_the_likelihood_of_the_observed_block_under_the_exact_posterior(self):
        """Then every importance weight equals p(x_obs), for any number of samples."""
        mask = torch.tensor([True, False, True, True])
        observed = W[mask]
        precision = torch.eye(2) + observed.T @ observed / SCALE**2

        def exact(x):
            mean = torch.linalg.solve(precision, observed.T @ x[:, mask].T / SCALE**2).T
            return MultivariateNormal(mean, precision_matrix=precision.expand(len(x), 2, 2))

        x = torch.randn(5, 4)
        expected = MultivariateNormal(torch.zeros(3), COVARIANCE[mask][:, mask]).log_prob(x[:, mask]).mean()
        for samples in (1, 7):
            terms = MIWAE(samples)(linear_vae(exact), zoo.Batch(x, None, mask.expand(5, 4)))
            torch.testing.assert_close(-terms["loss"], expected)

    def test_missing_values_have_no_effect(self):
        mask = torch.tensor([[True, False, True, True]])
        losses = []
        for value in (0.0, 1e6, math.nan):
            x = torch.tensor([[0.4, value, -1.0, 2.0]])
            with zoo.seeded(0):
                losses.append(MIWAE(5)(linear_vae(), zoo.Batch(x, None, mask))["loss"])
        assert losses[0] == losses[1] == losses[2]

    def test_complete_data_give_the_importance_weighted_bound(self):
        x = torch.randn(6, 4)
        with zoo.seeded(0):
            expected = zoo.get("loss", "iwae")(samples=5)(linear_vae(), zoo.Batch(x))["loss"]
        with zoo.seeded(0):
            torch.testing.assert_close(MIWAE(5)(linear_vae(), zoo.Batch(x))["loss"], expected)

    def test_a_row_without_observed_entries_has_likelihood_one(self):
        """log w = log p(z) - log q(z), whose bound tends to 0."""
        loss = MIWAE(100_000)(linear_vae(), zoo.Batch(torch.zeros(1, 4), None, torch.zeros(1, 4, dtype=torch.bool)))
        assert loss["loss"].item() == pytest.approx(0.0, abs=0.02)


class TestImpute:
    X = torch.tensor([[1.0, -0.4, 0.3, 2.0], [0.5, 1.2, -0.7, 0.1], [0.0, 0.0, 0.0, 0.0], [0.3, 0.1, 0.2, 0.9]])
    MASK = torch.tensor([[1, 0, 1, 0], [0, 1, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]]).bool()

    def test_the_single_imputation_is_the_conditional_mean(self):
        result = zoo_missing.impute(linear_vae(), self.X, self.MASK, samples=200_000)
        for row in range(3):
            mean, _ = conditional(self.X[row], self.MASK[row])
            torch.testing.assert_close(result.single[row, ~self.MASK[row]], mean, atol=0.02, rtol=0)

    def test_multiple_imputations_have_the_conditional_mean_and_covariance(self):
        result = zoo_missing.impute(linear_vae(), self.X[:3], self.MASK[:3], samples=50_000, draws=4000)
        for row in range(3):
            mean, covariance = conditional(self.X[row], self.MASK[row])
            draws = result.multiple[:, row, ~self.MASK[row]]
            torch.testing.assert_close(draws.mean(0), mean, atol=0.09, rtol=0)
            torch.testing.assert_close(torch.cov(draws.T).reshape(covariance.shape), covariance, atol=0.15, rtol=0)

    def test_many_small_chunks_give_the_same_distribution(self, monkeypatch):
        monkeypatch.setattr(imputation_module, "ENTRIES", 3 * 4 * 50)
        vae = linear_vae()
        result = zoo_missing.impute(vae, self.X[:3], self.MASK[:3], samples=20_000, draws=2000)
        assert max(vae.decoder.decoded) == 3 * 4 * 50
        mean, covariance = conditional(self.X[0], self.MASK[0])
        torch.testing.assert_close(result.single[0, ~self.MASK[0]], mean, atol=0.06, rtol=0)
        draws = result.multiple[:, 0, ~self.MASK[0]]
        torch.testing.assert_close(draws.mean(0), mean, atol=0.09, rtol=0)
        torch.testing.assert_close(torch.cov(draws.T), covariance, atol=0.15, rtol=0)

    def test_observed_entries_are_those_of_the_input(self):
        x = self.X.double() + 1e-12
        result = zoo_missing.impute(linear_vae(), x, self.MASK, samples=10, draws=3)
        assert result.single.dtype == torch.float64
        assert torch.equal(result.single[self.MASK], x[self.MASK])
        assert torch.equal(result.multiple[:, self.MASK], x[self.MASK].expand(3, -1))
        assert torch.equal(result.single[3], x[3])

    def test_is_a_function_of_the_seed_and_leaves_the_generator_alone(self):
        before = torch.get_rng_state()
        first, same, other = (
            zoo_missing.impute(linear_vae(), self.X, self.MASK, 20, 2, seed=seed) for seed in (1, 1, 2)
        )
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(first.multiple, same.multiple)
        assert torch.equal(first.single, same.single)
        assert not torch.equal(first.single, other.single)

    def test_nan_stands_for_a_missing_entry(self):
        x = self.X.masked_fill(~self.MASK, math.nan)
        result, masked = (
            zoo_missing.impute(linear_vae(), x, samples=9),
            zoo_missing.impute(linear_vae(), self.X, self.MASK, samples=9),
        )
        assert torch.equal(result.single, masked.single)

    def test_effective_samples(self):
        """With the prior as posterior, a row without observed entries has equal weights."""
        prior = linear_vae(lambda x: Independent(Normal(torch.zeros(len(x), 2), 1.0), 1))
        sizes = zoo_missing.impute(prior, self.X, self.MASK, samples=500).effective_samples
        assert sizes[2].item() == pytest.approx(500, rel=1e-5)
        assert sizes[3].isnan()
        assert 1 <= sizes[0] < 400

    def test_progress_counts_incomplete_examples(self):
        calls = []
        x = self.X.repeat(40, 1)
        zoo_missing.impute(linear_vae(), x, self.MASK.repeat(40, 1), 2, progress=lambda *call: calls.append(call))
        assert calls == [(64, 120), (120, 120)]

    def test_complete_data_are_returned(self):
        result = zoo_missing.impute(linear_vae(), self.X, samples=3, draws=2)
        assert torch.equal(result.single, self.X)
        assert torch.equal(result.multiple, self.X.expand(2, 4, 4))
        assert result.effective_samples.isnan().all()

    def test_the_mode_of_codes(self):
        class Codes(zoo.Decoder):
            def forward(self, z, condition=None):
                return Independent(Bernoulli(torch.tensor([0.8, 0.3]).expand(*z.shape[:-1], 2)), 1)

        vae, x = linear_vae(decoder=Codes()), torch.full((2, 2), math.nan)
        torch.testing.assert_close(zoo_missing.impute(vae, x).single, torch.tensor([[0.8, 0.3]] * 2))
        result = zoo_missing.impute(vae, x, categories=[2, 0])
        torch.testing.assert_close(result.single, torch.tensor([[1.0, 0.3]] * 2))
        draws = zoo_missing.impute(vae, x, draws=2000).multiple
        torch.testing.assert_close(draws.mean(0), torch.tensor([[0.8, 0.3]] * 2), atol=0.04, rtol=0)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"mask": torch.ones(4, 3, dtype=torch.bool)}, r"a bool tensor of shape \(4, 4\), not torch.bool of shape"),
            ({"mask": torch.ones(4, 4)}, "not torch.float32"),
            ({"samples": 0}, "samples must be positive"),
            ({"draws": -1}, "draws not negative"),
        ],
    )
    def test_wrong_arguments_are_refused(self, arguments, message):
        with pytest.raises((zoo.UsageError, ValueError), match=message):
            zoo_missing.impute(linear_vae(), self.X, **arguments)

    def test_a_likelihood_without_density_is_refused(self):
        vae = linear_vae(decoder=Unnormalized())
        with pytest.raises(zoo.ComponentError, match="not a normalized density"):
            zoo_missing.impute(vae, torch.full((1, 1, 1, 4), math.nan))

    def test_an_impossible_example_is_named(self):
        x = self.X.clone()
        x[1, 1] = 1e30
        with pytest.raises(zoo.UsageError, match="Example 1 has no finite likelihood"):
            zoo_missing.impute(linear_vae(), x, self.MASK)

    @pytest.mark.parametrize("encoder", ["mlp", "conv"])
    def test_images_of_every_encoder(self, encoder, tmp_path):
        x = torch.rand(40, 1, 8, 8)
        mask = torch.rand(x.shape) < 0.6
        split = zoo.Split(x, mask=mask)
        overrides = ["loss=miwae-impute", "loss.samples=3", "train.epochs=1", "decoder.likelihood=gaussian"]
        if encoder == "conv":
            overrides += ["encoder.channels=[4]", "decoder.channels=[4]"]
        name = "conv-vae" if encoder == "conv" else "mlp-vae"
        run = zoo.train(name, overrides, data=zoo.Dataset(split, split), device="cpu", out=tmp_path)
        vae = run.load()
        result = zoo_missing.impute(vae, x, mask, samples=4, draws=2)
        assert torch.equal(result.single[mask], x[mask])
        assert result.multiple.isfinite().all()
        assert not torch.equal(result.single[~mask], x[~mask])


class TestMissingNotAtRandom:
    A, B, WEIGHT, NOISE = -2.0, 0.5, 1.3, 0.6

    def vae(self):
        decoder = MissingNotAtRandom(
            (1,), 1, (1,), decoder=lambda **_: Linear(torch.tensor([[self.WEIGHT]]), self.NOISE)
        )
        nn.init.constant_(decoder.missingness.slope, self.A)
        nn.init.constant_(decoder.missingness.linear.bias, self.B)
        return linear_vae(decoder=decoder, dims=1)

    def integral(self, power):
        """The integral of x^power p(x) P(missing | x)."""
        marginal = scipy.stats.norm(scale=math.hypot(self.WEIGHT, self.NOISE))

        def integrand(x):
            return x**power * marginal.pdf(x) * scipy.special.expit(-self.A * x - self.B)

        return scipy.integrate.quad(integrand, -12, 12)[0]

    def test_bound_against_quadrature(self):
        x, mask = torch.tensor([[0.7], [0.0]]), torch.tensor([[True], [False]])
        marginal = scipy.stats.norm(scale=math.hypot(self.WEIGHT, self.NOISE))
        present = marginal.logpdf(0.7) + math.log(scipy.special.expit(self.A * 0.7 + self.B))
        expected = (present + math.log(self.integral(0))) / 2
        with zoo.seeded(0):
            tight = NotMIWAE(200_000)(self.vae(), zoo.Batch(x, None, mask))["loss"].item()
        assert -tight == pytest.approx(expected, abs=0.01)
        with zoo.seeded(0):
            one = NotMIWAE(1)(self.vae(), zoo.Batch(x.repeat(4000, 1), None, mask.repeat(4000, 1)))["loss"].item()
        assert -one < expected - 0.1

    def test_imputation_against_quadrature(self):
        """High values are missing: their mean is that of p(x | missing), not that of p(x), 0."""
        mean = self.integral(1) / self.integral(0)
        square = self.integral(2) / self.integral(0)
        x = torch.tensor([[math.nan]])
        result = zoo_missing.impute(self.vae(), x, samples=200_000, draws=10_000)
        assert result.single.item() == pytest.approx(mean, abs=0.02)
        assert result.multiple.mean().item() == pytest.approx(mean, abs=0.05)
        assert result.multiple.square().mean().item() == pytest.approx(square, abs=0.12)
        assert mean > 0.5

    @pytest.mark.parametrize("mechanism", ["self-masking", "self-masking-high", "self-masking-low", "linear"])
    def test_probabilities_of_the_mask(self, mechanism):
        model = Missingness((2, 3), mechanism)
        x, mask = torch.randn(5, 4, 2, 3), torch.rand(4, 2, 3) < 0.5
        for parameter in model.parameters():
            nn.init.normal_(parameter)
        flat, bias = x.flatten(-2), model.linear.bias
        if mechanism == "linear":
            logits = flat @ model.linear.weight.T + bias
        else:
            slope = {
                "self-masking": model.slope,
                "self-masking-high": -nn.functional.softplus(model.slope),
                "self-masking-low": nn.functional.softplus(model.slope),
            }[mechanism]
            logits = flat * slope + bias
        expected = Independent(Bernoulli(logits=logits), 1).log_prob(mask.flatten(-2).float())
        torch.testing.assert_close(model.log_prob(x, mask), expected)

    def test_a_decoder_without_a_model_is_refused(self):
        with pytest.raises(zoo.ComponentError, match=r"use: missing-not-at-random"):
            NotMIWAE()(linear_vae(), zoo.Batch(torch.zeros(1, 4)))

    def test_a_likelihood_without_reparameterized_samples_is_refused(self):
        decoder = zoo.create_model("not-miwae", data_shape=(4,)).decoder
        bernoulli = zoo.get("likelihood", "bernoulli")((4,))
        decoder.decoder.likelihood = bernoulli
        vae = linear_vae(decoder=decoder, dims=10)
        with pytest.raises(zoo.ComponentError, match="gaussian or student-t"):
            NotMIWAE()(vae, zoo.Batch(torch.zeros(1, 4), None, torch.zeros(1, 4, dtype=torch.bool)))


class TestStudentT:
    def test_likelihood_is_that_of_scipy(self):
        parameters, x = torch.randn(5, 3, 3), torch.randn(5, 3)
        location, scale, degrees = parameters.double().numpy().transpose(2, 0, 1)
        softplus = np.logaddexp(0, scale), np.logaddexp(0, degrees)
        expected = scipy.stats.t.logpdf(x, softplus[1] + 3, location, softplus[0] + 1e-3).sum(1)
        p = StudentTLikelihood((3,))(parameters)
        np.testing.assert_allclose(p.log_prob(x), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(p.mean, parameters[..., 0])

    def test_posterior_is_channels_last(self):
        q = StudentTPosterior(8, 2)(torch.randn(5, 4, 4, 8))
        assert (q.batch_shape, q.event_shape) == ((5,), (4, 4, 2))


class TestBreastCancer:
    def test_half_of_the_entries_are_hidden_as_a_function_of_the_seed(self):
        data = breast_cancer(seed=3)
        assert (data.train.x.shape, data.test.x.shape) == ((456, 30), (113, 30))
        assert (~data.train.mask).sum() == 456 * 30 // 2
        assert (~data.test.mask).sum() == 113 * 30 // 2
        assert data.sha256() == breast_cancer(seed=3).sha256() != breast_cancer(seed=4).sha256()
        per_column = data.train.mask.double().mean(0)
        assert per_column.min() > 0.4
        assert per_column.max() < 0.6

    def test_true_values_and_labels_are_those_of_scikit_learn(self):
        from sklearn.datasets import load_breast_cancer

        rows, labels = load_breast_cancer(return_X_y=True)
        train = np.arange(569) % 5 != 4
        data = breast_cancer()
        expected = (rows - rows[train].mean(0)) / rows[train].std(0)
        np.testing.assert_allclose(data.train.x, expected[train], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(data.test.x, expected[~train], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(data.train.labels, labels[train])
        assert data.label_names == ("malignant", "benign")

    def test_all_rows_for_training_and_testing(self):
        data = breast_cancer(transductive=True, missing=0.0)
        assert len(data.train) == len(data.test) == 569
        assert data.train.mask.all()
        torch.testing.assert_close(data.train.x.mean(0), torch.zeros(30), atol=1e-5, rtol=0)

    def test_values_above_the_mean_are_hidden(self):
        data = breast_cancer(pattern="above-mean")
        assert data.train.mask[:, 15:].all()
        assert torch.equal(data.train.mask[:, :15], data.train.x[:, :15] <= 0)


class TestImputationError:
    def context(self, vae, dataset, **options):
        return zoo.EvaluationContext(vae, zoo.recipe("miwae-impute"), dataset, **options)

    def test_with_the_true_values_of_the_data_set(self):
        """A decoder with mean 0 imputes 0, so the error is the mean square of the hidden values over the variance."""
        x, mask = torch.randn(50, 4), torch.rand(50, 4) < 0.5
        split = zoo.Split(x, mask=mask)
        vae = linear_vae(decoder=Linear(torch.zeros(4, 2)))
        (measurement,) = ImputationError(samples=3, hide=0.0)(self.context(vae, zoo.Dataset(split, split)))
        expected = x[~mask].square().mean() / x.var(0, correction=0).mean()
        assert measurement.value == pytest.approx(expected.item(), rel=1e-5)
        assert measurement.protocol["hidden"] == (~mask).sum()

    def test_hiding_observed_entries(self):
        """The optimal error of the linear model is about the mean conditional variance over the mean variance."""
        with zoo.seeded(0):
            x = MultivariateNormal(torch.zeros(4), COVARIANCE).sample((600,))
        split = zoo.Split(x)
        with zoo.seeded(1):
            (measurement,) = ImputationError(samples=4000)(self.context(linear_vae(), zoo.Dataset(split, split)))
        variances = []
        for bits in range(15):  # all masks with a missing entry
            mask = torch.tensor([bool(bits >> i & 1) for i in range(4)])
            variances.append(conditional(torch.zeros(4), mask)[1].diagonal())
        expected = torch.cat(variances).mean() / COVARIANCE.diagonal().mean()
        assert measurement.value == pytest.approx(expected.item(), rel=0.12)

    def test_unknown_true_values_are_refused(self):
        mask = torch.rand(50, 4) < 0.5
        for split in (zoo.Split(torch.randn(50, 4).masked_fill(~mask, 0.0), mask=mask), zoo.Split(torch.randn(50, 4))):
            with pytest.raises(zoo.NotApplicable, match="set hide to a fraction"):
                ImputationError(hide=0.0)(self.context(linear_vae(), zoo.Dataset(split, split)))


@pytest.fixture(scope="module")
def gaps(tmp_path_factory):
    """A folder with complete and incomplete rows of rank two, and a model of them."""
    folder = tmp_path_factory.mktemp("gaps")
    random = np.random.RandomState(0)
    full = random.randn(200, 2) @ random.randn(2, 5) + 0.1 * random.randn(200, 5)
    rows = np.where(random.rand(200, 5) < 0.3, np.nan, full)
    np.save(folder / "full.npy", full)
    np.save(folder / "rows.npy", rows)
    np.save(folder / "wide.npy", random.randn(20, 6))
    overrides = ["latent_dim=2", "encoder.hidden=[32]", "decoder.hidden=[32]", "train.epochs=60", "train.batch_size=32"]
    zoo.train(
        "miwae-impute", overrides, data=folder / "rows.npy", device="cpu", folder=folder / "run", figures=False, seed=0
    )
    return folder


class TestCommand:
    def test_observed_values_are_unchanged_and_others_are_close(self, gaps, zoo_command, tmp_path):
        done = zoo_command("impute", gaps / "run", gaps / "rows.npy", "--out", "out.npy")
        rows, full, out = np.load(gaps / "rows.npy"), np.load(gaps / "full.npy"), np.load(tmp_path / "work" / "out.npy")
        missing = np.isnan(rows)
        assert out.dtype == np.float64
        assert (out[~missing] == rows[~missing]).all()
        assert np.square(out - full)[missing].mean() < 0.3 * full.var()
        assert done.stdout.splitlines()[0].startswith(f"{missing.sum()} of 1000 entries imputed")

    def test_multiple_imputations(self, gaps, zoo_command, tmp_path):
        zoo_command("impute", gaps / "run", gaps / "rows.npy", "--out", "out.npz", "--multiple", "4", "--json")
        rows = np.load(gaps / "rows.npy")
        with np.load(tmp_path / "work" / "out.npz") as file:
            x, mask = file["x"], file["mask"]
        assert x.shape == (4, 200, 5)
        assert (mask == ~np.isnan(rows)).all()
        assert (x[:, mask] == rows[mask]).all()
        assert (x[:, ~mask].std(0) > 0).mean() > 0.9

    def test_images_of_bytes_keep_their_levels(self, tmp_path):
        from zoo_missing.completed import impute_split

        x = torch.randint(256, (60, 1, 8, 8), dtype=torch.uint8)
        split = zoo.Split(x, mask=torch.rand(x.shape) < 0.7)
        run = zoo.train("mlp-vae", ["train.epochs=1"], data=zoo.Dataset(split, split), device="cpu", out=tmp_path)
        result = impute_split(run, split, samples=5, draws=2)
        assert result.single.dtype == result.multiple.dtype == torch.uint8
        assert torch.equal(result.single[split.mask], x[split.mask])

    @pytest.mark.parametrize(
        ("data", "out", "message"),
        [
            ("wide.npy", "out.npy", r"was trained on data of shape \(5,\); got \(6,\)"),
            ("rows.npy", "out.csv", r"expected a file of type .npy, .npz, .pt for data without columns"),
            ("rows.npy", "taken.npy", r"the file exists. Choose another name, or overwrite it with --force"),
            ("rows.npy", "no/out.npy", r"there is no folder .*no"),
            ("absent.npy", "out.npy", r"There is no file or folder .*absent.npy"),
        ],
    )
    def test_wrong_input_is_refused(self, gaps, zoo_command, tmp_path, data, out, message):
        (tmp_path / "work" / "taken.npy").write_bytes(b"mine")
        done = zoo_command("impute", gaps / "run", gaps / data, "--out", out, code=2)
        assert re.search(message, done.stderr)
        assert (tmp_path / "work" / "taken.npy").read_bytes() == b"mine"

    def test_complete_data_are_copied(self, gaps, zoo_command, tmp_path):
        done = zoo_command("impute", gaps / "run", gaps / "full.npy", "--out", "out.npy")
        assert "No entry is missing" in done.stderr
        np.testing.assert_array_equal(np.load(tmp_path / "work" / "out.npy"), np.load(gaps / "full.npy"))

    def test_tables_keep_their_cells_and_columns(self, zoo_command, tmp_path):
        pandas = pytest.importorskip("pandas")
        random = np.random.RandomState(0)
        age = random.normal(40, 12, 120)
        frame = pandas.DataFrame(
            {
                "age": age,
                "city": np.where(age > 40, "Zürich", "Bern"),
                "visits": random.poisson(20, 120).astype(float),
                "day": pandas.date_range("2020-01-01", periods=120).strftime("%Y-%m-%d"),
            }
        )
        gaps = frame.astype(object).mask(pandas.DataFrame(random.rand(120, 4) < 0.2, columns=frame.columns))
        work = tmp_path / "work"
        gaps.to_csv(work / "gaps.csv", index=False)
        zoo_command("train", "table-vae", "--data", "gaps.csv", "train.epochs=5", "--out", "runs", "--no-figures")
        zoo_command("impute", "runs/table-vae", "gaps.csv", "--out", "one.csv", "--samples", "100")
        zoo_command("impute", "runs/table-vae", "gaps.csv", "--out", "three.csv", "--samples", "100", "--multiple", "3")
        before, one, three = (
            pandas.read_csv(work / name, dtype=str, keep_default_na=False)
            for name in ("gaps.csv", "one.csv", "three.csv")
        )
        assert list(one.columns) == list(frame.columns)
        assert not one.eq("").any().any()
        for name in ("age", "city", "day"):
            rows = before[name] != ""
            assert (one[name][rows] == before[name][rows]).all()
        assert (one["visits"].astype(float)[before["visits"] != ""] == frame["visits"][before["visits"] != ""]).all()
        assert set(one["city"]) == {"Zürich", "Bern"}
        assert one["day"].str.fullmatch(r"20\d\d-\d\d-\d\d").all()
        assert list(three.columns) == ["imputation", *frame.columns]
        assert three["imputation"].value_counts().to_dict() == {"1": 120, "2": 120, "3": 120}
