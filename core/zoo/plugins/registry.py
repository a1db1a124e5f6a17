"""Map names to components. Looking up a name imports nothing; getting a component imports its module."""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import functools
import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from zoo.errors import ComponentError, NameConflict, UnknownName, UsageError, did_you_mean
from zoo.plugins.hookspecs import KINDS, Component
from zoo.plugins.isolation import describe, plugin_code
from zoo.plugins.manager import DISTRIBUTION, Plugin, Plugins, normalized, plugins, requirements
from zoo.storage.locate import natural

T = TypeVar("T")

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
NAME_RULE = "letters, digits, '.', '_' and '-', starting with a letter or digit"
TARGET = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*")


@dataclass(frozen=True)
class Claim(Generic[T]):
    """A name that a plugin registers for an item."""

    name: str
    plugin: Plugin
    item: T

    @property
    def qualified(self) -> str:
        """The unique name ``distribution:name``."""
        return f"{self.plugin.distribution}:{self.name}"


class Names(Generic[T]):
    """A table of names. If several distributions claim a name, only using that name is an error.

    Args:
        noun: kind of the items, in messages.
        source: the plugins; messages about missing names list broken ones.
    """

    def __init__(self, noun: str, source: Plugins) -> None:
        self.noun = noun
        self._source = source
        self._claims: dict[str, list[Claim[T]]] = {}

    def add(self, name: str, plugin: Plugin, item: T) -> None:
        """Add a claim. A second claim of the same distribution is recorded as an error of its plugin."""
        claims = self._claims.setdefault(name, [])
        if any(claim.plugin.distribution == plugin.distribution for claim in claims):
            plugin.errors.append(f"{self.noun} {name!r}: {plugin} registers this name twice; the first is kept")
        else:
            claims.append(Claim(name, plugin, item))

    def set(self, name: str, plugin: Plugin, item: T) -> None:
        """Add a claim, replacing an earlier one of the same plugin."""
        claims = self._claims.setdefault(name, [])
        claims[:] = [*(claim for claim in claims if claim.plugin is not plugin), Claim(name, plugin, item)]

    def __iter__(self) -> Iterator[Claim[T]]:
        """All claims, in natural order of their names (``vae2`` before ``vae10``)."""
        for name in sorted(self._claims, key=natural):
            yield from self._claims[name]

    def __contains__(self, name: str) -> bool:
        return name in self._claims

    def conflicts(self) -> list[str]:
        """A message for each contested name."""
        return [self._describe_conflict(claims) for claims in self._claims.values() if len(claims) > 1]

    def matching(self, pattern: str = "*") -> list[str]:
        """The names that match a pattern (see `matches`). Contested names are qualified."""
        return [
            self.shortest(claim)
            for claim in self
            if matches(claim.name, pattern) or fnmatch.fnmatchcase(claim.qualified, pattern)
        ]

    def shortest(self, claim: Claim[T]) -> str:
        """The name of a claim, qualified if it is contested."""
        return claim.qualified if len(self._claims[claim.name]) > 1 else claim.name

    def qualify(self, name: str, distribution: str) -> str:
        """Resolve a name within a distribution: its own claim takes precedence."""
        own = [claim for claim in self._claims.get(name, []) if claim.plugin.distribution == distribution]
        return self.shortest(own[0]) if own else name

    def find(self, name: str) -> Claim[T]:
        """Find the claim for a name, which may be qualified (``distribution:name``).

        Raises:
            UnknownName: there is none; the message suggests a similar name and lists broken plugins.
            NameConflict: there are several; the message lists them.
        """
        distribution, _, short = name.rpartition(":")
        claims = self._claims.get(short, [])
        if distribution:
            claims = [c for c in claims if normalized(c.plugin.distribution) == normalized(distribution)]
        if len(claims) == 1:
            return claims[0]
        if claims:
            raise NameConflict(self._describe_conflict(claims))
        suggestion = did_you_mean(name, self._claims)
        message = f"There is no {self.noun} named {name!r}.{suggestion}"
        names = self.matching()
        message += f" Available: {', '.join(names)}." if names and not suggestion else ""
        broken = [f"{p.name} of {p}" for p in self._source.broken()]
        if broken:
            message += f" A broken plugin may provide it: {'; '.join(broken)} (see `zoo plugins`)."
        raise UnknownName(message)

    def _describe_conflict(self, claims: list[Claim[T]]) -> str:
        owners = " and ".join(sorted(f"{c.plugin} (plugin {c.plugin.name!r})" for c in claims))
        instead = " or ".join(sorted({c.qualified for c in claims}))
        return f"{self.noun} {claims[0].name!r} is claimed by {owners}. Use {instead}, or uninstall one."


def matches(name: str, pattern: str) -> bool:
    """Whether a name contains a text or matches a shell pattern.

    >>> matches("conv-vae", "conv*"), matches("conv-vae", "*mlp*"), matches("conv-vae", "vae")
    (True, False, True)
    """
    return pattern in name or fnmatch.fnmatchcase(name, pattern)


def _validated(item: object) -> Component:
    """Validate a component and copy it to plain values; the error lists all invalid fields."""
    if not isinstance(item, Component):
        raise ComponentError(f"zoo_components returned {item!r}, not a zoo.Component")
    kind, name, target, summary, reads, expected = (getattr(item, f.name) for f in dataclasses.fields(Component))
    problems = [
        f"{field} {value!r}: expected {expectation}"
        for field, value, good, expectation in (
            ("unknown kind", kind, isinstance(kind, str) and kind in KINDS, f"one of {', '.join(KINDS)}"),
            ("name", name, isinstance(name, str) and NAME.fullmatch(name), NAME_RULE),
            ("target", target, isinstance(target, str) and TARGET.fullmatch(target), "'module:attribute'"),
            ("summary", summary, isinstance(summary, str) and summary.isprintable(), "a line of text"),
            ("reads", reads, isinstance(reads, tuple | list) and _all_text(*reads), "a tuple of endings"),
            (
                "expected_failures",
                expected,
                isinstance(expected, Mapping) and _all_text(*expected, *expected.values()),
                "a mapping of checks to reasons",
            ),
        )
        if not good
    ]
    if problems:
        raise ComponentError(f"zoo_components returned an invalid component: {'; '.join(problems)}")
    kind, name, target, summary = (str.__str__(value) for value in (kind, name, target, summary))
    return Component(kind, name, target, summary, tuple(reads), dict(expected))  # type: ignore[arg-type]


def _all_text(*values: object) -> bool:
    return all(isinstance(value, str) for value in values)


class Registry:
    """The components of all plugins, by kind and name."""

    def __init__(self, source: Plugins) -> None:
        self.plugins = source
        self.components: dict[str, Names[Component]] = {kind: Names(kind, source) for kind in KINDS}
        self._own = Plugin("register", "this-process", "")
        self._registered: dict[tuple[str, str], Any] = {}
        for plugin, item in source.collect("zoo_components"):
            with source.isolate(plugin):
                component = _validated(item)
                self.components[component.kind].add(component.name, plugin, component)

    def register(self, kind: str, name: str, target: Any) -> None:
        """Register an object of this process; see `zoo.register`.

        Raises:
            UsageError: the name is invalid or taken.
        """
        if not NAME.fullmatch(name):
            raise UsageError(f"{name!r} cannot be registered: a name has {NAME_RULE}.")
        names = self.names(kind)
        others = [claim for claim in names if claim.name == name and claim.plugin is not self._own]
        if others:
            raise UsageError(f"The {kind} {name!r} is provided by {others[0].plugin}. Choose another name.")
        summary = (inspect.getdoc(target) or "").partition("\n")[0]
        names.set(name, self._own, Component(kind, name, f"{target.__module__}:{target.__qualname__}", summary))  # type: ignore[arg-type]
        self._registered[kind, name] = target

    def conflicts(self) -> list[str]:
        """A message for each contested name of any kind."""
        return [conflict for names in self.components.values() for conflict in names.conflicts()]

    def same(self, name: str, other: str) -> bool:
        """Whether two names, each of which may be qualified, refer to the same component.

        A short name refers to the built-in component, or to that of the only distribution that claims it.
        """
        (owner, _, short), (other_owner, _, other_short) = name.rpartition(":"), other.rpartition(":")
        if short != other_short or (owner and other_owner):
            return name == other
        owners = {
            claim.plugin.distribution for names in self.components.values() for claim in names if claim.name == short
        }
        return name == other or (owner or other_owner) == DISTRIBUTION or owners <= {owner or other_owner}

    def names(self, kind: str) -> Names[Component]:
        """The names of one kind.

        Raises:
            UnknownName: there is no such kind.
        """
        if kind not in self.components:
            kinds = ", ".join(KINDS)
            raise UnknownName(f"There is no kind {kind!r}.{did_you_mean(kind, KINDS)} Available: {kinds}.")
        return self.components[kind]

    def get(self, kind: str, name: str) -> Any:
        """Import a component.

        Raises:
            UnknownName, NameConflict: see `Names.find`.
            ComponentError: its module cannot be imported, or has no such attribute.
        """
        claim = self.names(kind).find(name)
        if claim.plugin is self._own:
            return self._registered[kind, claim.name]
        return import_target(claim, kind, debug=self.plugins.debug)


def import_target(claim: Claim[Any], kind: str, *, debug: bool = False) -> Any:
    """Import the target of a component or command.

    Args:
        claim: the component or command, and its plugin.
        kind: its kind, in messages.
        debug: raise the exception of a failing import.

    Raises:
        ComponentError: its module cannot be imported, or has no such attribute.
    """
    module, _, attribute = claim.item.target.partition(":")
    try:
        with plugin_code():
            return getattr(importlib.import_module(module), attribute)
    except Exception as error:
        if debug:
            raise
        missing = error.name or "" if isinstance(error, ModuleNotFoundError) else ""
        raise ComponentError(
            f"{kind} {claim.name!r} of {claim.plugin} could not be imported from {claim.item.target!r}: "
            f"{describe(error)}.{_how_to_install(missing, claim.plugin.distribution)}"
        ) from error


def _how_to_install(module: str, distribution: str) -> str:
    """The command that installs a missing module, if it is a requirement of the distribution.

    Other modules could belong to any package.
    """
    matches = [re.match(r"([\w.-]+)(?:.*extra == ['\"]([\w.-]+))?", text) for text in requirements(distribution)]
    pairs = [match.groups() for match in matches if match]
    extras = [extra for _, extra in pairs]
    candidates = [(name, extra) for name, extra in pairs if normalized(name) == normalized(module)]
    if not candidates:
        return ""
    # No extra if possible, else the one with the fewest packages.
    name, extra = min(candidates, key=lambda pair: (pair[1] is not None, extras.count(pair[1])))
    return f" Install it: pip install {name if extra is None else repr(f'{distribution}[{extra}]')}"


@functools.cache
def registry() -> Registry:
    """The registry of this process."""
    return Registry(plugins())


def list_components(kind: str, pattern: str = "*") -> list[str]:
    """List the components of one kind whose names contain a text or match a shell pattern.

    >>> list_components("likelihood", "*bernoulli")
    ['bernoulli', 'continuous-bernoulli']

    Raises:
        UnknownName: there is no such kind.
    """
    return registry().names(kind).matching(pattern)


def get(kind: str, name: str) -> Any:
    """Import the class of a component, or the function of a data set.

    >>> get("encoder", "mlp").__name__
    'MLPEncoder'

    Raises:
        UnknownName, NameConflict: no distribution claims the name, or several do.
        ComponentError: the component cannot be imported.
    """
    return registry().get(kind, name)


@contextlib.contextmanager
def fresh_registry() -> Iterator[None]:
    """Reload the installed plugins inside and after the block, for tests."""
    plugins.cache_clear()
    registry.cache_clear()
    try:
        yield
    finally:
        plugins.cache_clear()
        registry.cache_clear()
