"""``zoo fit-prior``."""

from __future__ import annotations

import logging
from typing import Any

import click

from zoo.cli.completion import complete_priors
from zoo.cli.options import RUN, data_dir_option, device_option, json_option
from zoo.cli.output import log_to_stderr, print_json, print_table


@click.command("fit-prior", short_help="Fit PRIOR to the codes of the training images.")
@click.argument("run", type=RUN)
@click.argument("prior", shell_complete=complete_priors)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--samples-per-image",
    type=click.IntRange(1, 1_000_000),
    default=1,
    show_default=True,
    help="Draws from q(z | x) for each training image.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the draws and of the fit.")
@data_dir_option
@device_option
@json_option
def fit_prior(run: str, prior: str, overrides: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Fit PRIOR to what the encoder makes of the training images; `zoo sample` draws from it from then on.

    RUN is a run folder, or the folder of a model's runs, whose newest is meant. What was trained stays as it is:
    `zoo sample RUN --prior original` still draws from the prior of the training.

    \b
    zoo fit-prior runs/mlp-vae gaussian-mixture components=20
    zoo fit-prior runs/mlp-vae flow --samples-per-image 5
    """
    import zoo

    log_to_stderr(logging.INFO)
    found = zoo.fit_prior(run, prior, overrides, **options)
    if as_json:
        print_json(found)
        return
    rows = [("original", found["original"]), ("fitted", found["log_likelihood"])]
    print_table(
        ("MEAN log p(z), NATS", "TRAIN", "TEST"),
        [(name, *("none" if row[s] is None else f"{row[s]:.2f}" for s in ("train", "test"))) for name, row in rows],
    )
    draws = f"{found['images']} images, {found['samples_per_image']} draw(s) of q(z | x) each"
    click.echo(f"{prior} fitted to {draws}: {found['run']}/prior")
