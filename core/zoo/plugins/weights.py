"""Trained weights that plugins bring, and how a path or a name becomes the folder of a run.

Weights are a run folder inside a package. The plugin states the SHA-256 of its manifest, and the manifest those of all
other files, so that a file that differs is refused before anything is read from it.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from pathlib import Path

from zoo.errors import ComponentError, NoRun, RunError, UnknownName, did_you_mean
from zoo.plugins.hookspecs import Weights
from zoo.plugins.manager import Plugins, plugins
from zoo.plugins.registry import Claim, Names
from zoo.storage.files import MANIFEST, read_manifest, verify_files
from zoo.storage.locate import holds_run, require_path, run_folder

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*@[A-Za-z0-9][A-Za-z0-9._-]*")
NAME_RULE = "MODEL@DATA, each made of letters, digits, '.', '_' and '-', a letter or digit first"


def weights() -> Names[Weights]:
    """The weights that the installed plugins bring, by name."""
    return _collected(plugins())


@functools.lru_cache(maxsize=8)
def _collected(source: Plugins) -> Names[Weights]:
    names: Names[Weights] = Names("trained model", source)
    for plugin, item in source.collect("zoo_weights"):
        with source.isolate(plugin):
            entry = _checked(item)
            names.add(entry.name, plugin, entry)
    return names


def _checked(item: object) -> Weights:
    """Weights as a plugin returned them, with the folder as an absolute path.

    Raises:
        ComponentError: the item is not a `zoo.Weights`, or some of its fields are invalid; each is named.
    """
    if not isinstance(item, Weights):
        raise ComponentError(f"zoo_weights returned {item!r}, not a zoo.Weights")
    name, folder, digest, summary = (getattr(item, field.name) for field in dataclasses.fields(Weights))
    problems = [
        f"{field} {value!r}: expected {expectation}"
        for field, value, valid, expectation in (
            ("name", name, isinstance(name, str) and NAME.fullmatch(name), NAME_RULE),
            ("folder", folder, isinstance(folder, os.PathLike), "a folder on disk (an unpacked package)"),
            ("sha256", digest, isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest), "64 hex digits"),
            ("summary", summary, isinstance(summary, str) and summary.isprintable(), "a line of text"),
        )
        if not valid
    ]
    if problems:
        raise ComponentError(f"zoo_weights returned invalid weights: {'; '.join(problems)}")
    return Weights(str(name), Path(folder).resolve(), str(digest), str(summary))


def list_weights(pattern: str = "*") -> list[str]:
    """List the names of the installed weights that contain a text or match a shell pattern, in natural order."""
    return weights().matching(pattern)


def is_weights_name(text: str) -> bool:
    """Whether a text may be the name of weights, with or without the distribution.

    >>> [is_weights_name(text) for text in ("mlp-vae@mnist", "acme:mlp-vae@mnist", "mlp-vae", "runs/mlp-vae@mnist")]
    [True, True, False, False]
    """
    return NAME.fullmatch(text.rpartition(":")[2]) is not None


def find_run(run: str | Path) -> Path:
    """The folder of a run, given its path or the name of installed weights.

    A path at which there is a run takes precedence over a name. Weights are verified.

    Args:
        run: a run folder, a folder such as ``runs/mlp-vae`` whose newest finished run is used, or a name such as
            ``mlp-vae@mnist`` or ``distribution:mlp-vae@mnist``.

    Raises:
        NoRun: there is neither a run nor a trained model of that name.
        NameConflict: two distributions bring weights of that name.
        RunError: a file of the weights is damaged.
    """
    path = require_path(run)
    name = os.fspath(run)
    if isinstance(run, str) and is_weights_name(run) and not holds_run(path):
        try:
            claim = weights().find(name)
        except UnknownName as error:
            none = "" if list_weights() else " No trained weights are installed."
            raise NoRun(f"{name} is not a folder of runs. {error}{none}") from None
        _verify(claim)
        return claim.item.path
    try:
        folder = run_folder(path)
    except NoRun as error:
        near = "" if path.exists() or len(path.parts) > 1 else did_you_mean(name, list_weights())
        raise NoRun(f"{error}{near}") from None
    installed = weights_at(folder)
    if installed is not None:
        verify_weights(installed)
    return folder


def weights_at(folder: Path) -> str | None:
    """The name of the installed weights whose folder this is, if any."""
    claims = list(weights())
    resolved = folder.resolve() if claims else folder
    return next((weights().shortest(claim) for claim in claims if claim.item.path == resolved), None)


def verify_weights(name: str) -> None:
    """Compare every file of installed weights with its digest.

    Raises:
        UnknownName, NameConflict: see `Names.find`.
        RunError: a file is missing or damaged; the message names it and the weights.
    """
    _verify(weights().find(name))


def _verify(claim: Claim[Weights]) -> None:
    folder = claim.item.path
    try:
        verify_files(folder, {MANIFEST: claim.item.sha256}, [MANIFEST], "the one of the plugin")
        digests = read_manifest(folder)["sha256"]
        verify_files(folder, digests, digests)
    except RunError as error:
        raise RunError(
            f"{claim.name} of {claim.plugin} is refused: {error} Install {claim.plugin.distribution} again."
        ) from error
