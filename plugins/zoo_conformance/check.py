"""Checks and their results."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NoReturn

if TYPE_CHECKING:
    from zoo_conformance.candidate import Candidate

Outcome = Literal["passed", "failed", "expected", "skipped"]


class CheckFailed(AssertionError):
    """A component or a model violates its contract; the message says how."""


class Skipped(Exception):
    """A check does not apply to this candidate or cannot run here; the message says why."""


@dataclass(frozen=True)
class Check:
    """One part of the contract of components or models.

    Attributes:
        name: such as ``batch-independence``, which ``expected_failures`` refer to.
        kinds: the kinds of candidates that it applies to: those of components, ``model`` and ``plugin``.
        function: raises `CheckFailed` or `Skipped`.
    """

    name: str
    kinds: tuple[str, ...]
    function: Callable[[Candidate], None]

    @property
    def proves(self) -> str:
        """What the check verifies, in a sentence."""
        return " ".join(inspect.cleandoc(self.function.__doc__ or "").split("\n\n")[0].split())


CHECKS: dict[str, Check] = {}
"""Every check by name, in the order of execution."""


def check(*kinds: str) -> Callable[[Callable[[Candidate], None]], Callable[[Candidate], None]]:
    """Register a function as a check of some kinds of candidates."""

    def register(function: Callable[[Candidate], None]) -> Callable[[Candidate], None]:
        name = function.__name__.replace("_", "-")
        CHECKS[name] = Check(name, kinds, function)
        return function

    return register


def require(condition: bool, message: str) -> None:
    """Fail the check unless `condition` holds."""
    if not condition:
        raise CheckFailed(message)


def skip(reason: object) -> NoReturn:
    """Skip the check, with the first sentence of a reason."""
    raise Skipped(str(reason).split("\n")[0].split(". ")[0])


@dataclass(frozen=True)
class Result:
    """The result of a check.

    Attributes:
        candidate: such as ``encoder/mlp``.
        check: the name of the check.
        outcome: ``passed``, ``failed``, ``expected`` (a declared failure) or ``skipped``.
        reason: why it did not pass; empty if it passed.
        error: the exception that it raised.
    """

    candidate: str
    check: str
    outcome: Outcome
    reason: str = ""
    error: Exception | None = field(default=None, repr=False, compare=False)
