"""Whatever a plugin raises, returns, prints or has for metadata: it is named, and everything else works.

Each is installed for real, as files on the path.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

import zoo
from zoo.plugins.isolation import stdout_to_stderr
from zoo.plugins.manager import plugins
from zoo.plugins.registry import registry
from zoo.recipes.library import library

HEAD = "import zoo\n"
COMPONENTS = HEAD + "@zoo.hookimpl\ndef zoo_components():\n    {body}\n"
RECIPES = HEAD + "@zoo.hookimpl\ndef zoo_recipes():\n    {body}\n"
COMMANDS = HEAD + "@zoo.hookimpl\ndef zoo_commands():\n    {body}\n"
CLASSES = """
class Base(BaseException):
    def __str__(self): raise RuntimeError("no message either")
class Text(str):
    def __hash__(self): raise ValueError("no hash")
    def __eq__(self, other): raise ValueError("no equality")
class Mute:
    def __repr__(self): raise ValueError("no words")
class Lazy(zoo.Component):
    name = property(lambda self: 1 / 0)
class File:
    def is_dir(self): return False
    def is_file(self): return True
    def iterdir(self): return iter(())
    def joinpath(self, *parts): return self
    __truediv__ = joinpath
    name = "recipes.yaml"
    def open(self, *args, **options): raise BaseException("out of paper")
    read_text = read_bytes = open
"""


def component(*arguments: str) -> str:
    return COMPONENTS.format(body=f"yield zoo.Component({', '.join(arguments)})")


SOURCES = {
    # What is raised while it is imported
    "base-exception": ("raise BaseException('out of paper')", "BaseException: out of paper"),
    "generator-exit": ("raise GeneratorExit('gone')", "GeneratorExit: gone"),
    "stop-iteration": ("raise StopIteration('done')", "StopIteration: done"),
    "keyboard-interrupt": ("raise KeyboardInterrupt('mine')", "KeyboardInterrupt: mine"),
    "cancelled": ("import asyncio\nraise asyncio.CancelledError", "CancelledError"),
    "recursion": ("def f(): f()\nf()", "RecursionError"),
    "without-a-message": (HEAD + CLASSES + "raise Base", "Base: its message cannot be read"),
    "surrogates": (r"raise ValueError('\udcff')", r"ValueError: \udcff"),
    "exit-text": ("raise SystemExit('bye')", "SystemExit: bye"),
    # What a hook raises or returns
    "hook-raises-base": (COMPONENTS.format(body="raise BaseException('hook')"), "BaseException: hook"),
    "hook-interrupts": (COMPONENTS.format(body="raise KeyboardInterrupt('hook')"), "KeyboardInterrupt: hook"),
    "half-way": (
        COMPONENTS.format(body="yield zoo.Component('loss', 'half', 'a:b'); raise GeneratorExit('half-way')"),
        "GeneratorExit: half-way",
    ),
    "for-ever": (
        COMPONENTS.format(body="while True: yield zoo.Component('loss', 'l', 'a:b')"),
        "returned more than 10000 items",
    ),
    "text": (COMPONENTS.format(body="return 'elbo'"), "returned 'elbo', not a list"),
    "number": (COMPONENTS.format(body="return 5"), "TypeError"),
    "coroutine": (HEAD + "@zoo.hookimpl\nasync def zoo_components():\n    return []", "zoo_components is async"),
    "async-generator": (HEAD + "@zoo.hookimpl\nasync def zoo_components():\n    yield 1", "zoo_components is async"),
    "wrapper": (HEAD + "@zoo.hookimpl(wrapper=True)\ndef zoo_components():\n    yield", "is a wrapper"),
    "old-wrapper": (HEAD + "@zoo.hookimpl(hookwrapper=True)\ndef zoo_components():\n    yield", "is a wrapper"),
    "late-bad-argument": (
        component("'loss'", "'early'", "'a:b'") + "@zoo.hookimpl\ndef zoo_recipes(cat):\n    return []",
        "PluginValidationError",
    ),
    # Components that are none
    "name-list": (component("'loss'", "['l']", "'x:y'"), "name ['l']: expected letters"),
    "name-none": (component("'loss'", "None", "'x:y'"), "name None: expected letters"),
    "name-number": (component("'loss'", "5", "'x:y'"), "name 5: expected letters"),
    "name-empty": (component("'loss'", "''", "'x:y'"), "name '': expected letters"),
    "name-colon": (component("'loss'", "'a:b'", "'x:y'"), "name 'a:b': expected letters"),
    "name-slash": (component("'loss'", "'a/b'", "'x:y'"), "name 'a/b': expected letters"),
    "name-escape": (component("'loss'", r"'\x1b[31m'", "'x:y'"), r"name '\x1b[31m': expected letters"),
    "kind-none": (component("None", "'l'", "'x:y'"), "unknown kind None"),
    "kind-list": (component("['loss']", "'l'", "'x:y'"), "unknown kind ['loss']"),
    "target-number": (component("'loss'", "'l'", "7"), "target 7: expected 'module:attribute'"),
    "target-class": (component("'loss'", "'l'", "zoo.Component"), "expected 'module:attribute'"),
    "target-half": (component("'loss'", "'l'", "'x'"), "target 'x': expected 'module:attribute'"),
    "target-relative": (component("'loss'", "'l'", "'.x:y'"), "target '.x:y': expected 'module:attribute'"),
    "summary": (component("'loss'", "'l'", "'x:y'", "5"), "summary 5: expected a line of text"),
    "summary-lines": (component("'loss'", "'l'", "'x:y'", r"'a\nb'"), "expected a line of text"),
    "reads": (component("'dataset'", "'d'", "'x:y'", "reads='.npy'"), "reads '.npy': expected a tuple"),
    "expected": (component("'loss'", "'l'", "'x:y'", "expected_failures=[3]"), "expected a mapping of checks"),
    "unhashable": (HEAD + CLASSES + component(*["Text('loss')"] * 3), "no equality"),
    "mute": (HEAD + CLASSES + COMPONENTS.format(body="yield Mute()"), "no words"),
    "lazy": (HEAD + CLASSES + COMPONENTS.format(body="yield Lazy('loss', 'l', 'x:y')"), "AttributeError"),
    "twice": (
        COMPONENTS.format(body="return [zoo.Component('loss', 'twice', f'{m}:y') for m in 'ab']"),
        "loss 'twice': bad-twice 1.0 registers this name twice; the first is kept",
    ),
    # Recipes that cannot be read
    "file-raises": (HEAD + CLASSES + RECIPES.format(body="yield File()"), "BaseException: out of paper"),
    "file-text": (RECIPES.format(body="return ['recipes.yaml']"), "returned 'recipes.yaml', which is not a file"),
    "file-folder": (RECIPES.format(body="import pathlib; return [pathlib.Path('/')]"), "cannot be read"),
    # Commands that are none
    "command-name": (COMMANDS.format(body="yield zoo.Command(5, '', 'x:y')"), "must be lines of text"),
    "command-dash": (COMMANDS.format(body="yield zoo.Command('--help', '', 'x:y')"), "a command named '--help'"),
    "command-summary": (COMMANDS.format(body="yield zoo.Command('x', None, 'x:y')"), "must be lines of text"),
    "command-target": (COMMANDS.format(body="yield zoo.Command('x', '', 'x')"), "a command with the target 'x'"),
    "command-none": (COMMANDS.format(body="return [None]"), "None, not a zoo.Command"),
    "command-taken": (
        COMMANDS.format(body="yield zoo.Command('train', '', 'x:y')"),
        "the command 'train' is built in",
    ),
    "commands-raise": (COMMANDS.format(body="raise BaseException('c')"), "BaseException: c"),
    # What is done to the streams
    "stdout-replaced": ("import io, sys\nsys.stdout = sys.stderr = io.StringIO()\nraise ValueError('s')", "s"),
    "stdout-closed": ("import sys\nsys.stdout.close()\nraise ValueError('s')", "ValueError: s"),
    "stdout-none": ("import sys\nsys.stdout = sys.stderr = None\nraise ValueError('s')", "ValueError: s"),
    "descriptor-closed": ("import os\nos.close(1)\nraise ValueError('s')", "ValueError: s"),
}


def distribution(site: Path, name: str, source: str = "", **files: bytes | None) -> Path:
    """Files on the path, any of the metadata as bytes; None leaves one out."""
    module = name.replace("-", "_")
    (site / f"{module}.py").write_text(textwrap.dedent(source))
    info = site / f"{module}-1.0.dist-info"
    info.mkdir()
    contents = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        "entry_points": f"[zoo]\n{module} = {module}\n".encode(),
    } | files
    for file, content in contents.items():
        if content is not None:
            (info / {"entry_points": "entry_points.txt"}.get(file, file)).write_bytes(content)
    return info


GOOD = component("'loss'", "'acme-good'", "'zoo_gaussian.losses:ELBO'", "'A good one'")
METADATA = {
    "no-metadata": ({"METADATA": None}, "its METADATA has no Name: reinstall it"),
    "binary-metadata": ({"METADATA": b"\xff\xfe\x00Name"}, "its METADATA cannot be read: UnicodeDecodeError"),
    "no-name": ({"METADATA": b"Metadata-Version: 2.1\nVersion: 1.0\n"}, "its METADATA has no Name"),
    "odd-name": ({"METADATA": b"Name: a:b c\nVersion: 1.0\n"}, "its METADATA has the Name 'a:b c'"),
    "anothers-name": ({"METADATA": b"Name: VAE_zoo\nVersion: 9\n"}, "the Name VAE_zoo of another distribution"),
    "binary-entry-points": ({"entry_points": b"\x80\x81[zoo]\xff"}, "entry_points.txt cannot be read"),
    "no-equals": ({"entry_points": b"[zoo]\njunk\n"}, "entry_points.txt cannot be read"),
    "odd-value": ({"entry_points": b"[zoo]\nodd = a b!\n"}, "its entry point is 'a b!'"),
    "no-value": ({"entry_points": b"[zoo]\nodd =\n"}, "its entry point is ''"),
    "no-module": ({"entry_points": b"[zoo]\nodd = no_such_module\n"}, "No module named 'no_such_module'"),
    "no-attribute": ({"entry_points": b"[zoo]\nodd = json:absent\n"}, "AttributeError"),
    "the-same-twice": ({"entry_points": b"[zoo]\none = bad_the_same_twice\none = bad_the_same_twice\n"}, "ValueError"),
}


def the_rest_works() -> None:
    assert "mlp-vae" in library().names()
    assert {"elbo", "mse"} <= set(zoo.list_components("loss"))
    assert zoo.recipe("conv-vae").latent_dim == 40
    assert {plugin.status for plugin in plugins() if plugin.builtin} <= {"ok", "disabled"}


@pytest.mark.parametrize("kind", [kind for kind in SOURCES if not kind.startswith("command")])
def test_a_hostile_plugin_is_named_and_harms_nobody(kind, site):
    source, message = SOURCES[kind]
    distribution(site, f"bad-{kind}", source)
    distribution(site, "acme-good", GOOD)
    streams = sys.stdout, sys.stderr
    the_rest_works()
    assert (sys.stdout, sys.stderr) == streams
    (broken,) = plugins().broken()
    assert (broken.name, broken.distribution) == (f"bad_{kind}".replace("-", "_"), f"bad-{kind}")
    assert message in broken.errors[0]
    assert "acme-good" in zoo.list_components("loss")


@pytest.mark.parametrize("kind", METADATA)
def test_hostile_metadata_are_named_and_harm_nobody(kind, site):
    files, message = METADATA[kind]
    distribution(site, f"bad-{kind}", "", **files)
    distribution(site, "acme-good", GOOD)
    the_rest_works()
    (broken,) = plugins().broken()
    assert broken.distribution.replace("_", "-") == f"bad-{kind}"
    assert broken.version == "1.0"
    assert message in broken.errors[0]
    assert "acme-good" in zoo.list_components("loss")


def test_a_folder_that_holds_nothing_and_a_file_in_its_place(site):
    (site / "bad_empty-1.0.dist-info").mkdir()
    (site / "bad_file-1.0.dist-info").write_text("no folder")
    (site / "bad_points-1.0.dist-info" / "entry_points.txt").mkdir(parents=True)
    the_rest_works()
    assert not plugins().broken()


def test_of_one_distribution_twice_on_the_path_the_first_counts(site, monkeypatch, tmp_path):
    distribution(site, "acme-good", GOOD)
    (tmp_path / "later").mkdir()
    distribution(tmp_path / "later", "acme-good", GOOD.replace("acme-good", "later"))
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "later")])
    assert "acme-good" in zoo.list_components("loss")
    assert "later" not in zoo.list_components("loss")
    assert not plugins().broken()


COMMAND_LINES = [
    ["--help"],
    ["list", "--json"],
    ["list", "--kind", "loss", "--json"],
    ["show", "mlp-vae", "--resolved", "--json"],
    ["show", "loss/elbo", "--json"],
    ["plugins", "--json"],
    ["plugins"],
    ["data", "--json"],
    ["schema"],
    ["completion", "bash"],
    ["check", "loss/elbo", "--only", "annotated", "--json"],
    ["new-plugin", "another-vae", "--json"],
]
ALL = """
import contextlib, io, json, sys
from zoo.cli.main import main

results = {}
for line in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(line)
        except SystemExit as ended:
            results[" ".join(line)] = [ended.code, out.getvalue(), err.getvalue()]
json.dump(results, open("results.json", "w"))
"""


def run_all(lines: list[list[str]], folder: Path) -> dict[str, list]:
    done = subprocess.run(
        [sys.executable, "-c", ALL, json.dumps(lines)], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((folder / "results.json").read_text())
    for line, (code, out, err) in results.items():
        assert code == 0, f"{line}\n{err}"
        assert "Traceback" not in err
        if line.endswith("--json"):
            json.loads(out)
    return results


def test_every_command_works_beside_all_of_them_at_once(site, tmp_path):
    for kind, (source, _) in SOURCES.items():
        distribution(site, f"bad-{kind}", source)
    for kind, (files, _) in METADATA.items():
        distribution(site, f"bad-{kind}", "", **files)
    results = run_all(COMMAND_LINES, tmp_path)
    rows = json.loads(results["plugins --json"][1])
    for kind, (_, message) in {**SOURCES, **METADATA}.items():
        (row,) = (
            row for row in rows if row["distribution"].replace("_", "-") == f"bad-{kind}" and row["status"] == "broken"
        )
        assert any(message in error for error in row["errors"]), row
        assert message in results["plugins"][1]
        assert f"of {row['distribution']} 1.0" in results["list --json"][2]
    assert {row["status"] for row in rows if row["distribution"] == "vae-zoo"} == {"ok", "disabled"}


# Components that are in order until they are used
LAZY = {
    "base": "raise BaseException('lazy')",
    "exits": "raise SystemExit(3)",
    "interrupts": "raise KeyboardInterrupt('mine')",
    "number": "Part = 5",
    "text": "Part = 'part'",
    "unhashable": "Part = {}",
    "annotation": "class Part:\n    def __init__(self, width: 'Nowhere' = 3): pass",
    "odd-annotation": "class Part:\n    def __init__(self, width: object() = 3): pass",
    "constructor": "class Part:\n    def __init__(self): raise BaseException('made')",
    "loud": "import os\nprint('NOISE')\nos.write(1, b'NOISE')\nos.system('echo NOISE')\nPart = 5",
    "meta": "class Meta(type):\n    def __getattr__(cls, n): raise RuntimeError(n)\nclass Part(metaclass=Meta): pass",
    "property": "import zoo\ndef Part(root): return 5",
}


def lazily_broken(site: Path) -> None:
    body = "".join(
        f"    yield zoo.Component('{kind}', 'bad-{name}', 'lazy_{name.replace('-', '_')}:Part')\n"
        for kind in zoo.KINDS
        for name in LAZY
    )
    distribution(site, "lazy", HEAD + "@zoo.hookimpl\ndef zoo_components():\n" + body)
    for name, source in LAZY.items():
        (site / f"lazy_{name.replace('-', '_')}.py").write_text(source)


def test_components_that_fail_when_they_are_used_stop_nothing_else(site, tmp_path, digits_run):
    lazily_broken(site)
    lines = [
        *COMMAND_LINES,
        ["train", "mlp-vae", "--data", "digits", "--epochs", "1", "encoder.hidden=[8]", "decoder.hidden=[8]", "--json"],
        ["evaluate", str(digits_run), "--limit", "20", "--json"],
    ]
    results = run_all(lines, tmp_path)
    evaluation = json.loads(results[f"evaluate {digits_run} --limit 20 --json"][1])
    assert "rate" in {row["name"] for row in evaluation["measurements"]}


@pytest.mark.parametrize("name", [name for name in LAZY if name not in ("loud", "property")])
def test_a_component_that_fails_when_it_is_used_is_named(name, site):
    lazily_broken(site)
    with pytest.raises(zoo.ZooError, match=f"loss 'bad-{name}'|loss Part|loss str|loss int|loss dict"):
        zoo.create_loss("mlp-vae", data_shape=(1, 28, 28), loss=f"bad-{name}")


def test_what_plugins_print_never_mixes_with_results(site, zoo_command, tmp_path):
    """When imported, in a hook, when a component is imported, made and used, by Python and below it, and at the end."""
    noise = "import os, sys, atexit\ndef noise():\n    print('NOISE')\n    sys.__stdout__.write('NOISE')\n"
    noise += "    os.write(1, b'NOISE')\n    os.system('echo NOISE')\n"
    source = (
        noise
        + "noise()\natexit.register(noise)\n"
        + HEAD
        + """
@zoo.hookimpl
def zoo_components():
    noise()
    yield zoo.Component("loss", "loud", "loud_loss:Loud")
@zoo.hookimpl
def zoo_commands(): noise()
class Loud(zoo.Callback):
    def on_train_begin(self, trainer): noise()
    def on_step_end(self, trainer): noise()
    def on_epoch_end(self, trainer, epoch): noise()
    def on_train_end(self, trainer, finished): noise()
@zoo.hookimpl
def zoo_callbacks(run):
    noise()
    yield Loud()
"""
    )
    distribution(site, "loud", source)
    (site / "loud_loss.py").write_text(
        noise
        + """
noise()
import zoo
class Loud(zoo.Loss):
    def __init__(self):
        super().__init__()
        noise()
    def forward(self, vae, batch):
        noise()
        trace = vae.trace(batch)
        return {"loss": trace.kl.mean() - trace.log_px.mean()}
"""
    )
    tiny = ("encoder.hidden=[8]", "decoder.hidden=[8]", "--data", "digits", "--epochs", "1")
    for line in (("plugins", "--json"), ("train", "mlp-vae", "loss=loud", *tiny, "--json")):
        done = zoo_command(*line)
        json.loads(done.stdout)
        assert done.stderr.count("NOISE") >= 8
    for line in (("schema",), ("show", "mlp-vae")):
        assert "NOISE" not in zoo_command(*line).stdout


def test_json_into_a_closed_pipe(site):
    done = subprocess.run(
        f"{sys.executable} -m zoo list --json | head -n 0", shell=True, capture_output=True, text=True, env=os.environ
    )
    assert done.stderr == ""


def test_ctrl_c_of_the_user_while_a_plugin_is_imported(site):
    distribution(site, "slow", "import time, pathlib\npathlib.Path('here').touch()\ntime.sleep(60)")
    with subprocess.Popen(
        [sys.executable, "-m", "zoo", "list"],
        cwd=site,
        stderr=subprocess.PIPE,
        text=True,
        # Where the tests run in the background, their shell has told them to ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        while not (site / "here").exists():
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stderr.strip() == "Stopped."


def test_threads_share_the_redirection(capfd):
    """Two that redirect at once leave stdout as it was, and neither waits for the other."""
    first, second = threading.Event(), threading.Event()

    def other() -> None:
        with stdout_to_stderr:
            first.set()
            second.wait(10)
            print("inside")

    stdout = sys.stdout
    thread = threading.Thread(target=other)
    thread.start()
    assert first.wait(10)
    with stdout_to_stderr:
        print("inside")
    second.set()
    thread.join()
    assert sys.stdout is stdout
    print("outside")
    out, err = capfd.readouterr()
    assert (out, err) == ("outside\n", "inside\ninside\n")


def test_a_slow_import_is_named(site, zoo_command):
    distribution(site, "slow", "import time\ntime.sleep(1.2)")
    assert "Slow plugins: slow of slow 1.0. See `zoo plugins`." in zoo_command("list").stderr
    (row,) = (row for row in json.loads(zoo_command("plugins", "--json").stdout) if row["name"] == "slow")
    assert row["status"] == "ok"
    assert "its import takes 1." in row["notes"][0]


def test_requirements_that_are_not_met_are_mentioned(site):
    required = [
        "vae-zoo>=99",
        "surely-not-installed",
        "torch>=1; extra == 'gpu'",
        "torch>=1",
        "absent; python_version < '3'",
        "not a requirement >=>",
    ]
    metadata = "Name: acme-good\nVersion: 1.0\n" + "".join(f"Requires-Dist: {one}\n" for one in required)
    distribution(site, "acme-good", GOOD, METADATA=metadata.encode())
    (plugin,) = (plugin for plugin in plugins() if not plugin.builtin)
    assert plugin.status == "ok"
    first, second, third = plugin.notes()
    assert first == f"requires vae-zoo>=99, but vae-zoo {zoo_version()} is installed"
    assert second == "requires surely-not-installed, which is not installed"
    assert third.startswith("requires not a requirement >=>, which cannot be checked")
    assert [p.notes() for p in plugins() if p.builtin] == [[]] * (len(list(plugins())) - 1)


def zoo_version() -> str:
    from importlib.metadata import version

    return version("vae-zoo")


def test_registry_names_stay_those_of_the_good(site):
    """A component that is refused takes none of the others of its plugin with it."""
    source = HEAD + (
        "@zoo.hookimpl\ndef zoo_components():\n"
        "    yield zoo.Component('loss', None, 'a:b')\n"
        "    yield zoo.Component('loss', 'good', 'a:b')\n"
    )
    distribution(site, "half", source)
    assert "good" in registry().names("loss")
