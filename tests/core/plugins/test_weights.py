"""Trained weights of plugins: found by name wherever a run is accepted, verified, and never written to."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
import torch

import zoo
from zoo.cli.completion import complete_runs, complete_shown
from zoo.plugins.manager import plugins
from zoo.plugins.weights import find_run
from zoo.storage.files import sealed

NAME = "mlp-vae-2d@digits"


@pytest.fixture
def folder(packaged_digits, tmp_path) -> Path:
    """A copy of the weights, which a test may damage."""
    return Path(shutil.copytree(packaged_digits / "src" / "acme_weights" / "weights" / NAME, tmp_path / "bundled"))


def source(*entries: tuple[str, Path, str | None]) -> str:
    """The source of a plugin that brings weights; without a digest, that of the manifest."""
    lines = ["from pathlib import Path", "import zoo", "@zoo.hookimpl", "def zoo_weights():"]
    for name, folder, digest in entries:
        digest = digest or hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
        lines.append(f"    yield zoo.Weights({name!r}, Path({str(folder)!r}), {digest!r}, 'Two dimensions')")
    return "\n".join(lines)


@pytest.fixture
def acme(install, folder) -> Path:
    """The folder of weights that are installed."""
    install("acme-vae", source((NAME, folder, None)))
    return folder


def test_a_name_is_accepted_in_place_of_a_run(acme, digits_run):
    assert zoo.list_weights() == [NAME]
    expected, loaded = zoo.load(digits_run).state_dict(), zoo.load(NAME).state_dict()
    assert expected.keys() == loaded.keys()
    assert all(torch.equal(expected[key], loaded[key]) for key in expected)
    run = zoo.Run.open(NAME)
    assert (run.weights, str(run), run.path) == (NAME, NAME, acme)
    assert zoo.Run.open(digits_run).weights is None
    measured = zoo.evaluate(NAME, ["elbo"], limit=20)["elbo"].value
    assert measured == zoo.evaluate(digits_run, ["elbo"], limit=20)["elbo"].value
    assert zoo.Run.open(f"acme_vae:{NAME}").path == acme, "distributions are compared as pip compares them"


def test_a_training_starts_from_weights_by_name(acme, tmp_path):
    run = zoo.train(
        "mlp-vae-2d",
        ["train.optimizer={use: SGD, lr: 0.0}", "train.steps=1"],
        data="digits",
        init=NAME,
        out=tmp_path,
        figures=False,
    )
    expected = zoo.load(NAME).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in zoo.load(run).state_dict().items())
    assert run.environment["init"]["run"] == NAME
    assert run.environment["init"]["sha256"] == hashlib.sha256((acme / "model.safetensors").read_bytes()).hexdigest()


def test_a_path_that_holds_a_run_takes_precedence(acme, digits_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(NAME).mkdir()
    assert find_run(NAME) == acme, "an empty folder is no run"
    shutil.copytree(digits_run, Path(NAME) / "2026-01-31T12-00-00")
    assert find_run(NAME) == Path(NAME) / "2026-01-31T12-00-00"
    assert zoo.Run.open(NAME).weights is None
    assert find_run(f"acme-vae:{NAME}") == acme


def test_an_unknown_name_suggests_a_near_one(acme, site):
    with pytest.raises(zoo.NoRun, match=f"no trained model named 'mlp-vae-2d@digit'. Did you mean '{NAME}'?"):
        zoo.load("mlp-vae-2d@digit")
    with pytest.raises(zoo.NoRun, match=f"mlp-vae-2d is no.*Did you mean '{NAME}'?"):
        zoo.load("mlp-vae-2d")
    with pytest.raises(zoo.NoRun, match=r"nowhere/mlp-vae-2d is no[^?]*$"):
        zoo.load("nowhere/mlp-vae-2d")


def test_without_any_weights_the_message_says_so(site):
    with pytest.raises(zoo.NoRun, match="There is no trained model named 'a@b'. No trained weights are installed."):
        zoo.load("a@b")


def test_a_contested_name_is_an_error_for_that_name_alone(install, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    twin = Path(shutil.copytree(folder, tmp_path / "twin"))
    install("acme-vae", source((NAME, folder, None), ("other@digits", folder, None)))
    install("twin-vae", source((NAME, twin, None)), version="3.4")
    claim = f"trained model '{NAME}' is claimed by acme-vae 1.0 .* and twin-vae 3.4 .*Use acme-vae:{NAME} or twin-vae:"
    with pytest.raises(zoo.NameConflict, match=claim):
        zoo.load(NAME)
    assert zoo.list_weights() == [f"acme-vae:{NAME}", f"twin-vae:{NAME}", "other@digits"]
    run = zoo.Run.open(f"twin-vae:{NAME}")
    assert (run.path, str(run)) == (twin, f"twin-vae:{NAME}")
    assert run.output == Path("runs") / f"twin-vae.{NAME}"
    assert zoo.Run.open(folder).weights == f"acme-vae:{NAME}"
    assert find_run("other@digits") == folder


@pytest.mark.parametrize("file", ["model.safetensors", "recipe.yaml", "environment.json", "metrics.jsonl", "card.yaml"])
def test_one_changed_byte_is_refused_by_name(file, acme):
    content = bytearray((acme / file).read_bytes())
    content[len(content) // 2] ^= 1
    (acme / file).write_bytes(content)
    for refused in (NAME, acme):
        with pytest.raises(zoo.RunError) as error:
            zoo.load(refused)
        assert re.search(f"^{NAME} of acme-vae 1.0 is refused: .*{file} is damaged", str(error.value))
        assert str(error.value).endswith("Install acme-vae again.")
    with pytest.raises(zoo.RunError, match="is refused"):
        zoo.Run(acme).load()


def test_weights_that_were_sealed_anew_are_refused(acme):
    """A manifest that agrees with the files is not enough: the plugin states its digest."""
    (acme / "card.yaml").write_text("name: better\n")
    names = json.loads((acme / "manifest.json").read_bytes())["sha256"]
    (acme / "manifest.json").write_bytes(sealed(acme, names))
    with pytest.raises(zoo.RunError, match=r"manifest.json is damaged: its SHA-256 does not match .* plugin"):
        zoo.load(NAME)


def test_a_missing_folder_is_named(install, tmp_path):
    install("acme-vae", source((NAME, tmp_path / "nowhere", "0" * 64)))
    with pytest.raises(zoo.RunError, match=r"nowhere/manifest.json cannot be read: No such file"):
        zoo.load(NAME)


def test_installed_weights_are_never_written_to(acme, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(acme.rglob("*"))
    for run in (NAME, acme):
        opened = zoo.Run.open(run)
        assert opened.output == Path("runs") / NAME
        assert opened.figures == Path("runs") / NAME / "figures"
        assert opened.figures.is_dir()
        for attempt in (lambda run=run: zoo.resume(run), lambda run=run: zoo.fit_prior(run, "gaussian-mixture")):
            with pytest.raises(zoo.RunError, match=f"{NAME} belongs to an installed package .* cp -r {acme} my-run"):
                attempt()
    assert sorted(acme.rglob("*")) == before
    shutil.copytree(acme, "my-run")
    assert zoo.fit_prior("my-run", "gaussian-mixture", ["components=2"])["run"] == "my-run"


def test_what_is_no_weights_is_an_error_of_its_plugin(install, folder):
    """Each problem is recorded; the other weights of the plugin remain."""
    install(
        "acme-vae",
        source((NAME, folder, None))
        + "\n".join(
            [
                "",
                "    yield 'mlp-vae@mnist'",
                "    yield zoo.Weights('mlp-vae', Path('/x'), 'abc')",
                "    yield zoo.Weights('a@b', 'not a path', '0' * 64, 'two\\nlines')",
                f"    yield zoo.Weights({NAME!r}, Path('/x'), '0' * 64)",
            ]
        ),
    )
    assert zoo.list_weights() == [NAME]
    (plugin,) = (plugin for plugin in plugins() if plugin.distribution == "acme-vae")
    for problem, error in zip(
        (
            "zoo_weights returned 'mlp-vae@mnist', not a zoo.Weights",
            "name 'mlp-vae': expected MODEL@DATA.*sha256 'abc': expected 64 hex digits",
            "folder 'not a path': expected a folder on disk.*summary 'two.*lines': expected a line of text",
            "registers this name twice",
        ),
        plugin.errors,
        strict=True,
    ):
        assert re.search(problem, error)


def test_a_plugin_that_raises_harms_no_other(acme, install):
    install("bad-vae", "import zoo\n@zoo.hookimpl\ndef zoo_weights():\n    yield 1\n    raise SystemExit(3)\n")
    assert zoo.list_weights() == [NAME]
    assert zoo.load(NAME).latent_shape == (2,)


def test_names_are_completed(acme):
    assert [item.value for item in complete_runs(None, None, "mlp-vae-2d@")] == [NAME]
    assert [item.value for item in complete_shown(None, None, "mlp-vae-2d")] == ["mlp-vae-2d", NAME]


def test_the_command_line_lists_and_shows_them(acme, zoo_command):
    (row,) = json.loads(zoo_command("list", "--weights", "--json").stdout)
    assert row == {"name": NAME, "from": "acme-vae 1.0", "summary": "Two dimensions"}
    assert zoo_command("list", "conv", "--weights").stderr == "No trained model matches 'conv'.\n"
    card = json.loads(zoo_command("show", NAME, "--json").stdout)
    assert (card["name"], card["model"], card["folder"]) == (NAME, "mlp-vae-2d", str(acme))
    assert zoo_command("show", NAME).stdout == (acme / "card.yaml").read_text() + f"folder: {acme}\n"
    resolved = json.loads(zoo_command("show", NAME, "latent_dim=3", "--json").stdout)
    assert (resolved["name"], resolved["latent_dim"], resolved["data"][0]["use"]) == ("mlp-vae-2d", 3, "digits")
    (plugin,) = (row for row in json.loads(zoo_command("plugins", "--json").stdout) if row["name"] == "acme_vae")
    assert plugin["brings"] == [f"weights {NAME}"]
    unknown = zoo_command("sample", "mlp-vae-2d@digit", code=2).stderr
    assert f"Did you mean '{NAME}'?" in unknown
