"""Names to components. Looking a name up imports nothing; getting the component imports its one module."""

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
from zoo.plugins.manager import DISTRIBUTION, Plugin, Plugins, describe, normalized, plugin_code, plugins, requirements
from zoo.storage.locate import natural

T = TypeVar("T")

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
NAME_RULE = "letters, digits, '.', '_' and '-', a letter or digit first"
TARGET = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*")


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
        """Note a claim. A second one by the same distribution, which nothing could tell apart, is an error of its."""
        claims = self._claims.setdefault(name, [])
        if any(claim.plugin.distribution == plugin.distribution for claim in claims):
            plugin.errors.append(f"{self.noun} {name!r}: {plugin} has another of that name already, which is kept")
        else:
            claims.append(Claim(name, plugin, item))

    def set(self, name: str, plugin: Plugin, item: T) -> None:
        """Note a claim in place of an earlier one of the same plugin."""
        claims = self._claims.setdefault(name, [])
        claims[:] = [*(claim for claim in claims if claim.plugin is not plugin), Claim(name, plugin, item)]

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
        """The names that `matches` a pattern. A name that several claim is given in its qualified forms."""
        return [
            self.shortest(claim)
            for claim in self
            if matches(claim.name, pattern) or fnmatch.fnmatchcase(claim.qualified, pattern)
        ]

    def shortest(self, claim: Claim[T]) -> str:
        """The name of a claim: in its qualified form if several claim it."""
        return claim.qualified if len(self._claims[claim.name]) > 1 else claim.name

    def at_home(self, name: str, distribution: str) -> str:
        """What `distribution` means by `name`: of a name that several claim, its own, if it is one of them."""
        own = [claim for claim in self._claims.get(name, []) if claim.plugin.distribution == distribution]
        return self.shortest(own[0]) if own else name

    def find(self, name: str) -> Claim[T]:
        """The one claim to `name`, which may be written ``distribution:name``.

        Raises:
            UnknownName: nobody claims it; the message suggests a near name and names the broken plugins.
            NameConflict: several do; the message names them with their versions.
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


def matches(name: str, pattern: str) -> bool:
    """Whether a name matches a shell pattern, or holds the pattern as it is.

    >>> matches("conv-vae", "conv*"), matches("conv-vae", "*mlp*"), matches("conv-vae", "vae")
    (True, False, True)
    """
    return pattern in name or fnmatch.fnmatchcase(name, pattern)


def checked(item: object) -> Component:
    """A component as a plugin returned it, in plain values.

    Raises:
        ComponentError: it is none, or fields of it are not what `zoo.Component` says; each is named.
    """
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
        raise ComponentError(f"zoo_components returned a component that is not valid: {'; '.join(problems)}")
    kind, name, target, summary = (str.__str__(value) for value in (kind, name, target, summary))
    return Component(kind, name, target, summary, tuple(reads), dict(expected))  # type: ignore[arg-type]


def _all_text(*values: object) -> bool:
    return all(isinstance(value, str) for value in values)


class Registry:
    """Every component that the plugins offer, by kind and name."""

    def __init__(self, source: Plugins) -> None:
        self.plugins = source
        self.components: dict[str, Names[Component]] = {kind: Names(kind, source) for kind in KINDS}
        self._own = Plugin("register", "this-process", "")
        self._registered: dict[tuple[str, str], Any] = {}
        for plugin, item in source.collect("zoo_components"):
            with source.isolate(plugin):
                component = checked(item)
                self.components[component.kind].add(component.name, plugin, component)

    def register(self, kind: str, name: str, target: Any) -> None:
        """Offer an object of this process under a name; see `zoo.register`.

        Raises:
            UsageError: the name is not valid, or a distribution has it already.
        """
        if not NAME.fullmatch(name):
            raise UsageError(f"{name!r} cannot be registered: {NAME_RULE}.")
        names = self.names(kind)
        others = [claim for claim in names if claim.name == name and claim.plugin is not self._own]
        if others:
            raise UsageError(f"The {kind} {name!r} is that of {others[0].plugin}. Choose another name.")
        summary = (inspect.getdoc(target) or "").partition("\n")[0]
        names.set(name, self._own, Component(kind, name, f"{target.__module__}:{target.__qualname__}", summary))  # type: ignore[arg-type]
        self._registered[kind, name] = target

    def conflicts(self) -> list[str]:
        """What to say of each name, of any kind, that several plugins claim."""
        return [conflict for names in self.components.values() for conflict in names.conflicts()]

    def same(self, name: str, other: str) -> bool:
        """Whether two names of components, of which either may be qualified, stand for the same one.

        A short name is that of the zoo's own component, or of the only distribution that has one of that name.
        """
        (owner, _, short), (other_owner, _, other_short) = name.rpartition(":"), other.rpartition(":")
        if short != other_short or (owner and other_owner):
            return name == other
        owners = {
            claim.plugin.distribution for names in self.components.values() for claim in names if claim.name == short
        }
        return name == other or (owner or other_owner) == DISTRIBUTION or owners <= {owner or other_owner}

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
        claim = self.names(kind).find(name)
        if claim.plugin is self._own:
            return self._registered[kind, claim.name]
        return import_target(claim, kind, debug=self.plugins.debug)


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
    """What to do about a missing module, if it is one that the distribution says it requires.

    Of any other nothing is said: a package of that name may be anybody's.
    """
    matched = [re.match(r"([\w.-]+)(?:.*extra == ['\"]([\w.-]+))?", text) for text in requirements(distribution)]
    pairs = [match.groups() for match in matched if match]
    extras = [extra for _, extra in pairs]
    named = [(name, extra) for name, extra in pairs if normalized(name) == normalized(module)]
    if not named:
        return ""
    name, extra = min(
        named, key=lambda pair: (pair[1] is not None, extras.count(pair[1]))
    )  # the extra that brings least
    return f" Install it: pip install {name if extra is None else repr(f'{distribution}[{extra}]')}"


@functools.cache
def registry() -> Registry:
    """The registry of this process."""
    return Registry(plugins())


def list_components(kind: str, pattern: str = "*") -> list[str]:
    """List the names of the components of one kind that contain a text or match a shell pattern.

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
        UnknownName, NameConflict: there is no such component, or two distributions claim the name.
        ComponentError: it cannot be imported.
    """
    return registry().get(kind, name)


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
