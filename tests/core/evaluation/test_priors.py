"""Priors fitted after training: their files, and invalid files that are refused."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

import zoo
import zoo.api
from resuming import TINY, reseal, run_main
from toys import GivenPosterior, LinearGaussian
from zoo.data.loader import Loader
from zoo.evaluation import priors
from zoo.storage.files import MANIFEST, sealed, write_bytes

MIXTURE = ("gaussian-mixture", ["components=5"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the 1438 training images of digits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zoo_figures.callback.DrawFigures.on_train_end", lambda *_, **__: None)
        return zoo.train("mlp-vae", [*TINY, "train.epochs=8"], out=tmp_path_factory.mktemp("runs"), device="cpu").path


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> zoo.Run:
    return zoo.Run(Path(shutil.copytree(trained, tmp_path / "run")))


def draws(vae: zoo.VAE, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    with torch.no_grad():
        return vae.sample(8)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def state_of(run: zoo.Run) -> Path:
    (state,) = (run.path / "prior").glob("*.safetensors")
    return state


# --- fitting


def test_a_fitted_prior_improves_log_pz_and_replaces_the_original(run):
    before, original = contents(run.path), draws(run.load())
    result = zoo.fit_prior(run.path, *MIXTURE, seed=3)
    assert result["log_likelihood"]["test"] > result["original"]["test"] + 0.02
    assert (result["images"], result["samples_per_image"], result["seed"]) == (1438, 1, 3)
    assert result["prior"] == {"use": "gaussian-mixture", "components": 5, "covariance": "full", "iterations": 200}

    vae = zoo.load(run.path)
    assert type(vae.prior) is zoo.get("prior", "gaussian-mixture")
    assert not vae.training
    assert not torch.equal(draws(vae), original)
    assert torch.equal(draws(vae), draws(zoo.load(run.path))), "bit-identical"
    assert torch.equal(draws(zoo.load(run.path, prior="original")), original)
    assert torch.equal(draws(zoo.load(run.path, "last")), draws(zoo.load(run.path, "last", "original")))
    after = contents(run.path)
    assert {name: after[name] for name in before} == before, "the trained model is unchanged"


def test_the_result_contains_means_of_log_densities(run):
    """Compared with log p(z) of new draws for the test images, up to the noise of 359 draws."""
    result = zoo.fit_prior(run, *MIXTURE)
    vae, x = zoo.load(run.path), run.test_images(1000)
    torch.manual_seed(11)
    with torch.no_grad():
        z = vae.encode(x).sample((200,))
        again = vae.prior(vae.encoder).log_prob(z).mean(1)
        original = Normal(0, 1).log_prob(z).sum(-1).mean(1)
    for value, samples in ((result["log_likelihood"]["test"], again), (result["original"]["test"], original)):
        assert value == pytest.approx(samples.mean().item(), abs=5 * samples.std().item())
    assert (
        json.loads((run.path / "prior" / MANIFEST).read_text())["fitted"]["log_likelihood"] == result["log_likelihood"]
    )


def test_a_fit_depends_on_its_seed_only(run):
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed + len(states))
        zoo.fit_prior(run, *MIXTURE, seed=seed)
        states.append(load_file(state_of(run)))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_loading_a_prior_with_networks_is_bit_identical(run):
    """The spec holds nested components and overrides; the state holds parameters, masks and the standardization."""
    zoo.fit_prior(run, "flow", ["hidden=[8]"], steps=5, architecture="coupling")
    assert torch.equal(draws(zoo.load(run.path)), draws(zoo.load(run.path)))
    decoder = {"hidden": [8], "likelihood": {"use": "gaussian", "scale": 0.5}}
    result = zoo.fit_prior(run, "two-stage", encoder={"hidden": [8]}, decoder=decoder, steps=5, samples=3)
    assert result["prior"]["decoder"]["likelihood"]["scale"] == 0.5
    vae = zoo.load(run.path)
    assert torch.equal(draws(vae), draws(zoo.load(run.path)))
    assert len(list((run.path / "prior").iterdir())) == 2, "the flow is deleted"
    assert vae.log_likelihood(run.test_images(2).round(), samples=4).isfinite().all()


def test_the_draws_of_an_image_are_adjacent_and_every_image_has_the_same_number():
    """The seed determines the order of the images; q(z | x) is narrow, so a draw identifies its image."""
    pixels = torch.arange(40, dtype=torch.uint8).view(40, 1, 1, 1)

    def q(x: Tensor) -> Distribution:
        return Independent(Normal(255 * x.flatten(1), 0.01), 1)

    prior = zoo.get("prior", "standard-normal")(latent_shape=(1,))
    vae = zoo.VAE(GivenPosterior(q), LinearGaussian(torch.ones(1, 1), 1.0), prior)
    batches = Loader(zoo.Split(pixels), batch_size=16)
    torch.manual_seed(0)
    z, log_pz = priors.posterior_draws(vae, batches, 3, seed=0)
    image = z.round().view(40, 3)
    assert (image == image[:, :1]).all()
    assert image[:, 0].sort().values.tolist() == list(range(40))
    assert image[:, 0].tolist() != list(range(40))
    assert (z.view(40, 3) != z.view(40, 3)[:, :1]).any(1).all(), "each draw has its own noise"
    assert log_pz == pytest.approx(Normal(0, 1).log_prob(z).mean().item(), rel=1e-5)


def test_several_draws_per_image(run):
    result = zoo.fit_prior(run, *MIXTURE, samples_per_image=3)
    assert result["samples_per_image"] == 3
    with pytest.raises(zoo.UsageError, match="samples_per_image must be at least 1"):
        zoo.fit_prior(run, *MIXTURE, samples_per_image=0)


# --- errors


def test_a_fit_that_cannot_be_written_keeps_the_previous_one(run, monkeypatch):
    """The disk is full when the manifest, the last file, is written."""
    folder = run.path / "prior"
    before = draws(run.load())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(priors, "write_bytes", full)
        with pytest.raises(zoo.TrainingError, match="prior could not be written: .*No space left"):
            zoo.fit_prior(run, *MIXTURE)
    assert torch.equal(draws(run.load()), before), "a failed first fit changes nothing"
    zoo.fit_prior(run, *MIXTURE)
    fitted = draws(run.load())
    with monkeypatch.context() as disk:
        disk.setattr(priors, "write_bytes", full)
        with pytest.raises(zoo.TrainingError, match="previous prior is intact"):
            zoo.fit_prior(run, "gaussian-mixture", components=2)
    assert torch.equal(draws(run.load()), fitted)
    zoo.fit_prior(run, "gaussian-mixture", components=2)
    assert len(list(folder.iterdir())) == 2, "leftover files are removed"


@pytest.mark.parametrize(
    ("prior", "overrides", "message"),
    [
        ("gaussian-mixtur", [], "Did you mean 'gaussian-mixture'"),
        ("standard-normal", [], "cannot be fitted after training. These can: .*flow, gaussian-mixture, two-stage"),
        ("gaussian-mixture", ["component=3"], "Did you mean 'components'"),
        ("gaussian-mixture", ["components=0"], "greater than 0"),
        ("gaussian-mixture", ["components"], "expected KEY=VALUE"),
        ("gaussian-mixture", ["components=2000"], "= 2000 draws; got"),
    ],
)
def test_invalid_priors_are_refused_and_nothing_is_written(run, prior, overrides, message):
    before = contents(run.path)
    with pytest.raises(zoo.UsageError, match=message):
        zoo.fit_prior(run, prior, overrides)
    assert contents(run.path) == before
    assert not (run.path / "prior").exists()


def test_an_unfinished_run_or_changed_data_are_refused(run):
    environment = json.loads((run.path / "environment.json").read_text())
    environment["data"]["sha256"] = "0" * 64
    (run.path / "environment.json").write_text(json.dumps(environment))
    reseal(run.path)
    with pytest.raises(zoo.RunError, match="SHA-256 differs"):
        zoo.fit_prior(run.path, *MIXTURE)
    (run.path / "model.safetensors").unlink()
    with pytest.raises(zoo.RunError, match="is not finished"):
        zoo.fit_prior(run.path, *MIXTURE)


# --- damaged and hostile files


@pytest.fixture
def fitted(run: zoo.Run) -> zoo.Run:
    zoo.fit_prior(run, *MIXTURE)
    return run


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)


def test_a_damaged_file_is_named(fitted):
    """Scenarios 6 and 7: a flipped bit, a truncated and a missing file. The original prior still loads."""
    manifest, state = fitted.path / "prior" / MANIFEST, state_of(fitted)
    for path in (state, manifest):
        whole = path.read_bytes()
        flip(path)
        with pytest.raises(zoo.RunError, match=f"{path.name} is damaged|{path.name} cannot be read"):
            fitted.load()
        path.write_bytes(whole[:50])
        with pytest.raises(zoo.RunError, match=path.name):
            fitted.load()
        path.write_bytes(whole)
    state.unlink()
    with pytest.raises(zoo.RunError, match=f"{state.name} cannot be read: No such file"):
        fitted.load()
    assert draws(fitted.load(prior="original")).isfinite().all()


def test_a_prior_of_other_weights_is_refused(fitted):
    other = zoo.train("mlp-vae", [*TINY, "train.epochs=1"], seed=1, out=fitted.path.parent / "other", device="cpu")
    shutil.copy(other.path / "model.safetensors", fitted.path / "model.safetensors")
    reseal(fitted.path)
    with pytest.raises(zoo.RunError, match="was fitted to other weights"):
        fitted.load()
    zoo.fit_prior(fitted, *MIXTURE)
    assert draws(fitted.load()).isfinite().all()


def forge(run: zoo.Run, **changes: object) -> None:
    """Write a malicious manifest with valid digests."""
    folder = run.path / "prior"
    manifest = json.loads((folder / MANIFEST).read_text())
    files = changes.pop("files", list(manifest["sha256"]))
    fields = {name: manifest[name] for name in ("prior", "fitted", "model")} | changes
    write_bytes(sealed(folder, files, **fields), folder / MANIFEST)


class Harm:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def test_hostile_files_are_refused(fitted, tmp_path, monkeypatch):
    """Scenarios 32, 33 and 35: a pickle instead of the state, a class path, a file outside the folder."""
    monkeypatch.chdir(tmp_path)
    for use in ("os:mkdir", "zoo_priors.gaussian_mixture:GaussianMixture"):
        forge(fitted, prior={"use": use})
        with pytest.raises(zoo.UnknownName, match="There is no prior named"):
            fitted.load()
    forge(fitted, prior={"use": "gaussian-mixture", "components": 7})
    with pytest.raises(zoo.RunError, match="is not a state of this prior"):
        fitted.load()
    forge(fitted, prior={"use": "gaussian-mixture", "components": 5}, files=["../model.safetensors"])
    with pytest.raises(zoo.RunError, match="outside its folder"):
        fitted.load()
    forge(fitted, prior={"parts": 5}, files=[state_of(fitted).name])
    with pytest.raises(zoo.RunError, match="not the manifest of a fitted prior"):
        fitted.load()
    state_of(fitted).write_bytes(pickle.dumps(Harm()))
    forge(fitted, prior={"use": "gaussian-mixture", "components": 5}, files=[state_of(fitted).name])
    with pytest.raises(zoo.RunError, match="cannot be loaded"):
        fitted.load()
    assert not (tmp_path / "harm").exists()


# --- the command line


def test_fit_prior_and_sample_on_the_command_line(run, tmp_path, capsys):
    """Samples depend on their seed only; ``--prior original`` selects the prior of the training."""

    def sampled(*options: str) -> bytes:
        out = tmp_path / "sample.png"
        assert run_main("sample", str(run.path), "-n", "4", "--out", str(out), *options) == 0
        return out.read_bytes()

    before = sampled()
    capsys.readouterr()
    assert run_main("fit-prior", str(run.path), "gaussian-mixture", "components=3", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert list(result) == ["run", "prior", "images", "samples_per_image", "seed", "log_likelihood", "original"]
    assert (result["run"], result["prior"]["components"]) == (str(run.path), 3)
    after = sampled()
    assert sampled() == after != before == sampled("--prior", "original")
    capsys.readouterr()
    assert run_main("fit-prior", str(run.path), "gaussian-mixture", "components=3", "--seed", "0") == 0
    shown = capsys.readouterr().out
    for prior, splits in (("original", result["original"]), ("fitted", result["log_likelihood"])):
        assert f"{prior:<19}  {splits['train']:<5.2f}  {splits['test']:.2f}" in shown
    for command in ("latent", "traverse"):
        options = ("--dims", "1", "--steps", "2") if command == "traverse" else ("-n", "9")
        assert run_main(command, str(run.path), *options, "--out", str(tmp_path / "figure.png")) == 0
    assert run_main("fit-prior", str(run.path), "flwo") == 2
    assert "Did you mean 'flow'" in capsys.readouterr().err


def test_the_protocol_names_a_fitted_prior(run, capsys):
    original = zoo.evaluate(run, ["elbo"], limit=50)
    assert "prior" not in original.protocol
    zoo.fit_prior(run, "gaussian-mixture", components=3)
    fitted = zoo.evaluate(run, ["elbo"], limit=50)
    assert fitted.how == f"{original.how}, prior gaussian-mixture, fitted after training"
    assert fitted["rate"].value < original["rate"].value, "it is closer to the posteriors"
    assert zoo.evaluate(run, ["elbo"], limit=50, prior="original").to_json() == original.to_json()
    assert run_main("evaluate", str(run.path), "--metric", "elbo", "--limit", "50", "--prior", "original") == 0
    assert original.how in capsys.readouterr().out


def test_an_outdated_recipe_is_reported_with_its_run(run):
    """The constructor of a component has changed since the run was trained."""
    file = run.path / "recipe.yaml"
    file.write_text(file.read_text().replace("hidden:", "depth:", 1))
    reseal(run.path)
    with pytest.raises(zoo.RecipeError, match="does not match the installed components") as error:
        zoo.load(run.path)
    assert str(run.path) in str(error.value)
    assert "encoder.depth: unknown key" in str(error.value)
