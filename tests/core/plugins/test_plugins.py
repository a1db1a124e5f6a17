"""Broken plugins, each installed as a distribution and loaded by a real process (scenario 30)."""

from __future__ import annotations

import json

import pytest

BROKEN = {
    "raises": ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
    "absent": ("import surely_not_installed", "ModuleNotFoundError: No module named 'surely_not_installed'"),
    "syntax": ("def broken(:", "SyntaxError"),
    "exits": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "chatty": ("print('hello from a plugin'); raise ValueError('and goodbye')", "ValueError: and goodbye"),
    "hook": (
        "import zoo\n@zoo.hookimpl\ndef zoo_components():\n    raise KeyError('lost')",
        "KeyError: 'lost'",
    ),
    "unknown-hook": ("import zoo\n@zoo.hookimpl\ndef zoo_componets():\n    return []", "unknown hooks: zoo_componets"),
    "bad-argument": ("import zoo\n@zoo.hookimpl\ndef zoo_components(cat):\n    return []", "PluginValidationError"),
    "command": ("import zoo\n@zoo.hookimpl\ndef zoo_commands():\n    raise OSError('gone')", "OSError: gone"),
    "takes-train": (
        "import zoo\n@zoo.hookimpl\ndef zoo_commands():\n    return [zoo.Command('train', '', 'x:y')]",
        "the command 'train' is built in",
    ),
    "old": ("zoo_api = 0", "written for version 0 of the plugin interface, but this is version 1: upgrade the plugin"),
    "new": ("zoo_api = 2", "written for version 2 of the plugin interface, but this is version 1: upgrade vae-zoo"),
    "recipe-path": (
        "import zoo, pathlib\n@zoo.hookimpl\ndef zoo_recipes():\n    return [pathlib.Path('/nowhere.yaml')]",
        "cannot be read",
    ),
    "weights": ("import zoo\n@zoo.hookimpl\ndef zoo_weights():\n    raise OSError('lost')", "OSError: lost"),
    "weights-type": ("import zoo\n@zoo.hookimpl\ndef zoo_weights():\n    return [3]", "zoo_weights returned 3"),
    "recipe-type": ("import zoo\n@zoo.hookimpl\ndef zoo_recipes():\n    return [3]", "zoo_recipes"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_plugin_is_named_and_everything_else_works(kind, install, zoo_command):
    source, message = BROKEN[kind]
    install(f"bad-{kind}", source)
    listed = zoo_command("list", "--json")
    assert {"mlp-vae", "conv-vae"} <= {row["name"] for row in json.loads(listed.stdout)}
    plugins = {row["name"]: row for row in json.loads(zoo_command("plugins", "--json").stdout)}
    broken = plugins[f"bad_{kind}".replace("-", "_")]
    assert broken["status"] == "broken"
    assert message in broken["errors"][0]
    assert plugins["gaussian"]["status"] == "ok"
    assert message in zoo_command("plugins").stdout


def test_commands_work_with_a_broken_plugin_installed(install, zoo_command):
    install("bad", BROKEN["raises"][0])
    zoo_command("show", "mlp-vae")
    done = zoo_command(
        "train", "mlp-vae", "encoder.hidden=[8]", "decoder.hidden=[8]", "--data", "digits", "--epochs", "1"
    )
    assert "test" in done.stdout


@pytest.mark.parametrize("how", ["all", "1", "acme-vae", "other,acme_vae"])
def test_plugins_can_be_disabled(how, install, zoo_command):
    install(
        "acme-vae",
        "import click, zoo\n"
        "@zoo.hookimpl\ndef zoo_commands():\n    return [zoo.Command('hello', '', 'acme_vae:hello')]\n"
        "@click.command()\ndef hello(): print('hi')",
    )
    assert "hi" in zoo_command("hello").stdout
    assert "There is no command named 'hello'" in zoo_command("hello", code=2, ZOO_DISABLE_PLUGINS=how).stderr
    rows = json.loads(zoo_command("plugins", "--json", ZOO_DISABLE_PLUGINS=how).stdout)
    assert [row["status"] for row in rows if row["distribution"] == "acme-vae"] == ["disabled"]
    assert {row["status"] for row in rows if row["distribution"] == "vae-zoo"} == {"ok"}


def test_no_plugins_on_the_command_line(install, zoo_command):
    install("bad", BROKEN["raises"][0])
    assert "Broken plugins: bad of bad 1.0" in zoo_command("list").stderr
    assert zoo_command("--no-plugins", "list").stderr == ""


def test_debug_mode_raises_the_exception_of_a_plugin(install, site):
    import subprocess
    import sys

    install("bad", BROKEN["raises"][0])
    done = subprocess.run(
        [sys.executable, "-m", "zoo", "list"],
        env={**__import__("os").environ, "ZOO_DEBUG_PLUGINS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "no licence" in done.stderr


def test_callbacks_follow_a_run_and_their_errors_do_not_end_it(install, zoo_command, tmp_path):
    install(
        "good-callback",
        """
        import zoo, pathlib
        log = pathlib.Path("log.txt").open("a")
        @zoo.hookimpl
        def zoo_callbacks(run):
            class Log(zoo.Callback):
                every_n_steps = 12
                def on_train_begin(self, trainer): log.write(f"begin {run.recipe.name} {trainer.step}\\n")
                def on_step_end(self, trainer): log.write(f"step {trainer.step}\\n")
                def on_epoch_end(self, trainer, epoch): log.write(f"epoch {epoch.epoch} {epoch.test['loss'] > 0}\\n")
                def on_train_end(self, trainer, finished):
                    log.write(f"end {finished} {(run.path / 'model.safetensors').exists()}\\n"); log.close()
            yield Log()
        """,
    )
    install(
        "bad-callback",
        """
        import zoo
        def fail(*_, **__): raise OSError("no server")
        @zoo.hookimpl
        def zoo_callbacks():
            class Bad(zoo.Callback):
                every_n_steps = 12
                on_train_begin = on_step_end = on_epoch_end = on_train_end = fail
            yield Bad()
        """,
    )
    arguments = ["encoder.hidden=[8]", "decoder.hidden=[8]", "data={use: digits}", "train.epochs=2"]
    done = zoo_command("train", "mlp-vae", *arguments)
    warning = (
        "Warning: The callback Bad of bad-callback 1.0 failed. The training continues without it: OSError: no server"
    )
    assert done.stderr.count(warning) == 1
    lines = (tmp_path / "work" / "log.txt").read_text().splitlines()
    assert lines == ["begin mlp-vae 0", "step 12", "epoch 1 True", "step 24", "epoch 2 True", "end True True"]
