"""The programs, commands and the plugin of the README work."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from test_distribution import pip_install

README = (Path(__file__).parents[1] / "README.md").read_text()
BEFORE, _, PLUGIN = README.partition("\n## A first plugin")
PROGRAMS = re.findall(r"```python\n(.*?)```", BEFORE, re.DOTALL)
# A file is named, and its content follows.
FILES = dict(re.findall(r"`([\w/]+\.(?:toml|py))`.*?```(?:toml|python)\n(.*?)```", PLUGIN, re.DOTALL))


def lines(program: str) -> int:
    """The number of lines of code."""
    return sum(bool(line.strip()) for line in program.splitlines())


@pytest.mark.parametrize("program", PROGRAMS, ids=["short", "own-modules", "callback", "own-loop"])
def test_a_program_runs(program, tmp_path):
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "mlp-vae").is_dir() == ("zoo.train(" in program)


def test_programs_are_short():
    assert all(n <= most for n, most in zip(map(lines, PROGRAMS), [5, 15, 5, 7], strict=True))


def test_the_first_plugin(zoo_command, tmp_path):
    """Built and installed by pip."""
    assert set(FILES) == {"pyproject.toml", "acme_losses/__init__.py", "acme_losses/free_bits.py"}
    for name, content in FILES.items():
        file = tmp_path / "acme-losses" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    site = pip_install(tmp_path / "acme-losses", tmp_path / "site")
    assert {name for name in FILES if (site / name).is_file()} == set(FILES) - {"pyproject.toml"}

    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    arguments = ["loss=acme-free-bits", "loss.floor=10", "encoder.hidden=[8]", "decoder.hidden=[8]"]
    done = zoo_command("train", "mlp-vae", *arguments, "--data", "digits", "--epochs", "1", PYTHONPATH=path)
    assert "rate" in done.stdout
    assert "acme-free-bits" in zoo_command("list", "--kind", "loss", PYTHONPATH=path).stdout
    assert "loss acme-free-bits" in zoo_command("plugins", PYTHONPATH=path).stdout


def test_every_command_in_the_readme_exists():
    listed = subprocess.run([sys.executable, "-m", "zoo", "--help"], capture_output=True, text=True).stdout
    used = set(re.findall(r"(?:^|`|&& |\$ |-m )zoo ([a-z-]+)", README, re.MULTILINE))
    assert {"train", "list", "show", "sample"} <= used
    for command in used:
        assert f"  {command} " in listed, command
