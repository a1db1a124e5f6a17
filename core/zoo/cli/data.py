"""``zoo data``: what there is to train on, and what is in it."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click

from zoo.cli.completion import complete_datasets
from zoo.cli.options import data_dir_option, json_option
from zoo.cli.output import log_to_stderr, print_json, print_table

SHOWN, SHOWN_TOKENS, MOST_CHANNELS = 10, 80, 4


@click.command(short_help="Show what is in a data set, or which ones are here.")
@click.argument("data", required=False, metavar="[NAME|PATH]", shell_complete=complete_datasets)
@click.argument("parameters", nargs=-1, metavar="[KEY=VALUE]...")
@data_dir_option
@json_option
def data(
    data: str | None,
    parameters: tuple[str, ...],
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Show what is in a data set, or which ones are here.

    \b
    zoo data                                  which data sets are here
    zoo data mnist                            what is in one; `zoo preview mnist` draws it
    zoo data photos size=[32,32] mode=grey    the same of a folder of yours, or a .npy, .npz or .pt file
    zoo data people.csv data.columns.age=count  the columns of a .csv, .tsv or .parquet file, with another kind
    """
    log_to_stderr(logging.INFO)
    if data is not None:
        _show(data, parameters, data_dir, as_json)
    else:
        _list(data_dir, as_json)


def _list(data_dir: Path | None, as_json: bool) -> None:
    import zoo

    statuses = zoo.survey_data(data_dir)
    if as_json:
        print_json([status.to_dict() for status in statuses])
    else:
        # The first sentence has the reason, the rest is advice.
        rows = [(each.name, each.status, each.detail.partition(". ")[0].removesuffix(".")) for each in statuses]
        print_table(("DATA SET", "STATUS", "WHAT"), rows)


def _show(data: str, parameters: tuple[str, ...], data_dir: Path | None, as_json: bool) -> None:
    import zoo
    from zoo.recipes.merge import parse_overrides

    dataset = zoo.load_dataset(
        data, data_dir=data_dir, **parse_overrides([one.removeprefix("data.") for one in parameters])
    )
    summary = {"name": data, **dataset.summary()}
    if as_json:
        print_json(summary)
        return
    for what, text in _lines(summary):
        click.echo(f"{what:<9}{text}")
    for reason in summary["left_out"]:
        click.echo(f"  {reason}")


def _lines(summary: dict[str, Any]) -> list[tuple[str, str]]:
    shape = " x ".join(map(str, summary["shape"]))
    if summary["modality"] == "image":
        channels, height, width = summary["shape"]
        shape = f"{height} x {width} pixels, " + {1: "grey", 3: "colour"}.get(channels, f"{channels} channels")
    what, values = ("images", "pixels") if summary["modality"] == "image" else ("examples", "values")
    if summary["modality"] == "table":
        return [*_table_lines(summary), ("sha256", summary["sha256"])]
    validation = f", {summary['validation']} to validate on" if "validation" in summary else ""
    return [
        (what, f"{summary['train']} to train on, {summary['test']} to test on{validation}"),
        ("shape", shape),
        (values, _values(summary, what)),
        ("labels", _labels(summary["labels"])),
        ("left out", f"{len(summary['left_out'])} files" if summary["left_out"] else "nothing"),
        ("cache", ", ".join(summary["cache"]) or "not needed"),
        ("sha256", summary["sha256"]),
    ]  # fmt: skip


def _values(summary: dict[str, Any], what: str) -> str:
    """The range; the alphabet of text; or the moments of numbers, by channel if there are few."""
    span = f"{summary['range'][0]:.3g} to {summary['range'][1]:.3g}"
    if columns := summary.get("columns"):
        tokens = [str(token) for token in columns[0]["categories"]]
        return f"codes from {span}; {len(tokens)} tokens: {' '.join(filter(str.strip, tokens))[:SHOWN_TOKENS]}"
    if len(summary["mean"]) > MOST_CHANNELS:
        means = f"{min(summary['mean']):.3f} to {max(summary['mean']):.3f}"
        deviations = f"{min(summary['std']):.3f} to {max(summary['std']):.3f}"
        return f"{span}; of the training {what}, by channel: means from {means}, standard deviations from {deviations}"
    moments = f"mean {_numbers(summary['mean'])}, standard deviation {_numbers(summary['std'])}"
    return f"{span}; of the training {what} by channel: {moments}"


def _table_lines(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """The rows and the columns of a table."""
    validation = f", {summary['validation']} to validate on" if "validation" in summary else ""
    width = max(len(column["name"]) for column in summary["columns"])
    lines = [
        ("rows", f"{summary['train']} to train on, {summary['test']} to test on{validation}"),
        ("observed", f"{summary.get('observed', 1.0):.1%} of the training entries"),
        ("labels", _labels(summary["labels"])),
        ("left out", f"{len(summary['left_out'])} of the columns" if summary["left_out"] else "nothing"),
        ("columns", f"{len(summary['columns'])}; change a kind with data.columns.NAME=KIND"),
    ]
    return [*lines, *(("", f"{column['name']:<{width}}  {_column(column)}") for column in summary["columns"])]


def _column(column: dict[str, Any]) -> str:
    """The kind of a column, and its categories or its scale."""
    categories = column["categories"]
    if categories:
        shown = ", ".join(map(_quoted, categories[:5])) + (", ..." if len(categories) > 5 else "")
        return f"{column['kind']:<12} {len(categories)} {'category' if len(categories) == 1 else 'categories'}: {shown}"
    written = "" if column["format"] == "float" else f"{column['format']}  "
    if column["format"] in ("date", "datetime"):
        mean = datetime(1970, 1, 1) + timedelta(days=column["location"])
        return f"{column['kind']:<12} {written}location {mean:%Y-%m-%d}, scale {column['scale']:.4g} days"
    if column["kind"] == "count":
        return f"{column['kind']:<12} {written}".rstrip()
    location = "" if column["kind"] == "positive" else f"location {column['location']:.4g}, "
    return f"{column['kind']:<12} {written}{location}scale {column['scale']:.4g}"


def _quoted(category: object) -> str:
    """A category, in quotes if it would be ambiguous in a list."""
    text = str(category)
    return repr(text) if "," in text or text != text.strip() or not text.isprintable() else text


def _numbers(values: list[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def _labels(labels: list[dict[str, Any]]) -> str:
    """How many, and the first of them with their counts."""
    if not labels:
        return "none"
    shown = ", ".join(f"{one['label']}: {one['train']} + {one['test']}" for one in labels[:SHOWN])
    more = f", and {len(labels) - SHOWN} more" if len(labels) > SHOWN else ""
    return f"{len(labels)}, to train + to test on: {shown}{more}"
