"""Sections shared by the pages of runs and sweeps."""

from __future__ import annotations

import contextlib
import datetime
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import zoo
from zoo import Recipe, Run, UnknownName, ZooError, error_summary, with_defaults
from zoo_report.page import Code, Facts, Part, Section, Table, Text
from zoo_sweep.axes import show
from zoo_sweep.comparison import flatten

T = TypeVar("T")


@dataclass
class Attempts:
    """Parts that are left out because they failed, with the reasons."""

    left_out: dict[str, str] = field(default_factory=dict)

    def __call__(self, name: str, make: Callable[[], T]) -> T | None:
        """Call `make`, or record why it failed and return None."""
        try:
            return make()
        except Exception as error:
            self.left_out[name] = error_summary(error)
            return None

    def all(self, makers: Mapping[str, Callable[[], T]]) -> list[T]:
        """Call each function, and return the results of those that succeed."""
        results = [self(name, make) for name, make in makers.items()]
        return [result for result in results if result is not None]

    def section(self) -> Section:
        """The section that lists the missing parts."""
        facts = list(self.left_out.items())
        return Section("Left out", [Facts(facts)] if facts else [])


def recipe_parts(recipe: Recipe, text: str) -> list[Part]:
    """The differences from the recipe in the registry, and the whole recipe."""
    differences = changes(recipe)
    about: Part
    if differences is None:
        about = Text(f"The registry has no recipe {recipe.name} to compare with.")
    elif not differences:
        about = Text(f"Identical to {recipe.name} in the registry.")
    else:
        rows = [
            [key, *("-" if value is None else show(value) for value in values)] for key, values in differences.items()
        ]
        about = Table(f"Differences from {recipe.name} in the registry", ["key", "this run", "registry"], rows)
    return [about, Code("Recipe file, as accepted by zoo train", text)]


def changes(recipe: Recipe) -> dict[str, tuple[Any, Any]] | None:
    """The keys whose values differ from the recipe of that name in the registry, with both values.

    The value of a missing key is None. If the registry has several choices of data, the one of the run is compared.

    Returns:
        The differences, or None if there is no such recipe.
    """
    try:
        base = _registry_recipe(recipe.name)
        data = next((block for block in base.data if block.use == recipe.data[0].use), base.data[0])
        own = flatten(with_defaults(recipe))
        registry = flatten(with_defaults(base.model_copy(update={"data": [data]})))
    except ZooError:
        return None
    pairs = {key: (own.get(key), registry.get(key)) for key in {**registry, **own}}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _registry_recipe(name: str) -> Recipe:
    """The recipe in the registry. The name of a run of ``acme:wide-vae`` is ``acme.wide-vae``."""
    for position in (position for position, character in enumerate(name) if character == "."):
        with contextlib.suppress(UnknownName):
            return zoo.recipe(f"{name[:position]}:{name[position + 1 :]}")
    return zoo.recipe(name)


def environment_facts(run: Run) -> Facts:
    """The environment of a training."""
    environment = run.environment
    data = environment["data"]
    images = f"{data['train']} training and {data['test']} test images of {'x'.join(map(str, data['shape']))}"
    threads = f"{environment['threads']} thread{'s' * (environment['threads'] != 1)}"
    processors = f" on {environment['processors']} processors" if environment["processors"] else ""
    versions = ", ".join(f"{name} {number}" for name, number in environment["versions"].items())
    facts = [
        ("folder" if run.weights is None else "weights", str(run)),
        ("started", environment["started"]),
        ("command", _command(environment["command"]) if environment["command"] else ""),
        ("seed", str(environment["seed"])),
        ("device", f"{environment['device']}, {threads}{processors}"),
        ("data", f"{run.data_name}: {images}, binarize {data['binarize']}"),
        ("data digest", f"sha256 {data['sha256']}"),
        *(("unavailable", reason) for reason in data["passed_over"]),
        ("versions", f"Python {environment['python']}, {versions}"),
        ("plugins", ", ".join(f"{name} of {source}" for name, source in environment["plugins"].items())),
        ("platform", environment["platform"]),
    ]
    return Facts([(name, value) for name, value in facts if value])


def _command(arguments: Sequence[str]) -> str:
    """Format a command line with only the name of the program.

    >>> _command(["/usr/bin/zoo", "train", "mlp-vae", "loss={use: elbo}"])
    "zoo train mlp-vae 'loss={use: elbo}'"
    """
    program = Path(arguments[0]) if arguments and arguments[0] else Path("python")
    name = ["python", "-m", program.parent.name] if program.name == "__main__.py" else [program.name]
    return shlex.join([*name, *arguments[1:]])


def duration(seconds: float) -> str:
    """Format a duration.

    >>> duration(8.04), duration(725), duration(7322)
    ('8.0 s', '12 min 5 s', '2 h 2 min')
    """
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def day(moment: str) -> str:
    """The date of an ISO 8601 time."""
    return moment.partition("T")[0]


def footer() -> str:
    """The version that wrote the page, and the time."""
    now = datetime.datetime.now().astimezone().isoformat(" ", "minutes")
    return f"Written by vae-zoo {version('vae-zoo')} on {now}. This page loads no other file and has no script."
