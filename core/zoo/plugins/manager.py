"""Discover plugins by entry point, and load and call each in isolation."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import inspect
import itertools
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pluggy

from zoo.errors import ZooError
from zoo.plugins.hookspecs import API, HookSpecs
from zoo.plugins.isolation import describe, plugin_code

GROUP = "zoo"
DISTRIBUTION = "vae-zoo"
SLOW = 1.0
"""Seconds after which the import of a plugin, which delays every start of ``zoo``, is reported."""
MAX_ITEMS = 10_000
"""Maximum number of items of a hook, so that an infinite generator ends."""


@dataclass(eq=False)
class Plugin:
    """An entry point of the group ``zoo`` and its state.

    Attributes:
        name: name of the entry point.
        distribution, version: the distribution that provides it.
        module: module that is imported to load it.
        hooks: names of the hooks that it implements.
        errors: errors while it was loaded or called.
        disabled: not loaded at the user's request.
        seconds: duration of its import.
    """

    name: str
    distribution: str
    version: str
    module: str = ""
    hooks: tuple[str, ...] = ()
    errors: list[str] = field(default_factory=list)
    disabled: bool = False
    seconds: float = 0.0

    @property
    def builtin(self) -> bool:
        """Whether it is part of this distribution."""
        return self.distribution == DISTRIBUTION

    @property
    def status(self) -> str:
        """``ok``, ``broken`` or ``disabled``."""
        return "disabled" if self.disabled else "broken" if self.errors else "ok"

    @property
    def slow(self) -> bool:
        """Whether its import noticeably delays every start of ``zoo``."""
        return self.seconds > SLOW

    def notes(self) -> list[str]:
        """Warnings about a working plugin: a slow import and unmet requirements."""
        slow = [f"its import takes {self.seconds:.1f} s at every start of zoo"] if self.slow else []
        return slow + ([] if self.builtin else unmet_requirements(self.distribution))

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


class Plugins:
    """The plugins of this environment.

    Args:
        disable: names of plugins or distributions to disable, or ``all`` for everything outside this distribution.
        debug: raise the exceptions of plugins instead of recording them.
    """

    def __init__(self, *, disable: frozenset[str] = frozenset(), debug: bool = False) -> None:
        self.debug = debug
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(HookSpecs)
        self._loaded: dict[str, Plugin] = {}
        self._all: list[Plugin] = []
        for plugin, entry_point in sorted(_installed(), key=lambda pair: (not pair[0].builtin, pair[0].name)):
            self._all.append(plugin)
            names = {plugin.name, plugin.distribution, *([] if plugin.builtin else ["all"])}
            plugin.disabled = bool(names & disable)
            if entry_point is not None and not plugin.disabled and not plugin.errors:
                with self.isolate(plugin):
                    self._load(plugin, entry_point)

    def __iter__(self) -> Iterator[Plugin]:
        """All plugins, built-in ones first."""
        return iter(self._all)

    def _load(self, plugin: Plugin, entry_point: importlib.metadata.EntryPoint) -> None:
        key = f"{plugin.distribution}:{plugin.name}"
        if not entry_point.pattern.match(entry_point.value):
            raise ZooError(f"its entry point is {entry_point.value!r}, not the name of a module")
        started = time.perf_counter()
        try:
            module = entry_point.load()
        finally:
            plugin.seconds = time.perf_counter() - started
        version = getattr(module, "zoo_api", API)
        if version != API:
            outdated = "the plugin" if isinstance(version, int) and version < API else "vae-zoo"
            raise ZooError(
                f"written for version {version} of the plugin interface, but this is version {API}: upgrade {outdated}"
            )
        self._manager.register(module, name=key)
        hooks = self._manager.get_hookcallers(module) or []
        unknown = [hook.name for hook in hooks if not hook.has_spec()]
        if unknown:
            raise ZooError(f"implements unknown hooks: {', '.join(sorted(unknown))}")
        for hook in hooks:
            for implementation in hook.get_hookimpls():
                if implementation.plugin_name == key:
                    _require_plain(hook.name, implementation)
        plugin.hooks = tuple(sorted(hook.name for hook in hooks))
        self._loaded[key] = plugin

    def collect(self, hook: str, **arguments: Any) -> Iterator[tuple[Plugin, Any]]:
        """Call a hook of every plugin. Yields each plugin with each of its items."""
        for implementation in getattr(self._manager.hook, hook).get_hookimpls():
            plugin = self._loaded.get(implementation.plugin_name)
            if plugin is None:  # pluggy keeps hooks of a plugin that was refused
                continue
            items: tuple[Any, ...] = ()
            with self.isolate(plugin):
                items = _items(
                    hook, implementation.function(**{name: arguments[name] for name in implementation.argnames})
                )
            yield from ((plugin, item) for item in items)

    def broken(self) -> list[Plugin]:
        """The plugins with errors so far."""
        return [plugin for plugin in self if plugin.errors]

    @contextlib.contextmanager
    def isolate(self, plugin: Plugin) -> Iterator[None]:
        """Record an exception inside the block as an error of `plugin`."""
        try:
            with plugin_code():
                yield
        except Exception as error:
            if self.debug:
                raise
            plugin.errors.append(describe(error))


def _require_plain(hook: str, implementation: Any) -> None:
    """Refuse wrappers and async hooks: hooks are called one by one, without an event loop."""
    function = implementation.function
    if implementation.hookwrapper or implementation.wrapper:
        raise ZooError(f"{hook} is a wrapper, which is not supported: write a plain function")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise ZooError(f"{hook} is async: write a plain function")


def _items(hook: str, result: Any) -> tuple[Any, ...]:
    if result is None:
        return ()
    if isinstance(result, str | bytes):
        raise ZooError(f"{hook} returned {result[:100]!r}, not a list of items")
    items = tuple(itertools.islice(result, MAX_ITEMS + 1))
    if len(items) > MAX_ITEMS:
        raise ZooError(f"{hook} returned more than {MAX_ITEMS} items")
    return items


# --- installed distributions


def normalized(distribution: str) -> str:
    """Normalize the name of a distribution for comparison.

    >>> normalized("Acme_VAE")
    'acme-vae'
    """
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _installed() -> Iterator[tuple[Plugin, importlib.metadata.EntryPoint | None]]:
    """All installed plugins with their entry points. One with damaged metadata has an error and must not be loaded.

    If a distribution is installed twice, the first one on the path counts, as in Python.
    """
    seen = set()
    for distribution in importlib.metadata.distributions():
        folder, version = _folder(distribution)
        if folder and normalized(folder) in seen:
            continue
        seen.add(normalized(folder))
        try:
            entry_points = [point for point in distribution.entry_points if point.group == GROUP]
        except Exception as error:
            damage = f"its entry_points.txt cannot be read: {describe(error)}"
            # Pydantic and torch search every distribution for plugins of their own, and would fail.
            os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
            os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
            yield Plugin("entry_points.txt", folder, version, errors=[damage]), None
            continue
        if entry_points:
            name, version, damage = _identity(distribution, folder, version)
            errors = [damage] if damage else []
            for point in entry_points:
                yield Plugin(point.name, name, version, point.value.partition(":")[0], errors=list(errors)), point


def _folder(distribution: importlib.metadata.Distribution) -> tuple[str, str]:
    """Name and version in the name of the metadata folder, such as ``acme_vae-1.0.dist-info``."""
    path = getattr(distribution, "_path", None)
    stem, _, suffix = str(getattr(path, "name", "")).rpartition(".")
    name, _, version = stem.partition("-")
    return (name, version.partition("-")[0] or "?") if suffix in ("dist-info", "egg-info") else ("", "?")


def _identity(distribution: importlib.metadata.Distribution, folder: str, version: str) -> tuple[str, str, str]:
    """Name and version of a distribution, and an error in its metadata, if any."""
    try:
        metadata = distribution.metadata
        name = (metadata.get_all("Name") or [None])[0]
        stated = str((metadata.get_all("Version") or [version])[0])
    except Exception as error:
        return folder or "?", version, f"its METADATA cannot be read: {describe(error)}"
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?", name):
        problem = "its METADATA has no Name" if name is None else f"its METADATA has the Name {name!r}"
        return folder or "?", version, f"{problem}: reinstall it"
    if normalized(name) == DISTRIBUTION:
        if folder and normalized(folder) != DISTRIBUTION:
            return folder, version, f"its METADATA has the Name {name} of another distribution"
        name = DISTRIBUTION
    return name, stated, ""


def unmet_requirements(distribution: str) -> list[str]:
    """The unmet requirements of a distribution, without extras."""
    return [problem for text in requirements(distribution) if (problem := _unmet(text))]


def _unmet(text: str) -> str:
    from packaging.requirements import Requirement

    try:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            return ""
        installed = importlib.metadata.version(requirement.name)
        if requirement.specifier.contains(installed, prereleases=True):
            return ""
    except importlib.metadata.PackageNotFoundError:
        return f"requires {text}, which is not installed"
    except Exception as error:  # an invalid requirement or version
        return f"requires {text}, which cannot be checked: {describe(error)}"
    return f"requires {text}, but {requirement.name} {installed} is installed"


def requirements(distribution: str) -> list[str]:
    """The requirements of a distribution; empty if its metadata cannot be read."""
    try:
        return importlib.metadata.requires(distribution) or []
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return []


@functools.cache
def plugins() -> Plugins:
    """The plugins of this process, loaded once.

    ``ZOO_DISABLE_PLUGINS`` is ``all`` or ``1`` (everything outside this distribution), or a comma-separated list of
    names. ``ZOO_DEBUG_PLUGINS=1`` raises the exceptions of plugins.
    """
    names = {name.strip() for name in os.environ.get("ZOO_DISABLE_PLUGINS", "").split(",")} - {"", "0"}
    disable = frozenset("all" if name == "1" else name for name in names)
    return Plugins(disable=disable, debug=os.environ.get("ZOO_DEBUG_PLUGINS", "") not in ("", "0"))
