"""Several runs side by side: what they gave, what differs between their recipes, and what forbids to compare them."""

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
"""What stands for a key that a recipe does not have."""

LABELLED = 2
"""Keys that may differ for their values to name the runs."""


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Attributes:
        runs: the runs.
        outcomes: what each gave, in its best epoch.
        differences: every key of the recipes that is not the same in all, with its value in each; None where a recipe
            has no such key.
        warnings: why their numbers cannot be compared.
    """

    runs: Sequence[Run]
    outcomes: Sequence[Outcome]
    differences: Mapping[str, Sequence[Any]]
    warnings: Sequence[str]

    @property
    def names(self) -> list[str]:
        """A short name for each: what differs where that is little, else the model; numbered where they are alike."""
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
        """The test losses against the epochs, and the terms of the best ones."""
        return figures.comparison(self.names, self.outcomes, f"{len(self.runs)} runs compared")

    def to_json(self) -> dict[str, Any]:
        """What ``zoo compare --json`` prints."""
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
    """Set several runs side by side.

    Args:
        runs: run folders, folders of a model's runs, whose newest is meant, and sweeps, all of whose finished runs are.

    Raises:
        RunError: one of them is none, is damaged, or did not come to the end of an epoch.
        UsageError: they are fewer than two.
    """
    opened = [run for given in runs for run in _open(given)]
    for run in opened:
        run.verify()
    if len(opened) < 2:
        raise UsageError(
            f"There are {len(opened)} runs to compare: give at least two, or a sweep with as many finished."
        )
    flat = [flatten(run.recipe) for run in opened]
    keys = dict.fromkeys(key for recipe in flat for key in recipe)
    values = {key: [recipe.get(key, ABSENT) for recipe in flat] for key in keys}
    return Comparison(
        opened,
        [Outcome.of(run) for run in opened],
        {key: column for key, column in values.items() if any(value != column[0] for value in column)},
        _warnings(opened, flat),
    )


def _open(given: str | Path | Run | Sweep) -> list[Run]:
    if isinstance(given, Run):
        return [given]
    if isinstance(given, Sweep):
        return [trial.run for trial in given.trials if trial.state == "finished"]
    return _open(Sweep.open(given) if is_sweep(given) else Run.open(given))


def flatten(recipe: Recipe) -> dict[str, Any]:
    """The recipe as dotted keys, as they stand on the command line; a component's name is the value of its own key.

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
    """What makes the numbers those of different questions."""
    warnings = []
    if len({run.environment["data"]["sha256"] for run in runs}) > 1:
        names = sorted({run.data_name for run in runs})
        warnings.append(f"They were trained on different data ({', '.join(names)}): their numbers cannot be compared.")
    for what, values in (
        ("The pixels were binarised differently", [recipe["binarize"] for recipe in flat]),
        ("The losses are of different kinds", [recipe["loss"] for recipe in flat]),
        ("The likelihoods differ", [_likelihood(run.recipe) for run in runs]),
    ):
        kinds = list(dict.fromkeys(map(str, values)))
        if len(kinds) > 1:
            warnings.append(f"{what} ({', '.join(kinds)}): their numbers cannot be compared.")
    return warnings


def _likelihood(recipe: Recipe) -> str:
    """The likelihood of a recipe, however deep inside its decoder; of a decoder that has none to choose, its own."""
    inside = [spec.use for key, kind, spec in components_of(recipe) if kind == "likelihood" and "decoder." in key]
    return " and ".join(inside) or f"that of {recipe.decoder.use}"
