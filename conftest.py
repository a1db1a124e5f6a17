"""What the examples in docstrings may take for granted."""

from __future__ import annotations

from typing import Any

import pytest

# A module of the package `zoo`, which pytest would import as `sklearn`.
collect_ignore = ["plugins/zoo"]


@pytest.fixture(autouse=True)
def _names(doctest_namespace: dict[str, Any]) -> None:
    import torch

    import zoo

    doctest_namespace.update(torch=torch, zoo=zoo)
