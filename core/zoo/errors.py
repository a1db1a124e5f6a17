"""The exceptions of the zoo. A message gives what was expected, what was given and what to do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass


class ZooError(Exception):
    """Base class of the zoo's exceptions. `exit_code` is the exit status of the command line."""

    exit_code = 1


class UsageError(ZooError):
    """A name, value, file or combination of options is invalid."""

    exit_code = 2


class UnknownName(UsageError):
    """No component or model has this name."""


class NameConflict(UsageError):
    """Two distributions claim one name."""


class DataError(UsageError):
    """A data set is damaged or invalid."""


class DataUnavailable(DataError):
    """A data set is not available: its files are missing and could not be downloaded."""


class NotPrepared(DataUnavailable):
    """The files of a data set are present, but must be decoded first; see `zoo.surveying`."""


class NotApplicable(UsageError):
    """A metric does not apply to a model or its data; the message gives the reason."""


class RunError(UsageError):
    """A run folder cannot be created, read or found."""


class RunLocked(RunError):
    """A run is in use by another process, which the message names."""


class NoRun(RunError):
    """A folder contains no run, or no unfinished one."""


class ComponentError(ZooError):
    """A component violates its contract; the message names it."""

    exit_code = 2


class TrainingError(ZooError):
    """Training failed."""


class ExportError(ZooError):
    """A model cannot be exported, or its export does not reproduce it."""


@dataclass(frozen=True, slots=True)
class Problem:
    """An error in a recipe: its location and a message."""

    place: str
    message: str

    def __str__(self) -> str:
        return f"{shortened(self.place)}: {self.message}" if self.place else self.message


class RecipeError(UsageError):
    """A recipe is invalid. `problems` lists every error, not only the first."""

    def __init__(self, title: str, problems: Iterable[Problem]) -> None:
        self.title = title
        self.problems = tuple(dict.fromkeys(problems))
        super().__init__("\n".join([title, *(f"  {problem}" for problem in self.problems)]))


def error_summary(error: Exception) -> str:
    """Summarize an exception in one line, with its type unless it is a `ZooError`.

    >>> error_summary(UsageError("There is no label.")), error_summary(KeyError("z")), error_summary(MemoryError())
    ('There is no label.', "KeyError: 'z'", 'out of memory')
    """
    if is_out_of_memory(error):
        return "out of memory"
    kind = "" if isinstance(error, ZooError) else f"{type(error).__name__}: "
    return kind + str(error).split("\n")[0][:200]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception reports a failed allocation, on the CPU or an accelerator."""
    return isinstance(error, MemoryError) or re.search("(?i)out of memory|allocate memory", str(error)) is not None


def shortened(text: str, length: int = 200) -> str:
    """Truncate and escape user input for a message, so that it contains no terminal control characters.

    >>> shortened("latent_dim"), shortened("x" * 300, 5), shortened("a\\x1b[31m")
    ('latent_dim', 'xxxxx...', "'a\\\\x1b[31m'")
    """
    text = text if len(text) <= length else text[:length] + "..."
    return text if text.isprintable() else ascii(text)


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Return a suggestion to append to a message, or an empty string.

    >>> did_you_mean("mpl", ["mlp", "conv"])
    " Did you mean 'mlp'?"
    >>> did_you_mean("zzz", ["mlp", "conv"])
    ''
    """
    close = difflib.get_close_matches(name[:100], list(candidates), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""
