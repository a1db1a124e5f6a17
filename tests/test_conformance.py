"""Everything that comes with the zoo goes through its conformance kit."""

from __future__ import annotations

from zoo_conformance.kit import parametrize


@parametrize("vae-zoo")
def test_conformance(case):
    """Scenario 13, and traps 5, 7, 11, 12 and 14 for whatever is registered."""
    case.verify()
