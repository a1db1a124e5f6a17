"""The run folder, which has everything about one training and is never overwritten."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import shlex
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from zoo.errors import RunError
from zoo.evaluation.priors import FittedPrior
from zoo.model.vae import VAE
from zoo.plugins.weights import find_run, verify_weights, weights_at
from zoo.recipes.building import build_model
from zoo.recipes.schema import Recipe
from zoo.run_data import RunData
from zoo.storage.checkpoints import Checkpoint, Checkpoints, load_weights
from zoo.storage.files import (
    MANIFEST,
    read_manifest,
    remove_leftovers,
    sha256,
    to_json,
    verify_files,
)
from zoo.storage.locate import ENVIRONMENT, RECIPE, WEIGHTS, is_finished
from zoo.storage.lock import hold
from zoo.training.history import Epoch, best_epoch

log = logging.getLogger("zoo")

METRICS, LOCK = "metrics.jsonl", ".lock"
SEALED = (RECIPE, ENVIRONMENT, METRICS, WEIGHTS)
"""The files that the manifest of a finished run covers."""


class Run(RunData):
    """A run folder at `path`, whose files are read when needed.

    The folder contains ``recipe.yaml``, ``environment.json``, ``metrics.jsonl`` (one line per epoch),
    ``model.safetensors``, ``checkpoints/``, ``figures/`` and, if a prior was fitted, ``prior/``. ``manifest.json`` is
    written last and has the SHA-256 of the other files.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self._damage_reported = False

    def __repr__(self) -> str:
        return f"Run({str(self)!r})"

    def __str__(self) -> str:
        """What commands call the run: its path, or the name of installed weights."""
        return self.weights or str(self.path)

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """The run at `path`, the newest finished one below it (``runs/mlp-vae``), or installed weights of that name.

        Raises:
            RunError: there is none, or a file of the weights is damaged.
            NameConflict: two distributions bring weights of that name.
        """
        return cls(find_run(path))

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Own the run inside the block: one process at a time may train it, or fit a prior to it.

        Raises:
            RunLocked: another process owns it.
            RunError: the folder cannot be written, or the run is installed weights, which are read-only.
        """
        if self.weights is not None:
            raise RunError(
                f"{self} belongs to an installed package and is read-only. Copy the run, and use the copy: "
                + shlex.join(["cp", "-r", str(self.path), "my-run"])
            )
        with hold(self.path / LOCK, str(self.path)):
            remove_leftovers(self.path, (*SEALED, MANIFEST))
            yield

    @cached_property
    def weights(self) -> str | None:
        """The name of the installed weights that this run is, or None for a run of the user's own."""
        return weights_at(self.path)

    @property
    def output(self) -> Path:
        """The folder that tools write to by default, created if needed: the run; of installed weights, ``runs/<name>``.

        Raises:
            RunError: it cannot be created.
        """
        return _created(self.path if self.weights is None else Path("runs") / self.weights.replace(":", "."))

    @property
    def figures(self) -> Path:
        """The folder of the figures in `output`; that of installed weights is created if needed."""
        folder = self.output / "figures"
        return folder if self.weights is None else _created(folder)

    @property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints of the training."""
        origin = {"run": self.environment["id"], "recipe": _trained(self.recipe)}
        return Checkpoints(self.path / "checkpoints", self.recipe.train.checkpoint.keep, origin)

    def checkpoint(self, which: Literal["best", "last"] = "last") -> Checkpoint | None:
        """The newest valid checkpoint or the best one, or None.

        Raises:
            RunError: ``recipe.yaml`` is not the recipe of the training; the message lists the differences.
        """
        checkpoints = self.checkpoints
        checkpoint = checkpoints.best() if which == "best" else checkpoints.newest()
        if checkpoint is None:
            return None
        _, written = self._written
        changes = dict(_changes(_trained(self.recipe), checkpoint.manifest().get("recipe"), written))
        if changes.get("train.epochs", (0, None))[1] in self._former_epochs:
            del changes["train.epochs"]
        if changes:
            differences = "; ".join(f"{key} is {now!r}, was {before!r}" for key, (now, before) in changes.items())
            raise RunError(
                f"{self.path / RECIPE} is not the recipe that {checkpoint.path} was trained with: {differences}. "
                f"Restore it, or train a new run: zoo train {self.path / RECIPE}. Only the number of epochs can be "
                f"increased: zoo train --resume {self.path} --epochs N."
            )
        return checkpoint

    @property
    def _former_epochs(self) -> set[int]:
        """The numbers of epochs before the training was extended."""
        return {change["epochs"]["from"] for change in self.environment.get("extended", ())}

    @property
    def finished(self) -> bool:
        """Whether the training is finished."""
        return is_finished(self.path)

    def verify(self) -> None:
        """Compare the files of a finished run with its manifest. An unfinished run has none.

        Raises:
            RunError: the recipe, the environment or the weights are damaged or were edited; the message names the file.
        """
        if self.weights is not None:
            verify_weights(self.weights)
        elif self.finished:
            verify_files(self.path, read_manifest(self.path)["sha256"], (RECIPE, ENVIRONMENT, WEIGHTS))

    def epochs(self) -> list[Epoch]:
        """The epochs in ``metrics.jsonl``. An incomplete line is reported and skipped.

        Raises:
            RunError: there is no such file.
        """
        path = self.path / METRICS
        try:
            content = path.read_bytes()
        except OSError as error:
            raise RunError(f"{self.path} has no metrics: {error.strerror}") from error
        epochs, damaged = [], []
        for number, line in enumerate(content.splitlines(), start=1):
            try:
                epochs.append(Epoch.from_json(json.loads(line)))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                damaged.append(str(number))
        if not self._damage_reported:
            self._damage_reported = True
            if damaged:
                log.warning("%s: line %s cannot be read and is skipped.", path, ", ".join(damaged))
            elif self.finished and sha256(path) != read_manifest(self.path)["sha256"].get(METRICS):
                log.warning("%s was edited after the training: its SHA-256 is not that in the manifest.", path)
        return epochs

    @property
    def fitted_prior(self) -> FittedPrior:
        """The prior that was fitted after training, if there is one; see `zoo.fit_prior`."""
        return FittedPrior(self.path / "prior", self.path / WEIGHTS)

    def load(self, which: Literal["best", "last"] = "best", prior: Literal["fitted", "original"] = "fitted") -> VAE:
        """Load the trained model in evaluation mode on the CPU.

        Args:
            which: the weights of the best epoch by ``train.monitor``, or those of the last checkpoint.
            prior: the prior fitted after training if there is one, or the prior of the training. A prior is fitted to
                the best weights; with the last weights, the original prior is loaded.

        Raises:
            RunError: the weights or the fitted prior are missing, damaged or of another model.
        """
        self.verify()
        vae = self._new_model()
        finished = which == "best" and self.finished
        weights = load_weights(self.path / WEIGHTS) if finished else self.saved_weights(which)
        try:
            vae.load_state_dict(weights)
        except RuntimeError as error:
            raise RunError(f"The weights of {self.path} are not those of its recipe: {error}") from error
        if which == "best" and prior == "fitted" and self.fitted_prior.exists:
            vae.prior = self.fitted_prior.load(*(self.recipe, vae.encoder, self.data_shape, self.classes, self.columns))
        return vae.eval()

    def _new_model(self) -> VAE:
        """The model with initial weights. Its loss is not built, which may need files that only a training has."""
        if self._attached is not None:
            return copy.deepcopy(self._attached[0]).cpu()
        if self.environment.get("code"):
            parts = ", ".join(f"{kind} {getattr(self.recipe, kind).use}" for kind in ("encoder", "decoder", "prior"))
            raise RunError(
                f"The model of {self.path} was built in code ({parts}) and cannot be rebuilt from the folder. "
                "In Python, attach a model and the data: zoo.Run.open(...).attach(vae, dataset)."
            )
        return build_model(self.recipe, self.data_shape, self.classes, self.columns)

    def saved_weights(self, which: Literal["best", "last"]) -> dict[str, Tensor]:
        """The weights of the best or the newest checkpoint.

        Raises:
            RunError: there is no valid checkpoint.
        """
        checkpoint = self.checkpoint(which)
        if checkpoint is None:
            if (self.path / WEIGHTS).exists():
                raise RunError(f"{self.path / MANIFEST} is missing, so the weights cannot be verified.")
            raise RunError(f"{self.path} has no weights: the training stopped before its first checkpoint.")
        return checkpoint.weights()

    def best_epoch(self) -> Epoch:
        """The epoch of the run's weights; see `monitor` in `zoo.TrainConfig`.

        Raises:
            RunError: no epoch has finished.
        """
        return self._best(self.epochs())

    def _best(self, epochs: list[Epoch]) -> Epoch:
        if not epochs:
            raise RunError(f"{self.path / METRICS} has no epoch.")
        return best_epoch(epochs, self.recipe.train.monitor)

    def result(self) -> dict[str, Any]:
        """The terms of each split at the `best_epoch`, as ``zoo train --json`` prints them."""
        epochs = self.epochs()
        best = self._best(epochs)
        return {
            "run": str(self.path),
            "model": self.recipe.name,
            "data": self.data_name,
            "epochs": len(epochs),
            "seconds": round(sum(epoch.seconds for epoch in epochs), 3),
            "epoch": best.epoch,
            "train": {name: value for name, value in best.train.items() if name in best.test},
            **best.held_out,
        }


def _created(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder} cannot be created: {error.strerror}. Choose another with --out.") from error
    return folder


def _trained(recipe: Recipe) -> dict[str, Any]:
    """The recipe in the form that checkpoints record: as JSON, without its summary."""
    trained: dict[str, Any] = json.loads(to_json({**recipe.to_raw(), "summary": ""}))
    return trained


def _changes(now: Any, before: Any, written: Any, place: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    """The dotted keys at which two recipes differ, each with the value now and the one before.

    Args:
        now: the recipe, with every default filled in.
        before: that of the training.
        written: the file. A key that neither the file nor the training has is of a newer version, at its default.
        place: the dotted key of all three.
    """
    if isinstance(now, Mapping) and isinstance(before, Mapping):
        written = written if isinstance(written, Mapping) else {}
        for key in dict.fromkeys([*now, *before]):
            if key in before or key in written:
                yield from _changes(now.get(key), before.get(key), written.get(key), f"{place}.{key}".lstrip("."))
    elif now != before:
        yield place, (now, before)
