"""``zoo encode`` writes the posteriors of the model, as arrays that NumPy loads."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.distributions import (
    Bernoulli,
    Categorical,
    Independent,
    MultivariateNormal,
    Normal,
    TanhTransform,
    TransformedDistribution,
)

import zoo
from toys import GivenPosterior, linear_gaussian_vae
from zoo.data.dataset import Split
from zoo.data.loader import Loader
from zoo.recipes.datasets import load_data
from zoo.recipes.schema import ComponentSpec
from zoo_export.codes import codes, encode, parameters


@pytest.fixture(scope="module")
def digits() -> zoo.Dataset:
    return load_data([ComponentSpec(use="digits")]).dataset


def test_parameters_have_the_names_of_torch():
    loc, scale = torch.randn(4, 2), torch.rand(4, 2) + 1
    gaussian = parameters(Independent(Normal(loc, scale), 1))
    assert list(gaussian) == ["mean", "scale"]
    assert gaussian["mean"] is loc
    assert gaussian["scale"] is scale
    assert list(parameters(Bernoulli(logits=loc))) == ["mean", "logits"]
    assert list(parameters(Bernoulli(probs=torch.rand(4)))) == ["mean"], "the probability is the mean"
    factor = torch.eye(2).expand(4, 2, 2)
    assert list(parameters(MultivariateNormal(loc, scale_tril=factor))) == ["mean", "scale_tril"]
    squashed = TransformedDistribution(Normal(loc, scale), [TanhTransform()])
    assert parameters(Independent(squashed, 1)) == {}


def test_parameters_shared_by_the_batch_are_left_out():
    class Shared(Normal):
        def __init__(self, loc, scale):
            super().__init__(loc, 1.0)
            self.scale = scale

    assert list(parameters(Shared(torch.zeros(4), torch.ones(())))) == ["mean"]


@torch.no_grad()
def test_the_command_writes_the_posteriors_of_the_model(digits_run, digits, zoo_command, tmp_path):
    done = zoo_command("encode", digits_run, "-o", "codes.npz", "--samples", "3", "--json")
    reported = json.loads(done.stdout)
    assert done.stderr == ""
    with np.load(tmp_path / "work" / "codes.npz", allow_pickle=False) as file:
        encoded = dict(file)
    assert {n: [str(a.dtype), list(a.shape)] for n, a in encoded.items()} == {
        n: [a["dtype"], a["shape"]] for n, a in reported["arrays"].items()
    }
    q = zoo.load(digits_run).encode(digits.test.x / 255)
    assert set(encoded) == {"index", "labels", "mean", "scale", "samples"}
    np.testing.assert_allclose(encoded["mean"], q.mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(encoded["scale"], q.base_dist.scale, rtol=1e-5, atol=1e-6)
    assert (encoded["labels"] == digits.test.labels.numpy()).all()
    assert (encoded["index"] == np.arange(359)).all()
    assert [str(f.name) for f in (tmp_path / "work").iterdir()] == ["codes.npz"], "nothing temporary stays"

    same = encode(digits_run, samples=3)
    assert same.keys() == encoded.keys()
    for name, array in same.items():
        np.testing.assert_array_equal(array, encoded[name], err_msg=name)


def test_samples_are_drawn_from_the_posterior_and_change_nothing_else(digits):
    """Standardised, 40 samples of 359 posteriors in 2 dimensions are 28720 numbers from N(0, 1)."""
    torch.manual_seed(0)
    vae = zoo.create_model("mlp-vae-2d", data_shape=digits.shape)
    images = Loader(digits.test, 100, "dynamic")
    drawn, plain = codes(vae, images, samples=40, seed=5), codes(vae, images, seed=5)
    for name, array in plain.items():
        np.testing.assert_array_equal(array, drawn[name], err_msg=f"{name}: also the binarisation is the same")
    standard = (drawn["samples"] - drawn["mean"]) / drawn["scale"]
    assert standard.shape == (40, 359, 2)
    assert abs(standard.mean()) < 4 / np.sqrt(standard.size)
    assert abs(standard.std() - 1) < 4 / np.sqrt(2 * standard.size)
    assert abs((standard[0] * standard[1]).mean()) < 4 / np.sqrt(standard[0].size), "draws are independent"
    assert not np.array_equal(standard[0, :100], standard[0, 100:200]), "and so are batches"
    np.testing.assert_array_equal(drawn["samples"], codes(vae, images, samples=40, seed=5)["samples"])
    assert not np.array_equal(drawn["samples"], codes(vae, images, samples=40, seed=6)["samples"])


def test_only_existing_arrays_are_written():
    """No labels without labels, no mean without a closed form. The training mode and the generator do not change."""
    vae = linear_gaussian_vae(pixels=4).train()
    images = Loader(Split(torch.randint(256, (7, 1, 1, 4), dtype=torch.uint8)), 3)
    assert set(codes(vae, images)) == {"index", "mean", "scale"}
    normal = Normal(torch.zeros(2), torch.ones(2))
    vae.encoder = GivenPosterior(
        lambda x: Independent(TransformedDistribution(normal.expand((len(x), 2)), [TanhTransform()]), 1)
    )
    state = torch.get_rng_state()
    encoded = codes(vae, images, samples=2)
    assert set(encoded) == {"index", "samples"}
    assert encoded["samples"].shape == (2, 7, 2)
    assert torch.equal(torch.get_rng_state(), state)
    assert vae.training
    vae.encoder = GivenPosterior(lambda x: Categorical(logits=torch.zeros(len(x), 5)))
    assert codes(vae, images)["logits"].shape == (7, 5)


def test_another_data_set_and_the_other_split(digits_run, digits, install):
    """The data of a recipe: this one repeats the digits 40 times per epoch."""
    install(
        "wide-data",
        """
        import zoo
        @zoo.hookimpl
        def zoo_components(): yield zoo.Component("dataset", "wide", "wide_images:wide", "")
        """,
        wide_images__py="""
        import torch, zoo
        def wide():
            images = zoo.Split(torch.zeros(3, 1, 8, 9, dtype=torch.uint8))
            return zoo.Dataset(images, images)
        """,
    )
    train = encode(digits_run, "digits", split="train")
    assert (train["labels"] == digits.train.labels.repeat(40).numpy()).all()
    np.testing.assert_allclose(train["mean"][1438 * 39 :], train["mean"][:1438], rtol=1e-4, atol=1e-5)
    with pytest.raises(zoo.DataError, match="was trained on images of shape 1x8x8; these have shape 1x8x9"):
        encode(digits_run, "wide")
    with pytest.raises(zoo.ZooError, match="Did you mean 'digits'?"):
        encode(digits_run, "digit")


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


@torch.no_grad()
def test_a_folder_is_encoded_completely_with_its_paths(digits_run, digits, zoo_command, tmp_path, own_cache):
    """Not only the test images of a split."""
    pixels = digits.test.x[:30, 0].numpy()
    names = sorted(f"{'ab'[i % 2]}/{i}.png" for i in range(30))
    for name in names:
        (tmp_path / "photos" / name[0]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[int(name[2:-4])]).save(tmp_path / "photos" / name)
    zoo_command("encode", digits_run, tmp_path / "photos", "-o", "codes.npz")
    with np.load(tmp_path / "work" / "codes.npz", allow_pickle=False) as file:
        written = dict(file)
    assert written["path"].tolist() == names
    assert written["labels"].tolist() == [0] * 15 + [1] * 15
    assert sorted(written["split"].tolist()) == ["test"] * 3 + ["train"] * 27
    for name, mean in zip(names, written["mean"], strict=True):
        expected = zoo.load(digits_run).encode(torch.from_numpy(pixels[int(name[2:-4])])[None, None] / 255).mean[0]
        np.testing.assert_allclose(mean, expected, rtol=1e-4, atol=1e-5)
    part = encode(digits_run, str(tmp_path / "photos"), split="test", samples=2)
    assert part["path"].tolist() == [written["path"][i] for i in part_of(written, part)]
    whole = encode(digits_run, str(tmp_path / "photos"), samples=2)
    np.testing.assert_array_equal(whole["samples"][:, part_of(whole, part)], part["samples"])


def part_of(whole, part):
    return [whole["path"].tolist().index(path) for path in part["path"]]


def test_a_folder_with_splits_is_encoded_completely(digits_run, digits, tmp_path, own_cache):
    for i, split in enumerate(("train", "test", "train", "test", "val")):
        (tmp_path / "photos" / split).mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.test.x[i, 0].numpy()).save(tmp_path / "photos" / split / f"{i}.png")
    encoded = encode(digits_run, str(tmp_path / "photos"))
    assert encoded["path"].tolist() == ["test/1.png", "test/3.png", "train/0.png", "train/2.png", "val/4.png"]
    assert encoded["split"].tolist() == ["test", "test", "train", "train", "validation"]


def test_photographs_of_another_size_are_encoded_at_the_size_of_the_model(digits_run, tmp_path, own_cache):
    """Colour images of several sizes, for a model of grey 8x8 images."""
    for i in range(4):
        pixels = np.random.default_rng(i).integers(0, 256, (20 + i, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    assert encode(digits_run, str(tmp_path))["mean"].shape == (4, 2)


@torch.no_grad()
def test_a_file_is_encoded_completely_in_order(digits_run, digits, tmp_path, own_cache):
    np.savez(tmp_path / "x.npz", x=digits.test.x[:50].numpy(), y=np.arange(50))
    encoded = encode(digits_run, str(tmp_path / "x.npz"))
    assert encoded["index"].tolist() == encoded["labels"].tolist() == list(range(50))
    expected = zoo.load(digits_run).encode(digits.test.x[:50] / 255).mean
    np.testing.assert_allclose(encoded["mean"], expected, rtol=1e-4, atol=1e-5)


def test_a_registered_data_set_is_encoded_completely(digits_run, digits):
    """Each image once, although an epoch repeats the digits 40 times."""
    encoded = encode(digits_run, "digits")
    assert encoded["labels"].tolist() == [*digits.train.labels.tolist(), *digits.test.labels.tolist()]
    assert encoded["index"].tolist() == [*range(1438), *range(359)]
    assert encoded["split"].tolist() == ["train"] * 1438 + ["test"] * 359


def test_unreadable_and_unwritable_files_are_reported(digits_run, zoo_command):
    assert "cannot be written" in zoo_command("encode", digits_run, "-o", "no/such.npz", code=2).stderr
    assert "nowhere is not a directory" in zoo_command("encode", "nowhere", code=2).stderr
