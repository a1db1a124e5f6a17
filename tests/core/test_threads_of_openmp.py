"""The setting that keeps waiting threads from spinning is made before torch is imported."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("code", "environment", "expected"),
    [
        ("import zoo", {}, "20000"),
        ("import zoo.cli.main", {}, "20000"),
        ("import zoo", {"GOMP_SPINCOUNT": "5"}, "5"),
        ("import zoo", {"OMP_WAIT_POLICY": "active"}, "None"),
        ("import torch, zoo", {}, "None"),
    ],
)
def test_importing_zoo_before_torch_limits_spinning(code, environment, expected):
    inherited = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    program = f"{code}\nimport os\nprint(os.environ.get('GOMP_SPINCOUNT'))"
    done = subprocess.run(
        [sys.executable, "-c", program], env={**inherited, **environment}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == expected
