"""``zoo package``: a package that pip installs, whose weights every command takes, and without facts of the machine."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shlex
import shutil
import statistics
import tomllib
from importlib.metadata import version
from pathlib import Path

import click
import numpy as np
import pytest
import torch
import yaml

import zoo
from test_distribution import pip_install, python
from zoo.cli.main import cli
from zoo.cli.options import RunFolder
from zoo_export.standardization import standardization
from zoo_package.package import write_package

NAME = "mlp-vae-2d@digits"
FILES = {"recipe.yaml", "environment.json", "metrics.jsonl", "model.safetensors", "card.yaml", "manifest.json"}


@pytest.fixture(scope="module")
def weights(packaged_digits) -> Path:
    """The folder of the weights in the package."""
    return packaged_digits / "src" / "acme_weights" / "weights" / NAME


@pytest.fixture(scope="module")
def site(packaged_digits, tmp_path_factory) -> Path:
    """The package, built and installed by pip, ready for PYTHONPATH."""
    return pip_install(packaged_digits, tmp_path_factory.mktemp("installed") / "site")


def files_in(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file with its size and time of modification."""
    return {
        str(file.relative_to(folder)): (file.stat().st_size, file.stat().st_mtime_ns)
        for file in folder.rglob("*")
        if "__pycache__" not in file.parts
    }


# --- what is written


def test_the_weights_are_those_of_the_run(weights, digits_run):
    assert {file.name for file in weights.iterdir()} == FILES
    assert (weights / "model.safetensors").read_bytes() == (digits_run / "model.safetensors").read_bytes()
    copy, run = zoo.Run(weights), zoo.Run(digits_run)
    assert copy.recipe == run.recipe
    assert copy.finished
    copy.verify()
    for epoch, original in zip(copy.epochs(), run.epochs(), strict=True):
        assert (epoch.epoch, epoch.step, epoch.train, epoch.test) == (
            *(original.epoch, original.step, original.train, original.test),
        )
        loss, steps = epoch.curve["loss"], original.curve["loss"]
        assert len(loss) == 10
        assert statistics.fmean(loss) == pytest.approx(statistics.fmean(steps), rel=0.01)
        assert loss[0] == pytest.approx(statistics.fmean(steps[: len(steps) // 10]), rel=1e-5)


def test_it_says_nothing_about_the_machine(packaged_digits, weights, digits_run):
    environment = json.loads((digits_run / "environment.json").read_bytes())
    program, *_ = environment["command"]
    secrets = [program, str(Path.cwd()), str(digits_run.parent), f'"{platform.node()}"', platform.release()]
    texts = {file: file.read_bytes() for file in packaged_digits.rglob("*") if file.is_file()}
    assert not [(file.name, text) for file, content in texts.items() for text in secrets if text.encode() in content]
    packaged = json.loads((weights / "environment.json").read_bytes())
    assert packaged["command"] == []
    assert packaged["processors"] is None
    assert packaged["platform"] == platform.system()
    assert packaged["started"].endswith("+00:00")
    assert packaged["data"]["sha256"] == environment["data"]["sha256"]
    assert packaged["versions"] == environment["versions"]


def test_the_card_has_the_protocol_and_the_metrics(weights, digits_run, packaged_digits):
    card = yaml.safe_load((weights / "card.yaml").read_text())
    vae = zoo.load(digits_run)
    assert (card["name"], card["model"], card["latent_shape"]) == (NAME, "mlp-vae-2d", [2])
    assert card["parameters"] == sum(parameter.numel() for parameter in vae.parameters())
    assert (card["data"]["train"], card["data"]["test"], card["data"]["shape"]) == (40 * 1438, 359, [1, 8, 8])
    assert (card["protocol"]["epochs"], card["protocol"]["optimizer"]) == (2, {"use": "Adam", "lr": 0.001})
    assert card["versions"]["torch"] == version("torch")
    measured = zoo.evaluate(digits_run, limit=50)["elbo"]
    (elbo,) = (metric for metric in card["metrics"] if metric["name"] == "elbo")
    assert (elbo["value"], elbo["error"], elbo["unit"]) == (measured.value, measured.error, "nats/image")
    assert (elbo["protocol"]["split"], elbo["protocol"]["images"]) == ("test", 50)
    number = measured.shown.partition(" ")[0]
    assert card["summary"] == f"elbo {number} nats/image; {zoo.Run(digits_run).recipe.summary}"
    readme = (packaged_digits / "README.md").read_text()
    assert f"## {NAME}\n" in readme
    assert f"| elbo | {measured.shown} | nats/image |" in readme


def test_the_package_requires_the_zoo(packaged_digits):
    project = tomllib.loads((packaged_digits / "pyproject.toml").read_text())["project"]
    assert project["name"] == "acme-weights"
    assert project["dependencies"] == ["vae-zoo>=0.1.0"]
    assert project["entry-points"]["zoo"] == {"acme-weights": "acme_weights"}


def test_paths_are_reduced_to_their_last_part(tmp_path):
    np.save(tmp_path / "dots.npy", np.random.default_rng(0).random((40, 1, 8, 8), dtype=np.float32))
    small = {"encoder": {"hidden": [4]}, "decoder": {"hidden": [4]}}
    run = zoo.train("mlp-vae", data=tmp_path / "dots.npy", epochs=1, out=tmp_path / "runs", figures=False, **small)
    package = write_package([("dots-vae@dots", run)], "dots-weights", tmp_path, metrics=False, license="MIT")
    assert [entry.name for entry in package.entries] == ["dots-vae@dots"]
    packaged = zoo.Run(package.folder / "src" / "dots_weights" / "weights" / "dots-vae@dots")
    assert packaged.recipe.data[0].parameters["path"] == "dots.npy"
    assert not [
        file for file in package.folder.rglob("*") if file.is_file() and str(tmp_path).encode() in file.read_bytes()
    ]
    assert yaml.safe_load((packaged.path / "card.yaml").read_text())["metrics"] == []
    assert tomllib.loads((package.folder / "pyproject.toml").read_text())["project"]["license"] == "MIT"


def test_a_fitted_prior_is_packaged_too(digits_run, weights, tmp_path):
    run = zoo.Run.open(shutil.copytree(digits_run, tmp_path / "run"))
    zoo.fit_prior(run, "gaussian-mixture", ["components=3"])
    package = write_package([run], "prior-weights", tmp_path, metrics=False)
    packaged = package.folder / "src" / "prior_weights" / "weights" / NAME
    covered = json.loads((packaged / "manifest.json").read_bytes())["sha256"]
    assert {file.relative_to(packaged).as_posix() for file in packaged.rglob("*") if file.is_file()} == {
        *covered,
        "manifest.json",
    }
    assert sum(name.startswith("prior/") for name in covered) == 2
    expected, loaded = run.load().prior.state_dict(), zoo.load(packaged).prior.state_dict()
    assert expected.keys() == loaded.keys()
    assert all(torch.equal(expected[key], loaded[key]) for key in expected)


def test_the_scale_of_the_latents_is_packaged_too(digits_run, tmp_path, monkeypatch):
    """The training data are not needed; measured factors are stored outside the package, and take precedence."""
    run = zoo.Run.open(shutil.copytree(digits_run, tmp_path / "run"))
    factors = standardization(run)
    package = write_package([run], "latent-weights", tmp_path, metrics=False)
    packaged = zoo.Run(package.folder / "src" / "latent_weights" / "weights" / NAME)
    packaged.verify()
    monkeypatch.setattr(zoo.Run, "loaded", None)
    monkeypatch.setattr(zoo.Run, "output", tmp_path)
    assert standardization(packaged) == factors
    changed = dataclasses.replace(factors, shift_factor=7.0)
    content = json.loads((packaged.path / "latents.json").read_text())
    (tmp_path / "latents.json").write_text(json.dumps(content | {"shift_factor": 7.0}))
    assert standardization(packaged) == changed


@pytest.mark.parametrize(
    ("runs", "name", "message"),
    [
        (["{run}"], "Acme_Weights", "'Acme_Weights' is not a valid package name: use lowercase"),
        (["{run}"], "torch", "Python already has a module 'torch'"),
        (["{run}"], "taken", "taken already exists. Remove it, or choose"),
        (["{run}", "{run}"], "acme-weights", f"are both called {NAME}. Name one of them: NAME="),
        ([("digits", "{run}")], "acme-weights", "'digits' cannot be the name of the weights of .*expected MODEL@DATA"),
        ([("a:b@c", "{run}")], "acme-weights", "'a:b@c' cannot be the name"),
        (["{unfinished}"], "acme-weights", "is not finished. Resume it: zoo train --resume"),
        ([], "acme-weights", "Give at least one run"),
    ],
)
def test_what_cannot_be_packaged_is_refused(runs, name, message, digits_run, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "recipe.yaml").write_bytes((digits_run / "recipe.yaml").read_bytes())
    places = {"run": digits_run, "unfinished": tmp_path / "unfinished"}
    runs = [(run[0], run[1].format(**places)) if isinstance(run, tuple) else run.format(**places) for run in runs]
    with pytest.raises(zoo.UsageError, match=message):
        write_package(runs, name, tmp_path, metrics=False)
    assert {path.name for path in tmp_path.iterdir()} == {"taken", "unfinished"}


def test_a_failure_leaves_nothing_behind(digits_run, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("zoo_package.run.shutil.copyfile", full)
    with pytest.raises(zoo.UsageError, match="acme-weights cannot be written: No space left on device"):
        write_package([digits_run], "acme-weights", tmp_path, metrics=False)
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_a_package(digits_run, zoo_command, tmp_path):
    arguments = ("package", f"small@digits={digits_run}", "--name", "small-weights", "--no-metrics")
    printed = zoo_command(*arguments, "--package-version", "2.1", "--json").stdout
    (card,) = json.loads(printed)["weights"]
    assert (card["name"], card["metrics"]) == ("small@digits", [])
    folder = tmp_path / "work" / "small-weights"
    assert tomllib.loads((folder / "pyproject.toml").read_text())["project"]["version"] == "2.1"
    assert "small-weights already exists" in zoo_command(*arguments, code=2).stderr
    missing = zoo_command("package", "nowhere", "--name", "small-weights", code=2)
    assert "nowhere is no" in missing.stderr


# --- what is installed

# Every command that takes a run, on weights by their name. In a process of its own: it never asks for the folder.
COMMANDS = {
    "reconstruct": f"{NAME} -n 4",
    "sample": f"{NAME} --z 0,0",
    "traverse": f"{NAME} --image 1",
    "interpolate": f"{NAME} 0 1",
    "latent": f"{NAME} -n 20",
    "evaluate": f"{NAME} --limit 20 frechet.extractor={NAME}",
    "compare": f"{NAME} acme-weights:{NAME}",
    "report": f"{NAME} --limit 20",
    "encode": f"{NAME} digits",
    "decode": f"{NAME} latents.npy",
    "export": f"{NAME} --format torch",
    "package": f"again@digits={NAME} --name again-weights --no-metrics",
    "fit-prior": f"{NAME} gaussian-mixture",
    "score": f"{NAME} digits --out scores.csv",
    "diagnose": f"{NAME} --limit 20",
    "impute": f"{NAME} gaps.npy --out filled.npy",
}
WRITTEN = {
    *(
        f"runs/{NAME}/figures/{name}.png"
        for name in ("reconstructions", "decoded", "traverse", "interpolate", "latent")
    ),
    f"runs/{NAME}/report.html",
    f"runs/{NAME}/codes.npz",
    f"runs/{NAME}/decoded.npy",
    f"runs/{NAME}/export-torch/export.json",
    "comparison.png",
    "again-weights/pyproject.toml",
}
ALL_OF_THEM = """
import contextlib, io, json, shlex, sys
from zoo.cli.main import main

printed = {}
for name, line in json.loads(sys.argv[1]).items():
    stream = io.StringIO()
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        try:
            main([name, *shlex.split(line)])
        except SystemExit as ended:
            printed[name] = [ended.code, stream.getvalue()]
print(json.dumps(printed))
"""


def test_every_command_that_takes_a_run_takes_a_name_and_writes_nothing_into_the_package(site, tmp_path, monkeypatch):
    take_a_run = {
        name
        for name in cli.list_commands(click.Context(cli))
        if any(isinstance(p.type, RunFolder) for p in cli.get_command(click.Context(cli), name).params)
    }
    assert take_a_run == COMMANDS.keys()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")])))
    images = np.zeros((2, 1, 8, 8), dtype=np.float32)
    images[:, :, 0, :3] = np.nan
    np.save(tmp_path / "gaps.npy", images)
    np.save(tmp_path / "latents.npy", np.zeros((3, 2), dtype=np.float32))
    before = files_in(site)
    printed = json.loads(python("-c", ALL_OF_THEM, json.dumps(COMMANDS), cwd=tmp_path))
    assert files_in(site) == before
    code, message = printed.pop("fit-prior")
    assert code == 2
    assert f"{NAME} belongs to an installed package and is read-only" in message
    assert not {name: output for name, (code, output) in printed.items() if code != 0}
    assert {name for name in WRITTEN if not (tmp_path / name).is_file()} == set()
    for name in ("reconstruct", "sample", "report", "encode", "decode", "export"):
        assert f"runs/{NAME}/" in printed[name][1]
    assert shlex.split(printed["compare"][1].splitlines()[1])[-1] == NAME


def test_the_readme_of_the_package_names_commands_that_work(packaged_digits, site, zoo_command):
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    lines = (packaged_digits / "README.md").read_text().splitlines()
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("zoo ")]
    assert [command[0] for command in commands] == ["list", "show", "sample"]
    for command in commands:
        zoo_command(*command, PYTHONPATH=path)
