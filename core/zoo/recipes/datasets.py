"""Choice of a data set: the first available one in a recipe."""

from __future__ import annotations

import contextvars
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from zoo.data.columns import Column
from zoo.data.dataset import Dataset
from zoo.errors import (
    ComponentError,
    DataError,
    DataUnavailable,
    NameConflict,
    NotPrepared,
    UnknownName,
    UsageError,
    ZooError,
)
from zoo.plugins.hookspecs import OBJECT
from zoo.plugins.registry import registry
from zoo.recipes.components import checked, construct
from zoo.recipes.schema import ComponentSpec
from zoo.recipes.signatures import read_signature

log = logging.getLogger("zoo")

surveying = contextvars.ContextVar("surveying", default=False)
"""True while `survey_data` inspects the data sets. A data set that has to be decoded first raises `NotPrepared`."""


@dataclass(frozen=True)
class LoadedDataset:
    """A data set, the component that loaded it, and why earlier choices were skipped."""

    spec: ComponentSpec
    dataset: Dataset
    passed_over: tuple[str, ...] = ()


def data_name(spec: ComponentSpec) -> str:
    """The display name of a data set: that of its file or folder, or the name of the component.

    >>> data_name(ComponentSpec(use="digits")), data_name(ComponentSpec(use="folder", path="/home/me/photos"))
    ('digits', 'photos')
    """
    path = spec.parameters.get("path")
    return (Path(path).name if isinstance(path, str) else "") or spec.use


def spec_for(data: object) -> ComponentSpec:
    """The data set for ``--data``: a registered name, the path of a folder or file, or a Python object.

    A name takes precedence over a path: write ``./digits`` for a folder with the name of a data set. A path is made
    absolute and passed to the data set that reads such files (see `zoo.Component`).

    Raises:
        UnknownName, NameConflict: there is no such data set, or several distributions provide it.
        DataUnavailable: the path does not exist.
        DataError: no data set reads such files.
        NameConflict: several data sets read such files.
    """
    if isinstance(data, os.PathLike):
        return _spec_for_path(Path(data).expanduser().absolute())
    if not isinstance(data, str):
        return ComponentSpec(use=_only_reader(_claimed(type(data)), f"a {type(data).__name__}"))
    try:
        registry().names("dataset").find(data)
    except UnknownName:
        path = Path(os.path.expanduser(data)).absolute()  # noqa: PTH111 - `Path.expanduser` raises for unknown users
        is_path = _exists(path) or len(Path(data).parts) > 1 or data.endswith(os.sep) or _readers(path.suffix.lower())
        if not is_path:
            raise
        return _spec_for_path(path)
    return ComponentSpec(use=data)


def _claimed(kind: type) -> str:
    """The entry of `zoo.Component.reads` for objects of a type: the name of a base class that is claimed, or any."""
    names = [f"{base.__module__.partition('.')[0]}.{base.__name__}" for base in kind.__mro__]
    return next((name for name in names if _readers(name)), OBJECT)


def in_memory(data: object) -> object:
    """Return `data` if it is a Python object, and None if it is a name or a path."""
    return None if isinstance(data, str | os.PathLike) else data


def _spec_for_path(path: Path) -> ComponentSpec:
    if not _exists(path):
        raise DataUnavailable(f"There is no file or folder {path}.")
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"The path {path} is not valid UTF-8, so a recipe cannot contain it. Rename it, or create a link to it. If "
            "the name is correct, set PYTHONUTF8=1."
        ) from error
    reader = _only_reader("/" if path.is_dir() else path.suffix.lower(), str(path), f", path: {path}")
    return ComponentSpec(use=reader, **{"path": str(path)})


def _only_reader(ending: str, what: str, parameters: str = "") -> str:
    readers = _readers(ending)
    if not readers:
        endings = sorted({ending for claim in registry().names("dataset") for ending in claim.item.reads})
        readable = ", ".join(ending for ending in endings if ending.startswith("."))
        raise DataError(f"No data set reads {what}. Expected a folder of images, or a file of type {readable}.")
    if len(readers) > 1:
        choices = " or ".join(f'data="{{use: {name}{parameters}}}"' for name in readers)
        raise NameConflict(f"{' and '.join(readers)} can both read {what}. Write {choices}.")
    return readers[0]


def _is_path(claim: str) -> bool:
    """Whether an entry of `zoo.Component.reads` is the ending of a path, rather than a type of Python objects."""
    return claim.startswith((".", "/"))


def _exists(path: Path) -> bool:
    """Whether a path exists; `Path.exists` raises for some invalid paths."""
    try:
        return path.exists()
    except OSError:
        return False


def _readers(ending: str) -> list[str]:
    """The data sets that read files with this ending."""
    names = registry().names("dataset")
    return [name for name in names.matching() if ending in names.find(name).item.reads]


def load_data(
    choices: Sequence[ComponentSpec],
    root: Path | None = None,
    data_shape: tuple[int, ...] | None = None,
    *,
    columns: tuple[Column, ...] | None = None,
    source: object = None,
    seed: int = 0,
    whole: bool = False,
) -> LoadedDataset:
    """Load the first available data set. Each unavailable one before it is logged as a warning.

    Args:
        choices: the data sets, in order of preference.
        root: the folder of data files; by default `data_root()`.
        data_shape: (C, H, W) of the images of a trained model, for data sets that offer several sizes.
        columns: the columns of a trained model, for data sets that read tables with its scale and categories.
        source: a Python object, for a data set that converts objects.
        whole: hold nothing out. A data set with an argument ``whole`` then returns every example in the training split,
            in the order of the source, and any test split.
        seed: determines which training examples ``validation`` holds out.

    Raises:
        UsageError: `source` is set, and the data set does not convert objects; or `root` is not a directory.
        DataUnavailable: no data set is available; the message has the reasons.
        DataError: the files of a data set are damaged.
    """
    root = data_root() if root is None else root
    if _exists(root) and not root.is_dir():
        raise UsageError(f"The data folder {root} (--data-dir, or ZOO_DATA) is not a directory.")
    reasons: list[str] = []
    for spec in choices:
        try:
            if source is not None and "source" not in read_signature("dataset", spec.use).injected:
                raise UsageError(f"{spec.use} is loaded by name: omit data.")
            dataset = _load(spec, root, data_shape, columns, source, seed, whole)
        except DataUnavailable as error:
            reasons.append(f"{spec.use} is not available: {error}")
            continue
        for reason in reasons:
            log.warning("%s Using %s instead.", reason, spec.use)
        return LoadedDataset(spec, dataset, tuple(reasons))
    raise DataUnavailable("\n".join(["No data set is available.", *(f"  {reason}" for reason in reasons)]))


def _load(
    spec: ComponentSpec,
    root: Path,
    data_shape: tuple[int, ...] | None = None,
    columns: tuple[Column, ...] | None = None,
    source: object = None,
    seed: int = 0,
    whole: bool = False,
) -> Dataset:
    spec = checked("dataset", spec)
    context = {"root": root, "data_shape": data_shape, "trained_columns": columns, "source": source, "seed": seed}
    dataset = construct("dataset", spec, {**context, "whole": whole})
    if not isinstance(dataset, Dataset):
        raise ComponentError(f"dataset {spec.use!r} returned a {type(dataset).__name__}, not a zoo.Dataset")
    validation = spec.arguments.get("validation", 0)
    if validation and not whole and "validation" in read_signature("dataset", spec.use).common:
        return dataset.hold_out(validation, seed)
    return dataset


def data_root() -> Path:
    """The folder of data files: ``ZOO_DATA``, or the zoo's folder in the user's cache."""
    return Path(os.environ["ZOO_DATA"]) if "ZOO_DATA" in os.environ else user_cache()


def user_cache() -> Path:
    """The zoo's folder in the user's cache: ``vae-zoo`` in ``XDG_CACHE_HOME`` or ``~/.cache``."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "vae-zoo"


@dataclass(frozen=True)
class DatasetStatus:
    """Whether a data set is available.

    Attributes:
        name: name of the data set.
        status: ``available``; ``absent``; ``damaged`` (its files cannot be read); or ``path``, if it reads the user's
            files and requires their path.
        detail: the number of examples, the reason, or the file types that it reads.
    """

    name: str
    status: Literal["available", "absent", "damaged", "path"]
    detail: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain mappings and lists."""
        return asdict(self)


def survey(root: Path | None = None) -> list[DatasetStatus]:
    """The status of every registered data set that does not convert objects. Nothing is downloaded or decoded.

    Args:
        root: the folder of data files; by default `data_root()`.
    """
    names = registry().names("dataset")
    stored = (name for name in names.matching() if all(map(_is_path, names.find(name).item.reads)))
    statuses = [_status(name, data_root() if root is None else root) for name in stored]
    return sorted(statuses, key=lambda status: status.status == "path")


def _status(name: str, root: Path) -> DatasetStatus:
    try:
        parameters = read_signature("dataset", name).parameters.model_fields
        reads = registry().names("dataset").find(name).item.reads
        if reads and "path" in parameters and parameters["path"].is_required():
            return DatasetStatus(name, "path", " ".join("folders" if ending == "/" else ending for ending in reads))
        offline = {"download": False} if "download" in parameters else {}
        token = surveying.set(True)
        try:
            dataset = _load(ComponentSpec(use=name, **offline), root)
        finally:
            surveying.reset(token)
        sizes = " + ".join(str(len(split)) for split in dataset.splits.values())
        return DatasetStatus(name, "available", f"{sizes} examples, {'x'.join(map(str, dataset.shape))}")
    except NotPrepared:
        return DatasetStatus(name, "available", "not decoded yet")
    except DataUnavailable as error:
        return DatasetStatus(name, "absent", str(error))
    except ZooError as error:
        return DatasetStatus(name, "damaged", str(error))
