from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.distributions import Independent, MixtureSameFamily, Normal

import zoo
from resuming import run_main
from zoo_figures import figures
from zoo_figures.arguments import parse_label

SHAPE = (1, 4, 4)
SMALL = {
    "latent_dim": 2,
    "encoder": {"encoder": {"use": "mlp", "hidden": [16]}},
    "decoder": {"decoder": {"use": "mlp", "hidden": [16]}},
}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def cvae(classes: int = 3) -> zoo.VAE:
    """A small model whose prior is not the standard normal."""
    vae = zoo.create_model("cvae", data_shape=SHAPE, classes=classes, **SMALL).double()
    with torch.no_grad():
        vae.prior.mean.copy_(3 * torch.randn_like(vae.prior.mean))
        vae.prior.log_variance.copy_(torch.randn_like(vae.prior.mean))
    return vae


def images(n: int) -> Tensor:
    return torch.rand(n, *SHAPE, dtype=torch.float64)


def test_the_rate_is_the_kl_to_the_prior_of_the_label():
    """KL(N(m, v) || N(m_y, v_y)) = 1/2 sum(v / v_y + (m - m_y)^2 / v_y - 1 + log v_y / v)."""
    vae, labels = cvae(), torch.tensor([2, 0, 2, 1])
    trace = vae.trace(zoo.Batch(images(4), labels))
    mean, variance = trace.q.mean, trace.q.variance
    prior_mean, prior_variance = vae.prior.mean[labels], vae.prior.log_variance[labels].exp()
    expected = (variance + (mean - prior_mean) ** 2) / prior_variance - 1 + (prior_variance / variance).log()
    torch.testing.assert_close(trace.kl, expected.sum(-1) / 2)
    draws = trace.q.sample((20_000,))
    sampled = (trace.q.log_prob(draws) - trace.prior.log_prob(draws)).mean(0)
    torch.testing.assert_close(trace.kl, sampled, rtol=0.1, atol=0.1)


def test_without_a_label_the_prior_is_the_mixture_of_all():
    vae = cvae()
    z = torch.randn(5, 2, dtype=torch.float64)
    marginal = vae.prior(vae.encoder)
    assert isinstance(marginal, MixtureSameFamily)
    each = [
        Independent(Normal(m, (v / 2).exp()), 1).log_prob(z).exp()
        for m, v in zip(vae.prior.mean, vae.prior.log_variance, strict=True)
    ]
    torch.testing.assert_close(marginal.log_prob(z).exp(), sum(each) / 3)
    assert vae.latent_shape == (2,)


def test_all_priors_are_initially_standard_normal():
    prior = zoo.create_model("cvae", data_shape=SHAPE, classes=10, **SMALL).prior
    assert prior(None, torch.arange(10)).mean.abs().max() == 0
    assert (prior(None, torch.arange(10)).stddev == 1).all()


def test_a_label_affects_its_own_image_only():
    vae, x = cvae(), images(2)
    labels, other = torch.tensor([0, 1]), torch.tensor([0, 2])
    for one, two in (
        (vae.encode(x, labels), vae.encode(x, other)),
        (vae.decode(z := vae.posterior_mean(x, labels), labels), vae.decode(z, other)),
    ):
        torch.testing.assert_close(one.mean[0], two.mean[0], rtol=0, atol=0)
        assert not torch.allclose(one.mean[1], two.mean[1])


def test_leading_dimensions_and_a_single_label():
    vae = cvae()
    z, labels = torch.randn(3, 2, 4, 2, dtype=torch.float64), torch.tensor([0, 1, 2, 1])
    actual = vae.decode(z, labels).mean
    for n in range(4):
        alone = vae.decode(z[1, 0, n : n + 1], labels[n : n + 1]).mean
        torch.testing.assert_close(actual[1, 0, n], alone[0])
    torch.testing.assert_close(vae.decode(z[0, 0], labels[:1]).mean, vae.decode(z[0, 0], labels[:1].expand(4)).mean)


@pytest.mark.parametrize("prior", ["conditional-normal", "standard-normal"])
def test_samples_have_the_given_labels(prior):
    """n per label, also if the prior is unconditional; without labels, labels are sampled as well."""
    vae = zoo.create_model("cvae", data_shape=SHAPE, classes=3, prior=prior, **SMALL)
    calls = []
    vae.decoder.register_forward_pre_hook(lambda module, inputs: calls.append(inputs))
    assert vae.sample(5, torch.tensor([2, 0])).shape == (5, 2, *SHAPE)
    assert vae.sample(300).shape == (300, *SHAPE)
    assert calls[0][1].tolist() == [2, 0]
    assert calls[1][1].bincount().min() > 60
    with torch.no_grad():
        if prior == "conditional-normal":
            vae.prior.mean.copy_(torch.tensor([[0.0, 0.0], [0.0, 0.0], [50.0, 50.0]]))
            vae.sample(5, torch.tensor([2, 0]))
            assert (calls[-1][0][:, 0] > 40).all()
            assert (calls[-1][0][:, 1] < 10).all()


def test_gradients_by_finite_differences():
    vae, batch = cvae(), zoo.Batch(images(3), torch.tensor([2, 0, 1]))
    loss = zoo.create_loss("cvae", data_shape=SHAPE)

    def value(*parameters: Tensor) -> Tensor:
        torch.manual_seed(1)
        return loss(vae, batch)["loss"]

    chosen = (vae.encoder.maps.weight, vae.prior.mean, vae.prior.log_variance)
    assert torch.autograd.gradcheck(value, chosen)


def test_any_encoder_and_decoder_can_be_conditional():
    vae = zoo.create_model(
        "cvae", data_shape=(3, 8, 8), classes=10, encoder={"encoder": "conv"}, decoder={"decoder": "conv"}
    )
    labels = torch.arange(10)
    assert vae.reconstruct(torch.rand(10, 3, 8, 8), labels).shape == (10, 3, 8, 8)


@pytest.mark.parametrize("labels", [[3], [-1], [0, 7]])
def test_a_label_out_of_range_is_an_error(labels):
    vae, condition = cvae(), torch.tensor(labels)
    calls = (
        lambda: vae.encode(images(len(labels)), condition),
        lambda: vae.decode(torch.zeros(len(labels), 2, dtype=torch.float64), condition),
        lambda: vae.prior(vae.encoder, condition),
        lambda: vae.sample(2, condition),
    )
    for call in calls:
        with pytest.raises(zoo.UsageError, match="has labels from 0 to 2; got"):
            call()


def test_missing_labels_are_an_error():
    with pytest.raises(zoo.UsageError, match="labels from 0 to 2, and none were given"):
        cvae().encode(images(1))


@pytest.mark.parametrize("part", ["encoder", "decoder", "prior"])
def test_data_without_labels_are_an_error(part):
    changes = {
        "encoder": {"encoder": "conditional"},
        "decoder": {"decoder": "conditional"},
        "prior": {"prior": "conditional-normal"},
    }
    with pytest.raises(zoo.UsageError, match="needs labels; these data have none"):
        zoo.create_model("mlp-vae", data_shape=SHAPE, classes=0, **changes[part])


def test_the_command_line_samples_a_label(tmp_path, capsys):
    """``--label`` selects it; unknown labels and models that are not conditional are errors."""
    overrides = ["data=[{use: digits}]", "encoder.encoder.hidden=[8]", "decoder.decoder.hidden=[8]"]
    run = zoo.train("cvae", [*overrides, "latent_dim=2"], epochs=1, out=tmp_path)
    assert (run.figures / "samples.png").exists()
    out = tmp_path / "three.png"
    assert run_main("sample", str(run.path), "--label", "3", "-n", "4", "--out", str(out)) == 0
    assert out.stat().st_size > 0
    assert run_main("sample", str(run.path), "--label", "3", "--z", "0,1", "--z", "1,0") == 0
    assert run_main("traverse", str(run.path), "--label", "3") == 0
    assert (run.figures / "manifold.png").exists()
    capsys.readouterr()
    assert run_main("sample", str(run.path), "--label", "10") == 2
    assert "--label 10: there is no such label. Labels are 0 to 9." in capsys.readouterr().err
    with pytest.raises(zoo.UsageError, match="none were given. Pass them as `condition`, or as --label"):
        figures.traversals(run.load())


def test_a_label_can_be_given_by_name(tmp_path, monkeypatch, capsys):
    """``--label cat`` works if the data name their labels."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    for i, name in enumerate(("cat", "dog", "7") * 2):
        (tmp_path / "photos" / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(tmp_path / "photos" / name / f"{i}.png")
    overrides = ["encoder.encoder.hidden=[8]", "decoder.decoder.hidden=[8]", "latent_dim=2", "train.steps=1"]
    run = zoo.train("cvae", overrides, data=str(tmp_path / "photos"), out=tmp_path)
    assert run.label_names == ("7", "cat", "dog")

    def sample_image(label: str) -> bytes:
        assert run_main("sample", str(run.path), "--label", label, "--out", str(tmp_path / "x.png")) == 0
        return (tmp_path / "x.png").read_bytes()

    assert sample_image("cat") == sample_image("1"), "including the title, which has the name"
    assert sample_image("7") == sample_image("0") != sample_image("dog"), "a name takes precedence over an index"
    capsys.readouterr()
    assert run_main("traverse", str(run.path), "--label", "cta") == 2
    stderr = " ".join(capsys.readouterr().err.split())
    assert "--label cta: there is no such label. Labels are 0 to 2 or 7, cat, dog. Did you mean 'cat'?" in stderr


def test_a_label_is_an_error_if_the_model_is_not_conditional():
    vae = zoo.create_model("mlp-vae", data_shape=SHAPE, latent_dim=2)
    assert vae.classes == 0
    with pytest.raises(zoo.UsageError, match="--label 3: this model is not conditional on labels"):
        parse_label("3", vae)
