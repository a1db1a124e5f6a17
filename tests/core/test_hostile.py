"""No value of any key, name or environment variable gets past the door as anything but an error for people."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import zoo
from hostile import VALUES, change_at, places
from zoo import api
from zoo.cli import main as command
from zoo.model import memory
from zoo.recipes.merge import merge
from zoo.recipes.optimizers import find_optim, optimizers, schedulers
from zoo.storage.environment import require_environment
from zoo.training.distributed import Group, is_rank_zero, local_device
from zoo_export.codes import encode
from zoo_sweep.sweep import sweep

TINY: dict[str, Any] = {"train": {"steps": 2, "batch_size": 8}}
SAMPLE = 400
LONG = {("rhvae", "steps"), ("hvae", "steps")}
"""Parameters of which a huge value is no error: it takes as long as it says."""


class ReachedError(Exception):
    """Everything was checked, and the first step would be next."""


class Stop(zoo.Callback):
    """Ends a training where it begins."""

    def on_train_begin(self, trainer: zoo.Training) -> None:
        raise ReachedError


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """Twenty images with three labels."""
    file = tmp_path_factory.mktemp("tiny") / "tiny.npz"
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)
    np.savez(file, images=pixels, labels=np.arange(20) % 3)
    return file


def outcome(model: str, change: dict[str, Any], data: Path, out: Path, **options: Any) -> Exception:
    """What ends a training at its first step at the latest, without a folder if that is an error."""
    with pytest.raises((zoo.ZooError, ReachedError)) as error:
        zoo.train(model, [], data=str(data), out=out, device="cpu", callbacks=[Stop()], **options, **change)  # type: ignore[list-item]
    if isinstance(error.value, ReachedError):
        shutil.rmtree(out)
    assert not out.exists(), "nothing was written"
    return error.value


@pytest.mark.parametrize("share", range(8))
@pytest.mark.filterwarnings("ignore")
def test_a_hostile_value_is_refused_or_trained_with(share, tiny, tmp_path):
    """A sample of every parameter of the schema with every value of a list, always the same."""
    cases = [(*place, value) for place in places() for value in VALUES if place[1] != ("data",)]
    chosen = random.Random(0).sample(cases, SAMPLE)
    for model, where, change, value in chosen[share::8]:
        if (model, where[-1]) in LONG and isinstance(value, int | float):
            continue
        outcome(model, merge(merge(TINY, change), change_at(where, value)), tiny, tmp_path / "runs")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": {"seed": 2**64}}, "train.seed: an integer must be between"),
        ({"train": {"optimizer": {"lr": float("nan")}}}, "train.optimizer.lr: a number must be finite, got nan"),
        ({"train": {"optimizer": "lbfgs"}}, "evaluates the loss several times"),
        (
            {"train": {"optimizer": "sparseadam"}},
            "A recipe cannot use SparseAdam of torch: it accepts only sparse gradients",
        ),
        ({"train": {"optimizer": "muon"}}, "it accepts only matrices"),
        ({"train": {"scheduler": {"use": "CosineAnnealingLR", "T_max": 0}}}, "scheduler 'CosineAnnealingLR'"),
        ({"train": {"scheduler": {"use": "StepLR", "step_size": 0}}}, "scheduler 'StepLR', after 1 epoch of 1, fails"),
        (
            {"train": {"scheduler": {"use": "ExponentialLR", "gamma": -1.0}}},
            "the learning rate is -0.001 after 1 epoch",
        ),
        (
            {"train": {"scheduler": {"use": "OneCycleLR", "max_lr": 0.1, "total_steps": 1}, "scheduler_unit": "step"}},
            "scheduler 'OneCycleLR', after 2 steps of 2, fails",
        ),
        ({"train": {"microbatches": 10**9}}, "train.microbatches=1000000000 exceeds the 18 training examples"),
        ({"encoder": {"hidden": [2**40]}}, "out of memory"),
        ({"latent_dim": 2**50}, "out of memory"),
        ({"train": 5}, "train: expected a mapping, got 5"),
        ({"train": {"deterministic": "yes"}}, "train.deterministic: expected true or false, got 'yes'"),
        ({"name": "x"}, "name: cannot be set"),
        ({"summary": object}, "reached"),
        ({"encoder": {(1, 2): 3}}, "expected only names, numbers, strings, lists and mappings"),
    ],
    ids=str,
)
def test_the_sentence(change, message, tiny, tmp_path):
    error = outcome("mlp-vae", merge(TINY, change), tiny, tmp_path / "runs")
    assert message in (str(error) or "reached")


@pytest.mark.parametrize("option", [{"seed": 2**64}, {"seed": -1}, {"epochs": 0}, {"epochs": 10**30}], ids=str)
def test_a_shorthand_is_checked_like_its_key(option, tiny, tmp_path):
    error = outcome("mlp-vae", {}, tiny, tmp_path / "runs", **option)
    assert f"train.{next(iter(option))}" in str(error)


def test_a_cycle_in_a_recipe_of_a_program_is_refused():
    change: dict[str, Any] = {}
    change["x"] = change
    deep: Any = 3
    for _ in range(100_000):
        deep = [deep]
    for value in (change, deep):
        with pytest.raises(zoo.RecipeError, match="lists and mappings"):
            zoo.recipe("mlp-vae", encoder=value)


def test_optimizers_and_schedules_that_are_listed_can_be_found():
    assert not {"LBFGS", "SparseAdam", "Muon"} & set(optimizers())
    assert not {"LRScheduler", "LambdaLR", "SequentialLR"} & set(schedulers())
    for kind, classes in (("optimizer", optimizers()), ("scheduler", schedulers())):
        assert classes
        for name, target in classes.items():
            assert find_optim(kind, name) is find_optim(kind, name.lower()) is target
            assert target.__name__ == name


@pytest.mark.parametrize(
    ("kind", "name", "meant"),
    [
        ("optimizer", "Adamm", "Adam"),
        ("optimizer", "rms-prop", "RMSprop"),
        ("scheduler", "cosine-annealing", "CosineAnnealingLR"),
        ("scheduler", "step", "StepLR"),
        ("scheduler", "one_cycle", "OneCycleLR"),
        ("scheduler", "reduce-lr-on-plateau", "ReduceLROnPlateau"),
    ],
)
def test_another_spelling_of_a_class_of_torch_is_suggested(kind, name, meant):
    with pytest.raises(zoo.RecipeError, match=f"There is no {kind} named '{name}'. Did you mean '{meant}'?"):
        zoo.recipe("mlp-vae", [f"train.{kind}={name}"])


def test_a_change_in_another_case_keeps_the_arguments_of_an_optimizer():
    recipe = zoo.recipe("mlp-vae", ["train.optimizer={use: SGD, lr: 0.5}", "train.optimizer={use: sgd, momentum: 0.9}"])
    assert recipe.train.optimizer.parameters == {"lr": 0.5, "momentum": 0.9}


# --- memory


@pytest.mark.parametrize("model", ["mlp-vae", "conv-vae", "cvae", "vq-vae"])
def test_a_model_that_is_too_large_is_refused_before_it_is_filled(model, monkeypatch):
    monkeypatch.setattr(memory, "total_memory", lambda device: 2e5)
    with pytest.raises(zoo.UsageError, match="GiB of weights, but this machine has 0.0 GiB of memory"):
        zoo.create_model(model, data_shape=(1, 16, 16), classes=10)


def test_weights_that_fit_and_cannot_be_trained_are_refused(tiny, tmp_path, monkeypatch):
    vae = zoo.create_model("mlp-vae", data_shape=(1, 8, 8))
    size = sum(parameter.nbytes for parameter in vae.parameters())
    monkeypatch.setattr(memory, "total_memory", lambda device: 3 * size)
    assert "Training the model takes" in str(outcome("mlp-vae", TINY, tiny, tmp_path / "runs"))
    monkeypatch.setattr(memory, "total_memory", lambda device: 4 * size)
    assert isinstance(outcome("mlp-vae", TINY, tiny, tmp_path / "runs"), ReachedError)


def test_an_endless_number_of_layers_is_refused():
    layers = (torch.nn.Linear(1, 1) for _ in range(10_000))
    with memory.bounded(), pytest.raises(zoo.UsageError, match="more than 5,000 tensors"):
        list(layers)


def test_labels_with_gaps_are_refused(tmp_path):
    """Labels up to 10^9 made cvae one of 544 million parameters."""
    pixels = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    for labels, fine in (([0, 10**9, 0, 10**9], False), ([0, 1000, 0, 0], False), ([0, 999, 0, 0], True)):
        images = zoo.Split(pixels, torch.tensor(labels))
        if fine:
            assert zoo.Dataset(images, images).classes == 1000
        else:
            with pytest.raises(zoo.DataError, match=f"go up to {max(labels)}, and there are 8 examples. Number"):
                zoo.Dataset(images, images)
    file = tmp_path / "labels.npz"
    np.savez(file, images=np.zeros((9, 8, 8), np.uint8), labels=np.array([0, 10**9, 0, 0, 0, 0, 0, 0, 0]))
    with pytest.raises(zoo.DataError, match="Number the labels from 0"):
        zoo.load_dataset(str(file))


def test_an_error_in_a_step_is_one_of_the_training(tiny, tmp_path, monkeypatch):
    """Memory may run out in the first batch of full size, when the run folder is there."""

    def fail(*arguments: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("zoo.training.step.TrainingStep.__call__", fail)
    with pytest.raises(zoo.TrainingError, match="Step 1 failed: out of memory"):
        zoo.train("mlp-vae", data=str(tiny), out=tmp_path, **TINY)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")])
def test_memory_that_runs_out_in_a_command_is_no_unexpected_error(error, monkeypatch, capsys):
    def fail(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(command.cli, "main", fail)
    with pytest.raises(SystemExit) as end:
        command.main(["list"])
    assert end.value.code == 1
    assert capsys.readouterr().err == "Error: Out of memory. Reduce the size of the model, the batch or the data.\n"


# --- environment


@pytest.mark.parametrize("value", ["abc", "0", "-1", "1.5", "1e3", "9" * 20, "٣", "2 3"])
def test_a_world_size_that_is_no_number_is_refused(value, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", value)
    for use in (is_rank_zero, lambda: Group.join(torch.device("cpu")), lambda: sweep("mlp-vae", ["latent_dim=2,3"])):
        with pytest.raises(zoo.UsageError, match="environment variable WORLD_SIZE"):
            use()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"RANK": None}, "RANK is not set"),
        ({"RANK": "2"}, "environment variable RANK must be an integer from 0 to 1, as torchrun sets it; got '2'"),
        ({"RANK": "x"}, "environment variable RANK"),
        ({"MASTER_ADDR": None}, "MASTER_ADDR is not set"),
        ({"MASTER_ADDR": None, "MASTER_PORT": None}, "MASTER_ADDR, MASTER_PORT are not set"),
        ({"MASTER_PORT": "x"}, "environment variable MASTER_PORT"),
        ({"MASTER_PORT": "99999"}, "environment variable MASTER_PORT"),
        ({"ZOO_TIMEOUT": "nan"}, "environment variable ZOO_TIMEOUT"),
    ],
    ids=str,
)
def test_a_group_that_cannot_be_joined_is_refused_at_once(changes, message, monkeypatch):
    sound = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
    for name, value in {**sound, **changes}.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    with pytest.raises(zoo.UsageError, match=message):
        Group.join(torch.device("cpu"))


def test_a_rank_without_a_world_is_alone(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert is_rank_zero()


def test_the_local_rank_is_checked(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "x")
    with pytest.raises(zoo.UsageError, match="LOCAL_RANK"):
        local_device(torch.device("cuda"))


def test_a_data_folder_that_is_a_file_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("ZOO_DATA", str(file))
    with pytest.raises(zoo.UsageError, match="ZOO_DATA. is not a directory"):
        zoo.load_dataset("mnist")


@pytest.mark.parametrize("path", ["~nobody-here/x", "~nobody-here/x.npz", "/\0/x.npz", "x" * 5000 + "/y"])
def test_a_path_that_cannot_be_is_refused(path):
    with pytest.raises(zoo.ZooError):
        zoo.load_dataset(path)
    with pytest.raises(zoo.ZooError):
        zoo.load_dataset("arrays", path=path)


# --- names


NAMES = [
    *(
        "../../escape",
        "/absolute",
        "a/b",
        "a\\b",
        ".",
        "..",
        "",
        " ",
        "a b",
        "a\0b",
        "a\nb",
        ".hidden",
        "-x",
        "x.",
        "x" * 101,
    ),
    *("ünïcode", "a:b", "CON\\", "~"),
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_that_is_no_folder_is_refused(name, tiny, tmp_path):
    recipe = zoo.recipe("mlp-vae").model_copy(update={"name": name})
    out = tmp_path / "a" / "b" / "runs"
    with pytest.raises(zoo.RecipeError, match="name: a name has at most 100 letters"):
        zoo.train(recipe, data=str(tiny), out=out, **TINY)
    with pytest.raises(zoo.UsageError, match="a name is made of letters"):
        sweep("mlp-vae", ["latent_dim=2,3"], name=name, data=str(tiny), out=out)
    with pytest.raises(zoo.UsageError, match="a name has at most 100 letters"):
        sweep(recipe, ["latent_dim=2,3"], data=str(tiny), out=out)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x", "a.b", "A_1-b", "x" * 100, "0"])
def test_a_name_that_is_a_folder_is_taken(name):
    assert zoo.recipe(zoo.recipe("mlp-vae").model_copy(update={"name": name})).name == name


def test_a_run_is_not_written_through_a_link(tiny, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mlp-vae").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "mine").symlink_to(tmp_path / "elsewhere")
    for place in ({"out": tmp_path / "runs"}, {"folder": tmp_path / "mine"}, {"folder": tmp_path / "mine" / "run"}):
        with pytest.raises(zoo.RunError, match="are not written through links"):
            zoo.train("mlp-vae", data=str(tiny), **place, **TINY)
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("place", [{"out": "a\0b"}, {"folder": "a\0b"}, {"out": "x" * 300}], ids=str)
def test_a_folder_that_cannot_be_is_refused(place, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(zoo.RunError, match="cannot be written"):
        zoo.train("mlp-vae", data=str(tiny), **place, **TINY)
    assert list(tmp_path.iterdir()) == []


# --- files of a run


GOOD: dict[str, Any] = {
    **{
        "id": "0" * 32,
        "started": "2026-01-31T12:00:00",
        "command": ["zoo"],
        "seed": 0,
        "device": "cpu",
        "threads": 1,
        "python": "3.11",
    },
    **{"platform": "Linux", "processors": None, "versions": {"torch": "2"}, "plugins": {}},
    "data": {
        "name": "x",
        "shape": [1, 8, 8],
        "train": 3,
        "test": 1,
        "binarize": "none",
        "sha256": "0",
        "passed_over": [],
    },
}
BROKEN: list[Any] = [
    *({}, [], 3, None, "x", {"data": {}}, {"data": None}, {**GOOD, "data": 3}),
    *({key: value for key, value in GOOD.items() if key != missing} for missing in GOOD),
    *(
        {**GOOD, key: object}
        for key, object in (("seed", "0"), ("command", "zoo"), ("versions", []), ("threads", None))
    ),
    *(
        {**GOOD, "data": {**GOOD["data"], key: value}}
        for key, values in {
            "shape": ([], [8, 0], [1, 8, -8], [1, 8, "8"], "1x8x8", None),
            "classes": (-1, "3", 1.5),
            "train": (0, None, "3"),
            "sha256": (None, 3),
            "name": (None, []),
        }.items()
        for value in values
    ),
]


@pytest.mark.parametrize("content", BROKEN, ids=lambda content: str(content)[:60])
def test_an_environment_that_lacks_something_is_refused(content, tmp_path):
    file = tmp_path / "environment.json"
    assert require_environment(GOOD, file) is GOOD
    with pytest.raises(zoo.RunError, match=r"environment\.json is damaged: "):
        require_environment(content, file)


@pytest.mark.parametrize(
    "text", ["", "{", "\0", "[" * 100_000, '{"a":' * 100_000, "{}", "NaN", "\ud800"], ids=lambda t: ascii(t[:9])
)
def test_garbage_in_the_files_of_a_run_is_named(text, digits_run, tmp_path):
    run = Path(shutil.copytree(zoo.Run.open(digits_run).path, tmp_path / "run"))
    for file in ("environment.json", "recipe.yaml"):
        original = (run / file).read_bytes()
        (run / file).write_bytes(text.encode("utf-8", "surrogatepass"))
        for use in (zoo.load, lambda path: zoo.evaluate(path, limit=2), zoo.resume, lambda path: encode(path)):
            with pytest.raises(zoo.ZooError, match=file.replace(".", r"\.")):
                use(run)
        (run / file).write_bytes(original)
    assert json.loads((run / "environment.json").read_text())["data"]["name"] == "digits"
    assert api.load(run) is not None
