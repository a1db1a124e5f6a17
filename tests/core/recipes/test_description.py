from __future__ import annotations

import inspect
import os
import subprocess
import sys

import pytest

import zoo
from zoo.plugins.hookspecs import INJECTED
from zoo.recipes.signatures import describe

COMPONENTS = [(kind, name) for kind in zoo.KINDS for name in zoo.list_components(kind)]


@pytest.mark.parametrize(("kind", "name"), COMPONENTS, ids="/".join)
def test_a_description_has_every_parameter_of_the_constructor(kind, name):
    description = describe(kind, name)
    signature = {
        key: parameter
        for key, parameter in inspect.signature(zoo.get(kind, name)).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) and not key.startswith("_")
    }
    if kind == "dataset" and "validation" not in signature:  # the zoo itself holds examples out
        *own, common = description.parameters
        assert (common.name, common.default, common.injected) == ("validation", "0", False)
    else:
        own = list(description.parameters)
    assert [parameter.name for parameter in own] == list(signature)
    for parameter in own:
        default = signature[parameter.name].default
        assert parameter.default == (None if default is inspect.Parameter.empty else repr(default))
        assert parameter.injected == (parameter.name in INJECTED[kind])
        assert parameter.type
    assert description.documentation == inspect.getdoc(zoo.get(kind, name))


def test_every_component_says_what_it_is():
    for kind, name in COMPONENTS:
        description = describe(kind, name)
        assert description.summary, (kind, name)
        assert description.documentation, (kind, name)


def test_a_component_that_cannot_be_imported_cannot_be_described(install):
    install(
        "acme-vae",
        """
        import zoo
        @zoo.hookimpl
        def zoo_components():
            yield zoo.Component("loss", "lost", "acme_vae:Lost")
            yield zoo.Component("loss", "gone", "acme_gone:Gone")
    """,
    )
    with pytest.raises(zoo.ComponentError, match="Lost"):
        describe("loss", "lost")
    with pytest.raises(zoo.ComponentError, match="acme_gone"):
        describe("loss", "gone")


def test_show_a_component(zoo_command):
    output = zoo_command("show", "loss/elbo").stdout
    assert "arXiv 1312.6114" in output
    assert output.splitlines()[-2].split() == ["beta", "NonNegativeFloat", "1.0"]
    assert "Did you mean 'elbo'?" in zoo_command("show", "loss/elbow", code=2).stderr
    assert "There is no kind 'los'. Did you mean 'loss'?" in zoo_command("show", "los/elbo", code=2).stderr


COMPLETE = """
import sys
from zoo.cli.main import main
try:
    main()
finally:
    print("torch" in sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("words", "offered", "not_offered"),
    [
        (["train", "mlp-vae-"], {"mlp-vae-2d", "mlp-vae-mse"}, {"conv-vae"}),
        (["show", "likelihood/cont"], {"likelihood/continuous-bernoulli"}, {"likelihood/bernoulli"}),
        (["train", "mlp-vae", "encoder."], {"encoder.hidden=", "encoder.posterior="}, {"encoder.data_shape="}),
        (["train", "conv-vae", "encoder.c"], {"encoder.channels="}, {"encoder.hidden="}),
        (["train", "mlp-vae", "encoder=conv", "encoder.c"], {"encoder.channels="}, set()),
        (["train", "mlp-vae", "loss=e"], {"loss=elbo"}, {"loss=mse"}),
        (["train", "mlp-vae", "decoder.likelihood=b"], {"decoder.likelihood=bernoulli"}, set()),
        (["train", "mlp-vae", "train.checkpoint."], {"train.checkpoint.minutes="}, {"train.lr="}),
        (["train", "mlp-vae", "--data", "mn"], {"mnist"}, {"digits"}),
        (["list", "--kind", "p"], {"prior", "posterior"}, {"loss"}),
        (["train", "no-such-model", "enc"], set(), set()),
        (["rec"], {"reconstruct"}, {"sample"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_completion(words, offered, not_offered, tmp_path):
    environment = {
        "_ZOO_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["zoo", *words]),
        "COMP_CWORD": str(len(words)),
    }
    done = subprocess.run(
        [sys.executable, "-c", COMPLETE],
        env={**os.environ, **environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    values = {line.partition(",")[2] for line in done.stdout.splitlines()}
    assert offered <= values
    assert not not_offered & values
    of_a_component = words[-1].startswith(("encoder.", "decoder."))  # its constructor is read, and that needs torch
    assert done.stderr.strip() == str(of_a_component)


def test_runs_are_completed(digits_run, tmp_path):
    environment = {"_ZOO_COMPLETE": "bash_complete", "COMP_WORDS": "zoo sample ", "COMP_CWORD": "2"}
    done = subprocess.run(
        [sys.executable, "-c", COMPLETE],
        env={**os.environ, **environment},
        cwd=digits_run.parents[2],
        capture_output=True,
        text=True,
    )
    folder = digits_run.relative_to(digits_run.parents[2])
    assert {line.partition(",")[2] for line in done.stdout.splitlines()} >= {str(folder), str(folder.parent)}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell(shell, zoo_command):
    script = zoo_command("completion", shell).stdout
    assert f"_ZOO_COMPLETE={shell}_complete" in script
