"""The page of a sweep."""

from __future__ import annotations

from pathlib import Path

from zoo import RunError, with_defaults, write_yaml
from zoo_report.page import Gallery, Headline, Page, Part, Picture, Section, Table, Text
from zoo_report.sections import Attempts, day, duration, environment_facts, footer, recipe_parts
from zoo_sweep.axes import describe, show
from zoo_sweep.comparison import compare
from zoo_sweep.results import table
from zoo_sweep.sweep import Sweep


class SweepPage:
    """The page of a sweep.

    Args:
        sweep: the sweep.
        root: the folder of data files.
        attempts: records the parts that are left out.

    Raises:
        RunError: it has no finished training.
    """

    def __init__(self, sweep: Sweep, root: Path | None, attempts: Attempts) -> None:
        self.sweep = sweep
        self.root = root
        self.attempts = attempts
        self.results = sweep.results()
        self.keys = [axis.key for axis in sweep.plan.axes]
        self.runs = [trial.run for trial in sweep.trials if trial.state == "finished"]
        if not self.runs:
            raise RunError(f"{sweep.path} has no finished training to report.")

    def page(self) -> Page:
        """Build the page."""
        recipe, results = self.sweep.recipe, self.results
        swept = ", ".join(self.keys) or "the seed"
        badges = [
            *([] if results.data is None else [results.data]),
            f"{len(results.rows)} settings",
            *([f"{len(self.sweep.plan.seeds)} seeds"] if self.sweep.plan.seeds else []),
            day(self.runs[0].environment["started"]),
        ]
        recipe = with_defaults(recipe)
        raw = write_yaml({"models": {recipe.name: recipe.to_raw()}})
        sections = [
            Section("Results", [self._table(), *self._pictures()]),
            Section("Differences", self._differences()),
            Section("Recipe", [Text("The recipe that the settings change."), *recipe_parts(recipe, raw)]),
            Section("Environment", [Text("Of the first run."), environment_facts(self.runs[0])]),
            Section("Runs", [self._folders()]),
            self.attempts.section(),
        ]
        return Page(f"{recipe.name} by {swept}", recipe.summary, badges, self._headlines(), sections, footer())

    def _headlines(self) -> list[Headline]:
        results, best = self.results, self.results.best
        states = [outcome.state for row in results.rows for outcome in row.outcomes]
        others = [f"{states.count(state)} {state}" for state in ("failed", "unfinished") if state in states]
        seconds = sum(outcome.seconds or 0.0 for row in results.rows for outcome in row.outcomes)
        headlines = [
            Headline("trainings", str(states.count("finished")), "finished", ", ".join(others)),
            Headline("training time", duration(seconds), "", "of all trainings"),
        ]
        if best is None:
            return headlines
        settings = describe(best.settings) or "all seeds"
        first = [
            Headline(
                f"validation {results.monitor}", f"{results.score(best):.2f}", "nats", f"lowest: trial {best.number}"
            ),
            Headline("settings", settings),
        ]
        return [*first, *headlines]

    def _table(self) -> Table:
        header, rows = table(self.results, self.keys)
        best = self.results.best
        seeds = self.sweep.plan.seeds
        spread = f"mean ± standard deviation over {len(seeds)} seeds, " if seeds else ""
        return Table(
            f"Nats per example, {spread}in each run's best epoch"
            + ("" if best is None else f"; lowest validation {self.results.monitor} highlighted"),
            header,
            rows,
            range(1 + len(self.keys), len(header) - ("note" in header)),
            None if best is None else list(self.results.rows).index(best),
        )

    def _pictures(self) -> list[Part]:
        swept = ", ".join(self.keys) or "the seed"
        texts = {
            "losses": (
                "Loss against the epochs",
                f"Training and held-out loss against the epochs, one line per {swept}.",
            ),
            "reconstructions": (
                "Reconstructions",
                f"Test images and their reconstructions, one row per {swept}.",
            ),
            "history": ("The search", "The validation loss of each trial, and the best so far."),
        }
        makers = {
            name: lambda draw=draw, name=name: Picture.of(draw(), *texts[name], chart=name != "reconstructions")
            for name, draw in self.sweep.drawings(self.root).items()
        }
        pictures = self.attempts.all(makers)
        return [Gallery(pictures)] if pictures else []

    def _differences(self) -> list[Part]:
        if len(self.runs) < 2:
            return []
        comparison = compare(*self.runs)
        rows = [
            [key, ", ".join(dict.fromkeys("-" if value is None else show(value) for value in values))]
            for key, values in comparison.differences.items()
        ]
        return [
            Table(f"Keys that differ between the recipes of the {len(self.runs)} runs", ["key", "values"], rows),
            *(Text(warning) for warning in comparison.warnings),
        ]

    def _folders(self) -> Table:
        rows = [
            [str(row.number), describe(row.settings), outcome.state, row.machine or "", outcome.run]
            for row in self.results.rows
            for outcome in row.outcomes
        ]
        header = ["trial", "settings", "state", "machine", "folder"]
        if not any(row[3] for row in rows):
            header, rows = [*header[:3], header[4]], [[*row[:3], row[4]] for row in rows]
        return Table("The folder of each run", header, rows, folded=True)
