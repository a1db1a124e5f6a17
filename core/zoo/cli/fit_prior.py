"""``zoo fit-prior``."""

from __future__ import annotations

import logging
from typing import Any

import click

from zoo.cli.completion import complete_priors
from zoo.cli.options import RUN, data_dir_option, device_option, json_option
from zoo.cli.output import log_to_stderr, print_json, print_table


@click.command("fit-prior")
@click.argument("run", type=RUN)
@click.argument("prior", shell_complete=complete_priors)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--samples-per-image",
    type=click.IntRange(1, 1_000_000),
    default=1,
    show_default=True,
    help="Draws from q(z | x) per training image.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the draws and the fit.")
@data_dir_option
@device_option
@json_option
def fit_prior(run: str, prior: str, overrides: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Fit PRIOR to the latents of the training images. `zoo sample` then draws from it.

    RUN is a run folder, or a folder of runs, which selects the newest. The trained model is unchanged:
    `zoo sample RUN --prior original` draws from its own prior.

    \b
    zoo fit-prior runs/mlp-vae gaussian-mixture components=20
    zoo fit-prior runs/mlp-vae flow --samples-per-image 5
    """
    import zoo

    log_to_stderr(logging.INFO)
    result = zoo.fit_prior(run, prior, overrides, **options)
    if as_json:
        print_json(result)
        return
    rows = [("original", result["original"]), ("fitted", result["log_likelihood"])]
    print_table(
        ("MEAN log p(z), NATS", "TRAIN", "TEST"),
        [(name, *("none" if row[s] is None else f"{row[s]:.2f}" for s in ("train", "test"))) for name, row in rows],
    )
    draws = f"{result['images']} images, {result['samples_per_image']} draw(s) from q(z | x) each"
    click.echo(f"{prior} fitted to {draws}: {result['run']}/prior")
