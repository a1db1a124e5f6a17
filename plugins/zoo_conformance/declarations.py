"""Checks of declarations, which recipes, editors and the command line rely on."""

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
    """The plugin loads without importing torch, as it is imported at every start of ``zoo``."""
    require(not candidate.plugin.errors, "; ".join(candidate.plugin.errors))
    imported = _imported_with(candidate.plugin.module)
    require(
        "torch" not in imported, f"importing {candidate.plugin.module} imports torch: import torch where it is used"
    )


@functools.cache
def _imported_with(module: str) -> frozenset[str]:
    """The modules that a new process imports together with a module."""
    program = f"import importlib, sys; importlib.import_module({module!r}); print(*sys.modules)"
    path = os.pathsep.join(entry for entry in sys.path if entry)
    process = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path}, capture_output=True, encoding="utf-8"
    )
    require(process.returncode == 0, f"{module} cannot be imported: {process.stderr.strip().splitlines()[-1:]}")
    return frozenset(process.stdout.split())


@check(*KINDS)
def annotated(candidate: Candidate) -> None:
    """Every parameter that a recipe can set has an annotation, against which recipes are checked."""
    for name, parameter in _parameters(candidate).items():
        require(parameter.annotation is not parameter.empty, f"the parameter {name!r} has no annotation")
        require(
            parameter.annotation not in (Any, "Any", "typing.Any"), f"the annotation of the parameter {name!r} is Any"
        )


@check(*KINDS)
def yaml(candidate: Candidate) -> None:
    """With its defaults, it survives a round trip through YAML, the format of run folders."""
    original = candidate.factory().with_defaults().spec
    text = write_yaml({candidate.kind: original.model_dump()})
    spec = ComponentSpec.model_validate(parse_yaml(text)[candidate.kind])
    parsed = ComponentFactory(candidate.kind, spec.use, **spec.parameters)
    problems = parsed.problems()
    require(not problems, f"its own defaults are refused: {'; '.join(map(str, problems))}")
    again = parsed.with_defaults().spec
    require(again == original, f"{original.model_dump()} becomes {again.model_dump()}")


@check(*KINDS)
def unknown_parameters(candidate: Candidate) -> None:
    """An unknown parameter, such as a misspelt one, is refused in recipes and in calls."""
    target = candidate.target
    problems = ComponentFactory(candidate.kind, candidate.name, no_such_parameter=1).problems()
    named = any(problem.place.endswith("no_such_parameter") for problem in problems)
    require(named, "a recipe can set an unknown parameter")
    arguments = _arguments(candidate)
    try:
        target(**candidate.injected(), **arguments, no_such_parameter=1)
    except TypeError:
        return
    require(False, "its constructor accepts an unknown parameter: does it have **kwargs?")


@check(*(kind for kind in KINDS if kind not in ("dataset", "metric")))
def arguments_untouched(candidate: Candidate) -> None:
    """It modifies neither the lists passed to it nor its defaults, as ``hidden.reverse()`` would."""
    injected, arguments = candidate.injected(), _arguments(candidate)
    defaults = {name: p.default for name, p in _signature(candidate).items() if isinstance(p.default, list | dict)}
    list_arguments = {name: value for name, value in arguments.items() if isinstance(value, list | dict)}
    without = {name: value for name, value in arguments.items() if name not in defaults}
    for values, call in ((list_arguments, arguments), (defaults, without)):
        before = copy.deepcopy(values)
        candidate.target(**injected, **call)
        for name, value in before.items():
            require(values[name] == value, f"the parameter {name!r} changed from {value} to {values[name]}")


def _arguments(candidate: Candidate) -> dict[str, Any]:
    """The arguments of a constructor, with tuples as lists."""
    arguments = candidate.factory().with_defaults().arguments()
    return {name: list(value) if isinstance(value, tuple) else value for name, value in arguments.items()}


def _signature(candidate: Candidate) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(candidate.target).parameters)


def _parameters(candidate: Candidate) -> dict[str, inspect.Parameter]:
    """The parameters that a recipe can set."""
    return {
        name: parameter
        for name, parameter in _signature(candidate).items()
        if name not in INJECTED[candidate.kind]
        and not name.startswith("_")
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
