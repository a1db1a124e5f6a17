"""A candidate and a check: what is run, here and in anybody's pytest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from zoo import ComponentError, DataUnavailable, NotApplicable, UsageError, ZooError, did_you_mean, seeded
from zoo_conformance.candidate import Candidate, candidates
from zoo_conformance.check import CHECKS, Check, Result, Skipped, skip
from zoo_conformance.state import kept_generators


@dataclass(frozen=True)
class Case:
    """One check of one candidate.

    >>> next(cases("encoder/mlp")).run().outcome
    'passed'
    """

    candidate: Candidate
    check: Check

    def __repr__(self) -> str:
        return f"{self.candidate}: {self.check.name}"

    def run(self) -> Result:
        """Make the check. Whatever the candidate raises is a failure of it; the process's generators are put back."""
        name = self.check.name
        try:
            error = self._made()
            own = self.candidate.expected
            if error is not None:
                around = {} if name in own else self.candidate.expected_around_it
                reason = own.get(name) or around.get(name)
                if reason is not None:
                    return Result(str(self.candidate), name, "expected", reason, error)
                return Result(str(self.candidate), name, "failed", _said(error), error)
        except Skipped as skipped:
            return Result(str(self.candidate), name, "skipped", str(skipped))
        if name in own:
            reason = f"it passes, and was expected to fail ({own[name]}): remove it from expected_failures"
            return Result(str(self.candidate), name, "failed", reason)
        return Result(str(self.candidate), name, "passed")

    def _made(self) -> Exception | None:
        """What the check raised, if it failed.

        Raises:
            Skipped: it does not apply, or a package or the data that the candidate needs are not here.
        """
        try:
            with kept_generators(), seeded(0):
                self.check.function(self.candidate)
        except Skipped:
            raise
        except (DataUnavailable, NotApplicable) as error:
            skip(error)
        except Exception as error:
            if isinstance(error, ComponentError) and isinstance(error.__cause__, ModuleNotFoundError):
                skip(error)
            return error
        return None

    def verify(self) -> None:
        """The same for pytest: an expected failure is an xfail, and what is left out a skip."""
        import pytest

        result = self.run()
        if result.outcome == "skipped":
            pytest.skip(result.reason)
        if result.outcome == "expected":
            pytest.xfail(result.reason)
        if result.outcome == "failed":
            raise AssertionError(f"{self!r}: {result.reason}") from result.error


def _said(error: Exception) -> str:
    text = (
        str(error)
        if isinstance(error, ZooError | AssertionError) and str(error)
        else f"{type(error).__name__}: {error}"
    )
    return text.strip().split("\n")[0]


def cases(*names: str, only: tuple[str, ...] = ()) -> Iterator[Case]:
    """The checks of what some names stand for.

    Args:
        names: each a component (``encoder/mlp``), a model (``mlp-vae``), or a plugin or distribution, for all that it
            brings.
        only: make these checks and no other.

    Raises:
        UnknownName, NameConflict: there is nothing, or no one thing, of that name.
        UsageError: there is no such check.
    """
    for wanted in only:
        if wanted not in CHECKS:
            raise UsageError(
                f"There is no check {wanted!r}.{did_you_mean(wanted, CHECKS)} There are: {', '.join(CHECKS)}."
            )
    for candidate in [candidate for name in names for candidate in candidates(name)]:
        for check in CHECKS.values():
            if candidate.kind in check.kinds and (not only or check.name in only):
                yield Case(candidate, check)


def parametrize(*names: str) -> Callable[[Any], Any]:
    """A pytest marker: one test for each check of what some names stand for.

    .. code-block:: python

        @zoo_conformance.parametrize("acme-vae")
        def test_conformance(case):
            case.verify()
    """
    import pytest

    return pytest.mark.parametrize(
        "case", [pytest.param(case, id=repr(case).replace(": ", ":")) for case in cases(*names)]
    )
