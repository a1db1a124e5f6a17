"""A comparison of runs: their outcomes, the differences between their recipes, and warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import Recipe, Run, UsageError, components_of
from zoo_sweep import figures
from zoo_sweep.axes import describe
from zoo_sweep.folder import is_sweep
from zoo_sweep.results import Outcome
from zoo_sweep.sweep import Sweep

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ABSENT = None
"""The value of a key that a recipe does not have."""

LABELLED = 2
"""The largest number of differing keys that name the runs."""


@dataclass(frozen=True)
class Comparison:
    """A comparison of runs.

    Attributes:
        runs: the runs.
        outcomes: the outcome of each, in its best epoch.
        differences: every key whose value differs between the recipes, with its value in each; None if a recipe does
            not have the key.
        warnings: reasons why the numbers are not comparable.
    """

    runs: Sequence[Run]
    outcomes: Sequence[Outcome]
    differences: Mapping[str, Sequence[Any]]
    warnings: Sequence[str]

    @property
    def names(self) -> list[str]:
        """A short name for each run: its differing values if they are few, else the model. Equal names are numbered."""
        names = [run.recipe.name for run in self.runs]
        if 0 < len(self.differences) <= LABELLED:
            names = [
                describe(
                    {key: values[number] for key, values in self.differences.items() if values[number] is not None}
                )
                or name
                for number, name in enumerate(names)
            ]
        if len(set(names)) < len(names):
            names = [f"{number}: {name}" for number, name in enumerate(names, start=1)]
        return names

    def figure(self) -> Figure:
        """Draw the test losses against the epochs, and the terms of the best epochs."""
        return figures.comparison(self.names, self.outcomes, f"{len(self.runs)} runs compared")

    def to_json(self) -> dict[str, Any]:
        """The output of ``zoo compare --json``."""
        return {
            "runs": [
                {
                    "name": name,
                    "model": run.recipe.name,
                    "data": run.data_name,
                    **asdict(outcome),
                }
                for name, run, outcome in zip(self.names, self.runs, self.outcomes, strict=True)
            ],
            "differences": {key: list(values) for key, values in self.differences.items()},
            "warnings": list(self.warnings),
        }


def compare(*runs: str | Path | Run | Sweep) -> Comparison:
    """Compare several runs.

    Args:
        runs: run folders; folders of a model, for its newest run; and sweeps, for all of their finished runs.

    Raises:
        RunError: a run does not exist, is damaged or has no finished epoch.
        UsageError: there are fewer than two runs.
    """
    all_runs = [run for source in runs for run in _open(source)]
    for run in all_runs:
        run.verify()
    if len(all_runs) < 2:
        raise UsageError(f"A comparison needs at least two finished runs, and there are {len(all_runs)}.")
    flat = [flatten(run.recipe) for run in all_runs]
    keys = dict.fromkeys(key for recipe in flat for key in recipe)
    values = {key: [recipe.get(key, ABSENT) for recipe in flat] for key in keys}
    return Comparison(
        all_runs,
        [Outcome.of(run) for run in all_runs],
        {key: column for key, column in values.items() if any(value != column[0] for value in column)},
        _warnings(all_runs, flat),
    )


def _open(source: str | Path | Run | Sweep) -> list[Run]:
    if isinstance(source, Run):
        return [source]
    if isinstance(source, Sweep):
        return [trial.run for trial in source.trials if trial.state == "finished"]
    return _open(Sweep.open(source) if is_sweep(source) else Run.open(source))


def flatten(recipe: Recipe) -> dict[str, Any]:
    """Flatten a recipe to dotted keys, as on the command line. The value of a component's key is its name.

    >>> import zoo
    >>> flat = flatten(zoo.recipe("mlp-vae"))
    >>> flat["encoder"], flat["encoder.hidden"], flat["prior"], flat["train.optimizer.lr"]
    ('mlp', [400], 'standard-normal', 0.001)
    """
    raw = {key: value for key, value in recipe.to_raw().items() if key != "summary"}
    flat: dict[str, Any] = {}
    _flatten(raw, "", flat)
    return flat


def _flatten(value: Any, place: str, flat: dict[str, Any]) -> None:
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for number, item in enumerate(value):
            _flatten(item, place if len(value) == 1 else f"{place}.{number}", flat)
    elif isinstance(value, dict):
        for key, inner in value.items():
            _flatten(inner, place if key == "use" else f"{place}.{key}".lstrip("."), flat)
    elif isinstance(value, list) and len(value) == 1 and place == "data":
        flat[place] = value[0]
    else:
        flat[place] = value


def _warnings(runs: Sequence[Run], flat: Sequence[Mapping[str, Any]]) -> list[str]:
    """The reasons why the numbers of runs are not comparable."""
    warnings = []
    if len({run.environment["data"]["sha256"] for run in runs}) > 1:
        names = sorted({run.data_name for run in runs})
        warnings.append(
            f"The runs were trained on different data ({', '.join(names)}): their numbers are not comparable."
        )
    for what, values in (
        ("The pixels were binarised differently", [recipe["binarize"] for recipe in flat]),
        ("The losses are of different kinds", [recipe["loss"] for recipe in flat]),
        ("The likelihoods differ", [_likelihood(run.recipe) for run in runs]),
    ):
        kinds = list(dict.fromkeys(map(str, values)))
        if len(kinds) > 1:
            warnings.append(f"{what} ({', '.join(kinds)}): the numbers are not comparable.")
    return warnings


def _likelihood(recipe: Recipe) -> str:
    """The likelihood of a recipe, at any depth of its decoder, or the name of a decoder without one to choose."""
    inside = [spec.use for key, kind, spec in components_of(recipe) if kind == "likelihood" and "decoder." in key]
    return " and ".join(inside) or f"the likelihood of {recipe.decoder.use}"
