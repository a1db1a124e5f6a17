"""``zoo check``: check the contract of a component, a model or a plugin."""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from zoo.cli import json_option, print_json, print_table

if TYPE_CHECKING:
    from zoo_conformance.check import Result


def _list_checks(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        from zoo_conformance.kit import CHECKS

        print_table(("CHECK", "VERIFIES"), [(check.name, check.proves) for check in CHECKS.values()])
        ctx.exit()


@click.command(short_help="Check that NAME keeps its contract.")
@click.argument("name")
@click.option("--only", multiple=True, metavar="CHECK", help="Run only this check. Can be repeated.")
@click.option("--list", is_flag=True, is_eager=True, expose_value=False, callback=_list_checks, help="List the checks.")
@json_option
def check(name: str, only: tuple[str, ...], as_json: bool) -> None:
    """Check that NAME keeps its contract: a component, a model, or everything in a plugin.

    An "expected" failure is declared by the author of a component. The exit code is 1 if a check fails.

    \b
    zoo check encoder/mlp
    zoo check mlp-vae
    zoo check acme-vae --only kl --only batch-independence
    """
    from zoo_conformance.kit import cases

    results = []
    for candidate, group in itertools.groupby(cases(name, only=only), key=lambda case: str(case.candidate)):
        group_results = [case.run() for case in group]
        results += group_results
        if not as_json:
            click.secho(candidate, bold=True)
            print_table(("CHECK", "RESULT", "REASON"), list(_rows(group_results)))
            click.echo()
    counts = Counter(result.outcome for result in results)
    if as_json:
        print_json([_plain(asdict(result)) for result in results])
    else:
        click.echo(", ".join(f"{counts[o]} {o}" for o in ("passed", "failed", "expected", "skipped") if counts[o]))
    if counts["failed"]:
        sys.exit(1)


def _rows(results: Sequence[Result]) -> Iterator[tuple[str, str, str]]:
    """A row for each check. A reason shared by several checks is written once."""
    first: dict[str, str] = {}
    for result in results:
        check = first.setdefault(result.reason, result.check)
        repeated = check != result.check and result.outcome == "failed"
        yield result.check, result.outcome, f"same as {check}" if repeated else result.reason


def _plain(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name != "error"}
