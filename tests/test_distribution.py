"""What is shipped: the wheel, and packages of third parties, built and installed as their authors and users do it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

ROOT = Path(__file__).parents[1]


def test_the_tests_can_be_run_with_the_oldest_packages_that_are_admitted():
    """Every lower bound of a dependency is a pin of `make test-lowest`; what only checks or documents has none."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    named = [*project["dependencies"], *(each for extra in extras.values() for each in extra)]
    bounds = dict(requirement.split(">=") for requirement in named if ">=" in requirement)
    lines = (ROOT / "constraints-lowest.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    unused = {"ruff", "mypy", "import-linter", "mkdocs-material", "mkdocstrings[python]"}
    assert bounds.keys() - unused == pins.keys() - {"pyparsing"}
    for name, bound in bounds.items():
        if name not in unused:
            assert pins[name] == bound or pins[name] == f"{bound}.0", name


SOURCES = ("core", "plugins", "pyproject.toml", "registry.yaml", "README.md", "CHANGELOG.md", "LICENSE", ".gitignore")
PACKAGES = sorted(folder.parent.name for folder in (ROOT / "plugins").glob("zoo_*/__init__.py"))
LIBRARIES = {"zoo_canvas", "zoo_sklearn"}  # imported, without hooks of their own
# Everything that building needs is installed; no index, no constraint of this machine.
OFFLINE = {"PIP_NO_INDEX": "1", "PIP_CONSTRAINT": "", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def python(*arguments: object, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **OFFLINE},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def pip_install(source: Path, target: Path) -> Path:
    python(
        *("-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", target, source),
        cwd=target.parent,
    )
    return target


# --- the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources, so that the checkout stays as it is."""
    copy = tmp_path_factory.mktemp("source") / "vae-zoo"
    copy.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, copy)
    (copy / "tests").mkdir()
    (copy / "tests" / "test_nothing.py").write_text("")
    (copy / "core" / "zoo" / "__pycache__").mkdir()
    (copy / "core" / "zoo" / "__pycache__" / "left.cpython-311.pyc").write_bytes(b"")
    python("-m", "build", "--wheel", "--no-isolation", "--outdir", copy / "dist", cwd=copy)
    (built,) = (copy / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has put the wheel. In PYTHONPATH it comes before the checkout."""
    return pip_install(wheel, tmp_path_factory.mktemp("installed") / "site")


def test_the_wheel_holds_what_a_user_needs_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entry_points = archive.read(next(n for n in names if n.endswith("entry_points.txt"))).decode()
        metadata = archive.read(next(n for n in names if n.endswith(".dist-info/METADATA"))).decode()
        assert archive.read("zoo/registry.yaml") == (ROOT / "registry.yaml").read_bytes()
    assert {"zoo/__init__.py", "zoo/__main__.py", "zoo/registry.yaml", "zoo/py.typed"} <= names
    assert {f"{family}/__init__.py" for family in PACKAGES} <= names
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"zoo", *PACKAGES}
    assert any(name.endswith("LICENSE") for name in names)
    assert not [name for name in names if "__pycache__" in name or Path(name).match("test_*.py")]
    templates = [file for file in (ROOT / "plugins").glob("*/templates/**/*") if file.is_file()]
    assert {"zoo_package", "zoo_scaffold"} <= {file.relative_to(ROOT / "plugins").parts[0] for file in templates}
    assert {file.relative_to(ROOT / "plugins").as_posix() for file in templates} <= names
    sources = {
        str(file.relative_to(folder)) for folder in (ROOT / "core", ROOT / "plugins") for file in folder.rglob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == sources
    assert "zoo = zoo.cli.main:main" in entry_points
    assert metadata.startswith("Metadata-Version: ")
    assert "Name: vae-zoo\n" in metadata


WHERE = """
import importlib, importlib.metadata, json, sys
import zoo
from zoo.plugins.manager import plugins
from zoo.recipes.source import builtin_registry
print(json.dumps({
    "modules": [importlib.import_module(name).__file__ for name in ("zoo", *sys.argv[1:])],
    "registry": str(builtin_registry()),
    "metadata": str(importlib.metadata.distribution("vae-zoo").locate_file("")),
    "plugins": [[plugin.name, plugin.distribution, plugin.status] for plugin in plugins()],
    "encoder": sys.modules[zoo.get("encoder", "mlp").__module__].__file__,
}))
"""


def test_the_installed_wheel_is_complete_without_the_checkout(installed, tmp_path, monkeypatch):
    monkeypatch.delenv("ZOO_DISABLE_PLUGINS")
    monkeypatch.setenv("PYTHONPATH", str(installed))
    installation = json.loads(python("-c", WHERE, *PACKAGES, cwd=tmp_path))
    assert installation["registry"] == str(installed / "zoo" / "registry.yaml")
    assert installation["modules"][0] == str(installed / "zoo" / "__init__.py")
    for file in (*installation["modules"], installation["encoder"], installation["metadata"]):
        assert Path(file).is_relative_to(installed), file
    builtin = [(name, status) for name, distribution, status in installation["plugins"] if distribution == "vae-zoo"]
    assert builtin == [(name.removeprefix("zoo_"), "ok") for name in PACKAGES if name not in LIBRARIES], (
        "each is found, and only once"
    )


def test_the_installed_wheel_trains(installed, zoo_command, tmp_path):
    small = ("encoder.hidden=[8]", "decoder.hidden=[8]")
    arguments = ("train", "mlp-vae", "--data", "digits", "--epochs", "1", *small, "--json")
    result = json.loads(zoo_command(*arguments, PYTHONPATH=str(installed)).stdout)
    assert (result["model"], result["data"], result["epochs"]) == ("mlp-vae", "digits", 1)
    assert 0 < result["test"]["loss"] < 64
    assert (tmp_path / "work" / result["run"] / "model.safetensors").is_file()


# --- the wheel of trained weights

BUNDLED = ROOT / "weights" / "vae-zoo-mnist"


@pytest.fixture(scope="module")
def weights_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of ``vae-zoo-mnist``, built from a copy of its sources."""
    if not BUNDLED.is_dir():
        pytest.skip("the trained weights are in the repository, not in the source distribution")
    copy = tmp_path_factory.mktemp("weights") / "vae-zoo-mnist"
    shutil.copytree(BUNDLED, copy, ignore=shutil.ignore_patterns("__pycache__", "dist"))
    python("-m", "build", "--wheel", "--no-isolation", "--outdir", copy / "dist", cwd=copy)
    (built,) = (copy / "dist").iterdir()
    return built


WEIGHTS = """
import json
import torch
import zoo

torch.manual_seed(0)
described = {}
for name in zoo.list_weights():
    vae = zoo.load(name)
    run = zoo.Run.open(name)
    images = vae.sample(16, mean=True)
    described[name] = {
        "title": run.title.replace(" on ", "@"),
        "shape": list(images.shape),
        "range": [images.min().item(), images.max().item()],
        "spread": images.std(0).max().item(),
    }
print(json.dumps(described))
"""


def test_trained_weights_work_without_data_and_without_the_checkout(
    installed, weights_wheel, zoo_command, tmp_path, monkeypatch
):
    """Every model of the package draws images that differ; none needs the data that it was trained on."""
    site = pip_install(weights_wheel, tmp_path / "site")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(installed), str(site)]))
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "no-data"))
    monkeypatch.setenv("ZOO_DISABLE_PLUGINS", "tensorboard")
    done = zoo_command("sample", "mlp-vae-2d@mnist", "--z", "0,0")
    figure = tmp_path / "work" / done.stdout.strip()
    assert figure == tmp_path / "work" / "runs" / "mlp-vae-2d@mnist" / "figures" / "decoded.png"
    assert figure.stat().st_size > 1000

    listed = json.loads(zoo_command("list", "--weights", "--json").stdout)
    described = json.loads(python("-c", WEIGHTS, cwd=tmp_path))
    assert described.keys() == {row["name"] for row in listed}
    assert "mlp-vae-2d@mnist" in described
    for name, facts in described.items():
        assert facts["title"] == name
        assert facts["shape"] == [16, 1, 28, 28]
        assert facts["range"][0] < 0.05, name
        assert facts["range"][1] > 0.9, name
        assert facts["spread"] > 0.1, name
    for card in (site / "vae_zoo_mnist" / "weights").glob("*/card.yaml"):
        metrics = yaml.safe_load(card.read_text())["metrics"]
        assert any("error" in metric for metric in metrics), f"{card.parent.name} has no error bars"


def test_the_wheel_of_weights_is_complete_and_small(weights_wheel):
    sources = BUNDLED / "src"
    with zipfile.ZipFile(weights_wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = archive.read(next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))).decode()
    on_disk = {f.relative_to(sources).as_posix() for f in sources.rglob("*") if f.is_file() and f.suffix != ".pyc"}
    assert held == on_disk
    assert sum((sources / name).stat().st_size for name in held) < 20e6
    assert "Name: vae-zoo-mnist\n" in metadata
    assert "Requires-Dist: vae-zoo" in metadata


def test_a_wheel_with_one_changed_byte_in_its_weights_is_refused(installed, weights_wheel, zoo_command, tmp_path):
    weights = "vae_zoo_mnist/weights/mlp-vae-2d@mnist/model.safetensors"
    damaged = tmp_path / weights_wheel.name
    with zipfile.ZipFile(weights_wheel) as archive, zipfile.ZipFile(damaged, "w", zipfile.ZIP_DEFLATED) as copy:
        for name in archive.namelist():
            content = bytearray(archive.read(name))
            if name == weights:
                content[-1] ^= 1
            copy.writestr(name, bytes(content))
    site = pip_install(damaged, tmp_path / "site")
    path = os.pathsep.join([str(installed), str(site)])
    enabled = {"PYTHONPATH": path, "ZOO_DISABLE_PLUGINS": "tensorboard"}
    refused = zoo_command("sample", "mlp-vae-2d@mnist", "--z", "0,0", code=2, **enabled)
    version = tomllib.loads((BUNDLED / "pyproject.toml").read_text())["project"]["version"]
    assert f"mlp-vae-2d@mnist of vae-zoo-mnist {version} is refused: {site / weights} is damaged" in refused.stderr
    zoo_command("show", "mlp-vae", **enabled)


# --- packages of third parties


def write_package(folder: Path, distribution: str, version: str, **files: str) -> Path:
    """The sources of a package as its author keeps them."""
    module = distribution.replace("-", "_")
    source = folder / distribution
    (source / "src" / module).mkdir(parents=True)
    (source / "pyproject.toml").write_text(
        textwrap.dedent(f"""
            [build-system]
            requires = ["hatchling"]
            build-backend = "hatchling.build"

            [project]
            name = "{distribution}"
            version = "{version}"
            dependencies = ["vae-zoo"]

            [project.entry-points.zoo]
            {module.removesuffix("_vae")} = "{module}"
        """)
    )
    for name, content in files.items():
        file = source / "src" / module / name.replace("__", ".")
        file.write_text(textwrap.dedent(content))
    (source / "src" / module / "init.py").rename(source / "src" / module / "__init__.py")
    return source


ACME = {
    "init__py": '''
        """Encoders by Acme."""

        from importlib.resources import files

        from zoo import Component, hookimpl


        @hookimpl
        def zoo_components():
            yield Component("encoder", "acme-tanh", "acme_vae.encoder:AcmeEncoder", "One tanh layer")
            yield Component("loss", "acme-capacity", "acme_vae.loss:Capacity", "A rate held at a capacity")


        @hookimpl
        def zoo_recipes():
            yield files("acme_vae") / "recipes.yaml"
    ''',
    "encoder__py": """
        from __future__ import annotations

        from collections.abc import Callable

        import torch
        from pydantic import PositiveInt

        from zoo import ComponentFactory, Encoder, Posterior


        class AcmeEncoder(Encoder):
            def __init__(
                self,
                data_shape: tuple[int, int, int],
                latent_dim: int,
                width: PositiveInt = 16,
                posterior: Callable[..., Posterior] = ComponentFactory("posterior", "gaussian"),
            ) -> None:
                super().__init__()
                channels, height, rows = data_shape
                self.layer = torch.nn.Linear(channels * height * rows, width)
                self.posterior = posterior(features=width, latent_dim=latent_dim)

            def forward(self, x, condition=None):
                return self.posterior(torch.tanh(self.layer(x.flatten(1))))
    """,
    "loss__py": '''
        import torch
        from pydantic import NonNegativeFloat

        from zoo import Loss


        class Capacity(Loss):
            """distortion + gamma |rate - capacity|  (arXiv 1804.03599, eq. 8)"""

            def __init__(self, gamma: NonNegativeFloat = 10.0, capacity: NonNegativeFloat = 5.0) -> None:
                super().__init__()
                self.gamma = gamma
                self.register_buffer("capacity", torch.tensor(float(capacity)))

            def forward(self, vae, batch):
                trace = vae.trace(batch)
                distortion, rate = -trace.log_px.mean(), trace.kl.mean()
                loss = distortion + self.gamma * (rate - self.capacity).abs()
                return {"loss": loss, "distortion": distortion, "rate": rate}
    ''',
    "recipes__yaml": """
        models:
          acme-vae-model:
            summary: What Acme recommends
            extends: mlp-vae
            latent_dim: 4
            encoder: {use: acme-tanh, width: 24}
            decoder: {hidden: [24]}
            loss: {use: acme-capacity, capacity: 3.0}
            data: digits
    """,
}
BROKEN = {"init__py": "raise RuntimeError('the licence has expired')"}
# In each of the ways of scenario 30: a package for each, since one that fails to import cannot raise in a hook too.
ALSO_BROKEN = {
    "absent-vae": ({"init__py": "import surely_not_installed"}, "No module named 'surely_not_installed'"),
    "exits-vae": ({"init__py": "import sys; sys.exit(3)"}, "SystemExit: 3"),
    "hook-vae": (
        {
            "init__py": """
                from zoo import hookimpl


                @hookimpl
                def zoo_components():
                    raise KeyError("lost")
            """
        },
        "KeyError: 'lost'",
    ),
}
TWIN = {
    "init__py": """
        from zoo import Component, hookimpl


        @hookimpl
        def zoo_components():
            return [Component("encoder", "acme-tanh", "zoo_gaussian.mlp:MLPEncoder", "Somebody else's")]
    """,
}
SMALL = ("encoder.hidden=[8]", "decoder.hidden=[8]", "data=digits", "--epochs", "1")


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Packages, each built by hatchling and put by pip into a folder of its own, ready for PYTHONPATH."""
    folder = tmp_path_factory.mktemp("packages")
    packages = {"acme-vae": ("1.2.0", ACME), "broken-vae": ("0.1.dev3", BROKEN), "twin-vae": ("3.4", TWIN)}
    packages |= {name: ("0.2", files) for name, (files, _) in ALSO_BROKEN.items()}
    return {
        name: str(pip_install(write_package(folder, name, version, **files), folder / f"site-{name}"))
        for name, (version, files) in packages.items()
    }


def path(sites: dict[str, str], *names: str) -> str:
    return os.pathsep.join(sites[name] for name in names)


def test_pip_has_put_the_packages_where_they_belong(sites):
    files = {file.name for file in (Path(sites["acme-vae"]) / "acme_vae").iterdir() if file.is_file()}
    assert files == {"__init__.py", "encoder.py", "loss.py", "recipes.yaml"}
    assert (Path(sites["broken-vae"]) / "broken_vae-0.1.dev3.dist-info" / "entry_points.txt").is_file()


def test_a_package_brings_an_encoder_a_loss_and_a_recipe(sites, zoo_command, tmp_path):
    acme = path(sites, "acme-vae")
    (plugin,) = (
        row
        for row in json.loads(zoo_command("plugins", "--json", PYTHONPATH=acme).stdout)
        if row["distribution"] == "acme-vae"
    )
    assert plugin == {
        "name": "acme",
        "distribution": "acme-vae",
        "version": "1.2.0",
        "status": "ok",
        "brings": ["encoder acme-tanh", "loss acme-capacity", "model acme-vae-model"],
        "errors": [],
        "notes": [],
    }
    (listed,) = json.loads(zoo_command("list", "acme*", "--json", PYTHONPATH=acme).stdout)
    assert listed == {"name": "acme-vae-model", "from": "acme-vae 1.2.0", "summary": "What Acme recommends"}
    (listed,) = json.loads(zoo_command("list", "acme*", "--kind", "encoder", "--json", PYTHONPATH=acme).stdout)
    assert listed == {"name": "acme-tanh", "from": "acme-vae 1.2.0", "summary": "One tanh layer"}

    arguments = ("train", "acme-vae-model", "--data", "digits", "--epochs", "1", "--json")
    result = json.loads(zoo_command(*arguments, PYTHONPATH=acme).stdout)
    assert (result["model"], result["data"]) == ("acme-vae-model", "digits")
    run = tmp_path / "work" / result["run"]
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())["models"]["acme-vae-model"]
    assert recipe["encoder"]["use"] == "acme-tanh"
    assert recipe["encoder"]["width"] == 24
    assert recipe["encoder"]["posterior"]["use"] == "gaussian"
    assert recipe["loss"] == {"use": "acme-capacity", "gamma": 10.0, "capacity": 3.0}
    assert (recipe["latent_dim"], recipe["prior"], recipe["decoder"]["hidden"]) == (4, "standard-normal", [24])
    assert json.loads((run / "environment.json").read_text())["plugins"] == {"acme": "acme-vae 1.2.0"}

    zoo_command("sample", result["run"], "-n", "4", PYTHONPATH=acme)
    without = zoo_command("sample", result["run"], code=2, PYTHONPATH="")
    assert "There is no encoder named 'acme-tanh'" in without.stderr


def test_its_parameters_are_checked_like_any_other(sites, zoo_command):
    acme = path(sites, "acme-vae")
    wrong = zoo_command("train", "acme-vae-model", "encoder.widht=3", "loss.capacity=-1", code=2, PYTHONPATH=acme)
    assert "encoder.widht: unknown key. Did you mean 'width'?" in wrong.stderr
    assert "loss.capacity: input should be greater than or equal to 0, got -1" in wrong.stderr


def test_a_broken_package_is_named_and_harms_nobody(sites, zoo_command):
    both = path(sites, "acme-vae", "broken-vae")
    named = "broken of broken-vae 0.1.dev3"
    listed = zoo_command("list", PYTHONPATH=both)
    assert "mlp-vae" in listed.stdout
    assert "acme-vae-model" in listed.stdout
    assert f"Broken plugins: {named}. See `zoo plugins`." in listed.stderr
    assert "latent_dim: 40" in zoo_command("show", "mlp-vae", PYTHONPATH=both).stdout
    zoo_command("train", "mlp-vae", *SMALL, PYTHONPATH=both)
    assert f"{named}: RuntimeError: the licence has expired" in zoo_command("plugins", PYTHONPATH=both).stdout
    status = {
        row["distribution"]: row["status"]
        for row in json.loads(zoo_command("plugins", "--json", PYTHONPATH=both, ZOO_DISABLE_PLUGINS="").stdout)
    }
    assert status == {"vae-zoo": "ok", "acme-vae": "ok", "broken-vae": "broken"}
    missing = zoo_command("train", "broken-vae-model", code=2, PYTHONPATH=both)
    assert f"A broken plugin may provide it: {named}" in missing.stderr


def test_two_packages_that_claim_one_name(sites, zoo_command):
    """An error for that name alone, that names both; never that of whoever came last, and the rest works."""
    claim = "encoder 'acme-tanh' is claimed by acme-vae 1.2.0 (plugin 'acme') and twin-vae 3.4 (plugin 'twin')"
    both, reversed_ = path(sites, "acme-vae", "twin-vae"), path(sites, "twin-vae", "acme-vae")
    refused = zoo_command("train", "mlp-vae", "encoder=acme-tanh", "--data", "digits", code=2, PYTHONPATH=both)
    assert claim in refused.stderr
    own = json.loads(zoo_command("show", "acme-vae-model", "--resolved", "--json", PYTHONPATH=both).stdout)
    assert own["encoder"]["use"] == "acme-vae:acme-tanh", "a recipe means the component of its own package"
    assert "Use acme-vae:acme-tanh or twin-vae:acme-tanh, or uninstall one." in refused.stderr
    for order in (both, reversed_):
        assert claim in zoo_command("plugins", PYTHONPATH=order).stdout
        rows = json.loads(zoo_command("list", "--kind", "encoder", "--json", PYTHONPATH=order).stdout)
        owners = {row["name"]: row["from"] for row in rows}
        assert owners["acme-vae:acme-tanh"] == "acme-vae 1.2.0"
        assert owners["twin-vae:acme-tanh"] == "twin-vae 3.4"
        assert "acme-tanh" not in owners

    zoo_command("train", "mlp-vae", *SMALL, PYTHONPATH=both)
    encoder = "encoder={use: 'acme-vae:acme-tanh', width: 5}"
    arguments = ("train", "acme-vae-model", encoder, "data=digits", "--epochs", "1", "--json")
    result = json.loads(zoo_command(*arguments, PYTHONPATH=reversed_).stdout)
    shown = json.loads(zoo_command("show", f"{result['run']}/recipe.yaml", "--json", PYTHONPATH=both).stdout)
    assert shown["encoder"]["use"] == "acme-vae:acme-tanh"


# Every command, on a run of the good package; where a command needs more than its run, that is said.
EVERY_COMMAND = {
    "train": "mlp-vae --data digits --epochs 1 encoder.hidden=[8] decoder.hidden=[8] latent_dim=2 --out runs",
    "list": "",
    "show": "mlp-vae",
    "plugins": "",
    "completion": "bash",
    "data": "digits",
    "preview": "digits --out digits.png",
    "reconstruct": "runs/mlp-vae",
    "sample": "runs/mlp-vae -n 4",
    "traverse": "runs/mlp-vae",
    "interpolate": "runs/mlp-vae 0 1",
    "latent": "runs/mlp-vae",
    "evaluate": "runs/mlp-vae --limit 20",
    "fit-prior": "runs/mlp-vae gaussian-mixture components=2",
    "sweep": "mlp-vae latent_dim=2,3 --data digits --epochs 1 encoder.hidden=[8] decoder.hidden=[8] --out runs",
    "compare": "runs/mlp-vae runs/mlp-vae/sweep-*/trials/trial-002",
    "report": "runs/mlp-vae --limit 20",
    "encode": "runs/mlp-vae digits -o codes.npz",
    "decode": "runs/mlp-vae codes.npz -o decoded.npy",
    "export": "runs/mlp-vae --format torch",
    "reproduce": "--list",
    "score": "runs/mlp-vae digits --out scores.csv",
    "diagnose": "runs/mlp-vae --limit 20",
    "impute": "runs/mlp-vae gaps.npy --out filled.npy",
    "check": "loss/elbo",
    "new-plugin": "another-vae",
    "schema": "",
    "clean-cache": "",
    "package": "runs/mlp-vae --name some-weights --limit 20",
}
ALL_OF_THEM = """
import contextlib, glob, io, json, shlex, sys
from zoo.cli.main import cli, main

said = {}
for name, line in json.loads(sys.argv[1]).items():
    words = [match for word in shlex.split(line) for match in (glob.glob(word) or [word])]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            main([name, *words])
        except SystemExit as ended:
            said[name] = [ended.code, printed.getvalue()]
json.dump({"commands": cli.list_commands(None), "said": said}, open("said.json", "w"))
"""


def test_every_command_works_beside_all_of_them_at_once(sites, tmp_path, monkeypatch):
    """A good package, one that claims a name of its, and one broken in each way, all installed by pip."""
    monkeypatch.setenv("PYTHONPATH", path(sites, *sites))
    images = np.zeros((2, 1, 8, 8), dtype=np.float32)
    images[:, :, 0, :3] = np.nan
    np.save(tmp_path / "gaps.npy", images)
    python("-c", ALL_OF_THEM, json.dumps(EVERY_COMMAND), cwd=tmp_path)
    result = json.loads((tmp_path / "said.json").read_text())
    assert set(result["commands"]) == set(EVERY_COMMAND)
    failed = {name: output for name, (code, output) in result["said"].items() if code != 0}
    assert not failed
    table = result["said"]["plugins"][1]
    for reason in ("RuntimeError: the licence has expired", *(reason for _, reason in ALSO_BROKEN.values())):
        assert reason in table
    assert "encoder 'acme-tanh' is claimed by acme-vae 1.2.0" in table
    for _, output in result["said"].values():
        for distribution in ("broken-vae", *ALSO_BROKEN):
            assert f"of {distribution} 0." in output
