"""``zoo new-plugin`` creates packages that install, pass their tests and train unchanged."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import zoo
from zoo_scaffold.scaffold import STARTS, new_plugin

KINDS = [kind for kind in STARTS if kind != "metric" or "metric" in zoo.KINDS]
OFFLINE = {"PIP_NO_INDEX": "1", "PIP_CONSTRAINT": "", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def python(*arguments: object, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **OFFLINE, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A package of every kind."""
    folder = tmp_path_factory.mktemp("packages")
    return {kind: new_plugin(f"my-{kind}", kind, folder) for kind in KINDS}


@pytest.fixture(scope="module")
def installed(packages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The packages, installed by pip into one folder for PYTHONPATH."""
    site = tmp_path_factory.mktemp("installed")
    python(
        *("-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", site),
        *packages.values(),
        cwd=site.parent,
    )
    return os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))


def test_the_packages_pass_their_own_tests(packages, installed, tmp_path):
    """In one process and environment, so that they do not interfere with each other."""
    options = ("-q", "--import-mode=importlib", "-p", "no:cacheprovider", "-W", "error", f"--rootdir={tmp_path}")
    tests = [package / "tests" for package in packages.values()]
    assert all(any(folder.iterdir()) for folder in tests)
    result = python("-m", "pytest", *options, *tests, cwd=tmp_path, PYTHONPATH=installed)
    assert " passed" in result
    assert "skipped" not in result


def test_the_plugins_load_and_the_model_trains(installed, zoo_command, tmp_path):
    rows = json.loads(zoo_command("plugins", "--json", PYTHONPATH=installed).stdout)
    mine = {row["name"]: row for row in rows if row["distribution"] != "vae-zoo"}
    assert set(mine) == {f"my-{kind}" for kind in KINDS}
    assert {row["status"] for row in mine.values()} == {"ok"}
    assert mine["my-model"]["brings"] == ["encoder my-model", "loss my-model", "model my-model"]
    assert "my-command" in zoo_command("--help", PYTHONPATH=installed).stdout

    arguments = ("my-model", "encoder.width=16", "--data", "digits", "--epochs", "1", "--json")
    result = json.loads(zoo_command("train", *arguments, PYTHONPATH=installed).stdout)
    assert (result["model"], result["data"]) == ("my-model", "digits")
    environment = json.loads((tmp_path / "work" / result["run"] / "environment.json").read_text())
    assert environment["plugins"]["my-model"] == "my-model 0.1.0"


def test_no_placeholder_remains(packages):
    for kind, package in packages.items():
        files = [file for file in package.rglob("*") if file.is_file()]
        names = {str(file.relative_to(package)) for file in files}
        module = f"my_{kind}"
        assert {"pyproject.toml", "README.md", ".gitignore", ".github/workflows/ci.yml"} <= names
        assert f"src/{module}/__init__.py" in names
        for file in files:
            text = file.read_text()
            assert "acme" not in f"{file.relative_to(package)}{text}".lower()
            assert not re.search(r"@[a-z]+@", text)
            assert text.endswith("\n")
            assert not text.endswith("\n\n")


def test_the_packages_are_formatted_and_pass_the_linter(packages):
    ruff = (sys.executable, "-m", "ruff")
    for arguments in (("format", "--check"), ("check", "--select", "E,F,I,UP,SIM,RUF,W")):
        done = subprocess.run(
            [*ruff, *arguments, "--isolated", "--line-length", "120", *packages.values()],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../escaped", "not a package name"),
        ("/absolute", "not a package name"),
        ("a/b", "not a package name"),
        ("", "not a package name"),
        ("2d-vae", "a letter first"),
        ("-vae", "Write 'vae'"),
        ("Acme_VAE", "Write 'acme-vae'"),
        ("acme--vae", "Write 'acme-vae'"),
        ("acme-vae\0", "not a package name"),
        ("naïve", "not a package name"),
        ("class", "'class' is a keyword or an installed module"),
        ("torch", "'torch' is a keyword or an installed module"),
        ("zoo-gaussian", "'zoo_gaussian' is a keyword or an installed module"),
        ("mlp-vae", "There is already a model named 'mlp-vae'"),
        ("standard-normal", "There is already a prior named 'standard-normal'"),
    ],
)
def test_an_invalid_name_is_refused_and_no_file_written(name, message, tmp_path):
    """Scenario 35."""
    with pytest.raises(zoo.UsageError, match=re.escape(message)):
        new_plugin(name, parent=tmp_path / "inside")
    assert list(tmp_path.iterdir()) == []


def test_existing_folders_are_not_changed(tmp_path):
    new_plugin("acme-thing", "callback", tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(zoo.UsageError, match="already exists"):
        new_plugin("acme-thing", "loss", tmp_path)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(zoo.UsageError, match="already exists"):
        new_plugin("link", parent=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(zoo.UsageError, match="cannot be written"):
        new_plugin("acme-other", parent=tmp_path / "file")
    with pytest.raises(zoo.UsageError, match="Did you mean 'encoder'"):
        new_plugin("acme-other", "encodr", tmp_path)


def test_the_command(zoo_command, tmp_path):
    done = zoo_command("new-plugin", "acme-thing", "--kind", "loss", "--out", "mine", "--json")
    result = json.loads(done.stdout)
    assert result["folder"] == "mine/acme-thing"
    assert result["next"] == [
        "cd mine/acme-thing",
        "pip install -e '.[test]'",
        "pytest",
        "zoo check acme-thing",
        "zoo train acme-thing --data digits",
    ]
    folder = tmp_path / "work" / "mine" / "acme-thing"
    assert result["files"] == sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())
    refused = zoo_command("new-plugin", "train", "--kind", "command", code=2)
    assert "There is already a command 'train'" in refused.stderr
