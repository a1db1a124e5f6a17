"""The conformance kit: what every component and every model promises, as checks that anybody can run.

On the command line it is ``zoo check``; in the tests of a plugin:

.. code-block:: python

    import zoo_conformance

    @zoo_conformance.parametrize("acme-vae")  # the plugin: all that it brings, check by check
    def test_conformance(case):
        case.verify()

A component that is known to fail a check says so, and why, where it is registered:
``zoo.Component(..., expected_failures={"batch-independence": "batch normalisation"})``. It fails if it then passes.
"""

from __future__ import annotations

# Each module registers its checks.
from zoo_conformance import declarations, densities, learning, state  # noqa: F401
from zoo_conformance.case import Case, cases, parametrize
from zoo_conformance.check import CHECKS, Check, CheckFailed, Result

__all__ = ["CHECKS", "Case", "Check", "CheckFailed", "Result", "cases", "parametrize"]
