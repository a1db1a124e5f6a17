from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

TINY = ("encoder.hidden=[8]", "decoder.hidden=[8]", "--data", "digits", "--epochs", "1")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["list"],
        ["list", "*conv*", "--json"],
        ["list", "--kind", "loss"],
        ["show", "mlp-vae"],
        ["show", "mlp-vae", "--resolved"],
        ["show", "mlp-vae", "latent_dim=2", "--json"],
        ["plugins"],
        ["train", "--help"],
        ["export", "--help"],
        ["new-plugin", "--help"],
        ["sweep", "--help"],
        ["compare", "--help"],
        ["report", "--help"],
        ["reproduce", "--list"],
        ["--version"],
    ],
)
def test_light_commands_never_import_torch(arguments):
    program = (
        "import sys\nfrom zoo.cli.main import main\n"
        f"try: main({arguments!r})\nexcept SystemExit as end: assert end.code == 0, end.code\n"
        "heavy = {'torch', 'torchvision', 'numpy', 'matplotlib', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)


@pytest.mark.parametrize("arguments", [["list"], ["plugins"], ["--help"], ["show", "mlp-vae"], ["completion", "bash"]])
def test_the_lightest_commands_do_not_import_pydantic(arguments):
    """It takes longer to import than everything else together."""
    program = (
        "import sys\nfrom zoo.cli.main import main\n"
        f"try: main({arguments!r})\nexcept SystemExit as end: assert end.code == 0, end.code\n"
        "assert 'pydantic' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)


def test_importing_zoo_does_not_import_torch():
    program = "import sys, zoo; dir(zoo); assert 'torch' not in sys.modules; zoo.Encoder; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_every_public_name_can_be_imported():
    import zoo

    for name in zoo.__all__:
        assert getattr(zoo, name) is not None
    with pytest.raises(AttributeError, match="No zoo attribute Encodr"):
        _ = zoo.Encodr


def test_train_json_prints_one_object(zoo_command, tmp_path):
    done = zoo_command("train", "mlp-vae", *TINY, "--seed", "3", "--json")
    result = json.loads(done.stdout)
    assert list(result) == ["run", "model", "data", "epochs", "seconds", "epoch", "train", "test"]
    assert (result["model"], result["data"], result["epochs"]) == ("mlp-vae", "digits", 1)
    for split in ("train", "test"):
        terms = result[split]
        assert terms["loss"] == pytest.approx(terms["distortion"] + terms["rate"], rel=1e-5)
    run = tmp_path / "work" / result["run"]
    assert run.parent == tmp_path / "work" / "runs" / "mlp-vae"
    names = {file.name for file in run.iterdir()}
    files = {"recipe.yaml", "environment.json", "metrics.jsonl", "model.safetensors", "manifest.json", ".lock"}
    assert names == {*files, "checkpoints", "figures"}
    for figure in ("curves.png", "reconstructions.png", "samples.png"):
        assert (run / "figures" / figure).read_bytes()[:4] == b"\x89PNG"
    (line,) = (run / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["test"] == result["test"]
    assert "epoch 1/1" in done.stderr, "one line per epoch without a terminal"


def test_train_accepts_the_output_of_show_resolved(zoo_command, tmp_path):
    resolved = zoo_command("show", "mlp-vae", "encoder.hidden=[8]", "latent_dim=3", "--resolved").stdout
    assert yaml.safe_load(resolved)["models"]["mlp-vae"]["latent_dim"] == 3
    (tmp_path / "mine.yaml").write_text(resolved)
    done = zoo_command("train", tmp_path / "mine.yaml", "--data", "digits", "--epochs", "1", "--json")
    recipe = yaml.safe_load((tmp_path / "work" / json.loads(done.stdout)["run"] / "recipe.yaml").read_text())
    assert recipe["models"]["mlp-vae"]["encoder"]["hidden"] == [8]
    assert recipe["models"]["mlp-vae"]["train"]["epochs"] == 1


def test_a_registry_file(zoo_command, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "models:\n  small: {extends: mlp-vae, summary: tiny, encoder: {hidden: [4]}, decoder: {hidden: [4]}}\n"
    )
    rows = json.loads(zoo_command("list", "--registry", file, "--json").stdout)
    assert {"name": "small", "from": str(file), "summary": "tiny"} in rows
    done = zoo_command("train", "small", "--registry", file, "--data", "digits", "--epochs", "1", "--json")
    assert json.loads(done.stdout)["model"] == "small"


def test_a_fallback_is_announced_and_only_for_the_default_data(zoo_command, tmp_path):
    nowhere = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    work = tmp_path / "work"
    done = zoo_command(
        "train", "mlp-vae", *TINY[:2], "--epochs", "1", "--data-dir", work / "empty", "--json", **nowhere
    )
    assert "Warning: mnist is not available" in done.stderr
    assert "Using digits instead." in done.stderr
    result = json.loads(done.stdout)
    assert result["data"] == "digits"
    environment = json.loads((work / result["run"] / "environment.json").read_text())
    assert "mnist is not available" in environment["data"]["passed_over"][0]
    done = zoo_command(
        "train", "mlp-vae", "--data", "mnist", "--data-dir", work / "empty", "--out", "other", code=2, **nowhere
    )
    assert "mnist is not available" in done.stderr
    assert not (work / "other").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "mlp-va"], "Did you mean 'mlp-vae'?"),
        (["train", "mlp-vae", "encoder=cnov"], "Did you mean 'conv'?"),
        (["train", "mlp-vae", "loss=elbow"], "Did you mean 'elbo'?"),
        (["train", "mlp-vae", "encoder.hiden=[3]"], "Did you mean 'hidden'?"),
        (["train", "mlp-vae", "latent_dim=two"], "latent_dim: input should be a valid integer, got 'two'"),
        (["train", "mlp-vae", "latent_dim=0"], "greater than 0, got 0"),
        (["train", "mlp-vae", "--epochs", "0"], "Invalid value for '--epochs'"),
        (["train", "mlp-vae", "--data", "mnits"], "Did you mean 'mnist'?"),
        (["train", "mlp-vae", "--device", "tpu9"], "There is no device 'tpu9'"),
        (["train", "mlp-vae", "--data", "digits", "encoder={use: mlp, latent_dim: 3}"], "is set by the zoo"),
        (["train"], "Missing argument 'MODEL'"),
        (["trian"], "Did you mean 'train'?"),
        (["show", "mlp-va"], "Did you mean 'mlp-vae'?"),
        (["list", "--kind", "encodr"], "'encoder'"),
        (["sample", "nowhere"], "nowhere is not a directory"),
        (["reconstruct", "."], "contains no finished run"),
    ],
)
def test_invalid_input_causes_one_message_and_writes_nothing(zoo_command, tmp_path, arguments, message):
    done = zoo_command(*arguments, code=2)
    assert message in " ".join(done.stderr.split())
    assert done.stdout == ""
    assert list((tmp_path / "work").iterdir()) == []


def test_an_unwritable_output_folder_is_reported_before_the_first_step(zoo_command, tmp_path):
    """Scenario 5."""
    (tmp_path / "work" / "file").write_text("")
    done = zoo_command("train", "mlp-vae", *TINY, "--out", "file/runs", code=2)
    assert "The output folder file/runs/mlp-vae cannot be written" in done.stderr
    assert "epoch" not in done.stderr
    done = zoo_command("train", "mlp-vae", *TINY, "--out", "/proc/runs", code=2)
    assert "cannot be written" in done.stderr


def test_figures_of_a_run(zoo_command, digits_run, tmp_path):
    shown = json.loads(zoo_command("reconstruct", digits_run, "-n", "5", "--json").stdout)
    assert Path(shown["figure"]) == digits_run / "figures" / "reconstructions.png"
    zoo_command("sample", digits_run.parent, "-n", "7", "--out", "s.png")
    assert (tmp_path / "work" / "s.png").read_bytes()[:4] == b"\x89PNG"
    zoo_command("sample", digits_run, "--z", "0,0", "--z", "-1,-0.5", "--out", "z.png")
    errors = {
        "0": "the latent has 2 dimensions, and 1 numbers were given",
        "a,b": "expected comma-separated numbers such as 0,1",
    }
    for bad, message in errors.items():
        assert message in zoo_command("sample", digits_run, "--z", bad, code=2).stderr
    assert "cannot be written" in zoo_command("sample", digits_run, "--out", "no/such/s.png", code=2).stderr
    assert zoo_command("sample", digits_run, "--out", "s.txt", code=2).stderr


def test_debug_shows_a_traceback():
    for arguments in (["--debug", "show", "nothing"], ["show", "nothing", "--debug"]):
        done = subprocess.run([sys.executable, "-m", "zoo", *arguments], capture_output=True, text=True)
        assert "Traceback" in done.stderr
        assert "UnknownName" in done.stderr


def test_output_into_a_closed_pipe():
    done = subprocess.run(
        f"{sys.executable} -m zoo list | head -n 0", shell=True, capture_output=True, text=True, env=os.environ
    )
    assert done.stderr == ""
