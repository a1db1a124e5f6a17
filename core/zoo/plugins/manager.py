"""Discovery of plugins by entry point, each loaded and called on its own so that a broken one harms nobody."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pluggy

from zoo.plugins.hookspecs import API, HookSpecs

GROUP = "zoo"
DISTRIBUTION = "vae-zoo"


class UnsupportedPlugin(Exception):
    """A plugin states another version of the interface than this one."""


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
    """

    name: str
    distribution: str
    version: str
    module: str = ""
    hooks: tuple[str, ...] = ()
    errors: list[str] = field(default_factory=list)
    disabled: bool = False

    @property
    def builtin(self) -> bool:
        """Whether it comes with the zoo itself."""
        return self.distribution == DISTRIBUTION

    @property
    def status(self) -> str:
        """``ok``, ``broken`` or ``disabled``."""
        return "disabled" if self.disabled else "broken" if self.errors else "ok"

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


class Plugins:
    """The plugins of this environment.

    Args:
        entry_points: what to load; by default every installed entry point of the group ``zoo``.
        disable: names of plugins or distributions to leave out, or ``all`` for everything outside this distribution.
        debug: let a plugin's own exception through instead of recording it.
    """

    def __init__(
        self,
        entry_points: Iterable[importlib.metadata.EntryPoint] | None = None,
        *,
        disable: frozenset[str] = frozenset(),
        debug: bool = False,
    ) -> None:
        if entry_points is None:
            entry_points = importlib.metadata.entry_points(group=GROUP)
        self.debug = debug
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(HookSpecs)
        self._loaded: dict[str, Plugin] = {}
        self.found: list[Plugin] = []
        for entry_point in sorted(entry_points, key=lambda e: (_distribution(e)[0] != DISTRIBUTION, e.name)):
            plugin = Plugin(entry_point.name, *_distribution(entry_point), entry_point.value.partition(":")[0])
            self.found.append(plugin)
            unwanted = {plugin.name, plugin.distribution, *([] if plugin.builtin else ["all"])}
            plugin.disabled = bool(unwanted & disable)
            if not plugin.disabled:
                with self._isolate(plugin):
                    self._load(plugin, entry_point)

    def _load(self, plugin: Plugin, entry_point: importlib.metadata.EntryPoint) -> None:
        key = f"{plugin.distribution}:{plugin.name}"
        module = entry_point.load()
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
            self._manager.unregister(module)
            raise TypeError(f"implements unknown hooks: {', '.join(sorted(unknown))}")
        plugin.hooks = tuple(sorted(hook.name for hook in hooks))
        self._loaded[key] = plugin

    def call(self, hook: str, **arguments: Any) -> Iterator[tuple[Plugin, Any]]:
        """Call every implementation of `hook` on its own. Yields each plugin with each item that it returned."""
        for implementation in getattr(self._manager.hook, hook).get_hookimpls():
            plugin = self._loaded[implementation.plugin_name]
            items: tuple[Any, ...] = ()
            with self._isolate(plugin):
                given = {name: arguments[name] for name in implementation.argnames}
                items = tuple(implementation.function(**given) or ())
            yield from ((plugin, item) for item in items)

    def broken(self) -> list[Plugin]:
        """The plugins of which something failed so far."""
        return [plugin for plugin in self.found if plugin.errors]

    @contextlib.contextmanager
    def _isolate(self, plugin: Plugin) -> Iterator[None]:
        """Keep what goes wrong inside as a failure of `plugin`; what it prints goes to stderr, never into results."""
        try:
            with contextlib.redirect_stdout(sys.stderr):
                yield
        except (Exception, SystemExit) as error:
            if self.debug:
                raise
            plugin.errors.append(f"{type(error).__name__}: {error}")


def _distribution(entry_point: importlib.metadata.EntryPoint) -> tuple[str, str]:
    return ("unknown", "?") if entry_point.dist is None else _name_and_version(entry_point.dist)


@functools.cache
def _name_and_version(distribution: importlib.metadata.Distribution) -> tuple[str, str]:
    """Read once for all entry points of a distribution: its metadata are parsed each time that they are asked for."""
    metadata = distribution.metadata
    return metadata["Name"], metadata["Version"]


@functools.cache
def plugins() -> Plugins:
    """The plugins of this process, loaded once.

    ``ZOO_DISABLE_PLUGINS`` holds ``all`` (or ``1``: everything outside this distribution) or names separated by
    commas; ``ZOO_DEBUG_PLUGINS=1`` lets a plugin's exception through.
    """
    names = {name.strip() for name in os.environ.get("ZOO_DISABLE_PLUGINS", "").split(",")} - {"", "0"}
    disable = frozenset("all" if name == "1" else name for name in names)
    return Plugins(disable=disable, debug=os.environ.get("ZOO_DEBUG_PLUGINS", "") not in ("", "0"))
