"""``zoo score``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli import (
    RUN,
    complete_datasets,
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
    from zoo_score.score import Scores


@click.command(short_help="Score how anomalous examples are.")
@click.argument("run", type=RUN)
@click.argument("data", required=False, shell_complete=complete_datasets)
@click.option(
    "-o",
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help=".csv or .npy file to write.  [default: scores.csv in the run, or in runs/NAME for installed weights]",
)
@click.option(
    "--method",
    "method",
    multiple=True,
    metavar="NAME",
    help="elbo (the default), log-likelihood, reconstruction or regret; repeatable.",
)
@click.option(
    "--samples", type=click.IntRange(min=1), default=100, show_default=True, help="Draws of z per example.", metavar="K"
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Optimizer steps of the likelihood regret.",
    metavar="N",
)
@click.option(
    "--anomaly",
    multiple=True,
    metavar="LABEL",
    help="A label whose examples are anomalies, by name or number; repeatable.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Score the first N examples only.", metavar="N")
@click.option(
    "--top", type=click.IntRange(min=0), default=10, show_default=True, help="Examples to print.", metavar="N"
)
@seed_option
@prior_option
@data_dir_option
@device_option
@json_option
def score(
    run: str, data: str | None, out: Path | None, method: tuple[str, ...], top: int, as_json: bool, **options: Any
) -> None:
    """Score how anomalous the examples of DATA are under the trained model of RUN. Higher is more anomalous.

    DATA is a data set by name or path with examples of the same shape; all of them are scored. Without DATA, the test
    split of the run is scored. With --anomaly, AUROC and average precision say how well the scores separate examples
    with this label from the others.

    \b
    zoo score runs/mlp-vae
    zoo score runs/mlp-vae photos -o scores.csv
    zoo score runs/mlp-vae --method elbo --method regret --anomaly 9
    """
    import zoo
    from zoo_score import score as scoring

    log_to_stderr(logging.WARNING)
    opened = zoo.Run.open(run)
    if out is not None:
        scoring.require_format(out)
    with evaluation_progress() as progress:
        progress.begin("score")
        scores = scoring.score(opened, data, method or "elbo", progress=progress.update, **options)
    path = opened.output / "scores.csv" if out is None else out
    scores.save(path)
    separation = scores.separation()
    if as_json:
        print_json(
            {
                "run": str(opened),
                "scores": str(path),
                "protocol": scores.protocol,
                "note": scores.note,
                "top": _top(scores, top),
                "separation": {name: vars(each) for name, each in separation.items()},
            }
        )
        return
    if top:
        rows = [
            [str(cell) if not isinstance(cell, float) else f"{cell:.4g}" for cell in row.values()]
            for row in _top(scores, top)
        ]
        print_table([name.upper() for name in _top(scores, 1)[0]], rows)
    if separation:
        click.echo()
        print_table(
            ("METHOD", "AUROC", "AVERAGE PRECISION"),
            [(name, f"{each.auroc:.4f}", f"{each.average_precision:.4f}") for name, each in separation.items()],
        )
    if scores.note:
        click.echo(f"Note: {scores.note}. Scores can still rank examples.", err=True)
    click.echo(path)


def _top(scores: Scores, count: int) -> list[dict[str, Any]]:
    """The most anomalous examples by the first method."""
    names, labels = scores.examples.names(), scores.examples.labels()
    return [
        {
            "example": names[row],
            **({} if labels is None else {"label": labels[row]}),
            **{name: float(values[row]) for name, values in scores.values.items()},
        }
        for row in scores.ranking()[:count].tolist()
    ]
