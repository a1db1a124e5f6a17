"""A sweep: one model trained with many settings, in a folder that says what is to be done and holds what is."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import itertools
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydantic
import yaml
from filelock import FileLock, Timeout

import zoo
from zoo import Callback, Interrupted, Recipe, RunError, RunLocked, StopRequest, UsageError, error_summary
from zoo_canvas import save
from zoo_sweep import figures
from zoo_sweep.axes import SEED, Axis, Choices, Range, Settings, as_axis, grid, read_axes, write_axis
from zoo_sweep.folder import PLAN
from zoo_sweep.results import Outcome, Results, Row, group
from zoo_sweep.search import Grid, Search, Source, hide_password, import_optuna
from zoo_sweep.trial import Trial, trials_in

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger("zoo")

FORMAT = 2
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?")
CHECKED = 1000
"""How many settings of a search are validated before it begins; a grid's all are."""


@dataclass(frozen=True)
class Plan:
    """What ``sweep.yaml`` holds.

    Attributes:
        model: the name of the recipe.
        recipe: what the settings change.
        axes: what is swept.
        seeds: those that each setting is trained with, if not just the recipe's.
        trials: how many are searched for; a grid has none.
        storage: of the study, if not in the folder; without its password.
        study: its name.
        digest: of the data, where the settings do not choose it.
    """

    model: str
    recipe: dict[str, Any]
    axes: tuple[Axis, ...]
    seeds: tuple[int, ...] | None
    trials: int | None
    storage: str | None
    study: str
    digest: str | None

    def to_yaml(self) -> str:
        """The file."""
        axes = {axis.key: write_axis(axis) for axis in self.axes}
        seeds = None if self.seeds is None else list(self.seeds)
        return zoo.write_yaml({"format": FORMAT, **vars(self), "axes": axes, "seeds": seeds})

    @classmethod
    def read(cls, file: Path) -> Plan:
        """The plan in a file.

        Raises:
            RunError: it cannot be read, or is of another version.
        """
        try:
            written = zoo.parse_yaml(file.read_text("utf-8"))
            version = written.pop("format")
            if version != FORMAT:
                raise RunError(f"{file} has the format {version}; this version of the zoo reads {FORMAT}.")
            written["axes"] = tuple(as_axis(key, axis) for key, axis in written["axes"].items())
            written["seeds"] = written["seeds"] and tuple(written["seeds"])
            plan: Plan = pydantic.TypeAdapter(cls).validate_python(vars(cls(**written)))
            return plan
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise RunError(f"{file} cannot be read: {place}: {first['msg']}") from error
        except FileNotFoundError:
            raise RunError(f"{file.parent} is no sweep: it holds no {PLAN}.") from None
        except (OSError, ValueError, AttributeError, KeyError, TypeError, yaml.YAMLError) as error:
            raise RunError(f"{file} cannot be read: {' '.join(str(error).split())}") from error

    @property
    def purpose(self) -> str:
        """A digest of all that two processes on one study must agree on."""
        shared = Plan(**{**vars(self), "trials": None, "storage": None, "study": ""})
        return hashlib.sha256(shared.to_yaml().encode()).hexdigest()


class Sweep:
    """A sweep in its folder: ``sweep.yaml``, a run folder for each trial, and ``figures/``.

    Args:
        path: the folder.
        plan: what is to be done.
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
        """The sweep in a folder.

        Args:
            storage: the address of its study, where that has a password: ``sweep.yaml`` keeps none.

        Raises:
            RunError: there is none.
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
        name: str | None = None,
        data: str | None = None,
        data_dir: Path | str | None = None,
        epochs: int | None = None,
        out: Path | str = "runs",
        registries: Sequence[Path] = (),
        **changes: Any,
    ) -> Sweep:
        """Check all of a sweep and make its folder; the arguments are those of `zoo.sweep`. Nothing is trained yet."""
        processes = os.environ.get("WORLD_SIZE", "1")
        if processes not in ("", "1"):
            raise UsageError(
                f"A sweep trains each model in one process, and the environment variable WORLD_SIZE is {processes!r}. "
                "Start it without torchrun."
            )
        if data is not None and not isinstance(data, str | os.PathLike):
            raise UsageError(
                f"A sweep loads its data for each trial, and takes their name or path, not a {type(data).__name__}. "
                "Save arrays in a file: numpy.savez('images.npz', images=x)."
            )
        axes, fixed = read_axes(overrides)
        axes, values = _take_seeds(axes, seeds)
        _check_axes(axes, values, fixed, trials, storage)
        if name is not None and not NAME.fullmatch(name):
            raise UsageError(
                f"--name {name[:100]!r}: a name is made of letters, digits, '.', '_' and '-', 100 at most, a letter or "
                "digit first and no '.' at the end."
            )

        base = zoo.recipe_for(data, model, fixed, registries=registries, **changes)
        if epochs is not None:
            base = zoo.recipe(base, {"train.epochs": epochs})
        digest = None
        if all(axis.key != "data" for axis in axes):
            loaded = zoo.load_data(base.data, None if data_dir is None else Path(data_dir))
            base = zoo.recipe(base, data=[loaded.spec.model_dump()])  # one that is passed over is said once
            digest = loaded.dataset.sha256()
        elif data is not None:
            raise UsageError("--data and data=... are both given: leave out one of them.")
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
        )
        sweep = cls(Path(out) / base.name / f"sweep-{name}", plan, storage)
        sweep._data_checked = True
        if storage is not None:
            sweep._source()  # an address that is wrong is found out before anything is written
        sweep._write()
        return sweep

    def _write(self) -> None:
        """Make the folder; if it is there, and of the very same plan, it is gone on with."""
        parent = self.path.parent
        try:
            for place in (parent, self.path):
                if place.is_symlink():
                    raise RunError(f"{place} is a link to {place.readlink()}; runs are not written through links.")
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / ".locks").mkdir(exist_ok=True)
            with FileLock(self.path / ".locks" / "plan"):
                if not (self.path / PLAN).exists():
                    with zoo.atomic_write(self.path / PLAN) as file:
                        file.write(self.plan.to_yaml().encode())
                elif Plan.read(self.path / PLAN) == self.plan:
                    log.info("Going on with the sweep in %s.", self.path)
                else:
                    raise RunError(
                        f"{self.path} holds another sweep. Choose another --name, "
                        f"or go on with that one: zoo sweep --resume {self.path}"
                    )
        except (OSError, ValueError) as error:  # ValueError: there is a NUL in the path
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
            raise RunError(f"{self.path / PLAN} holds no valid recipe: {error}") from error

    @property
    def trials(self) -> Sequence[Trial]:
        """The trials in the folder, those that failed or were stopped among them."""
        return trials_in(self.path)

    def run(
        self,
        *,
        data_dir: Path | str | None = None,
        device: str = "auto",
        callbacks: Sequence[Callback] = (),
        progress: bool | None = None,
    ) -> Sweep:
        """Do what is left to do, then draw the figures. Several processes may do that at once; each takes other trials.

        Raises:
            Interrupted: it was asked to stop. What is done stays, the trial under way goes on where it was.
        """
        zoo.resolve_device(device)
        self._check_data(data_dir)
        source = self._source()
        options = {"data_dir": data_dir, "device": device, "callbacks": callbacks, "progress": progress}
        try:
            with StopRequest() as stop, _said_once():
                for number, settings in source.begun():
                    if any(trial.path.exists() for trial in self._trials(number, settings)):
                        self._settle(source, number, settings, options, stop)
                for number, settings in source:
                    self._settle(source, number, settings, options, stop)
        except Interrupted as interrupted:
            interrupted.run = self.path
            raise
        try:
            self.draw(data_dir)
        except Exception as error:
            log.warning("%s is finished, but its figures could not be written: %s", self.path, error_summary(error))
        return self

    def _settle(
        self, source: Source, number: int, settings: Settings, options: Mapping[str, Any], stop: StopRequest
    ) -> None:
        """Train one setting with every seed, unless another process is about it, and tell what came of it."""
        trials = self._trials(number, settings)
        with self._claim(number) as mine:
            if not mine:
                log.info("Trial %d (%s) is in the hands of another process.", number, trials[0])
                return
            for position, trial in enumerate(trials):
                stop.raise_if_requested()
                if trial.state == "unfinished":
                    count = (number - 1) * len(trials) + position + 1
                    log.info("trial %d of %d: %s", count, source.total * len(trials), trial)
                try:
                    trial.train(self.recipe, **options)
                except RunLocked as error:
                    log.warning("%s It is passed over.", error)
                    return
            row = Row(number, settings, [Outcome.of_trial(trial) for trial in trials])
            value, _ = row.spread(lambda outcome: outcome.test.get(self.recipe.train.monitor))
            record = {"runs": [asdict(outcome) for outcome in row.outcomes]}
            source.tell(number, value if row.state == "finished" else None, record)
        stop.raise_if_requested()

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
        """They are the same as when the sweep was begun."""
        if self.plan.digest is None or self._data_checked:
            return
        loaded = zoo.load_data(self.recipe.data, None if data_dir is None else Path(data_dir))
        if loaded.dataset.sha256() != self.plan.digest:
            raise RunError(f"The data are not those that {self.path} was begun with: their digests differ.")
        self._data_checked = True

    def results(self) -> Results:
        """What came of it so far: of a search, on every machine that works on the study."""
        rows = {row.number: row for row in group(self.trials)}
        source = self._source()
        if isinstance(source, Search):
            for told in source.told():
                if told.number not in rows or (told.state != "unfinished" and rows[told.number].state == "unfinished"):
                    outcomes = [Outcome.from_json(outcome) for outcome in told.record.get("runs", [])]
                    row = Row(told.number, told.settings, outcomes, told.record.get("machine", "elsewhere"))
                    rows[told.number] = row
        data = None if self.plan.digest is None else _data_name(self.recipe)
        ordered = [rows[number] for number in sorted(rows)]
        return Results(str(self.path), self.plan.model, data, self.recipe.train.monitor, ordered)

    def drawings(self, data_dir: Path | str | None = None) -> dict[str, Callable[[], Figure]]:
        """The figures of what is done here, by name: losses, reconstructions and, of a search, its history.

        Each is drawn when it is called. Reconstructions need the data.
        """
        results = self.results()
        keys = [axis.key for axis in self.plan.axes]
        here = [row for row in results.rows if row.machine is None and row.finished]
        if not here:
            return {}
        shown = sorted(sorted(here, key=results.score)[: figures.MOST], key=lambda row: row.number)
        title = results.model if results.data is None else f"{results.model} on {results.data}"
        if len(shown) < len(here):
            title += f": the {len(shown)} best of {len(here)} trials"
        root = None if data_dir is None else Path(data_dir)
        drawings: dict[str, Callable[[], Figure]] = {
            "losses": lambda: figures.losses(shown, keys, title),
            "reconstructions": lambda: figures.reconstructions(shown, keys, f"{title}: test images", root),
        }
        if self.plan.trials is not None:
            drawings["history"] = lambda: figures.history(results, f"{title}: the search")
        return drawings

    def draw(self, data_dir: Path | str | None = None) -> list[Path]:
        """Write the `drawings` into the folder ``figures``."""
        drawings = self.drawings(data_dir)
        if not drawings:
            return []
        drawn = {name: draw() for name, draw in drawings.items()}
        folder = self.path / "figures"
        try:
            folder.mkdir(exist_ok=True)
            return [save(figure, folder / f"{name}.png") for name, figure in drawn.items()]
        except OSError as error:
            raise RunError(f"The figures of {self.path} could not be written: {error}.") from error


def sweep(
    model: str | Recipe,
    overrides: Sequence[str],
    *,
    seeds: int | None = None,
    trials: int | None = None,
    storage: str | None = None,
    name: str | None = None,
    data: str | None = None,
    data_dir: Path | str | None = None,
    epochs: int | None = None,
    device: str = "auto",
    out: Path | str = "runs",
    registries: Sequence[Path] = (),
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
    **changes: Any,
) -> Sweep:
    """Train a model with many settings, and leave a folder with a run for each, the losses and reconstructions drawn.

    Args:
        model, registries, changes: as in `zoo.recipe`.
        overrides: changes as on the command line. Those with several values, ``latent_dim=2,5,10``, or with a range,
            ``train.optimizer.lr=1e-4..1e-2:log``, are swept; ``train.seed=0,1,2`` trains each setting with each seed.
        seeds: train each setting with the seeds from 0 up to this number.
        trials: search with Optuna, with so many trials, in place of trying every combination.
        storage: where the study of a search is kept, as Optuna takes it (``sqlite:///study.db``,
            ``postgresql://...``): processes on several machines that name the same one, and the same name, share it. By
            default in the sweep's folder.
        name: of the sweep, in place of the time. A sweep that has it and is the very same is gone on with.
        data, data_dir, epochs, device, out, callbacks, progress: as in `zoo.train`.

    A trial that fails is recorded and ends nothing. To go on with a sweep that was stopped:
    ``zoo.Sweep.open(folder).run()``.

    Raises:
        UsageError: a name, a value, the data or the output folder is wrong, or nothing is swept. Nothing was trained.
        Interrupted: it was stopped by a signal; its attribute ``run`` is the folder.
    """
    zoo.resolve_device(device)
    made = Sweep.create(
        model,
        overrides,
        seeds=seeds,
        trials=trials,
        storage=storage,
        name=name,
        data=data,
        data_dir=data_dir,
        epochs=epochs,
        out=out,
        registries=registries,
        **changes,
    )
    return made.run(data_dir=data_dir, device=device, callbacks=callbacks, progress=progress)


def _data_name(recipe: Recipe) -> str:
    """The name of the file or folder of the data, else of the data set."""
    path = recipe.data[0].parameters.get("path")
    return Path(str(path)).name if path else recipe.data[0].use


def _take_seeds(axes: Sequence[Axis], count: int | None) -> tuple[list[Axis], tuple[int, ...] | None]:
    """The axes without the seeds, and the seeds."""
    swept = next((axis for axis in axes if axis.key == SEED), None)
    others = [axis for axis in axes if axis is not swept]
    if isinstance(swept, Range):
        raise UsageError(f"{SEED} is no range to search. Write {SEED}=0,1,2 or --seeds 3.")
    if swept is not None and count is not None:
        raise UsageError(f"--seeds and {SEED} are both given: leave out one of them.")
    if count is not None and count < 2:
        raise UsageError(f"--seeds {count}: give at least 2, or {SEED}=N for one.")
    if isinstance(swept, Choices):
        return others, swept.values
    return others, None if count is None else tuple(range(count))


def _check_axes(
    axes: Sequence[Axis], seeds: tuple[int, ...] | None, fixed: Sequence[str], trials: int | None, storage: str | None
) -> None:
    if not axes and (seeds is None or trials is not None):
        raise UsageError(
            "No KEY has several values, so there is nothing to sweep. Write for example latent_dim=2,5,10, "
            "or latent_dim=2..64 with --trials 20."
        )
    for axis in axes:
        if any(override.partition("=")[0].strip() == axis.key for override in fixed):
            raise UsageError(f"{axis.key} is given twice, with several values and with one.")
        if isinstance(axis, Range) and trials is None:
            raise UsageError(f"{axis.key} is a range: say with --trials how many values of it are tried.")
    if trials is None and storage is not None:
        raise UsageError("--storage keeps the study of a search: give --trials too.")
    if trials is not None:
        if trials < 1:
            raise UsageError(f"--trials {trials}: there must be at least one.")
        import_optuna()


@contextlib.contextmanager
def _said_once() -> Iterator[None]:
    """What each training says of the data and the model is heard once inside the block."""
    heard: set[str] = set()

    def unheard(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        known = record.levelno < logging.WARNING and message in heard
        heard.add(message)
        return not known

    log.addFilter(unheard)
    try:
        yield
    finally:
        log.removeFilter(unheard)
