"""What tests share: toy distributions that are installed for real, and the real MNIST where it is at hand."""

from __future__ import annotations

import importlib
import json
import logging
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
import torch

from zoo.plugins.registry import fresh_registry

# Two workers share two cores; a second thread each would only be in the way.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

# The tracker would write a log for every run of every test, and `make demo` installs weights; both have their own
# tests.
os.environ["ZOO_DISABLE_PLUGINS"] = "tensorboard,vae-zoo-mnist"

Install = Callable[..., Path]
Zoo = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def _a_log_of_its_own() -> Iterator[None]:
    """A command that a test runs in this process tells the log how to speak; the next test has it as it was."""
    log = logging.getLogger("zoo")
    level, handlers = log.level, list(log.handlers)
    yield
    log.setLevel(level)
    log.handlers[:] = handlers


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder on the path, also of processes that a test starts."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")])))
    before = set(sys.modules)
    with fresh_registry():
        yield folder
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def install(site: Path) -> Install:
    """Install a distribution of one module, with the metadata that pip would leave."""

    def install(distribution: str, source: str, version: str = "1.0", **files: str) -> Path:
        module = distribution.replace("-", "_")
        (site / f"{module}.py").write_text(textwrap.dedent(source))
        for name, content in files.items():
            (site / name.replace("__", ".")).write_text(textwrap.dedent(content))
        info = site / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[zoo]\n{module} = {module}\n")
        importlib.invalidate_caches()
        return site

    return install


@pytest.fixture
def zoo_command(tmp_path: Path) -> Zoo:
    """Run ``zoo`` in a process of its own, in an empty folder."""
    work = tmp_path / "work"
    work.mkdir()

    def run(*arguments: object, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "zoo", *map(str, arguments)],
            cwd=work,
            env={**os.environ, "COLUMNS": "100", **environment},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    """The folder with the real MNIST."""
    root = os.environ.get("ZOO_DATA")
    if root is None or not (Path(root) / "MNIST" / "raw").is_dir():
        pytest.skip("MNIST is not here: set ZOO_DATA to a folder that holds MNIST/raw")
    return Path(root)


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of mlp-vae-2d on digits, trained once for all tests that look at one."""
    folder = tmp_path_factory.mktemp("digits")
    done = subprocess.run(
        [sys.executable, "-m", "zoo", "train", "mlp-vae-2d", "--data", "digits", "--epochs", "2", "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return folder / str(json.loads(done.stdout)["run"])


@pytest.fixture(scope="session")
def packaged_digits(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of that run, ``acme-weights``, as ``zoo package`` writes it."""
    from zoo_package.package import write_package

    return write_package([digits_run], "acme-weights", tmp_path_factory.mktemp("packaged"), limit=50).folder


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A log with a path that is no UTF-8 is reported with escapes: pytest-xdist sends text as UTF-8."""
    report = yield
    report.sections = [(title, text.encode("utf-8", "backslashreplace").decode()) for title, text in report.sections]
    return report
