"""What the pages of runs and of sweeps have in common."""

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
    """What is left out since it could not be made, and why."""

    left_out: dict[str, str] = field(default_factory=dict)

    def __call__(self, what: str, make: Callable[[], T]) -> T | None:
        """Make something, or note why not."""
        try:
            return make()
        except Exception as error:
            self.left_out[what] = error_summary(error)
            return None

    def all(self, makers: Mapping[str, Callable[[], T]]) -> list[T]:
        """Those that could be made."""
        made = [self(what, make) for what, make in makers.items()]
        return [one for one in made if one is not None]

    def section(self) -> Section:
        """What is left out, as a section."""
        facts = [(what, why) for what, why in self.left_out.items()]
        return Section("Left out", [Facts(facts)] if facts else [])


def recipe_parts(recipe: Recipe, text: str) -> list[Part]:
    """What was changed of the recipe in the registry, and the whole of it."""
    changed = changes(recipe)
    about: Part
    if changed is None:
        about = Text(f"There is no {recipe.name} in the registry here that it could be compared with.")
    elif not changed:
        about = Text(f"It is {recipe.name} as it is in the registry.")
    else:
        rows = [[key, *("-" if value is None else show(value) for value in values)] for key, values in changed.items()]
        about = Table(f"Changed from {recipe.name} in the registry", ["key", "here", "in the registry"], rows)
    return [about, Code("All of it, as zoo train takes it in a file", text)]


def changes(recipe: Recipe) -> dict[str, tuple[Any, Any]] | None:
    """What differs from the recipe of that name in the registry: each key's value here and there.

    A key that one of the two does not have is None in it. Of its choices of data, the one that was used is compared.

    Returns:
        None where there is no such recipe.
    """
    try:
        registered = _registered(recipe.name)
        used = next((block for block in registered.data if block.use == recipe.data[0].use), registered.data[0])
        here, there = (flatten(with_defaults(one)) for one in (recipe, registered.model_copy(update={"data": [used]})))
    except ZooError:
        return None
    pairs = {key: (here.get(key), there.get(key)) for key in {**there, **here}}
    return {key: (own, theirs) for key, (own, theirs) in pairs.items() if own != theirs}


def _registered(name: str) -> Recipe:
    """The recipe in the registry. A run of ``acme:wide-vae`` is called ``acme.wide-vae``."""
    for position in (position for position, character in enumerate(name) if character == "."):
        with contextlib.suppress(UnknownName):
            return zoo.recipe(f"{name[:position]}:{name[position + 1 :]}")
    return zoo.recipe(name)


def environment_facts(run: Run) -> Facts:
    """What a run was trained with."""
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
        ("digest of the data", f"sha256 {data['sha256']}"),
        *(("passed over", why) for why in data["passed_over"]),
        ("versions", f"Python {environment['python']}, {versions}"),
        ("plugins", ", ".join(f"{name} of {source}" for name, source in environment["plugins"].items())),
        ("platform", environment["platform"]),
    ]
    return Facts([(name, value) for name, value in facts if value])


def _command(arguments: Sequence[str]) -> str:
    """What was typed: of the program, only its name.

    >>> _command(["/usr/bin/zoo", "train", "mlp-vae", "loss={use: elbo}"])
    "zoo train mlp-vae 'loss={use: elbo}'"
    """
    program = Path(arguments[0]) if arguments and arguments[0] else Path("python")
    name = ["python", "-m", program.parent.name] if program.name == "__main__.py" else [program.name]
    return shlex.join([*name, *arguments[1:]])


def duration(seconds: float) -> str:
    """A length of time for people.

    >>> duration(8.04), duration(725), duration(7322)
    ('8.0 s', '12 min 5 s', '2 h 2 min')
    """
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def day(moment: str) -> str:
    """The day of an ISO 8601 time."""
    return moment.partition("T")[0]


def footer() -> str:
    """By whom and when the page was written."""
    now = datetime.datetime.now().astimezone().isoformat(" ", "minutes")
    return f"Written by vae-zoo {version('vae-zoo')} on {now}. This page is one file, loads nothing and runs no script."
