"""Errors for people: what was expected, what came, what to do next."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass


class ZooError(Exception):
    """Base of every error that the zoo raises on purpose. `exit_code` is what the command line ends with."""

    exit_code = 1


class UsageError(ZooError):
    """Something in the request is wrong: a name, a value, a file, a combination."""

    exit_code = 2


class UnknownName(UsageError):
    """No component or model has this name."""


class NameConflict(UsageError):
    """Two distributions claim one name."""


class DataError(UsageError):
    """A data set is damaged or is not what it should be."""


class DataUnavailable(DataError):
    """A data set cannot be had here: its files are absent and could not be fetched."""


class NotPrepared(DataUnavailable):
    """The files of a data set are present, but must be decoded first; see `zoo.surveying`."""


class NotApplicable(UsageError):
    """A metric was asked for that this model or these data do not have; the message says why."""


class RunError(UsageError):
    """A run folder cannot be made, read or found."""


class RunLocked(RunError):
    """A run is being trained or written by another process; the message names it."""


class NoRun(RunError):
    """There is no run, or no unfinished one, where one was looked for."""


class ComponentError(ZooError):
    """A component broke its contract; the message names it."""

    exit_code = 2


class TrainingError(ZooError):
    """Training started and could not go on."""


class ExportError(ZooError):
    """A model cannot be exported, or what was written does not agree with it."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a recipe: where it stands, and what to do about it."""

    place: str
    message: str

    def __str__(self) -> str:
        return f"{shortened(self.place)}: {self.message}" if self.place else self.message


class RecipeError(UsageError):
    """A recipe is not valid. Holds every problem found, not only the first."""

    def __init__(self, title: str, problems: Iterable[Problem]) -> None:
        self.title = title
        self.problems = tuple(dict.fromkeys(problems))
        super().__init__("\n".join([title, *(f"  {problem}" for problem in self.problems)]))


def error_summary(error: Exception) -> str:
    """Why something failed, in a line; of an error that the zoo does not raise on purpose, with its kind.

    >>> error_summary(UsageError("There is no label.")), error_summary(KeyError("z")), error_summary(MemoryError())
    ('There is no label.', "KeyError: 'z'", 'there is not enough memory for it')
    """
    if is_out_of_memory(error):
        return "there is not enough memory for it"
    kind = "" if isinstance(error, ZooError) else f"{type(error).__name__}: "
    return kind + str(error).split("\n")[0][:200]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on the CPU or on a card."""
    return isinstance(error, MemoryError) or re.search("(?i)out of memory|allocate memory", str(error)) is not None


def shortened(text: str, length: int = 200) -> str:
    """Text of the user's for a message: a long one cut, and nothing in it that a terminal would obey.

    >>> shortened("latent_dim"), shortened("x" * 300, 5), shortened("a\\x1b[31m")
    ('latent_dim', 'xxxxx...', "'a\\\\x1b[31m'")
    """
    text = text if len(text) <= length else text[:length] + "..."
    return text if text.isprintable() else ascii(text)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A suggestion to append to an error, or nothing.

    >>> did_you_mean("mpl", ["mlp", "conv"])
    " Did you mean 'mlp'?"
    >>> did_you_mean("zzz", ["mlp", "conv"])
    ''
    """
    close = difflib.get_close_matches(name[:100], list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""
