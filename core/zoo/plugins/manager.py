"""Discovery of plugins by entry point, each loaded and called on its own so that a broken one harms nobody."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import inspect
import itertools
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pluggy

from zoo.errors import ZooError
from zoo.plugins.hookspecs import API, HookSpecs

GROUP = "zoo"
DISTRIBUTION = "vae-zoo"
SLOW = 1.0
"""Seconds after which the import of a plugin, which every start of ``zoo`` waits for, is called slow."""
MAX_ITEMS = 10_000
"""Items that a hook may return: a generator without an end is cut off."""

_stdout = threading.RLock()
"""Held while stdout is redirected: that is the process's, and two threads could not put it back in order."""


class UnsupportedPlugin(Exception):
    """A plugin is not written for this interface."""


class PluginExit(Exception):
    """A plugin raised what is no `Exception`, such as SystemExit."""


@dataclass(eq=False)
class Plugin:
    """One entry point of the group ``zoo`` and how it fared.

    Attributes:
        name: the entry point's name.
        distribution, version: what was installed.
        module: what is imported to load it.
        hooks: the names of the hooks that it implements.
        errors: what went wrong while it was loaded or called; empty for a plugin in order.
        disabled: it was found, and not loaded on request.
        seconds: how long its import took.
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
        """Whether it comes with the zoo itself."""
        return self.distribution == DISTRIBUTION

    @property
    def status(self) -> str:
        """``ok``, ``broken`` or ``disabled``."""
        return "disabled" if self.disabled else "broken" if self.errors else "ok"

    @property
    def slow(self) -> bool:
        """Whether its import delays every start of ``zoo``."""
        return self.seconds > SLOW

    def notes(self) -> list[str]:
        """What a user should know of a plugin that works: a slow import, and requirements that are not met."""
        slow = [f"its import takes {self.seconds:.1f} s at every start of zoo"] if self.slow else []
        return slow + ([] if self.builtin else unmet_requirements(self.distribution))

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


class Plugins:
    """The plugins of this environment.

    Args:
        disable: names of plugins or distributions to leave out, or ``all`` for everything outside this distribution.
        debug: let a plugin's own exception through instead of recording it.
    """

    def __init__(self, *, disable: frozenset[str] = frozenset(), debug: bool = False) -> None:
        self.debug = debug
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(HookSpecs)
        self._loaded: dict[str, Plugin] = {}
        self.found: list[Plugin] = []
        for plugin, entry_point in sorted(_installed(), key=lambda pair: (not pair[0].builtin, pair[0].name)):
            self.found.append(plugin)
            names = {plugin.name, plugin.distribution, *([] if plugin.builtin else ["all"])}
            plugin.disabled = bool(names & disable)
            if entry_point is not None and not plugin.disabled and not plugin.errors:
                with self.isolate(plugin):
                    self._load(plugin, entry_point)

    def _load(self, plugin: Plugin, entry_point: importlib.metadata.EntryPoint) -> None:
        key = f"{plugin.distribution}:{plugin.name}"
        if not entry_point.pattern.match(entry_point.value):
            raise UnsupportedPlugin(f"its entry point is {entry_point.value!r}, not the name of a module")
        started = time.perf_counter()
        try:
            module = entry_point.load()
        finally:
            plugin.seconds = time.perf_counter() - started
        written_for = getattr(module, "zoo_api", API)
        if written_for != API:
            which = "the plugin" if isinstance(written_for, int) and written_for < API else "vae-zoo"
            raise UnsupportedPlugin(
                f"written for version {written_for} of the plugin interface, and this is version {API}: upgrade {which}"
            )
        self._manager.register(module, name=key)
        hooks = self._manager.get_hookcallers(module) or []
        unknown = [hook.name for hook in hooks if not hook.has_spec()]
        if unknown:
            raise TypeError(f"implements unknown hooks: {', '.join(sorted(unknown))}")
        for hook in hooks:
            for implementation in hook.get_hookimpls():
                if implementation.plugin_name == key:
                    _require_plain(hook.name, implementation)
        plugin.hooks = tuple(sorted(hook.name for hook in hooks))
        self._loaded[key] = plugin

    def implementations(self, hook: str) -> Iterator[tuple[Plugin, Callable[..., Any]]]:
        """Each plugin that implements `hook`, and its function, to be called inside `isolate`."""
        for implementation in getattr(self._manager.hook, hook).get_hookimpls():
            # Of a plugin that was refused half-way, pluggy still holds some functions.
            if implementation.plugin_name in self._loaded:

                def call(implementation: Any = implementation, **arguments: Any) -> Any:
                    return implementation.function(**{name: arguments[name] for name in implementation.argnames})

                yield self._loaded[implementation.plugin_name], call

    def collect(self, hook: str, **arguments: Any) -> Iterator[tuple[Plugin, Any]]:
        """Call every implementation of a hook that returns items. Yields each plugin with each item."""
        for plugin, call in self.implementations(hook):
            items: tuple[Any, ...] = ()
            with self.isolate(plugin):
                items = _items(hook, call(**arguments))
            yield from ((plugin, item) for item in items)

    def broken(self) -> list[Plugin]:
        """The plugins of which something failed so far."""
        return [plugin for plugin in self.found if plugin.errors]

    @contextlib.contextmanager
    def isolate(self, plugin: Plugin) -> Iterator[None]:
        """Keep what goes wrong inside as a failure of `plugin`."""
        try:
            with plugin_code():
                yield
        except Exception as error:
            if self.debug:
                raise
            plugin.errors.append(describe(error))


def _require_plain(hook: str, implementation: Any) -> None:
    """Hooks are called one by one, so that one cannot wrap another, nor wait for an event loop."""
    function = implementation.function
    if implementation.hookwrapper or implementation.wrapper:
        raise TypeError(f"{hook} is a wrapper of other plugins' hooks, which is not supported: write a plain function")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{hook} is async: write a plain function")


def _items(hook: str, result: Any) -> tuple[Any, ...]:
    if result is None:
        return ()
    if isinstance(result, str | bytes):
        raise TypeError(f"{hook} returned {result[:100]!r}, not a list of items")
    items = tuple(itertools.islice(result, MAX_ITEMS + 1))
    if len(items) > MAX_ITEMS:
        raise ValueError(f"{hook} returned more than {MAX_ITEMS} items")
    return items


# --- the code of plugins


@contextlib.contextmanager
def plugin_code() -> Iterator[None]:
    """Run code of a plugin: what it prints goes to stderr, and whatever it raises is an `Exception`.

    A KeyboardInterrupt passes if the user pressed Ctrl-C, and counts as the plugin's if it raised one itself.
    """
    with stdout_to_stderr, _interrupts() as interrupts:
        try:
            yield
        except Exception:
            raise
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and interrupts:
                raise
            raise PluginExit(describe(error)) from error


def describe(error: BaseException) -> str:
    """The kind and the message of what a plugin raised, whatever that is."""
    try:
        message = str(error)
    except BaseException:
        message = "its message cannot be read"
    text = message if isinstance(error, PluginExit | ZooError) else f"{type(error).__name__}: {message}"
    return text.encode("utf-8", "backslashreplace").decode()


class _Stderr:
    """Stderr for those who print to stdout. To close it closes nothing."""

    def close(self) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


class _Redirection:
    """Stdout sent to stderr, by Python and below it, while anybody in the process asks for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._stdout, self._stderr = sys.stdout, sys.stderr
                _flush(sys.stdout)
                self._descriptor = _redirect_descriptor()
            self._users += 1
            self._put(self._redirected())

    def __exit__(self, *_: object) -> None:
        """Whatever was put in the place of the streams meanwhile, they are what they were."""
        with self._lock:
            self._users -= 1
            if self._users:
                self._put(self._redirected())
                return
            self._put(self._stdout)
            if self._descriptor is not None:
                _flush(sys.__stdout__)
                os.dup2(self._descriptor, 1)
                os.close(self._descriptor)

    def _redirected(self) -> _Stderr | None:
        return None if self._stderr is None else _Stderr()

    def _put(self, stdout: Any) -> None:
        sys.stdout, sys.stderr = stdout, self._stderr


stdout_to_stderr = _Redirection()
"""Send what is printed inside to stderr: stdout is for results."""


def _flush(stream: Any) -> None:
    with contextlib.suppress(Exception):
        stream.flush()


def _redirect_descriptor() -> int | None:
    """Make descriptor 1 another name of 2. Returns a copy of what it was, if both are open."""
    try:
        descriptor = os.dup(1)
    except OSError:
        return None
    try:
        os.dup2(2, 1)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


@contextlib.contextmanager
def _interrupts() -> Iterator[list[int]]:
    """The signals of Ctrl-C that came inside the block, which are handled as they would be without it."""
    received: list[int] = []
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(previous):
        yield received
        return

    def note(number: int, frame: Any) -> Any:
        received.append(number)
        return previous(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield received
    finally:
        if signal.getsignal(signal.SIGINT) is note:
            signal.signal(signal.SIGINT, previous)


# --- what is installed


def normalized(distribution: str) -> str:
    """The name of a distribution as names are compared.

    >>> normalized("Acme_VAE")
    'acme-vae'
    """
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _installed() -> Iterator[tuple[Plugin, importlib.metadata.EntryPoint | None]]:
    """Every plugin that is installed. One whose metadata are damaged comes with the error, and is not to be loaded.

    Of two distributions of one name, the first on the path counts, as for Python.
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
            # Pydantic and torch look for plugins of theirs in every distribution, and would fail at this one.
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
    """The name and the version that the folder of the metadata bears: ``acme_vae-1.0.dist-info``."""
    path = getattr(distribution, "_path", None)
    stem, _, suffix = str(getattr(path, "name", "")).rpartition(".")
    name, _, version = stem.partition("-")
    return (name, version.partition("-")[0] or "?") if suffix in ("dist-info", "egg-info") else ("", "?")


def _identity(distribution: importlib.metadata.Distribution, folder: str, version: str) -> tuple[str, str, str]:
    """Name and version of a distribution, and what is wrong with its metadata."""
    try:
        metadata = distribution.metadata
        name = (metadata.get_all("Name") or [None])[0]
        stated = str((metadata.get_all("Version") or [version])[0])
    except Exception as error:
        return folder or "?", version, f"its METADATA cannot be read: {describe(error)}"
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?", name):
        problem = "its METADATA has no Name" if name is None else f"its METADATA has the Name {name!r}"
        return folder or "?", version, f"{problem}: install it anew"
    if normalized(name) == DISTRIBUTION:
        if folder and normalized(folder) != DISTRIBUTION:
            return folder, version, f"its METADATA has the Name {name}, which is not its own"
        name = DISTRIBUTION
    return name, stated, ""


def unmet_requirements(distribution: str) -> list[str]:
    """What a distribution says that it requires and does not have here, extras aside."""
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
    except Exception as error:  # a requirement or a version that is not written as it should be
        return f"requires {text}, which cannot be checked: {describe(error)}"
    return f"requires {text}, and {requirement.name} {installed} is installed"


def requirements(distribution: str) -> list[str]:
    """What the metadata of a distribution say that it requires; nothing where they cannot be read."""
    try:
        return importlib.metadata.requires(distribution) or []
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return []


@functools.cache
def plugins() -> Plugins:
    """The plugins of this process, loaded once.

    ``ZOO_DISABLE_PLUGINS`` holds ``all`` (or ``1``: everything outside this distribution) or names separated by
    commas; ``ZOO_DEBUG_PLUGINS=1`` lets a plugin's exception through.
    """
    names = {name.strip() for name in os.environ.get("ZOO_DISABLE_PLUGINS", "").split(",")} - {"", "0"}
    disable = frozenset("all" if name == "1" else name for name in names)
    return Plugins(disable=disable, debug=os.environ.get("ZOO_DEBUG_PLUGINS", "") not in ("", "0"))
