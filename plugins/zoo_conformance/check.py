"""What a check is, and what can become of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NoReturn

if TYPE_CHECKING:
    from zoo_conformance.candidate import Candidate

Outcome = Literal["passed", "failed", "expected", "skipped"]


class CheckFailed(AssertionError):
    """A component or a model does not keep a promise; the message says how."""


class Skipped(Exception):
    """A check says nothing of this candidate or cannot be made here; the message says why."""


@dataclass(frozen=True)
class Check:
    """One promise that a component or a model keeps.

    Attributes:
        name: such as ``batch-independence``; what an author's ``expected_failures`` go by.
        kinds: of the candidates that it applies to, ``model`` and ``plugin`` beside the kinds of components.
        function: raises `CheckFailed`, or `Skipped`.
    """

    name: str
    kinds: tuple[str, ...]
    function: Callable[[Candidate], None]

    @property
    def proves(self) -> str:
        """What it proves, in a sentence."""
        return " ".join(inspect.cleandoc(self.function.__doc__ or "").split("\n\n")[0].split())


CHECKS: dict[str, Check] = {}
"""Every check by its name, in the order in which they are made."""


def check(*kinds: str) -> Callable[[Callable[[Candidate], None]], Callable[[Candidate], None]]:
    """Make a function a check of candidates of some kinds."""

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
    """Leave the check out; of a longer reason the first sentence is kept."""
    raise Skipped(str(reason).split("\n")[0].split(". ")[0])


@dataclass(frozen=True)
class Result:
    """What became of a check.

    Attributes:
        candidate: such as ``encoder/mlp``.
        check: its name.
        outcome: ``passed``, ``failed``, ``expected`` (it failed, as its author said it would) or ``skipped``.
        reason: why it did not pass; empty where it did.
        error: what was raised.
    """

    candidate: str
    check: str
    outcome: Outcome
    reason: str = ""
    error: Exception | None = field(default=None, repr=False, compare=False)
