"""Counts: distributions against SciPy, the library size, the batch covariate, and the generated data."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn
from torch.distributions import Independent, StudentT

import zoo
from zoo_counts.decoder import CountDecoder
from zoo_counts.distributions import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from zoo_counts.encoder import CountEncoder
from zoo_counts.likelihoods import NegativeBinomialLikelihood, ZeroInflatedNegativeBinomialLikelihood
from zoo_counts.prior import LibraryPrior
from zoo_counts.toy import toy_counts

COUNTS = np.array([0, 1, 2, 7, 100, 10_000, 1_000_000])
MEANS = [1e-8, 1e-3, 1.0, 30.0, 1e4, 1e6]
THETAS = [1e-4, 0.1, 1.0, 50.0, 1e6]


def scalar(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def zinb(log_p: np.ndarray, zero: float) -> np.ndarray:
    """The log-probabilities of a negative binomial with additional zeros, by hand."""
    return np.where(COUNTS == 0, np.log(zero + (1 - zero) * np.exp(log_p)), np.log1p(-zero) + log_p)


class TestLogProbabilities:
    @pytest.mark.parametrize("mean", MEANS)
    def test_poisson_is_that_of_scipy(self, mean):
        ours = Poisson(scalar(math.log(mean))).log_prob(torch.tensor(COUNTS))
        np.testing.assert_allclose(ours, scipy.stats.poisson.logpmf(COUNTS, mean), rtol=1e-9, atol=1e-7)

    @pytest.mark.parametrize("theta", THETAS)
    @pytest.mark.parametrize("mean", MEANS)
    def test_negative_binomial_is_that_of_scipy(self, mean, theta):
        ours = NegativeBinomial(scalar(math.log(mean)), scalar(math.log(theta))).log_prob(torch.tensor(COUNTS))
        theirs = scipy.stats.nbinom.logpmf(COUNTS, theta, theta / (theta + mean))
        if mean / theta < 1e-10:  # SciPy loses the digits of 1 - p; this is the Poisson limit, for counts below theta
            small = COUNTS <= 100
            ours, theirs = ours[small], scipy.stats.poisson.logpmf(COUNTS[small], mean)
            np.testing.assert_allclose(ours, theirs, atol=1e-2)
            return
        np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-6)

    @pytest.mark.parametrize("zero", [1e-6, 0.3, 0.999])
    @pytest.mark.parametrize("theta", [0.1, 50.0])
    @pytest.mark.parametrize("mean", [1e-3, 30.0])
    def test_additional_zeros(self, mean, theta, zero):
        p = ZeroInflatedNegativeBinomial(scalar(math.log(mean)), scalar(math.log(theta)), scalar(zero).logit())
        theirs = scipy.stats.nbinom.logpmf(COUNTS, theta, theta / (theta + mean))
        np.testing.assert_allclose(p.log_prob(torch.tensor(COUNTS)), zinb(theirs, zero), rtol=1e-7, atol=1e-7)

    def test_float32_loses_no_digits_where_the_terms_cancel(self):
        """The terms are about 1e7 nats, their sum about 8."""
        p = NegativeBinomial(torch.tensor(math.log(1e6)), torch.tensor(math.log(1e6)))
        log_mean = p.log_mean.double().item()
        exact = scipy.stats.nbinom.logpmf(10**6, np.exp(p.log_dispersion.double().item()), 0.5)
        assert log_mean == p.log_dispersion.double().item()
        assert p.log_prob(torch.tensor(1e6)).item() == pytest.approx(exact, abs=1e-5)

    @pytest.mark.parametrize(
        "p",
        [
            Poisson(scalar(2.0)),
            NegativeBinomial(scalar(2.0), scalar(-0.5)),
            ZeroInflatedNegativeBinomial(scalar(2.0), scalar(-0.5), scalar(-1.0)),
        ],
    )
    def test_sum_mean_variance_and_draws_agree(self, p):
        x = torch.arange(2000.0, dtype=torch.float64)
        mass = p.log_prob(x).exp()
        assert mass.sum().item() == pytest.approx(1.0, abs=1e-12)
        assert (mass * x).sum().item() == pytest.approx(p.mean.item())
        assert (mass * (x - p.mean) ** 2).sum().item() == pytest.approx(p.variance.item())
        with zoo.seeded(0):
            draws = p.sample((200_000,))
        frequencies = torch.bincount(draws.long(), minlength=5)[:5] / len(draws)
        torch.testing.assert_close(frequencies.double(), mass[:5], atol=0.004, rtol=0)
        assert torch.equal(draws, draws.round())

    @pytest.mark.parametrize("log_mean", [math.log(1e-8), math.log(1e6)])
    @pytest.mark.parametrize("count", [0.0, 3.0, 1e6])
    def test_gradients_are_finite_and_those_of_the_formula(self, log_mean, count):
        """d log p / d log mean = (x - mean) theta / (theta + mean)."""
        m, t, g = (torch.tensor(v, requires_grad=True) for v in (log_mean, 1.0, -2.0))
        NegativeBinomial(m, t).log_prob(torch.tensor(count)).backward()
        theta = math.exp(1.0)
        mean = math.exp(torch.tensor(log_mean).item())
        assert m.grad.item() == pytest.approx((count - mean) * theta / (theta + mean), rel=1e-4)
        for p in (Poisson(m), ZeroInflatedNegativeBinomial(m, t, g)):
            gradients = torch.autograd.grad(p.log_prob(torch.tensor(count)), [m, t, g], allow_unused=True)
            assert all(gradient is None or gradient.isfinite() for gradient in gradients)


class TestLikelihoods:
    def test_dispersion_is_shared_or_comes_from_the_decoder(self):
        parameters = torch.randn(5, 3, 2)
        shared, entrywise = NegativeBinomialLikelihood((3,)), NegativeBinomialLikelihood((3,), "entrywise")
        nn.init.constant_(shared.log_dispersion, 0.7)
        x = torch.tensor([0.0, 4.0, 9.0])
        expected = NegativeBinomial(parameters[..., 0], torch.tensor(0.7)).log_prob(x).sum(-1)
        torch.testing.assert_close(shared(parameters[..., :1]).log_prob(x), expected)
        expected = NegativeBinomial(parameters[..., 0], parameters[..., 1]).log_prob(x).sum(-1)
        torch.testing.assert_close(entrywise(parameters).log_prob(x), expected)

    def test_order_of_the_parameters_with_additional_zeros(self):
        parameters, x = torch.randn(5, 3, 3), torch.tensor([0.0, 4.0, 9.0])
        likelihood = ZeroInflatedNegativeBinomialLikelihood((3,), "entrywise")
        log_mean, zeros, log_theta = parameters.unbind(-1)
        expected = ZeroInflatedNegativeBinomial(log_mean, log_theta, zeros).log_prob(x).sum(-1)
        torch.testing.assert_close(likelihood(parameters).log_prob(x), expected)


class TestLibrary:
    def test_the_mean_of_all_entries_is_the_library_size(self):
        decoder = CountDecoder((2, 5), (4,), hidden=[8])
        z = torch.randn(6, 3, 4)
        means = decoder(z).mean
        assert means.shape == (6, 3, 2, 5)
        torch.testing.assert_close(means.sum((-1, -2)), z[..., -1].exp())

    def test_an_observed_library_is_the_total_of_x(self):
        encoder = CountEncoder((5,), 2, library="observed")
        x = torch.tensor([[1.0, 2.0, 0.0, 4.0, 9.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
        q = encoder(x)
        torch.testing.assert_close(q.mean[:, -1].exp(), torch.tensor([16.0, 1.0]))
        torch.testing.assert_close(q.stddev[:, -1], torch.tensor([0.25, 1.0]))

    def test_the_observed_library_is_the_posterior_of_a_poisson_total(self):
        """log l given a total of n is the logarithm of a Gamma(n, 1), of variance trigamma(n), about 1 / n."""
        n = 400.0
        q = CountEncoder((1,), 2, library="observed")(torch.tensor([[n]]))
        assert q.variance[0, -1].item() == pytest.approx(scipy.special.polygamma(1, n), rel=0.002)

    def test_z_is_that_of_the_inner_encoder_on_logarithms(self):
        encoder, x = CountEncoder((5,), 2), torch.randint(0, 90, (3, 5)).float()
        inner = encoder.encoder(x.log1p())
        torch.testing.assert_close(encoder(x).mean[:, :-1], inner.mean)
        torch.testing.assert_close(encoder(x).stddev[:, :-1], inner.stddev)

    def test_other_posteriors_are_refused(self):
        class Heavy(zoo.Encoder):
            def forward(self, x, condition=None):
                return Independent(StudentT(3.0, torch.zeros(len(x), 2)), 1)

        encoder = CountEncoder((5,), 2, encoder=lambda **_: Heavy())
        with pytest.raises(zoo.ComponentError, match=r"diagonal Gaussian posterior.*StudentT"):
            encoder(torch.ones(1, 5))

    def test_the_prior_starts_at_the_mean_total(self):
        prior = LibraryPrior((3,), (4,))
        prior.initialize(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        p = prior(None)
        torch.testing.assert_close(p.mean, torch.tensor([0.0, 0.0, math.log(10.0)]))
        torch.testing.assert_close(p.stddev, torch.tensor([1.0, 1.0, 0.5]))

    def test_training_recovers_the_library_and_the_dispersion(self, tmp_path):
        """The process has log l = N(log 500, 0.4^2) and theta = 4."""
        run = zoo.train("count-vae", ["latent_dim=4"], seed=0, device="cpu", out=tmp_path)
        vae = run.load()
        assert vae.prior.location.item() == pytest.approx(math.log(500), abs=0.05)
        assert vae.prior.log_scale.exp().item() == pytest.approx(0.4, abs=0.06)
        assert vae.decoder.likelihood.log_dispersion.exp().median().item() == pytest.approx(4.0, abs=0.8)


class TestBatchCovariate:
    def test_the_label_selects_a_column_of_the_first_layer(self):
        """One-hot labels: label b adds column b of the first layer to its bias."""
        decoder = CountDecoder((5,), (3,), classes=2, hidden=[7], batch=True)
        plain = CountDecoder((5,), (3,), hidden=[7])
        z, labels = torch.randn(4, 3), torch.tensor([0, 1, 1, 0])
        for label in (0, 1):
            state = {name: value.clone() for name, value in decoder.state_dict().items()}
            state["trunk.0.bias"] += state["trunk.0.weight"][:, 2 + label]
            state["trunk.0.weight"] = state["trunk.0.weight"][:, :2]
            plain.load_state_dict(state)
            rows = labels == label
            torch.testing.assert_close(decoder(z, labels).mean[rows], plain(z[rows]).mean)

    def test_a_dispersion_for_each_label(self):
        def likelihood(data_shape):
            return NegativeBinomialLikelihood(data_shape, "entrywise")

        decoder = CountDecoder((5,), (3,), 2, batch=True, batch_dispersion=True, likelihood=likelihood)
        nn.init.normal_(decoder.log_dispersion)
        z, labels = torch.randn(6, 4, 3), torch.tensor([0, 1, 1, 0])
        entries = decoder(z, labels).base_dist
        torch.testing.assert_close(entries.log_dispersion, decoder.log_dispersion[labels].expand(6, 4, 5))
        assert decoder.trunk[-1].unflattened_size == (1, 5)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"batch": True}, "needs labels; these data have none"),
            ({"classes": 2, "batch": True, "batch_dispersion": True}, "dispersion=entrywise"),
            ({"latent_shape": (1,)}, "Use it with the encoder 'counts'"),
        ],
    )
    def test_settings_that_disagree_are_refused(self, options, message):
        with pytest.raises(zoo.ZooError, match=message):
            CountDecoder(**{"data_shape": (5,), "latent_shape": (3,), **options})

    def test_labels_are_required_and_checked(self):
        decoder = CountDecoder((5,), (3,), classes=2, batch=True)
        assert zoo.VAE(CountEncoder((5,), 2), decoder, LibraryPrior((3,), (5,))).classes == 2
        with pytest.raises(zoo.UsageError, match="labels from 0 to 1: pass `condition`"):
            decoder(torch.zeros(1, 3))
        with pytest.raises(zoo.UsageError, match="labels from 0 to 1; got 2"):
            decoder(torch.zeros(1, 3), torch.tensor([2]))


class TestToyCounts:
    def test_is_a_function_of_its_seed(self):
        assert toy_counts().sha256() == toy_counts().sha256() != toy_counts(data_seed=1).sha256()

    def test_has_the_moments_of_the_process(self):
        data = toy_counts(cells=20_000, genes=20)
        assert (len(data.train), len(data.test), data.shape, data.classes) == (16_000, 4_000, (20,), 2)
        x, types, batches = data.train.x.double(), data.train.factors[:, 0], data.train.labels
        assert x.sum(1).mean().item() == pytest.approx(500 * math.exp(0.4**2 / 2), rel=0.01)
        # Given the frequencies, var(x) = mean + mean^2 ((1 + 1 / theta) exp(0.4^2) - 1).
        group = x[(types == 0) & (batches == 1)]
        mean = group.mean(0)
        expected = mean + mean**2 * ((1 + 1 / 4) * math.exp(0.4**2) - 1)
        torch.testing.assert_close(group.var(0), expected, rtol=0.2, atol=0)
