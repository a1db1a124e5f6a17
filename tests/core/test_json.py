"""What the zoo prints with ``--json`` is JSON (RFC 8259), whatever numbers a run holds. Scenario 40."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from resuming import TINY, reseal, run_main
from zoo.cli.main import cli
from zoo.evaluation.metric import Measurement
from zoo.recorder import RunRecorder
from zoo_sweep.sweep import sweep

ODD = {"kl_min": math.nan, "kl_max": math.inf, "gain": -math.inf}
"""Terms that a loss may well report."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Iterator[Path]:
    """A sweep of one setting whose run reports terms that are not finite, as the zoo itself wrote them."""
    folder = tmp_path_factory.mktemp("json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zoo_figures.callback.DrawFigures.on_train_end", lambda *_, **__: None)
        finished = sweep("mlp-vae", [*TINY, "train.epochs=1", "train.seed=0,1"], out=folder, name="s", device="cpu")
        for trial in finished.trials:
            (epoch,) = trial.run.epochs()
            odd = replace(epoch, test={**epoch.test, **ODD}, train={**epoch.train, **ODD})
            RunRecorder(trial.run).rewind([odd])
            reseal(trial.path)
        yield finished.path


def with_gaps(folder: Path) -> str:
    """The path of a file of two images with missing pixels."""
    images = np.zeros((2, 1, 8, 8), dtype=np.float32)
    images[:, :, 0, :3] = np.nan
    np.save(folder / "gaps.npy", images)
    return str(folder / "gaps.npy")


def with_latents(folder: Path) -> str:
    """The path of a file of three latents in two dimensions."""
    np.save(folder / "z.npy", np.zeros((3, 2), dtype=np.float32))
    return str(folder / "z.npy")


COMMANDS: dict[str, Callable[[Path, Path, Path], list[str]]] = {
    "train": lambda sweep, run, out: ["train", "--resume", str(run)],
    "list": lambda sweep, run, out: ["list"],
    "show": lambda sweep, run, out: ["show", "mlp-vae"],
    "plugins": lambda sweep, run, out: ["plugins"],
    "data": lambda sweep, run, out: ["data", "digits"],
    "preview": lambda sweep, run, out: ["preview", "digits", "--out", str(out / "preview.png")],
    "reconstruct": lambda sweep, run, out: ["reconstruct", str(run), "-n", "1"],
    "sample": lambda sweep, run, out: ["sample", str(run), "-n", "1"],
    "traverse": lambda sweep, run, out: ["traverse", str(run), "--steps", "2"],
    "interpolate": lambda sweep, run, out: ["interpolate", str(run), "0", "1", "--steps", "2"],
    "latent": lambda sweep, run, out: ["latent", str(run), "-n", "9"],
    "evaluate": lambda sweep, run, out: ["evaluate", str(run), "--limit", "9", "--metric", "elbo"],
    "fit-prior": lambda sweep, run, out: ["fit-prior", str(run), "gaussian-mixture", "components=1"],
    "sweep": lambda sweep, run, out: ["sweep", "--resume", str(sweep)],
    "compare": lambda sweep, run, out: ["compare", str(sweep), "--out", str(out / "figure.png")],
    "report": lambda sweep, run, out: ["report", str(sweep), "--out", str(out / "report.html")],
    "encode": lambda sweep, run, out: ["encode", str(run), "--out", str(out / "codes.npz")],
    "decode": lambda sweep, run, out: ["decode", str(run), with_latents(out), "--out", str(out / "x.npy")],
    "export": lambda sweep, run, out: ["export", str(run), "--out", str(out / "exported"), "--format", "torch"],
    "check": lambda sweep, run, out: ["check", "prior/standard-normal"],
    "clean-cache": lambda sweep, run, out: ["clean-cache"],
    "package": lambda sweep, run, out: [
        "package",
        str(run),
        "--name",
        "odd-weights",
        "--out",
        str(out),
        "--no-metrics",
    ],
    "reproduce": lambda sweep, run, out: ["reproduce", "--list"],
    "score": lambda sweep, run, out: ["score", str(run), "digits", "--out", str(out / "scores.csv")],
    "diagnose": lambda sweep, run, out: ["diagnose", str(run), "--limit", "20"],
    "impute": lambda sweep, run, out: ["impute", str(run), with_gaps(out), "--out", str(out / "filled.npy")],
    "new-plugin": lambda sweep, run, out: ["new-plugin", "acme-odd", "--out", str(out)],
}


def with_json(command: click.Command, path: str = "") -> Iterator[str]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from with_json(inner, f"{path} {name}".strip())
    elif any("--json" in parameter.opts for parameter in command.params):
        yield path


def test_every_command_that_prints_json_is_tried_here():
    assert set(with_json(cli)) == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_prints_json(command, trained, tmp_path, monkeypatch, capsys):
    """Numbers that are not finite are the strings that `zoo.storage.files.plain` documents."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("zoo_figures.callback.DrawFigures.on_train_end", lambda *_, **__: None)
    if command == "evaluate":  # the standard error of a single number is NaN
        monkeypatch.setattr(Measurement, "mean", classmethod(_mean_without_error))
    sweep = Path(shutil.copytree(trained, tmp_path / "sweep"))
    run = next(sweep.glob("trials/trial-*"))
    (run / "figures").mkdir(exist_ok=True)
    assert run_main(*COMMANDS[command](sweep, run, tmp_path), "--json") == 0
    read = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    if command in ("train", "sweep", "compare"):
        assert {"NaN", "Infinity", "-Infinity"} <= set(leaves(read))
    if command == "evaluate":
        assert "NaN" in set(leaves(read))


@pytest.mark.parametrize("command", ["train", "sweep", "compare", "encode", "export", "fit-prior"])
def test_every_json_file_is_json(command, trained, tmp_path, monkeypatch):
    monkeypatch.setattr("zoo_figures.callback.DrawFigures.on_train_end", lambda *_, **__: None)
    sweep = Path(shutil.copytree(trained, tmp_path / "sweep"))
    run = next(sweep.glob("trials/trial-*"))
    assert run_main(*COMMANDS[command](sweep, run, tmp_path)) == 0
    files = [*tmp_path.rglob("*.json"), *tmp_path.rglob("*.jsonl")]
    assert {"environment.json", "manifest.json", "metrics.jsonl"} <= {file.name for file in files}
    for file in files:
        for text in file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]:
            json.loads(text, parse_constant=pytest.fail)


def _mean_without_error(cls: type[Measurement], name: str, *arguments: Any, **options: Any) -> Measurement:
    return cls(name, 1.0, error=math.nan)


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from leaves(inner)
    else:
        yield value
