"""``zoo diagnose``."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import click

from zoo.cli import (
    RUN,
    data_dir_option,
    device_option,
    evaluation_progress,
    json_option,
    log_to_stderr,
    print_json,
    print_table,
    prior_option,
    seed_option,
)

if TYPE_CHECKING:
    from zoo_diagnose.checks import Finding


@click.command(short_help="Check a trained model for common failures.")
@click.argument("run", type=RUN)
@click.option(
    "--split",
    type=click.Choice(["validation", "test", "train"]),
    help="Split to examine.  [default: validation if there is one, else test]",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="Use the first N examples.",
    metavar="N",
)
@seed_option
@prior_option
@data_dir_option
@device_option
@json_option
def diagnose(run: str, as_json: bool, **options: Any) -> None:
    """Check the trained model of RUN for posterior collapse, a weak encoder, holes in the prior and unused codes.

    Each check has a number, a threshold and a verdict; a warning says what to try.

    \b
    zoo diagnose runs/mlp-vae
    zoo diagnose runs/vq-vae --split test --json
    """
    import zoo
    from zoo_diagnose import diagnose as diagnosing

    log_to_stderr(logging.WARNING)
    opened = zoo.Run.open(run)
    with evaluation_progress() as progress:
        diagnosis = diagnosing.diagnose(opened, announce=progress.begin, progress=progress.update, **options)
    if as_json:
        print_json({"run": str(opened), "model": opened.recipe.name, **diagnosis.to_json()})
        return
    click.echo(
        "{} on {}: {images} {split} examples, seed {seed}".format(
            opened.recipe.name, opened.data_name, **diagnosis.protocol
        )
    )
    measured = [finding for finding in diagnosis.findings if finding.value is not None]
    print_table(("CHECK", "VERDICT", "VALUE", "THRESHOLD", "MEANING"), [_row(finding) for finding in measured])
    for finding in diagnosis.warnings:
        click.echo(click.style(f"\n{finding.name}: ", bold=True) + finding.advice)
    for finding in diagnosis.findings:
        if finding.value is None:
            click.echo(f"Not applicable: {finding.name} ({finding.meaning}).", err=True)


def _row(finding: Finding) -> tuple[str, str, str, str, str]:
    sign = ">=" if finding.good == "above" else "<="
    value = f"{finding.value:.3g} {finding.unit}"
    return finding.name, finding.verdict, value, f"{sign} {finding.threshold:.3g}", finding.meaning
