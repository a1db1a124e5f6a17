"""What a plugin can tell the zoo. Importing this module stays light: no torch, no pydantic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, get_args

import pluggy

API = 1
"""The version of the plugin interface. A plugin states the one that it was written for as ``zoo_api`` in its module."""

hookspec = pluggy.HookspecMarker("zoo")
hookimpl = pluggy.HookimplMarker("zoo")

Kind = Literal["encoder", "posterior", "decoder", "likelihood", "prior", "loss", "dataset", "metric"]
KINDS: tuple[str, ...] = get_args(Kind)

INJECTED: dict[str, tuple[str, ...]] = {
    "encoder": ("data_shape", "latent_dim", "classes"),
    "posterior": ("features", "latent_dim"),
    "decoder": ("data_shape", "latent_dim", "latent_shape", "classes"),
    "likelihood": ("data_shape",),
    "prior": ("data_shape", "latent_dim", "latent_shape", "classes", "model_encoder"),
    "loss": ("data_shape", "latent_dim", "latent_shape", "classes", "train_size"),
    "dataset": ("root", "data_shape", "given"),
    "metric": (),
    "optimizer": ("params",),
    "scheduler": ("optimizer", "last_epoch"),
}
"""What the zoo passes to a constructor that asks for it by name, and what a recipe therefore cannot set."""


OBJECT = "object"
"""What a data set reads that takes objects in Python; see `Component`."""


@dataclass(frozen=True, slots=True)
class Component:
    """A component that a plugin offers, named by where it lives so that it is imported only when used.

    Args:
        kind: one of `zoo.KINDS`.
        name: the name that recipes use, such as ``mlp``: letters, digits, ``.``, ``_`` and ``-``.
        target: ``"module:attribute"`` of the class (for a data set: of the function).
        summary: one line for ``zoo list``.
        reads: of a data set, the files that it reads, by their endings (``".npy"``), and ``"/"`` for folders.
            ``--data PATH`` then finds it, and gives it the path as its parameter ``path``. One that reads ``"object"``
            gets what ``zoo.train(data=...)`` is given in place of a name or a path, as its argument ``given``.
        expected_failures: checks of ``zoo check`` that it is known to fail, each with the reason.
    """

    kind: Kind
    name: str
    target: str
    summary: str = ""
    reads: tuple[str, ...] = ()
    expected_failures: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand of ``zoo``, named by where it lives so that it is imported only when it is called.

    Args:
        name: the word after ``zoo`` on the command line.
        summary: one line for ``zoo --help``.
        target: ``"module:attribute"`` of a `click.Command`.
    """

    name: str
    summary: str
    target: str


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
    """The hooks. A plugin implements the ones it needs with ``@zoo.hookimpl``."""

    @hookspec
    def zoo_components(self) -> Iterable[Component]:
        """The components of this plugin.

        .. code-block:: python

            @zoo.hookimpl
            def zoo_components():
                yield zoo.Component("encoder", "acme", "acme_vae.encoder:AcmeEncoder", "An encoder")
        """
        raise NotImplementedError

    @hookspec
    def zoo_recipes(self) -> Iterable[Traversable]:
        """YAML files with recipes under a ``models`` key, in the format of ``registry.yaml``.

        .. code-block:: python

            @zoo.hookimpl
            def zoo_recipes():
                yield importlib.resources.files("acme_vae") / "recipes.yaml"
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
        """The subcommands that this plugin adds to ``zoo``.

        .. code-block:: python

            @zoo.hookimpl
            def zoo_commands():
                yield zoo.Command("hello", "Print a greeting.", "acme_vae.cli:hello")
        """
        raise NotImplementedError

    @hookspec
    def zoo_callbacks(self, run: Any, figures: bool) -> Iterable[Any]:
        """The callbacks that follow a training, such as those of an experiment tracker.

        A callback that raises is reported and does not end the training.

        .. code-block:: python

            class PrintLoss(zoo.Callback):
                def on_epoch_end(self, trainer, epoch):
                    print(epoch.epoch, epoch.test["loss"])

            @zoo.hookimpl
            def zoo_callbacks(run):
                yield PrintLoss()

        Args:
            run: the `zoo.Run` with its folder, recipe and environment.
            figures: False if the user wants no figures.
        """
        raise NotImplementedError
