"""The conformance kit: the contracts of components and models, as checks.

On the command line it is ``zoo check``; in the tests of a plugin:

.. code-block:: python

    from zoo_conformance import kit

    @kit.parametrize("acme-vae")  # one test per check, for everything in the plugin
    def test_conformance(case):
        case.verify()

A component declares a known failure, with its reason, where it is registered:
``zoo.Component(..., expected_failures={"batch-independence": "batch normalisation"})``. If the check passes, the
declaration is reported as an error.
"""

from __future__ import annotations

# Each module registers its checks.
from zoo_conformance import declarations, densities, learning, state  # noqa: F401
from zoo_conformance.case import Case, cases, parametrize
from zoo_conformance.check import CHECKS, Check, CheckFailed, Result

__all__ = ["CHECKS", "Case", "Check", "CheckFailed", "Result", "cases", "parametrize"]
