"""A case: one check of one candidate, run by ``zoo check`` or by pytest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from zoo import ComponentError, DataUnavailable, NotApplicable, UsageError, ZooError, did_you_mean, seeded
from zoo_conformance.candidate import Candidate, candidates
from zoo_conformance.check import CHECKS, Check, Result, Skipped, skip
from zoo_conformance.state import restored_generators


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
        """Run the check. Any exception is a failure. The random generators of the process are restored."""
        name = self.check.name
        try:
            error = self._failure()
            own = self.candidate.expected
            if error is not None:
                others = {} if name in own else self.candidate.expected_of_others
                reason = own.get(name) or others.get(name)
                if reason is not None:
                    return Result(str(self.candidate), name, "expected", reason, error)
                return Result(str(self.candidate), name, "failed", _reason(error), error)
        except Skipped as skipped:
            return Result(str(self.candidate), name, "skipped", str(skipped))
        if name in own:
            reason = f"it passes, but is declared to fail ({own[name]}): remove it from expected_failures"
            return Result(str(self.candidate), name, "failed", reason)
        return Result(str(self.candidate), name, "passed")

    def _failure(self) -> Exception | None:
        """The exception of a failed check, or None.

        Raises:
            Skipped: it does not apply, or a package or data set is not available.
        """
        try:
            with restored_generators(), seeded(0):
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
        """Run the check in pytest: a declared failure is an xfail, a skipped check a skip."""
        import pytest

        result = self.run()
        if result.outcome == "skipped":
            pytest.skip(result.reason)
        if result.outcome == "expected":
            pytest.xfail(result.reason)
        if result.outcome == "failed":
            raise AssertionError(f"{self!r}: {result.reason}") from result.error


def _reason(error: Exception) -> str:
    text = (
        str(error)
        if isinstance(error, ZooError | AssertionError) and str(error)
        else f"{type(error).__name__}: {error}"
    )
    return text.strip().split("\n")[0]


def cases(*names: str, only: tuple[str, ...] = ()) -> Iterator[Case]:
    """The cases for some names.

    Args:
        names: components (``encoder/mlp``), models (``mlp-vae``), and plugins or distributions, for everything that
            they provide.
        only: names of checks; by default all.

    Raises:
        UnknownName: there is nothing with that name.
        NameConflict: the name is ambiguous.
        UsageError: there is no such check.
    """
    for name in only:
        if name not in CHECKS:
            raise UsageError(
                f"There is no check {name!r}.{did_you_mean(name, CHECKS)} Choose from: {', '.join(CHECKS)}."
            )
    for candidate in [candidate for name in names for candidate in candidates(name)]:
        for check in CHECKS.values():
            if candidate.kind in check.kinds and (not only or check.name in only):
                yield Case(candidate, check)


def parametrize(*names: str) -> Callable[[Any], Any]:
    """A pytest marker: one test for each of the `cases`.

    .. code-block:: python

        @kit.parametrize("acme-vae")
        def test_conformance(case):
            case.verify()
    """
    import pytest

    return pytest.mark.parametrize(
        "case", [pytest.param(case, id=repr(case).replace(": ", ":")) for case in cases(*names)]
    )
