"""Names to components. Looking a name up imports nothing; getting the component imports its one module."""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import importlib
import importlib.metadata
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from zoo.errors import ComponentError, NameConflict, UnknownName, did_you_mean
from zoo.plugins.hookspecs import KINDS, Component
from zoo.plugins.manager import Plugin, Plugins, plugins

T = TypeVar("T")


@dataclass(frozen=True)
class Claim(Generic[T]):
    """A name as one plugin claims it."""

    name: str
    plugin: Plugin
    item: T

    @property
    def qualified(self) -> str:
        """The name as ``distribution:name``, which no other plugin can claim."""
        return f"{self.plugin.distribution}:{self.name}"


class Names(Generic[T]):
    """A table of names in which two claims to one name are an error for that name alone, never last-wins.

    Args:
        noun: what the names stand for, in messages.
        source: the plugins, for telling which broken one may hold a name that is missing.
    """

    def __init__(self, noun: str, source: Plugins) -> None:
        self.noun = noun
        self._source = source
        self._claims: dict[str, list[Claim[T]]] = {}

    def add(self, name: str, plugin: Plugin, item: T) -> None:
        """Note a claim."""
        self._claims.setdefault(name, []).append(Claim(name, plugin, item))

    def __iter__(self) -> Iterator[Claim[T]]:
        """Every claim, in natural order of the names (``vae2`` before ``vae10``)."""
        for name in sorted(self._claims, key=natural):
            yield from self._claims[name]

    def __contains__(self, name: str) -> bool:
        return name in self._claims

    def conflicts(self) -> list[str]:
        """What to say of each name that several claim."""
        return [self._describe_conflict(claims) for claims in self._claims.values() if len(claims) > 1]

    def matching(self, pattern: str = "*") -> list[str]:
        """The names that match a shell pattern. A name that several claim is given in its qualified forms."""
        return [
            claim.qualified if len(self._claims[claim.name]) > 1 else claim.name
            for claim in self
            if fnmatch.fnmatchcase(claim.name, pattern)
        ]

    def find(self, name: str) -> Claim[T]:
        """The one claim to `name`, which may be written ``distribution:name``.

        Raises:
            UnknownName: nobody claims it; the message suggests a near name and names the broken plugins.
            NameConflict: several do; the message names them with their versions.
        """
        distribution, _, short = name.rpartition(":")
        claims = [c for c in self._claims.get(short, []) if distribution in ("", c.plugin.distribution)]
        if len(claims) == 1:
            return claims[0]
        if claims:
            raise NameConflict(self._describe_conflict(claims))
        suggestion = did_you_mean(name, self._claims)
        message = f"There is no {self.noun} named {name!r}.{suggestion}"
        known = self.matching()
        message += f" There are: {', '.join(known)}." if known and not suggestion else ""
        broken = [f"{p.name} of {p}" for p in self._source.broken()]
        if broken:
            message += f" A broken plugin may hold it: {'; '.join(broken)} (see `zoo plugins`)."
        raise UnknownName(message)

    def _describe_conflict(self, claims: list[Claim[T]]) -> str:
        owners = " and ".join(sorted(f"{c.plugin} (plugin {c.plugin.name!r})" for c in claims))
        instead = " or ".join(sorted({c.qualified for c in claims}))
        return f"{self.noun} {claims[0].name!r} is claimed by {owners}. Write {instead}, or uninstall one."


def natural(name: str) -> list[tuple[int, str]]:
    """A sort key that counts numbers as numbers.

    >>> sorted(["vae10", "vae2"], key=natural)
    ['vae2', 'vae10']
    """
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


class Registry:
    """Every component that the plugins offer, by kind and name."""

    def __init__(self, source: Plugins) -> None:
        self.plugins = source
        self.components: dict[str, Names[Component]] = {kind: Names(kind, source) for kind in KINDS}
        for plugin, item in source.call("zoo_components"):
            if not isinstance(item, Component):
                plugin.errors.append(f"zoo_components returned {item!r}, not a zoo.Component")
            elif item.kind not in KINDS:
                plugin.errors.append(f"{item.name!r}: unknown kind {item.kind!r}; there are {', '.join(KINDS)}")
            else:
                self.components[item.kind].add(item.name, plugin, item)

    def conflicts(self) -> list[str]:
        """What to say of each name, of any kind, that several plugins claim."""
        return [conflict for names in self.components.values() for conflict in names.conflicts()]

    def names(self, kind: str) -> Names[Component]:
        """The table of one kind.

        Raises:
            UnknownName: there is no such kind.
        """
        if kind not in self.components:
            known = ", ".join(KINDS)
            raise UnknownName(f"There is no kind {kind!r}.{did_you_mean(kind, KINDS)} There are: {known}.")
        return self.components[kind]

    def get(self, kind: str, name: str) -> Any:
        """Import the component called `name`.

        Raises:
            UnknownName, NameConflict: see `Names.find`.
            ComponentError: its module cannot be imported, or holds nothing of that name.
        """
        return import_target(self.names(kind).find(name), kind, debug=self.plugins.debug)


def import_target(claim: Claim[Any], kind: str, *, debug: bool = False) -> Any:
    """Import the object that a component or command names as its target.

    Args:
        claim: the component or command, and the plugin that offers it.
        kind: what it is, for messages.
        debug: let the exception of a failing import through.

    Raises:
        ComponentError: its module cannot be imported, or has no such attribute.
    """
    module, _, attribute = claim.item.target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:
        if debug:
            raise
        missing = error.name or "" if isinstance(error, ModuleNotFoundError) else ""
        raise ComponentError(
            f"{kind} {claim.name!r} of {claim.plugin} could not be imported from {claim.item.target!r}: "
            f"{type(error).__name__}: {error}.{_how_to_install(missing, claim.plugin.distribution)}"
        ) from error


def _how_to_install(module: str, distribution: str) -> str:
    """What to do about a missing module, if it is one that the distribution says it requires.

    Of any other nothing is said: a package of that name may be anybody's.
    """
    try:
        required = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return ""
    pairs = [re.match(r"([\w.-]+)(?:.*extra == ['\"]([\w.-]+))?", one).groups() for one in required]  # type: ignore[union-attr]
    extras = [extra for _, extra in pairs]
    found = [(name, extra) for name, extra in pairs if re.sub(r"[-_.]+", "_", name).lower() == module.lower()]
    if not found:
        return ""
    name, extra = min(
        found, key=lambda pair: (pair[1] is not None, extras.count(pair[1]))
    )  # the extra that brings least
    return f" Install it: pip install {name if extra is None else repr(f'{distribution}[{extra}]')}"


@functools.cache
def registry() -> Registry:
    """The registry of this process."""
    return Registry(plugins())


@contextlib.contextmanager
def fresh_registry() -> Iterator[None]:
    """Look at the installed plugins anew inside and after the block; for tests and for `pip install` in a session."""
    plugins.cache_clear()
    registry.cache_clear()
    try:
        yield
    finally:
        plugins.cache_clear()
        registry.cache_clear()
