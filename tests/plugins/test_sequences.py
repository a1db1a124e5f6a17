"""Networks for series and tokens, the autoregressive distribution, free bits, and the data sets of sequences."""

from __future__ import annotations

import itertools
import logging
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Independent, Normal, kl_divergence

import zoo
from toys import GivenPosterior
from zoo_sequences.recurrent import RecurrentDecoder
from zoo_sequences.sentences import sentences
from zoo_sequences.text import text
from zoo_sequences.tokens import TokenDecoder
from zoo_sequences.views import lines
from zoo_sequences.waves import waves

VOCABULARY, LENGTH = 3, 4
ALL = torch.tensor(list(itertools.product(range(VOCABULARY), repeat=LENGTH)), dtype=torch.float32)
ENDING = zoo.Column("token", "categorical", ("", "a", "b"), format="text")
WHOLE = zoo.Column("token", "categorical", ("x", "y", "z"))


def token_decoder(column: zoo.Column, cell: str = "gru", **options) -> TokenDecoder:
    """A decoder with large random weights, so that its probabilities are far from uniform."""
    torch.manual_seed(0)
    sizes = {"embedding_dim": 4, "hidden": 5, "layers": 2}
    decoder = TokenDecoder((LENGTH,), (2,), (column,), cell=cell, **sizes, **options)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(2.0)
    return decoder.double().eval()


def sequential(decoder: TokenDecoder, z: torch.Tensor, codes: list[int]) -> float:
    """log p of one sequence, token by token, up to its end."""
    state, previous, total = decoder.initial(z), None, 0.0
    for code in codes:
        logits, state = decoder.step(z, previous, state)
        total += logits.log_softmax(-1)[0, code].item()
        if code == decoder.end:
            break
        previous = torch.tensor([code])
    return total


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("column", [WHOLE, ENDING], ids=["whole", "ending"])
def test_the_probabilities_of_all_strings_sum_to_one(column, cell):
    """81 strings, of which 31 end at the first end token or have none; the sequential product is the parallel pass."""
    decoder = token_decoder(column, cell)
    z = torch.randn(3, 1, 2, dtype=torch.float64)
    p = decoder(z)
    log_p = p.log_prob(ALL.unsqueeze(1).unsqueeze(1))
    assert log_p.shape == (81, 3, 1)
    torch.testing.assert_close(log_p.exp().sum(0), torch.ones(3, 1, dtype=torch.float64))
    possible = log_p[:, 0, 0].isfinite()
    assert int(possible.sum()) == (81 if column is WHOLE else 31)
    assert torch.equal(p.support.check(ALL), possible)
    for string, value in zip(ALL[possible].long().tolist(), log_p[possible, 0, 0].tolist(), strict=True):
        assert sequential(decoder, z[0], string) == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("column", [WHOLE, ENDING], ids=["whole", "ending"])
def test_samples_have_the_enumerated_frequencies(column):
    """A chi-square test with a fixed seed over all strings with at least five expected draws."""
    p = token_decoder(column)(torch.tensor([[0.3, -1.0]], dtype=torch.float64))
    torch.manual_seed(1)
    draws = p.sample((20_000,)).squeeze(1).long()
    index = (draws * VOCABULARY ** torch.arange(LENGTH).flip(0)).sum(-1)
    counts = np.bincount(index, minlength=len(ALL))
    expected = p.log_prob(ALL.unsqueeze(1)).exp().squeeze(1).detach().numpy() * len(draws)
    assert counts[expected == 0].sum() == 0
    common = expected >= 5
    counts, expected = (np.append(values[common], values[~common].sum()) for values in (counts, expected))
    assert stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 1e-3


def test_the_mean_is_the_greedy_string():
    decoder = token_decoder(ENDING)
    z = torch.randn(5, 2, dtype=torch.float64)
    p = decoder(z)
    assert torch.equal(p.mean, p.mode)
    for latent, greedy in zip(z, p.mean.long().tolist(), strict=True):
        state, previous, string = decoder.initial(latent[None]), None, []
        while len(string) < LENGTH and (not string or string[-1] != 0):
            logits, state = decoder.step(latent[None], previous, state)
            previous = logits.argmax(-1)
            string.append(int(previous))
        assert greedy == string + [0] * (LENGTH - len(string))


def test_word_dropout_hides_previous_tokens_in_training_alone():
    """If nearly all of them are hidden, log p(x) is a product over steps of functions of z alone."""
    decoder = token_decoder(WHOLE, word_dropout=0.0)
    hidden = token_decoder(WHOLE, word_dropout=1 - 1e-9)
    z, x = torch.randn(1, 2, dtype=torch.float64), ALL.unsqueeze(1)
    assert torch.equal(hidden(z).log_prob(x), decoder(z).log_prob(x))
    hidden.train()
    p = hidden(z).log_prob(x).exp().reshape([VOCABULARY] * LENGTH)
    marginals = [p.sum([d for d in range(LENGTH) if d != step]) for step in range(LENGTH)]
    torch.testing.assert_close(p, torch.einsum("a,b,c,d->abcd", *marginals))


def test_missing_tokens_and_other_columns_are_refused_by_name():
    decoder = token_decoder(WHOLE)
    x = ALL[:2].double()
    with pytest.raises(zoo.ComponentError, match="a Autoregressive does not"):
        zoo.observed_log_prob(decoder(torch.zeros(2, 2).double()), x, x > 0)
    with pytest.raises(zoo.ComponentError, match=r"decoder 'tokens' needs tokens.*2 columns \(categorical, real\)"):
        TokenDecoder((2,), (2,), (WHOLE, zoo.Column("height", "real")))
    with pytest.raises(zoo.ComponentError, match="vocabulary=5, and the data have 3 tokens"):
        TokenDecoder((4,), (2,), (WHOLE,), vocabulary=5)


@pytest.mark.parametrize("length", range(1, 41))
def test_convolutions_over_time_take_every_length(length):
    """Output lengths of encoder and decoder, and a gradient at every entry of x."""
    shape = (2, length)
    encoder = zoo.get("encoder", "conv1d")(data_shape=shape, latent_dim=3, channels=(4, 5, 6))
    decoder = zoo.get("decoder", "conv1d")(data_shape=shape, latent_shape=(3,), channels=(6, 5, 4))
    x = torch.randn(2, *shape)
    assert encoder.trunk(x).shape == (2, 6 * math.ceil(length / 8))
    p = decoder(torch.randn(5, 2, 3))
    assert p.batch_shape == (5, 2)
    assert p.event_shape == shape
    assert p.mean.std(-1).min() > 0 if length > 1 else p.mean.isfinite().all()


def test_an_even_kernel_is_refused():
    with pytest.raises(zoo.ComponentError, match="odd kernel, not 4: use 5"):
        zoo.get("encoder", "conv1d")(data_shape=(1, 8), latent_dim=2, kernel=4)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_the_recurrent_decoder_is_a_loop(cell):
    """The equations of torch.nn.GRU and LSTM, written out."""
    torch.manual_seed(0)
    decoder = RecurrentDecoder((2, 5), (3,), hidden=4, cell=cell).double()
    z = torch.randn(2, 3, 3, dtype=torch.float64)
    rnn, flat = decoder.trunk.rnn, z.reshape(6, 3)
    start = decoder.trunk.start(flat)
    h, c = start[:, :4], start[:, 4:]
    steps = []
    for _ in range(5):
        inputs = flat @ rnn.weight_ih_l0.T + rnn.bias_ih_l0
        recurrent = h @ rnn.weight_hh_l0.T + rnn.bias_hh_l0
        if cell == "gru":
            (r, u, n), (r_h, u_h, n_h) = inputs.chunk(3, -1), recurrent.chunk(3, -1)
            update = (u + u_h).sigmoid()
            h = (1 - update) * (n + (r + r_h).sigmoid() * n_h).tanh() + update * h
        else:
            i, f, g, o = (inputs + recurrent).chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        steps.append(decoder.linear(h))
    expected = torch.stack(steps, -1).reshape(2, 3, 2, 5)
    torch.testing.assert_close(decoder(z).mean, expected)


@pytest.mark.parametrize("networks", ["conv1d", "rnn"])
def test_missing_steps_integrate_out(networks):
    """The likelihood of a masked series is that of its observed steps, whatever the values at the others."""
    torch.manual_seed(0)
    changes = [
        f"encoder={{use: {networks}}}",
        f"decoder={{use: {networks}, likelihood: {{use: gaussian, scale: 1.0}}}}",
        "latent_dim=2",
    ]
    vae = zoo.create_model(zoo.recipe("series-vae", changes), data_shape=(2, 7)).double().eval()
    x = torch.randn(3, 2, 7, dtype=torch.float64)
    mask = (torch.rand(3, 1, 7) > 0.4).expand_as(x)
    z = torch.randn(3, 2, dtype=torch.float64)
    p = vae.decode(z)
    observed = (Normal(p.mean, 1.0).log_prob(x) * mask).sum((1, 2))
    torch.testing.assert_close(zoo.observed_log_prob(p, x, mask), observed)
    other = x.where(mask, 100.0)
    torch.testing.assert_close(
        vae.log_likelihood(x, 5, mask=mask, seed=1), vae.log_likelihood(other, 5, mask=mask, seed=1)
    )


@pytest.mark.parametrize("groups", ["dimensions", "all"])
def test_free_bits_are_the_formula(groups):
    """loss = distortion + sum_j max(floor, mean KL_j), whose groups below the floor have no gradient (eq. 15)."""
    torch.manual_seed(0)
    mean = torch.randn(6, 4) * torch.tensor([0.01, 0.5, 1.0, 2.0])
    mean.requires_grad_()
    vae = zoo.VAE(
        GivenPosterior(lambda x: Independent(Normal(mean, 1.0), 1)),
        zoo.get("decoder", "mlp")(data_shape=(5,), latent_shape=(4,)),
        zoo.get("prior", "standard-normal")(latent_shape=(4,)),
    )
    batch = zoo.Batch(torch.rand(6, 5).round())
    loss = zoo.get("loss", "free-bits")(floor=0.5, groups=groups)
    terms = loss(vae, batch)
    rates = (mean.square() / 2).mean(0)
    penalty = rates.clamp_min(0.5).sum() if groups == "dimensions" else rates.sum().clamp_min(0.5)
    torch.testing.assert_close(terms["loss"] - terms["distortion"], penalty)
    torch.testing.assert_close(terms["rate"], rates.sum())
    (gradient,) = torch.autograd.grad(terms["loss"] - terms["distortion"], mean)
    free = rates < 0.5 if groups == "dimensions" else torch.zeros(4, dtype=torch.bool)
    assert free.any() == (groups == "dimensions")
    torch.testing.assert_close(gradient, (mean / 6).where(~free, 0.0), atol=1e-6, rtol=1e-5)


def test_free_bits_with_a_floor_of_zero_are_the_elbo():
    vae = zoo.create_model("mlp-vae", data_shape=(1, 4, 4), latent_dim=3)
    batch = zoo.Batch(torch.rand(5, 1, 4, 4).round())
    terms = []
    for loss in (zoo.get("loss", "free-bits")(floor=0.0, beta=2.0), zoo.get("loss", "elbo")(beta=2.0)):
        torch.manual_seed(3)
        terms.append(loss(vae, batch))
    for name, value in terms[1].items():
        torch.testing.assert_close(terms[0][name], value)


def test_free_bits_per_dimension_need_independent_dimensions():
    vae = zoo.create_model("full-covariance", data_shape=(1, 4, 4), latent_dim=3)
    batch = zoo.Batch(torch.rand(5, 1, 4, 4).round())
    with pytest.raises(zoo.ComponentError, match=r"independent dimensions.*Use loss.groups=all"):
        zoo.get("loss", "free-bits")()(vae, batch)
    terms = zoo.get("loss", "free-bits")(groups="all", floor=0.0)(vae, batch)
    torch.testing.assert_close(terms["rate"], kl_divergence(*_distributions(vae, batch)).mean(), rtol=1e-4, atol=1e-4)


def _distributions(vae, batch):
    q = vae.encode(batch.x)
    prior = torch.distributions.MultivariateNormal(torch.zeros(3), torch.eye(3))
    return torch.distributions.MultivariateNormal(q.mean, scale_tril=q.scale_tril), prior


def test_generated_data_are_functions_of_their_seed():
    for function in (waves, sentences):
        digests = [function(examples=20, data_seed=seed).sha256() for seed in (0, 0, 1)]
        assert digests[0] == digests[1] != digests[2]
    noiseless = waves(examples=10, noise=0.0, missing=0.5).train
    assert noiseless.x.abs().max() <= 2.0
    assert torch.equal(noiseless.mask[:, 0], noiseless.mask[:, 1])
    assert 0.3 < noiseless.mask.double().mean() < 0.7


def test_text_is_read_line_by_line(tmp_path, caplog):
    """NFC, CRLF, a byte order mark, empty lines, unknown characters and the vocabulary of the training lines."""
    file = tmp_path / "a.txt"
    written = ["ab", "cafe\N{COMBINING ACUTE ACCENT}", "\N{GRINNING FACE} ok", "zz", "ba", "cab"]
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*written[:3], "", "  ", *written[3:]]).encode())
    data = text(str(file), test_fraction=0.3)
    (column,) = data.columns
    characters = column.categories
    assert data.modality == "sequence"
    assert characters[0] == ""
    assert characters[-1] == "\N{REPLACEMENT CHARACTER}"
    nfc = [line.replace("e\N{COMBINING ACUTE ACCENT}", "\N{LATIN SMALL LETTER E WITH ACUTE}") for line in written]
    train = [nfc[i] for i in data.train.index.tolist()]
    test = [nfc[i] for i in data.test.index.tolist()]
    assert lines(data.train.x, column) == train
    assert characters[1:-1] == tuple(sorted(set("".join(train))))
    length = max(map(len, train)) + 1
    assert data.shape == (length,)
    expected = ["".join(c if c in characters else "\N{REPLACEMENT CHARACTER}" for c in line[:length]) for line in test]
    assert lines(data.test.x, column) == expected


def test_a_long_line_is_cut_and_reported(tmp_path, caplog):
    file = tmp_path / "a.txt"
    file.write_text("ab\n" + "x" * 1000 + "\nabc\n")
    with caplog.at_level(logging.WARNING):
        data = text(str(file), length=4, test_fraction=0.1)
    assert "Cut 1 of 3 lines to their first 4 characters" in caplog.text
    rows = sorted(lines(torch.cat([data.train.x, data.test.x]), data.columns[0]))
    assert any(len(row) == 4 for row in rows), "a cut line has no end"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no lines that are not empty"),
        (b"\n \n", "has no lines that are not empty"),
        (b"one line\n", "has one line that is not empty"),
        (b"a\0b\nc", "is not a text file: line 1 has a NUL"),
        (b"ab\ncaf\xe9\n", "is not text in utf-8: line 2 has the byte 0xe9.*data.encoding=latin-1"),
    ],
)
def test_a_file_that_is_not_text_is_refused(content, message, tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(content)
    with pytest.raises(zoo.DataError, match=message):
        text(str(file))


def test_held_out_lines_do_not_enter_the_vocabulary(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("".join(f"{chr(0x4E00 + i)}\n" for i in range(50)))
    data = zoo.load_dataset(str(file), validation=10)
    assert len(data.validation) == 10
    assert len(data.columns[0].categories) == len(data.train) + 2
    assert set(data.validation.x[:, 0].tolist()) == {len(data.train) + 1.0}


def test_a_text_model_from_file_to_file(tmp_path):
    """Train, load without the data, read lines with the vocabulary of the run, and write samples."""
    file = tmp_path / "a.txt"
    file.write_text("".join(f"the {word}\n" for word in ("cat", "dog", "hen", "cow") * 10))
    run = zoo.train("text-vae", data=file, epochs=1, out=tmp_path / "runs", device="cpu")
    file.unlink()
    vae = zoo.load(run)
    other = tmp_path / "b.txt"
    other.write_text("the cat\nx\n")
    split = run.read(other)
    assert lines(split.x, run.columns[0]) == ["the cat", "\N{REPLACEMENT CHARACTER}"]
    assert torch.isfinite(vae.log_likelihood(split.x, 3)).all()
    from zoo_sequences.views import write_npy, write_txt

    x = vae.sample(5)
    write_txt(x, run, tmp_path / "s.txt")
    assert (tmp_path / "s.txt").read_text() == "".join(f"{line}\n" for line in lines(x, run.columns[0]))
    write_npy(x, run, tmp_path / "s.npy")
    assert np.array_equal(np.load(tmp_path / "s.npy"), x.long().numpy())


def test_integers_beyond_those_of_the_data_are_written_as_numbers():
    """A model of counts draws 7 where the data end at 2."""
    column = zoo.Column("code", "categorical", (0, 1, 2), format="integer")
    assert lines(torch.tensor([[0.0, 7.0, 2.0]]), column) == ["0 7 2"]
