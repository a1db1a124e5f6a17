"""``zoo train``."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli.completion import complete_datasets, complete_models, complete_overrides
from zoo.cli.options import data_dir_option, device_option, json_option, registry_option
from zoo.cli.output import log_to_stderr, print_json, print_resume_command
from zoo.errors import ZooError
from zoo.recipes.library import load
from zoo.recipes.source import read_models
from zoo.storage.locate import RECIPE

if TYPE_CHECKING:
    from zoo.run import Run


class Duration(click.ParamType):  # type: ignore[type-arg]
    """A duration in seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse ``90s``, ``30m`` or ``2h``; a bare number is in seconds."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", str(value))
        if match is None:
            self.fail(f"{value!r} is not a duration such as 90s, 30m or 2h.", param, ctx)
        return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


@click.command()
@click.argument("model", required=False, shell_complete=complete_models)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...", shell_complete=complete_overrides)
@click.option(
    "--data",
    metavar="NAME|PATH",
    shell_complete=complete_datasets,
    help="Data set, folder of images, file of arrays or table.",
)
@data_dir_option
@click.option("--epochs", type=click.IntRange(min=1), help="Number of epochs.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the weights, the order of the data and every draw.")
@device_option
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Folder of all runs."
)
@click.option(
    "--resume",
    metavar="RUN|auto",
    help="Resume a run, or the newest unfinished run in a folder; auto: that of MODEL, or start a new one. "
    "With --epochs, extend it.",
)
@click.option("--time-limit", type=Duration(), help="Save and stop after this time, such as 90s, 30m or 2h.")
@click.option("--compile", is_flag=True, help="Compile the loss with torch.compile; requires a C++ compiler.")
@click.option("--figures/--no-figures", default=True, help="Draw figures of the trained model.")
@click.option("--init", metavar="RUN", help="Start from the weights of this run.")
@click.option(
    "--init-part",
    "init_parts",
    type=click.Choice(["encoder", "decoder", "prior"]),
    multiple=True,
    help="Start only this part from --init; repeatable.  [default: all]",
)
@click.option("--init-partial", is_flag=True, help="Allow tensors of another shape, which keep their new values.")
@registry_option
@json_option
def train(
    model: str | None,
    overrides: tuple[str, ...],
    data: str | None,
    epochs: int | None,
    seed: int | None,
    out: Path,
    resume: str | None,
    init: str | None,
    init_parts: tuple[str, ...],
    init_partial: bool,
    registries: tuple[Path, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Train MODEL, a name or a recipe file, and create a run folder.

    Ctrl-C finishes the current step, saves, and prints the command that resumes the run.

    \b
    zoo train mlp-vae
    zoo train mlp-vae latent_dim=2 encoder.hidden=[512,256] loss=mse
    zoo train mlp-vae --data digits --epochs 50
    zoo train conv-vae --data photos data.size=[64,64]
    zoo train --resume runs/mlp-vae/2026-01-31T12-00-00
    zoo train --resume runs/mlp-vae/2026-01-31T12-00-00 --epochs 100
    torchrun --nproc-per-node 2 -m zoo train conv-vae
    """
    resolved = None if model is None else load(model, registries)  # reports a misspelt name before torch is imported
    if resume is not None:
        _check_resume(
            resume,
            resolved and resolved.name,
            {"KEY=VALUE": overrides, "--registry": registries, "--data": data, "--seed": seed, "--init": init},
        )
    import zoo
    from zoo.api import resume_or_train
    from zoo.training import distributed

    rank_zero = distributed.is_rank_zero()
    log_to_stderr(logging.INFO if rank_zero else logging.ERROR)
    options |= {"epochs": epochs, "progress": rank_zero}
    try:
        if resume == "auto" and resolved is not None:
            run = resume_or_train(resolved, out=out, **options)
        elif resume is not None:
            run = zoo.resume(resume, **options)
        elif resolved is None:
            raise click.UsageError("Missing argument 'MODEL'.")
        else:
            start: dict[str, Any] = {"init": init, "init_parts": init_parts, "init_partial": init_partial}
            run = zoo.train(resolved, overrides, data=data, seed=seed, out=out, **start, **options)
    except zoo.Interrupted as interrupted:
        if rank_zero:
            print_resume_command(str(interrupted), "train", interrupted.run, options["data_dir"], options["device"])
        sys.exit(interrupted.exit_code)
    if rank_zero:
        _report(run, as_json)


def _check_resume(resume: str, name: str | None, changes: dict[str, Any]) -> None:
    """Refuse options that would change the recipe of the run."""
    conflicts = [option for option, value in changes.items() if value not in (None, ())]
    if conflicts:
        raise click.UsageError(
            f"--resume uses the recipe of the run: omit {', '.join(conflicts)}. Only --epochs is allowed, to extend "
            "the run."
        )
    if resume == "auto":
        if name is None:
            raise click.UsageError("--resume auto requires MODEL.")
    elif name is not None and (trained := _model_of(Path(resume))) not in (name, None):
        raise click.UsageError(f"{resume} is a run of {trained}, not of {name}: omit MODEL.")


def _model_of(run: Path) -> str | None:
    """The model of a run, or of the runs in a folder; None if unknown."""
    for recipe in (run / RECIPE, *run.glob(f"*/{RECIPE}")):
        with contextlib.suppress(ZooError):
            return next(iter(read_models(recipe)))
    return None


def _report(run: Run, as_json: bool) -> None:
    result = run.result()
    if as_json:
        print_json(result)
        return
    for split in ("train", "validation", "test"):
        if split in result:
            terms = "   ".join(f"{name} {value:.2f}" for name, value in result[split].items())
            click.echo(f"{split:<10} {terms}   (nats per example)")
    if result["epoch"] < result["epochs"]:
        click.echo(
            f"epoch      {result['epoch']} of {result['epochs']}, the best by validation {run.recipe.train.monitor}"
        )
    click.echo(f"run        {run.path}")
    click.echo(f"figures    {', '.join(sorted(file.name for file in run.figures.glob('*.png'))) or 'none'}")
