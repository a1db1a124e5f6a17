"""A sweep trains one model with many settings. Its folder holds the plan, a run for each trial, and figures."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydantic
from filelock import FileLock, Timeout

import zoo
from zoo import Callback, Interrupted, Recipe, RunError, RunLocked, StopRequest, UsageError, error_summary
from zoo_canvas import save
from zoo_sweep import figures
from zoo_sweep.axes import SEED, Settings, grid, read_axes
from zoo_sweep.folder import PLAN
from zoo_sweep.messages import repeated_once
from zoo_sweep.plan import Plan, check_axes, check_name, split_seeds, with_validation
from zoo_sweep.results import Outcome, Results, Row, group
from zoo_sweep.search import Grid, Search, Source, hide_password
from zoo_sweep.stacked import StackedTraining, require_one_shape
from zoo_sweep.trial import Trial, trials_in

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger("zoo")

CHECKED = 1000
"""Settings of a search that are validated before it starts. Of a grid, all are."""


class Sweep:
    """A sweep and its folder: ``sweep.yaml``, a run folder for each trial, and ``figures/``.

    Args:
        path: the folder.
        plan: the content of ``sweep.yaml``.
        storage: the address of the study, with its password.
    """

    def __init__(self, path: Path, plan: Plan, storage: str | None = None) -> None:
        self.path = path
        self.plan = plan
        self._storage = storage or plan.storage
        self._data_checked = False

    def __repr__(self) -> str:
        return f"Sweep({str(self.path)!r})"

    @classmethod
    def open(cls, path: str | Path, storage: str | None = None) -> Sweep:
        """Open the sweep in a folder.

        Args:
            path: the folder.
            storage: the address of its study, if it has a password, which ``sweep.yaml`` does not store.

        Raises:
            RunError: the folder holds no sweep.
        """
        return cls(Path(path), Plan.read(Path(path) / PLAN), storage)

    @classmethod
    def create(
        cls,
        model: str | Recipe,
        overrides: Sequence[str] = (),
        *,
        seeds: int | None = None,
        trials: int | None = None,
        storage: str | None = None,
        stacked: bool = False,
        name: str | None = None,
        data: str | None = None,
        data_dir: Path | str | None = None,
        epochs: int | None = None,
        out: Path | str = "runs",
        registries: Sequence[Path] = (),
        **changes: Any,
    ) -> Sweep:
        """Check a sweep completely and create its folder, without training.

        Args:
            model, registries, changes: as in `zoo.recipe`.
            overrides: changes as on the command line. A key with several values, ``latent_dim=2,5,10``, or a range,
                ``train.optimizer.lr=1e-4..1e-2:log``, is swept; ``train.seed=0,1,2`` trains each setting with each
                seed.
            seeds: the number of seeds, counted from 0, that each setting is trained with.
            trials: search with Optuna, with this many trials, instead of training every combination.
            storage: the address of the study of a search, such as ``sqlite:///study.db`` or ``postgresql://...``.
                Processes with the same storage and the same `name` share the study. By default a file in the folder.
            stacked: train trials with the same shapes in one stack, up to 64 at once; not for a search.
            name: the name of the sweep; by default the time. An identical sweep with the same name is continued.
            data, data_dir, epochs, out: as in `zoo.train`.

        Raises:
            UsageError: a name, a value, the data or the storage is invalid, or nothing is swept.
            RunError: the folder holds another sweep, or cannot be written.
        """
        processes = os.environ.get("WORLD_SIZE", "1")
        if processes not in ("", "1"):
            raise UsageError(
                f"A sweep trains each model in one process, and the environment variable WORLD_SIZE is {processes!r}. "
                "Start it without torchrun."
            )
        if data is not None and not isinstance(data, str | os.PathLike):
            raise UsageError(
                f"A sweep loads its data for each trial: expected a name or a path, not a {type(data).__name__}. "
                "Save arrays in a file: numpy.savez('images.npz', images=x)."
            )
        axes, fixed = read_axes(overrides)
        axes, values = split_seeds(axes, seeds)
        check_axes(axes, values, fixed, trials, storage)
        if stacked and trials is not None:
            raise UsageError("--stacked applies to a grid, whose settings are set beforehand: leave out --trials.")
        check_name(name)

        base = zoo.recipe_for(data, model, fixed, registries=registries, **changes)
        if epochs is not None:
            base = zoo.recipe(base, {"train.epochs": epochs})
        digest = None
        if all(axis.key != "data" for axis in axes):
            root = None if data_dir is None else Path(data_dir)
            loaded = zoo.load_data(base.data, root, seed=base.train.seed)
            base = zoo.recipe(base, data=[loaded.spec.model_dump()])  # warns once about unavailable choices
            if axes and loaded.dataset.validation is None:
                base = with_validation(base, (*fixed, *(axis.key for axis in axes)), trials)
                loaded = zoo.load_data(base.data, root, seed=base.train.seed)
            digest = loaded.dataset.sha256()
            if stacked:
                require_one_shape(base, axes, values, loaded.dataset)
        elif data is not None:
            raise UsageError("--data and data=... set the data twice: leave out one of them.")
        for seed in values or ():
            zoo.recipe(base, {SEED: seed})
        for settings in itertools.islice(grid(axes), None if trials is None else CHECKED):
            recipe = zoo.recipe(base, settings)
            if digest is None:
                zoo.load_data(recipe.data, None if data_dir is None else Path(data_dir))

        name = name or datetime.datetime.now().strftime("%Y-%m-%dT%H-%M-%S")
        plan = Plan(
            model=base.name,
            recipe=base.to_raw(),
            axes=tuple(axes),
            seeds=values,
            trials=trials,
            storage=storage and hide_password(storage),
            study=f"{base.name}-{name}",
            digest=digest,
            stacked=stacked,
        )
        sweep = cls(Path(out) / base.name / f"sweep-{name}", plan, storage)
        sweep._data_checked = True
        if storage is not None:
            sweep._source()  # checks the address before anything is written
        sweep._write()
        return sweep

    def _write(self) -> None:
        """Create the folder, or continue an identical sweep."""
        parent = self.path.parent
        try:
            for folder in (parent, self.path):
                if folder.is_symlink():
                    raise RunError(f"{folder} is a link to {folder.readlink()}; runs are not written through links.")
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / ".locks").mkdir(exist_ok=True)
            with FileLock(self.path / ".locks" / "plan"):
                if not (self.path / PLAN).exists():
                    with zoo.atomic_write(self.path / PLAN) as file:
                        file.write(self.plan.to_yaml().encode())
                elif Plan.read(self.path / PLAN) == self.plan:
                    log.info("Continuing the sweep in %s.", self.path)
                else:
                    raise RunError(
                        f"{self.path} holds another sweep. Choose another --name, "
                        f"or continue that one: zoo sweep --resume {self.path}"
                    )
        except (OSError, ValueError) as error:  # ValueError: the path contains NUL
            raise RunError(
                f"The output folder {self.path} cannot be written: {getattr(error, 'strerror', None) or error}. "
                "Choose another with --out."
            ) from error

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe that the settings change."""
        try:
            return zoo.recipe(Recipe.model_validate({**self.plan.recipe, "name": self.plan.model}))
        except pydantic.ValidationError as error:
            raise RunError(f"The recipe in {self.path / PLAN} is not valid: {error}") from error

    @property
    def trials(self) -> Sequence[Trial]:
        """All trials in the folder, including failed and unfinished ones."""
        return trials_in(self.path)

    def run(
        self,
        *,
        data_dir: Path | str | None = None,
        device: str = "auto",
        callbacks: Sequence[Callback] = (),
        progress: bool | None = None,
    ) -> Sweep:
        """Train the remaining trials, then draw the figures. Several processes may do so at once and share the trials.

        Args:
            data_dir, device, callbacks, progress: as in `zoo.train`.

        Raises:
            Interrupted: a signal stopped it. Finished trials are kept, and the current one can be resumed.
        """
        zoo.resolve_device(device)
        self._check_data(data_dir)
        source = self._source()
        options: dict[str, Any] = {"data_dir": data_dir, "device": device, "callbacks": callbacks, "progress": progress}
        try:
            with StopRequest() as stop, repeated_once():
                for number, settings in source.started():
                    if any(trial.path.exists() for trial in self._trials(number, settings)):
                        self._train(source, number, settings, options, stop)
                if self.plan.stacked:
                    self._train_stacked(source, StackedTraining(self.recipe, stop, **options))
                for number, settings in source:
                    self._train(source, number, settings, options, stop)
        except Interrupted as interrupted:
            interrupted.run = self.path
            raise
        try:
            self.draw(data_dir)
        except Exception as error:
            log.warning("%s is finished, but its figures could not be written: %s", self.path, error_summary(error))
        return self

    def _train(
        self, source: Source, number: int, settings: Settings, options: Mapping[str, Any], stop: StopRequest
    ) -> None:
        """Train one setting with every seed, unless another process does, and record the outcome."""
        trials = self._trials(number, settings)
        with self._claim(number) as acquired:
            if not acquired:
                log.info("Another process is training trial %d (%s).", number, trials[0])
                return
            for position, trial in enumerate(trials):
                stop.raise_if_requested()
                if trial.state == "unfinished":
                    count = (number - 1) * len(trials) + position + 1
                    log.info("trial %d of %d: %s", count, source.total * len(trials), trial)
                try:
                    trial.train(self.recipe, **options)
                except RunLocked as error:
                    log.warning("%s Skipping the trial.", error)
                    return
            row = Row(number, settings, [Outcome.of_trial(trial) for trial in trials])
            value, _ = row.spread(lambda outcome: outcome.validation.get(self.recipe.train.monitor))
            outcomes = {"runs": [asdict(outcome) for outcome in row.outcomes]}
            source.record(number, value if row.state == "finished" else None, outcomes)
        stop.raise_if_requested()

    def _train_stacked(self, source: Source, training: StackedTraining) -> None:
        """Train the trials that can be stacked, except those of other processes."""
        with contextlib.ExitStack() as claims:
            claimed = [(n, settings) for n, settings in source if claims.enter_context(self._claim(n))]
            trials = [trial for number, settings in claimed for trial in self._trials(number, settings)]
            training.train([trial for trial in trials if trial.state == "unfinished"])

    def _trials(self, number: int, settings: Settings) -> list[Trial]:
        return [Trial(self.path, number, settings, seed) for seed in self.plan.seeds or (None,)]

    @contextlib.contextmanager
    def _claim(self, number: int) -> Iterator[bool]:
        """Lock a trial inside the block; yield False if another process holds it. A killed process releases it."""
        lock = FileLock(self.path / ".locks" / f"{number:03d}")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        except (OSError, NotImplementedError) as error:
            raise RunError(f"Trial {number} of {self.path} cannot be locked: {error}") from error
        try:
            yield True
        finally:
            lock.release()

    def _source(self) -> Source:
        plan = self.plan
        if plan.trials is None:
            return Grid(plan.axes)
        url = self._storage or f"sqlite:///{(self.path / 'study.db').resolve()}"
        return Search(url, plan.study, plan.axes, plan.trials, self.recipe.train.seed, plan.purpose)

    def _check_data(self, data_dir: Path | str | None) -> None:
        """Require the data that the sweep was started with."""
        if self.plan.digest is None or self._data_checked:
            return
        root = None if data_dir is None else Path(data_dir)
        loaded = zoo.load_data(self.recipe.data, root, seed=self.recipe.train.seed)
        if loaded.dataset.sha256() != self.plan.digest:
            raise RunError(f"The data differ from those that {self.path} was started with.")
        self._data_checked = True

    def results(self) -> Results:
        """The results so far. Those of a search include the trials of other machines."""
        rows = {row.number: row for row in group(self.trials)}
        source = self._source()
        if isinstance(source, Search):
            for trial in source.trials():
                local = rows.get(trial.number)
                if local is None or (trial.state != "unfinished" and local.state == "unfinished"):
                    outcomes = [Outcome.from_json(outcome) for outcome in trial.record.get("runs", [])]
                    machine = trial.record.get("machine", "another machine")
                    rows[trial.number] = Row(trial.number, trial.settings, outcomes, machine)
        data = None if self.plan.digest is None else _data_name(self.recipe)
        ordered = [rows[number] for number in sorted(rows)]
        return Results(str(self.path), self.plan.model, data, self.recipe.train.monitor, ordered)

    def drawings(self, data_dir: Path | str | None = None) -> dict[str, Callable[[], Figure]]:
        """Functions that draw the figures of the local trials, by name.

        The figures are ``losses``, ``reconstructions`` (which needs the data) and, for a search, ``history``.
        """
        results = self.results()
        keys = [axis.key for axis in self.plan.axes]
        finished = [row for row in results.rows if row.machine is None and row.finished]
        if not finished:
            return {}
        best_rows = sorted(sorted(finished, key=results.score)[: figures.MOST], key=lambda row: row.number)
        title = results.model if results.data is None else f"{results.model} on {results.data}"
        if len(best_rows) < len(finished):
            title += f": the best {len(best_rows)} of {len(finished)} trials"
        root = None if data_dir is None else Path(data_dir)
        drawings: dict[str, Callable[[], Figure]] = {
            "losses": lambda: figures.losses(best_rows, keys, title),
            "reconstructions": lambda: figures.reconstructions(best_rows, keys, f"{title}: test images", root),
        }
        if self.plan.trials is not None:
            drawings["history"] = lambda: figures.history(results, f"{title}: the search")
        return drawings

    def draw(self, data_dir: Path | str | None = None) -> list[Path]:
        """Write the `drawings` to the folder ``figures``."""
        drawings = self.drawings(data_dir)
        if not drawings:
            return []
        drawn_figures = {name: draw() for name, draw in drawings.items()}
        folder = self.path / "figures"
        try:
            folder.mkdir(exist_ok=True)
            return [save(figure, folder / f"{name}.png") for name, figure in drawn_figures.items()]
        except OSError as error:
            raise RunError(f"The figures of {self.path} cannot be written: {error}.") from error


def sweep(
    model: str | Recipe,
    overrides: Sequence[str],
    *,
    data_dir: Path | str | None = None,
    device: str = "auto",
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
    **options: Any,
) -> Sweep:
    """Train a model with many settings. The folder of the sweep holds a run for each, and figures.

    A trial that fails is recorded and does not stop the sweep. ``Sweep.open(folder).run()`` continues a sweep that was
    stopped.

    Args:
        model, overrides, options: as in `Sweep.create`.
        data_dir, device, callbacks, progress: as in `zoo.train`.

    Raises:
        UsageError: a name, a value, the data or the output folder is invalid, or nothing is swept. Nothing was trained.
        Interrupted: a signal stopped it; the attribute ``run`` is the folder.
    """
    zoo.resolve_device(device)
    created = Sweep.create(model, overrides, data_dir=data_dir, **options)
    return created.run(data_dir=data_dir, device=device, callbacks=callbacks, progress=progress)


def _data_name(recipe: Recipe) -> str:
    """The name of the file or folder of the data, or of the data set."""
    path = recipe.data[0].parameters.get("path")
    return Path(str(path)).name if path else recipe.data[0].use
