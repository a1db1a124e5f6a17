"""What the README shows works as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text()
LIBRARY, MODULE, LOSS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_library_in_ten_lines(tmp_path):
    done = subprocess.run([sys.executable, "-c", LIBRARY], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "mlp-vae").is_dir()


def test_the_first_plugin(install, zoo_command):
    install("acme-vae", MODULE, acme_losses__py=LOSS)
    arguments = ["loss=free-bits", "loss.floor=10", "encoder.hidden=[8]", "decoder.hidden=[8]"]
    done = zoo_command("train", "mlp-vae", *arguments, "--data", "digits", "--epochs", "1")
    assert "rate" in done.stdout
    assert "free-bits" in zoo_command("list", "--kind", "loss").stdout
    assert "loss free-bits" in zoo_command("plugins").stdout


def test_every_command_in_the_readme_exists():
    known = subprocess.run([sys.executable, "-m", "zoo", "--help"], capture_output=True, text=True).stdout
    used = set(re.findall(r"(?:^|`|&& |\$ |-m )zoo ([a-z-]+)", README, re.MULTILINE))
    assert {"train", "list", "show", "sample"} <= used
    for command in used:
        assert f"  {command} " in known, command
