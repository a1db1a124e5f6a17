"""Rows: published results with their protocols, as YAML files describe them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

import zoo
from zoo import Problem, Recipe, RecipeError, ResolvedRecipe, UnknownName, did_you_mean, parse_yaml

Text = Annotated[str, Field(min_length=1)]
Raw = dict[str, Any]


class _Section(BaseModel):
    """Unknown keys are errors; numbers are finite and never converted from strings."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Paper(_Section):
    """Where a result was published.

    Attributes:
        arxiv: the identifier, such as ``1804.00891``.
        title: the title.
    """

    arxiv: Annotated[str, Field(pattern=r"^\d{4}\.\d{4,5}$")]
    title: Text


class Published(_Section):
    """A published number.

    Attributes:
        value: the number, in the unit of the quantity.
        error: its published error, if there is one.
        source: the table or the file with the number.
        verified: whether the number was compared with the source, and not only with citations of it.
    """

    value: float
    error: NonNegativeFloat | None = None
    source: Text
    verified: bool = True


class Exact(_Section):
    """A number that is computed from the data instead of read in a paper.

    Attributes:
        exact: a function of `zoo_reproduce.exact`.
        source: the theory that it follows from.
    """

    exact: Literal["pca-score", "fixed-scale-pca-score", "fixed-scale-active-units"]
    source: Text


class Quantity(_Section):
    """What is measured and compared.

    Attributes:
        name: of the measurement, such as ``log-likelihood-bits``.
        metric: the metric that measures it.
        settings: of the metric, such as ``{samples: 5000}``.
        unit: of the number.
        split, limit: what it is measured on, and how many of its examples; all by default.
        published: the number to compare with.
        tolerance: the largest difference from it, in either direction, that counts as reproduced.
    """

    name: Text
    metric: Text
    settings: dict[str, Any] = {}
    unit: str
    split: Literal["test", "validation", "train"] = "test"
    limit: PositiveInt | None = None
    published: Published | Exact
    tolerance: NonNegativeFloat


class Row(_Section):
    """A published result and its protocol.

    Attributes:
        name: of the row.
        summary: one line for ``zoo reproduce --list``.
        paper: where it was published.
        protocol: data, network, training, stopping rule and evaluation, in words.
        recipe: the training, in the format of recipes.
        quantities: what is measured.
        deviations: how the recipe differs from the protocol of the paper.
        analysis: the explanation of a number outside the tolerance.
        seeds: a run is trained with each of them, and the mean is compared.
        minutes: of training and evaluation, on two cores.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    summary: Text
    paper: Paper
    protocol: Text
    recipe: Raw
    quantities: list[Quantity] = Field(min_length=1)
    deviations: list[Text] = []
    analysis: Text | None = None
    seeds: list[NonNegativeInt] = Field(min_length=1)
    minutes: PositiveFloat

    def checked_recipe(self, seed: int | None = None) -> Recipe:
        """The recipe with one of the seeds, checked.

        Raises:
            RecipeError: with every problem, each at its place in the row.
        """
        seed = self.seeds[0] if seed is None else seed
        raw = zoo.merge({"summary": self.summary, **self.recipe}, {"train": {"seed": seed}})
        try:
            return zoo.recipe(ResolvedRecipe(self.name, raw))
        except RecipeError as error:
            problems = [Problem(f"rows.{self.name}.recipe.{p.place}".rstrip("."), p.message) for p in error.problems]
            raise RecipeError(f"The row {self.name!r} is not valid:", problems) from error


@dataclass
class Rows:
    """Rows by name.

    Attributes:
        rows: by name, those that several distributions have by ``distribution:name``.
        broken: files that could not be read, with the reason.
    """

    rows: dict[str, Row] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> Row:
        """The row called `name`.

        Raises:
            UnknownName: there is none.
        """
        if name in self.rows:
            return self.rows[name]
        qualified = [key for key in self.rows if key.endswith(f":{name}")]
        hint = f" Several distributions have one: write {' or '.join(qualified)}." if qualified else ""
        hint = hint or did_you_mean(name, self.rows)
        broken = f" It may be in a file that cannot be read: {' '.join(self.broken)}" if self.broken else ""
        raise UnknownName(f"There is no row named {name!r}.{hint} `zoo reproduce --list` shows them all.{broken}")


def installed(files: Iterable[Path] = ()) -> Rows:
    """The rows of all plugins, and of the user's files, which take precedence.

    Raises:
        RecipeError: one of the user's files is not valid. (That of a plugin is recorded as an error of the plugin.)
    """
    plugins = zoo.registry().plugins
    claims: dict[str, list[tuple[str, Row]]] = {}
    broken = []
    for plugin, file in plugins.collect("zoo_reproductions"):
        before = len(plugin.errors)
        with plugins.isolate(plugin):
            if not isinstance(file, Traversable):
                raise TypeError(f"zoo_reproductions returned {file!r}, which is not a file")
            for row in read_rows(file):
                claims.setdefault(row.name, []).append((plugin.distribution, row))
        broken += plugin.errors[before:]
    rows = {}
    for name, owners in claims.items():
        single = len(owners) == 1
        rows.update({name if single else f"{distribution}:{name}": row for distribution, row in owners})
    for path in files:
        rows.update({row.name: row for row in read_rows(path)})
    return Rows(rows, broken)


def read_rows(file: Traversable) -> list[Row]:
    """The rows of a file, all but their recipes checked; see `Row.checked_recipe`.

    A row may have a key ``extends`` with the name of another row of the file, from which it takes all keys that it does
    not have. Recipes are merged as recipes that extend each other are.

    Raises:
        RecipeError: the file is not valid; the message names it and every problem.
    """
    title = f"{file} is not a file of rows:"
    try:
        content = parse_yaml(file.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RecipeError(title, [Problem("", " ".join(str(error).split()))]) from error
    raws = content.get("rows") if isinstance(content, dict) else None
    if not isinstance(raws, dict) or list(content) != ["rows"]:
        raise RecipeError(title, [Problem("", "expected one key, `rows:`, with a mapping from names to rows")])
    rows, problems = [], []
    for name in raws:
        try:
            rows.append(Row.model_validate({**_resolved(name, raws), "name": name}))
        except pydantic.ValidationError as error:
            problems += [_problem(name, details) for details in error.errors()]
        except ValueError as error:
            problems.append(Problem(f"rows.{name}", str(error)))
    if problems:
        raise RecipeError(title, problems)
    return rows


def _resolved(name: str, raws: Mapping[str, Any], seen: tuple[str, ...] = ()) -> Raw:
    """A row with the keys of the rows that it extends.

    Raises:
        ValueError: it extends no row of the file, or rows extend each other in a circle.
    """
    raw = raws[name]
    if not isinstance(raw, dict):
        raise ValueError(f"expected a mapping, got {raw!r}")
    own = {key: value for key, value in raw.items() if key != "extends"}
    if "name" in own:
        raise ValueError("the key 'name' cannot be set: a row is named by its key")
    if "extends" not in raw:
        return own
    parent = raw["extends"]
    if parent not in raws or parent in (*seen, name):
        raise ValueError(f"extends: expected the name of another row of the file, got {parent!r}")
    base = _resolved(parent, raws, (*seen, name))
    recipes = [row["recipe"] for row in (base, own) if isinstance(row.get("recipe"), dict)]
    merged = {"recipe": zoo.merge(*recipes)} if len(recipes) == 2 else {}
    return {**base, **own, **merged}


def _problem(name: str, details: Any) -> Problem:
    path = [str(part) for part in details["loc"] if part not in ("Published", "Exact")]
    place = ".".join(["rows", name, *path])
    if details["type"] == "missing":
        return Problem(place, "is required")
    if details["type"] == "extra_forbidden":
        return Problem(place, "unknown key")
    return Problem(place, f"{details['msg'][:1].lower()}{details['msg'][1:]}, got {details['input']!r}"[:300])
