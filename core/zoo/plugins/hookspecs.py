"""The hooks of plugins and their types. Importing this module imports neither torch nor pydantic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, get_args

import pluggy

API = 1
"""The version of the plugin interface. A plugin may declare its version as ``zoo_api`` in its module."""

hookspec = pluggy.HookspecMarker("zoo")
hookimpl = pluggy.HookimplMarker("zoo")

Kind = Literal["encoder", "posterior", "decoder", "likelihood", "prior", "loss", "dataset", "metric"]
KINDS: tuple[str, ...] = get_args(Kind)

INJECTED: dict[str, tuple[str, ...]] = {
    "encoder": ("data_shape", "latent_dim", "classes", "columns"),
    "posterior": ("features", "latent_dim"),
    "decoder": ("data_shape", "latent_dim", "latent_shape", "classes", "columns", "model_encoder"),
    "likelihood": ("data_shape", "columns"),
    "prior": ("data_shape", "latent_dim", "latent_shape", "classes", "columns", "model_encoder"),
    "loss": ("data_shape", "latent_dim", "latent_shape", "classes", "columns", "train_size"),
    "dataset": ("root", "data_shape", "trained_columns", "source", "seed", "whole"),
    "metric": (),
    "optimizer": ("params",),
    "scheduler": ("optimizer", "last_epoch"),
}
"""Arguments that the zoo passes to constructors that take them; a recipe cannot set these."""

OBJECT = "object"
"""What a data set `reads` if it takes Python objects; see `Component`."""


@dataclass(frozen=True, slots=True)
class Component:
    """A component of a plugin, which is imported on first use.

    Args:
        kind: one of `zoo.KINDS`.
        name: name in recipes, such as ``mlp``: letters, digits, ``.``, ``_`` and ``-``.
        target: ``"module:attribute"`` of the class, or of the function for a data set.
        summary: one line for ``zoo list``.
        reads: for a data set, the file endings that it reads (``".npy"``), or ``"/"`` for folders. It then receives the
            path of ``--data PATH`` as its parameter ``path``. With the name of a type (``"pandas.DataFrame"``: package
            and class), or ``"object"`` for all others, it receives a Python object passed as ``zoo.train(data=...)`` as
            its argument ``source``.
        expected_failures: checks of ``zoo check`` that it is known to fail, with the reasons.
    """

    kind: Kind
    name: str
    target: str
    summary: str = ""
    reads: tuple[str, ...] = ()
    expected_failures: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand of ``zoo``, which is imported when it is called.

    Args:
        name: name on the command line.
        summary: one line for ``zoo --help``.
        target: ``"module:attribute"`` of a `click.Command`.
    """

    name: str
    summary: str
    target: str


@dataclass(frozen=True, slots=True)
class View:
    """How tools show examples of a modality, such as tables. Its functions are imported on first use.

    Args:
        modality: that of a data set; see `zoo.Dataset`.
        figures: ``"module:attribute"`` of a function of a model, a `zoo.Batch` of test examples and a `zoo.Run` that
            returns the figures by name, each as a function without arguments.
        writers: by format, such as ``csv``: ``"module:attribute"`` of a function of examples x, a `zoo.Run`, a path
            and labels or None, which writes the examples in the units of the data.
    """

    modality: str
    figures: str
    writers: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Weights:
    """Trained weights that a plugin offers: the folder of a run inside its package, as ``zoo package`` writes it.

    Args:
        name: ``MODEL@DATA``, such as ``mlp-vae@mnist``. It is accepted wherever a run is.
        folder: of the run. It is only read.
        sha256: of ``manifest.json`` in the folder, which holds the digests of the other files.
        summary: one line for ``zoo list --weights``.
    """

    name: str
    folder: Path | Traversable
    sha256: str
    summary: str = ""

    @property
    def path(self) -> Path:
        """The folder, as a path."""
        return Path(str(self.folder))


class HookSpecs:
    """The hooks. A plugin implements any of them with ``@zoo.hookimpl``."""

    @hookspec
    def zoo_components(self) -> Iterable[Component]:
        """The components of the plugin.

        .. code-block:: python

            @zoo.hookimpl
            def zoo_components():
                yield zoo.Component("encoder", "acme", "acme_vae.encoder:AcmeEncoder", "An encoder")
        """
        raise NotImplementedError

    @hookspec
    def zoo_recipes(self) -> Iterable[Traversable]:
        """YAML files with recipes under the key ``models``, like ``registry.yaml``.

        .. code-block:: python

            @zoo.hookimpl
            def zoo_recipes():
                yield importlib.resources.files("acme_vae") / "recipes.yaml"
        """
        raise NotImplementedError

    @hookspec
    def zoo_views(self) -> Iterable[View]:
        """How tools show examples of a modality.

        .. code-block:: python

            @zoo.hookimpl
            def zoo_views():
                yield zoo.View("table", "acme_vae.views:figures", {"csv": "acme_vae.views:write_csv"})
        """
        raise NotImplementedError

    @hookspec
    def zoo_weights(self) -> Iterable[Weights]:
        """The trained weights that this plugin brings; ``zoo package`` writes such a plugin.

        .. code-block:: python

            @zoo.hookimpl
            def zoo_weights():
                folder = importlib.resources.files("acme_vae") / "weights" / "acme-vae@mnist"
                yield zoo.Weights("acme-vae@mnist", folder, sha256="9f86d0...", summary="20 latent dimensions")
        """
        raise NotImplementedError

    @hookspec
    def zoo_commands(self) -> Iterable[Command]:
        """Subcommands of ``zoo``.

        .. code-block:: python

            @zoo.hookimpl
            def zoo_commands():
                yield zoo.Command("hello", "Print a greeting.", "acme_vae.cli:hello")
        """
        raise NotImplementedError

    @hookspec
    def zoo_reproductions(self) -> Iterable[Traversable]:
        """YAML files with published results under a ``rows`` key, which ``zoo reproduce`` trains and verifies.

        .. code-block:: python

            @zoo.hookimpl
            def zoo_reproductions():
                yield importlib.resources.files("acme_vae") / "rows.yaml"
        """
        raise NotImplementedError

    @hookspec
    def zoo_callbacks(self, run: Any, figures: bool) -> Iterable[Any]:
        """Callbacks for a training, such as the logger of an experiment tracker.

        If a callback raises, the error is logged and the training continues.

        .. code-block:: python

            class PrintLoss(zoo.Callback):
                def on_epoch_end(self, trainer, epoch):
                    print(epoch.epoch, epoch.test["loss"])

            @zoo.hookimpl
            def zoo_callbacks(run):
                yield PrintLoss()

        Args:
            run: the `zoo.Run`, with its folder, recipe and environment.
            figures: False if the user disabled figures.
        """
        raise NotImplementedError
