"""Sources of settings: a grid, or a search with Optuna that several machines may share."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from zoo import RunError, UsageError, derive_seed, to_json
from zoo_sweep.axes import Axis, Choices, Range, Settings, grid

OPENING_TRIES = 5
"""Processes that open a new database at once all create its tables, and all but one may fail."""


class Source(Protocol):
    """Settings to train and their order. Trials are numbered from 1."""

    total: int
    """Number of trials."""

    def started(self) -> Iterator[tuple[int, Settings]]:
        """Trials already running, in any process, or stopped."""

    def __iter__(self) -> Iterator[tuple[int, Settings]]:
        """New trials."""

    def record(self, number: int, value: float | None, outcome: Mapping[str, Any]) -> None:
        """Record the outcome of a trial and the value to minimize, None if the trial failed."""


class Grid:
    """Every combination of the values.

    Args:
        axes: the swept keys and their values.
    """

    def __init__(self, axes: Sequence[Axis]) -> None:
        self._settings = list(grid(axes))
        self.total = len(self._settings)

    def started(self) -> Iterator[tuple[int, Settings]]:
        """Yield nothing: iterating yields every trial, and finished ones are skipped."""
        yield from ()

    def __iter__(self) -> Iterator[tuple[int, Settings]]:
        """Yield all trials, in order."""
        yield from enumerate(self._settings, start=1)

    def record(self, number: int, value: float | None, outcome: Mapping[str, Any]) -> None:
        """Do nothing: the outcome is in the folder of the trial."""


@dataclass(frozen=True)
class StudyTrial:
    """A trial of a study, on this machine or another.

    Attributes:
        number: counted from 1.
        settings: its settings.
        state: ``finished``, ``failed`` or ``unfinished``.
        record: its recorded outcome.
    """

    number: int
    settings: Settings
    state: str
    record: Mapping[str, Any]


class Search:
    """A search with Optuna's tree-structured Parzen estimator, which minimizes the recorded values.

    Suggestions depend on the seed, the number of the trial and the recorded values.

    Args:
        url: of the storage, in the syntax of Optuna. Processes with the same storage and name share the study.
        name: of the study.
        axes: the swept keys and their values or ranges.
        total: number of trials over all machines.
        seed: of the suggestions.
        purpose: identifies the sweep; a study of another sweep is refused.

    Raises:
        UsageError: Optuna is not installed, or the storage cannot be used.
        RunError: the study belongs to another sweep.
    """

    def __init__(self, url: str, name: str, axes: Sequence[Axis], total: int, seed: int, purpose: str) -> None:
        self.optuna = import_optuna()
        self.total = total
        self._axes = axes
        self._seed = seed
        self.study = self._open(url, name)
        if self.study.user_attrs.get("purpose", purpose) != purpose:
            raise RunError(
                f"The study {name!r} in {hide_password(url)} has another recipe, other data or other keys. "
                "Choose another --name."
            )
        self.study.set_user_attr("purpose", purpose)

    def started(self) -> Iterator[tuple[int, Settings]]:
        """Yield trials already running, in any process, or stopped."""
        for trial in self.study.get_trials(states=[self.optuna.trial.TrialState.RUNNING]):
            if (settings := self._settings(trial)) is not None:
                yield trial.number + 1, settings

    def __iter__(self) -> Iterator[tuple[int, Settings]]:
        """Yield new trials until the study has `total`."""
        while len(self.study.get_trials(deepcopy=False)) < self.total:
            trial = self.study.ask()
            if trial.number >= self.total:  # another process was faster
                self.study.tell(trial, state=self.optuna.trial.TrialState.PRUNED)
                return
            self.study.sampler = self.optuna.samplers.TPESampler(seed=derive_seed(self._seed, trial.number) % 2**32)
            yield trial.number + 1, {axis.key: _suggest(trial, axis) for axis in self._axes}

    def record(self, number: int, value: float | None, outcome: Mapping[str, Any]) -> None:
        """Record the outcome in the study, unless it has one."""
        self.study.set_user_attr(f"trial {number}", json.loads(to_json({**outcome, "machine": socket.gethostname()})))
        state = self.optuna.trial.TrialState.FAIL if value is None else None
        self.study.tell(number - 1, value, state=state, skip_if_finished=True)

    def trials(self) -> list[StudyTrial]:
        """Every trial of the study."""
        states = self.optuna.trial.TrialState
        names = {states.COMPLETE: "finished", states.FAIL: "failed"}
        records = self.study.user_attrs
        return [
            StudyTrial(
                trial.number + 1,
                self._settings(trial) or {},
                names.get(trial.state, "unfinished"),
                records.get(f"trial {trial.number + 1}", {}),
            )
            for trial in self.study.get_trials(deepcopy=False)
            if trial.number < self.total
        ]

    def _settings(self, trial: Any) -> Settings | None:
        """The settings of a trial, or None if it was stopped before all were suggested."""
        if any(axis.key not in trial.params for axis in self._axes):
            return None
        return {axis.key: _value_of(trial.params[axis.key], axis) for axis in self._axes}

    def _open(self, url: str, name: str, tries: int = OPENING_TRIES) -> Any:
        from sqlalchemy.exc import DBAPIError

        options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
        try:
            storage = self.optuna.storages.RDBStorage(url, engine_kwargs=options)
            return self.optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
        except Exception as error:  # SQLAlchemy and drivers raise many types
            if tries == 1 or not isinstance(error, DBAPIError):
                reason = str(error).splitlines()[0]
                raise UsageError(f"The storage {hide_password(url)} cannot be used: {reason}") from error
        time.sleep(0.2)
        return self._open(url, name, tries - 1)


def _suggest(trial: Any, axis: Axis) -> Any:
    if isinstance(axis, Choices):
        return _value_of(trial.suggest_categorical(axis.key, [_text(value) for value in axis.values]), axis)
    whole = isinstance(axis.low, int) and isinstance(axis.high, int)
    suggest = trial.suggest_int if whole else trial.suggest_float
    return suggest(axis.key, axis.low, axis.high, log=axis.log)


def _text(value: Any) -> str:
    """A choice as a string, since Optuna does not store lists and dashboards show the string."""
    return value if isinstance(value, str) else json.dumps(value)


def _value_of(parameter: Any, axis: Axis) -> Any:
    """The value of an axis for a parameter of Optuna."""
    if isinstance(axis, Range):
        return parameter
    return next(value for value in axis.values if _text(value) == parameter)


def import_optuna() -> Any:
    """Import Optuna and silence its log below warnings.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UsageError(
            "A search needs Optuna, which is not installed: pip install 'vae-zoo[sweep]'. "
            "A grid (latent_dim=2,5,10 without --trials) works without it."
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def hide_password(url: str) -> str:
    """Remove the password from the address of a database.

    >>> hide_password("postgresql://me:secret@host/zoo"), hide_password("sqlite:///study.db")
    ('postgresql://me@host/zoo', 'sqlite:///study.db')
    """
    scheme, separator, rest = url.partition("://")
    user, at, place = rest.rpartition("@")
    return f"{scheme}{separator}{user.partition(':')[0]}{at}{place}"
