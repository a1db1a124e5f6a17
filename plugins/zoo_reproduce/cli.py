"""``zoo reproduce``."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli import (
    data_dir_option,
    device_option,
    evaluation_progress,
    json_option,
    log_to_stderr,
    print_json,
    print_table,
)

if TYPE_CHECKING:
    from zoo_reproduce.rows import Row, Rows
    from zoo_reproduce.verdict import Verdict


@click.command(short_help="Reproduce a published result, with a verdict.")
@click.argument("row", required=False)
@click.option("--list", "list_rows", is_flag=True, help="List the rows, their published values and the last verdicts.")
@click.option(
    "--document",
    metavar="FOLDER",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    help="Write reproductions.md and reproductions.json in FOLDER from the verdicts in --out.",
)
@click.option(
    "--rows",
    "files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file of rows of your own; may be given several times.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("reproductions"),
    show_default=True,
    help="The folder of runs and verdicts.",
)
@data_dir_option
@device_option
@json_option
def reproduce(
    row: str | None,
    list_rows: bool,
    document: Path | None,
    files: tuple[Path, ...],
    out: Path,
    data_dir: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Train and evaluate a published result under its protocol, and compare the numbers.

    The verdict is "reproduced" if each number is within the tolerance of the published one, in either direction. It is
    written to OUT/ROW/verdict.json with recipe, environment, seeds, numbers and cost. An interrupted command is
    continued by the same command.

    \b
    zoo reproduce --list
    zoo reproduce linear-vae-digits
    zoo reproduce --document docs
    """
    from zoo_reproduce.rows import installed

    if (row is not None) + list_rows + (document is not None) != 1:
        raise click.UsageError("Give either a ROW, --list or --document FOLDER.")
    log_to_stderr(logging.INFO)
    rows = installed(files)
    if row is not None:
        _reproduce(row, rows[row], out, data_dir, device, as_json)
        return
    for problem in rows.broken:
        click.echo(f"Warning: a file of rows was skipped: {problem}", err=True)
    verdicts = _verdicts(rows, out)
    if document is not None:
        from zoo_reproduce.document import write

        page = write(document, rows.rows, verdicts)
        if as_json:
            print_json({"page": str(page), "verdicts": {name: str(verdict) for name, verdict in verdicts.items()}})
        else:
            click.echo(page)
    elif as_json:
        print_json([_listed(name, one, verdicts.get(name)) for name, one in rows.rows.items()])
    else:
        _print_rows(rows, verdicts)


def _reproduce(name: str, row: Row, out: Path, data_dir: Path | None, device: str, as_json: bool) -> None:
    import zoo
    from zoo_reproduce.reproduction import Reproduction

    zoo.resolve_device(device)
    path = folder(out, name)
    again = "Run the same command again to continue."
    reproduction = Reproduction(row, path, data_dir, device, progress=True)
    try:
        runs = reproduction.train()
        with evaluation_progress() as progress:
            verdict = reproduction.judge(runs, progress.begin, progress.update)
    except zoo.Interrupted as interrupted:
        click.echo(f"{interrupted} The state is saved. {again}", err=True)
        sys.exit(interrupted.exit_code)
    except KeyboardInterrupt:
        click.echo(f"Stopped at once. {again}", err=True)
        sys.exit(130)
    if as_json:
        print_json({**verdict.to_json(), "folder": str(path)})
        return
    for outcome in verdict.outcomes:
        click.echo(outcome)
    seconds = verdict.seconds
    click.echo(f"verdict  {verdict}")
    click.echo(f"cost     {seconds['training']:.0f} s of training, {seconds['evaluation']:.0f} s of evaluation")
    click.echo(f"folder   {path}")


def folder(out: Path, name: str) -> Path:
    """The folder of a row; that of ``acme:row`` is ``acme.row``."""
    return out / name.replace(":", ".")


def _verdicts(rows: Rows, out: Path) -> dict[str, Verdict]:
    """The last verdicts. One that cannot be read is reported and skipped."""
    import zoo
    from zoo_reproduce.verdict import Verdict

    verdicts = {}
    for name in rows.rows:
        try:
            verdict = Verdict.load(folder(out, name))
        except zoo.RunError as error:
            click.echo(f"Warning: {error}", err=True)
            continue
        if verdict is not None:
            verdicts[name] = verdict
    return verdicts


def _print_rows(rows: Rows, verdicts: dict[str, Verdict]) -> None:
    from zoo_reproduce.document import published

    lines = []
    for name, row in rows.rows.items():
        verdict = verdicts.get(name)
        for position, quantity in enumerate(row.quantities):
            first = position == 0
            lines.append(
                [
                    name if first else "",
                    f"{quantity.name} {published(quantity)} {quantity.unit}".rstrip(),
                    f"± {quantity.tolerance:g}",
                    f"{row.minutes:g}" if first else "",
                    ("-" if verdict is None else str(verdict)) if first else "",
                    row.summary if first else "",
                ]
            )
    print_table(("ROW", "PUBLISHED", "TOLERANCE", "MINUTES", "LAST VERDICT", "SUMMARY"), lines)


def _listed(name: str, row: Row, verdict: Verdict | None) -> dict[str, Any]:
    return {
        **row.model_dump(mode="json"),
        "name": name,
        "verdict": None if verdict is None else verdict.to_json(),
    }
