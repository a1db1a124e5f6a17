"""Choice of a data set: the first available one of a recipe."""

from __future__ import annotations

import contextvars
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

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
    """A data set, the component that it came from, and why earlier choices were passed over."""

    block: ComponentSpec
    dataset: Dataset
    passed_over: tuple[str, ...] = ()


def data_name(block: ComponentSpec) -> str:
    """The display name of a data set: that of its file or folder, else its own.

    >>> data_name(ComponentSpec(use="digits")), data_name(ComponentSpec(use="folder", path="/home/me/photos"))
    ('digits', 'photos')
    """
    path = block.parameters.get("path")
    return (Path(path).name if isinstance(path, str) else "") or block.use


def block_for(data: object) -> ComponentSpec:
    """The data set for ``--data``: a registered name, the path of a folder or file, or an object in Python.

    A name takes precedence over a path: write ``./digits`` for a folder with the name of a data set. A path is made
    absolute and given to the data set that reads such files (see `zoo.Component`).

    Raises:
        UnknownName, NameConflict: there is no such data set, or two distributions claim the name.
        DataUnavailable: the path does not exist.
        DataError: no data set reads such files, or several do.
    """
    if isinstance(data, os.PathLike):
        return _block_of(Path(data).expanduser().absolute())
    if not isinstance(data, str):
        return ComponentSpec(use=_only_reader(OBJECT, f"a {type(data).__name__}"))
    try:
        registry().names("dataset").find(data)
    except UnknownName:
        path = Path(os.path.expanduser(data)).absolute()  # noqa: PTH111 - `Path.expanduser` raises for unknown users
        is_path = _exists(path) or len(Path(data).parts) > 1 or data.endswith(os.sep) or _readers(path.suffix)
        if not is_path:
            raise
        return _block_of(path)
    return ComponentSpec(use=data)


def _block_of(path: Path) -> ComponentSpec:
    if not _exists(path):
        raise DataUnavailable(f"There is no file or folder {path}.")
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"The path {path} is not UTF-8, and a recipe cannot hold it. Rename it, or make a link to it; if its name "
            "is in order, set PYTHONUTF8=1."
        ) from error
    reader = _only_reader("/" if path.is_dir() else path.suffix.lower(), str(path), f", path: {path}")
    return ComponentSpec(use=reader, **{"path": str(path)})


def _only_reader(ending: str, what: str, more: str = "") -> str:
    readers = _readers(ending)
    if not readers:
        known = sorted({known for claim in registry().names("dataset") for known in claim.item.reads} - {"/", OBJECT})
        raise DataError(f"No data set reads {what}. A folder of images will do, or a file in {', '.join(known)}.")
    if len(readers) > 1:
        choices = " or ".join(f'data="{{use: {name}{more}}}"' for name in readers)
        raise NameConflict(f"{' and '.join(readers)} can both read {what}. Write {choices}.")
    return readers[0]


def _exists(path: Path) -> bool:
    """Whether a path exists; `Path.exists` raises for some invalid paths."""
    try:
        return path.exists()
    except OSError:
        return False


def _readers(ending: str) -> list[str]:
    """The data sets that read files with this ending."""
    names = registry().names("dataset")
    return [name for name in names.matching() if ending.lower() in names.find(name).item.reads]


def load_data(
    choices: Sequence[ComponentSpec],
    root: Path | None = None,
    data_shape: tuple[int, ...] | None = None,
    *,
    given: object = None,
    seed: int = 0,
) -> LoadedDataset:
    """Load the first available data set. Each one that is passed over is logged as a warning.

    Args:
        choices: in order of preference.
        root: the folder of data files; by default `data_root()`.
        data_shape: (C, H, W) of the images of a trained model, for data sets that offer several sizes.
        given: the data themselves, for a data set that takes objects.
        seed: determines which examples ``validation`` holds out of the training split.

    Raises:
        UsageError: data are given, and the data set loads its own.
        DataUnavailable: none is available; the message has the reasons.
        DataError: the files of one are damaged, which is never passed over.
        UsageError: `root` is not a directory.
    """
    root = data_root() if root is None else root
    if _exists(root) and not root.is_dir():
        raise UsageError(f"Data files are looked for in {root} (--data-dir, or ZOO_DATA), which is not a directory.")
    reasons: list[str] = []
    for block in choices:
        try:
            if given is not None and OBJECT not in registry().names("dataset").find(block.use).item.reads:
                raise UsageError(f"{block.use} is loaded by its name: leave out data.")
            dataset = _made(block, {"root": root, "data_shape": data_shape, "given": given, "seed": seed})
        except DataUnavailable as error:
            reasons.append(f"{block.use} could not be had: {error}")
            continue
        for reason in reasons:
            log.warning("%s Using %s instead.", reason, block.use)
        return LoadedDataset(block, dataset, tuple(reasons))
    raise DataUnavailable("\n".join(["No data to train on.", *(f"  {reason}" for reason in reasons)]))


def _made(block: ComponentSpec, context: Mapping[str, Any]) -> Dataset:
    block = checked("dataset", block)
    dataset = construct("dataset", block, context)
    if not isinstance(dataset, Dataset):
        raise ComponentError(f"dataset {block.use!r} returned a {type(dataset).__name__}, not a zoo.Dataset")
    validation = block.arguments.get("validation", 0)
    if validation and "validation" in read_signature("dataset", block.use).common:
        return dataset.hold_out(validation, context["seed"])
    return dataset


def data_root() -> Path:
    """``ZOO_DATA``, or a folder in the user's cache."""
    if "ZOO_DATA" in os.environ:
        return Path(os.environ["ZOO_DATA"])
    return user_cache()


def user_cache() -> Path:
    """The zoo's folder in the user's cache: ``vae-zoo`` in ``XDG_CACHE_HOME`` or ``~/.cache``."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "vae-zoo"


@dataclass(frozen=True)
class DatasetStatus:
    """Whether a data set is available.

    Attributes:
        name: of the data set.
        status: ``available``; ``absent``; ``damaged`` (its files are wrong, or it cannot be read at all); ``path``, if
            it reads files of yours and needs their path.
        detail: the number of images, the reason, or the files that it reads.
    """

    name: str
    status: Literal["available", "absent", "damaged", "path"]
    detail: str

    def to_dict(self) -> dict[str, Any]:
        """Plain mappings and lists."""
        return asdict(self)


def survey(root: Path | None = None) -> list[DatasetStatus]:
    """The status of every registered data set that is not given as an object. Nothing is downloaded or decoded.

    Args:
        root: the folder of data files; by default `data_root()`.
    """
    names = registry().names("dataset")
    stored = (name for name in names.matching() if name not in _readers(OBJECT))
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
            dataset = _made(ComponentSpec(use=name, **offline), {"root": root})
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
