"""Checks of how a component is declared: what recipes, editors and the command line rely on."""

from __future__ import annotations

import copy
import functools
import inspect
import os
import subprocess
import sys
from typing import Any

from zoo import INJECTED, KINDS, ComponentFactory, ComponentSpec, parse_yaml, write_yaml
from zoo_conformance.candidate import Candidate
from zoo_conformance.check import check, require


@check("plugin", *KINDS)
def light_import(candidate: Candidate) -> None:
    """The plugin loads, and its module does not import torch: it is imported at every start of ``zoo``."""
    require(not candidate.plugin.errors, "; ".join(candidate.plugin.errors))
    imported = _imported_with(candidate.plugin.module)
    require("torch" not in imported, f"importing {candidate.plugin.module} imports torch: do it where it is used")


@functools.cache
def _imported_with(module: str) -> frozenset[str]:
    """What a process of its own has imported once it has imported a module."""
    program = f"import importlib, sys; importlib.import_module({module!r}); print(*sys.modules)"
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path}, capture_output=True, encoding="utf-8"
    )
    require(done.returncode == 0, f"{module} cannot be imported: {done.stderr.strip().splitlines()[-1:]}")
    return frozenset(done.stdout.split())


@check(*KINDS)
def annotated(candidate: Candidate) -> None:
    """Every parameter that a recipe may set is annotated: by these annotations recipes are checked."""
    for name, parameter in _parameters(candidate).items():
        require(parameter.annotation is not parameter.empty, f"the parameter {name!r} has no annotation")
        require(parameter.annotation not in (Any, "Any", "typing.Any"), f"the parameter {name!r} may be anything")


@check(*KINDS)
def yaml(candidate: Candidate) -> None:
    """With its defaults written out it survives a round trip through YAML: run folders keep it that way."""
    written = candidate.factory().with_defaults().spec
    text = write_yaml({candidate.kind: written.model_dump()})
    spec = ComponentSpec.model_validate(parse_yaml(text)[candidate.kind])
    read = ComponentFactory(candidate.kind, spec.use, **spec.parameters)
    problems = read.problems()
    require(not problems, f"its own defaults are refused: {'; '.join(map(str, problems))}")
    again = read.with_defaults().spec
    require(again == written, f"{written.model_dump()} comes back as {again.model_dump()}")


@check(*KINDS)
def unknown_parameters(candidate: Candidate) -> None:
    """A parameter that it does not have is refused, in a recipe and in a call: a misspelt one would go unnoticed."""
    target = candidate.target
    problems = ComponentFactory(candidate.kind, candidate.name, no_such_parameter=1).problems()
    named = any(problem.place.endswith("no_such_parameter") for problem in problems)
    require(named, "a recipe may give it a parameter that it does not have")
    arguments = _arguments(candidate)
    try:
        target(**candidate.given(), **arguments, no_such_parameter=1)
    except TypeError:
        return
    require(False, "its constructor takes a parameter that it does not have: is there a **kwargs?")


@check(*(kind for kind in KINDS if kind not in ("dataset", "metric")))
def arguments_untouched(candidate: Candidate) -> None:
    """It alters neither the lists that it is constructed with nor its own defaults (``hidden.reverse()``)."""
    given, arguments = candidate.given(), _arguments(candidate)
    defaults = {name: p.default for name, p in _signature(candidate).items() if isinstance(p.default, list | dict)}
    passed = {name: value for name, value in arguments.items() if isinstance(value, list | dict)}
    without = {name: value for name, value in arguments.items() if name not in defaults}
    for now, call in ((passed, arguments), (defaults, without)):
        before = copy.deepcopy(now)
        candidate.target(**given, **call)
        for name, value in before.items():
            require(now[name] == value, f"the parameter {name!r} was {value} and is {now[name]} afterwards")


def _arguments(candidate: Candidate) -> dict[str, Any]:
    """All of its own parameters, with lists where a caller might have passed lists."""
    arguments = candidate.factory().with_defaults().arguments()
    return {name: list(value) if isinstance(value, tuple) else value for name, value in arguments.items()}


def _signature(candidate: Candidate) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(candidate.target).parameters)


def _parameters(candidate: Candidate) -> dict[str, inspect.Parameter]:
    """Those that a recipe may set."""
    return {
        name: parameter
        for name, parameter in _signature(candidate).items()
        if name not in INJECTED[candidate.kind]
        and not name.startswith("_")
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
