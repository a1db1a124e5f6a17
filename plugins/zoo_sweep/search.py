"""Where the settings of the next trial come from: a grid, or a search with Optuna that several machines may share."""

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
"""Processes that open a new database at once each make its tables, and all but one may fail in that."""


class Source(Protocol):
    """Which settings are tried, in what order. Numbers count from 1."""

    total: int
    """How many."""

    def begun(self) -> Iterator[tuple[int, Settings]]:
        """Those that somebody, here or elsewhere, took and did not end."""

    def __iter__(self) -> Iterator[tuple[int, Settings]]:
        """The others."""

    def tell(self, number: int, value: float | None, record: Mapping[str, Any]) -> None:
        """What came of them: the value to minimise, or None where they failed, and what else to remember."""


class Grid:
    """Every combination of the values.

    Args:
        axes: what is swept.
    """

    def __init__(self, axes: Sequence[Axis]) -> None:
        self._settings = list(grid(axes))
        self.total = len(self._settings)

    def begun(self) -> Iterator[tuple[int, Settings]]:
        """None: they come in order, and whoever goes through them passes over those that are done."""
        yield from ()

    def __iter__(self) -> Iterator[tuple[int, Settings]]:
        """All of them, in order."""
        yield from enumerate(self._settings, start=1)

    def tell(self, number: int, value: float | None, record: Mapping[str, Any]) -> None:
        """Nothing: the trials' folders hold it all."""


@dataclass(frozen=True)
class Told:
    """What a study knows of a trial, of this machine or another.

    Attributes:
        number: counted from 1.
        settings: its settings.
        state: ``finished``, ``failed`` or ``unfinished``.
        record: what it was told besides the value.
    """

    number: int
    settings: Settings
    state: str
    record: Mapping[str, Any]


class Search:
    """A search by Optuna's tree-structured Parzen estimator, minimising what it is told.

    What it suggests is drawn from the seed, the trial's number, and what earlier trials gave.

    Args:
        url: of the storage, as Optuna takes it. Every process that names the same one works on the same study.
        name: of the study.
        axes: what is searched.
        total: trials of the study, over all machines.
        seed: of what is suggested.
        purpose: what the study is for; a study that was made for something else is refused.

    Raises:
        UsageError: Optuna is not installed, or the storage cannot be used.
        RunError: the study is of something else.
    """

    def __init__(self, url: str, name: str, axes: Sequence[Axis], total: int, seed: int, purpose: str) -> None:
        self.optuna = import_optuna()
        self.total = total
        self._axes = axes
        self._seed = seed
        self.study = self._open(url, name)
        if self.study.user_attrs.get("purpose", purpose) != purpose:
            raise RunError(
                f"The study {name!r} in {hide_password(url)} is of another recipe, other data or other keys. "
                "Choose another --name."
            )
        self.study.set_user_attr("purpose", purpose)

    def begun(self) -> Iterator[tuple[int, Settings]]:
        """Trials that are under way in some process, or were when it was stopped."""
        for trial in self.study.get_trials(states=[self.optuna.trial.TrialState.RUNNING]):
            if (settings := self._settings(trial)) is not None:
                yield trial.number + 1, settings

    def __iter__(self) -> Iterator[tuple[int, Settings]]:
        """New trials, until the study has as many as it should."""
        while len(self.study.get_trials(deepcopy=False)) < self.total:
            trial = self.study.ask()
            if trial.number >= self.total:  # another process was faster
                self.study.tell(trial, state=self.optuna.trial.TrialState.PRUNED)
                return
            self.study.sampler = self.optuna.samplers.TPESampler(seed=derive_seed(self._seed, trial.number) % 2**32)
            yield trial.number + 1, {axis.key: _suggest(trial, axis) for axis in self._axes}

    def tell(self, number: int, value: float | None, record: Mapping[str, Any]) -> None:
        """Tell the study; what it has been told already it is not told twice."""
        self.study.set_user_attr(f"trial {number}", json.loads(to_json({**record, "machine": socket.gethostname()})))
        state = self.optuna.trial.TrialState.FAIL if value is None else None
        self.study.tell(number - 1, value, state=state, skip_if_finished=True)

    def told(self) -> list[Told]:
        """Every trial of the study."""
        states = self.optuna.trial.TrialState
        names = {states.COMPLETE: "finished", states.FAIL: "failed"}
        records = self.study.user_attrs
        return [
            Told(
                trial.number + 1,
                self._settings(trial) or {},
                names.get(trial.state, "unfinished"),
                records.get(f"trial {trial.number + 1}", {}),
            )
            for trial in self.study.get_trials(deepcopy=False)
            if trial.number < self.total
        ]

    def _settings(self, trial: Any) -> Settings | None:
        """The settings of a trial, or nothing if it was stopped before it had them all."""
        if any(axis.key not in trial.params for axis in self._axes):
            return None
        return {axis.key: _meant(trial.params[axis.key], axis) for axis in self._axes}

    def _open(self, url: str, name: str, tries: int = OPENING_TRIES) -> Any:
        from sqlalchemy.exc import DBAPIError

        options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
        try:
            storage = self.optuna.storages.RDBStorage(url, engine_kwargs=options)
            return self.optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
        except Exception as error:  # of SQLAlchemy and of every driver
            if tries == 1 or not isinstance(error, DBAPIError):
                reason = str(error).splitlines()[0]
                raise UsageError(f"The storage {hide_password(url)} cannot be used: {reason}") from error
        time.sleep(0.2)
        return self._open(url, name, tries - 1)


def _suggest(trial: Any, axis: Axis) -> Any:
    if isinstance(axis, Choices):
        return _meant(trial.suggest_categorical(axis.key, [_text(value) for value in axis.values]), axis)
    whole = isinstance(axis.low, int) and isinstance(axis.high, int)
    suggest = trial.suggest_int if whole else trial.suggest_float
    return suggest(axis.key, axis.low, axis.high, log=axis.log)


def _text(value: Any) -> str:
    """A choice as Optuna keeps it: it knows no lists, and a dashboard should show what was written."""
    return value if isinstance(value, str) else json.dumps(value)


def _meant(parameter: Any, axis: Axis) -> Any:
    """The value that one of Optuna's parameters stands for."""
    if isinstance(axis, Range):
        return parameter
    return next(value for value in axis.values if _text(value) == parameter)


def import_optuna() -> Any:
    """Optuna, with its own reports turned off.

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
    """The address of a database without its password.

    >>> hide_password("postgresql://me:secret@host/zoo"), hide_password("sqlite:///study.db")
    ('postgresql://me@host/zoo', 'sqlite:///study.db')
    """
    scheme, separator, rest = url.partition("://")
    user, at, place = rest.rpartition("@")
    return f"{scheme}{separator}{user.partition(':')[0]}{at}{place}"
