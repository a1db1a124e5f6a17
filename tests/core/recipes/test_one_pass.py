"""One command resolves its recipe once, validates it once, and builds from the checked arguments."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import zoo
from zoo.recipes.components import checked, components_of, construct, explicit, validate, with_defaults
from zoo.recipes.library import Library, load
from zoo.recipes.schema import ComponentSpec

PLUGIN = """
import zoo


@zoo.hookimpl
def zoo_components():
    yield zoo.Component("loss", "counted", "acme_vae_loss:Counted")
    yield zoo.Component("likelihood", "counted-bernoulli", "acme_vae_loss:CountedBernoulli")
"""

# Each validation of a parameter appends a line to a file, which counts across processes.
LOSS = """
import os
from typing import Annotated

from pydantic import AfterValidator

import zoo


def count(value):
    with open(os.environ["VALIDATIONS"], "a") as file:
        file.write(f"{value}\\n")
    return value


class Counted(zoo.get("loss", "elbo")):
    def __init__(self, beta: Annotated[float, AfterValidator(count)]) -> None:
        super().__init__(beta)


class CountedBernoulli(zoo.get("likelihood", "bernoulli")):
    def __init__(self, data_shape: tuple[int, ...], sharpness: Annotated[float, AfterValidator(count)]) -> None:
        super().__init__(data_shape)
"""

OVERRIDES = [
    "loss={use: counted, beta: 2.0}",
    "decoder.likelihood={use: counted-bernoulli, sharpness: 3.0}",
    "train.optimizer={use: SGD, lr: 0.001}",
    "train.steps=2",
    "train.epochs=1",
]


@pytest.fixture
def validations(install, tmp_path, monkeypatch) -> Path:
    install("acme-vae", PLUGIN, acme_vae_loss__py=LOSS)
    file = tmp_path / "validations"
    monkeypatch.setenv("VALIDATIONS", str(file))
    return file


def test_a_training_resolves_and_validates_its_recipe_once(validations, tmp_path, monkeypatch):
    resolved = []
    resolve = Library.resolve
    monkeypatch.setattr(Library, "resolve", lambda self, name: resolved.append(name) or resolve(self, name))
    run = zoo.train("mlp-vae", OVERRIDES, data="digits", out=tmp_path / "runs", progress=False)
    assert resolved == ["mlp-vae"]
    assert sorted(validations.read_text().split()) == ["2.0", "3.0"]
    assert run.recipe.loss.parameters["beta"] == 2.0
    assert type(run)(run.path).recipe == run.recipe, "as it is read from the folder"


def test_the_command_resolves_and_validates_its_recipe_once(validations, tmp_path):
    program = (
        "import sys\n"
        "from zoo.cli.main import main\n"
        "from zoo.recipes.library import Library\n"
        "resolve = Library.resolve\n"
        "def counted(self, name):\n"
        "    print('resolved', name, 'torch' in sys.modules)\n"
        "    return resolve(self, name)\n"
        "Library.resolve = counted\n"
        f"main({['train', 'mlp-vae', *OVERRIDES, '--data', 'digits', '--out', str(tmp_path / 'runs')]!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("resolved")]
    assert lines == ["resolved mlp-vae False"], "once, before torch is imported"
    assert sorted(validations.read_text().split()) == ["2.0", "3.0"]


def test_a_validated_recipe_carries_the_arguments_of_every_component():
    recipe = zoo.recipe("conv-vae", ["train.scheduler={use: StepLR, step_size: 3}"])
    specs = [*recipe.data, recipe.train.optimizer, recipe.train.scheduler]
    specs += [spec for _, _, spec in components_of(recipe)]
    assert len(specs) >= 9
    assert all(spec.is_checked for spec in specs)
    assert recipe.train.scheduler.arguments == {"step_size": 3}
    assert recipe == validate(*load("conv-vae")).model_copy(update={"train": recipe.train})


def test_a_spec_that_was_with_defaults_makes_the_same_component():
    spec = ComponentSpec(use="two-stage", decoder={"hidden": [9]})
    written = explicit("prior", spec)
    assert written.is_checked
    assert written.arguments["decoder"].spec.parameters["hidden"] == [9]
    context = {"latent_shape": (2,), "latent_dim": 2}
    sizes = [[p.shape for p in construct("prior", s, context).parameters()] for s in (spec, written)]
    assert sizes[0] == sizes[1]
    # Writing out once more, or reading back what was written, changes nothing.
    assert (
        explicit("prior", written) == explicit("prior", ComponentSpec.model_validate(written.model_dump())) == written
    )
    recipe = with_defaults(zoo.recipe("conv-vae"))
    assert with_defaults(recipe) == recipe


def test_a_constructor_cannot_alter_the_arguments_of_a_spec(install):
    install(
        "acme-vae",
        "import zoo\n@zoo.hookimpl\ndef zoo_components():\n"
        "    yield zoo.Component('loss', 'greedy', 'greedy_loss:Greedy')",
        greedy_loss__py="""
            import zoo
            class Greedy(zoo.get("loss", "elbo")):
                def __init__(self, weights: list[float]) -> None:
                    super().__init__(weights.pop())
        """,
    )
    spec = checked("loss", ComponentSpec(use="greedy", weights=[1.0, 2.0]))
    betas = [construct("loss", spec, {}).beta().item() for _ in range(2)]
    assert betas == [2.0, 2.0]
    assert spec.arguments == {"weights": [1.0, 2.0]}


def test_an_iterable_is_read_as_a_list(install):
    """Pydantic checks an `Iterable` only when it is iterated over, and an iterator can be used once."""
    install(
        "acme-vae",
        "import zoo\n@zoo.hookimpl\ndef zoo_components():\n"
        "    yield zoo.Component('loss', 'summed', 'summed_loss:Summed')",
        summed_loss__py="""
            from collections.abc import Iterable
            import zoo
            class Summed(zoo.get("loss", "elbo")):
                def __init__(self, weights: Iterable[float], more: Iterable[Iterable[int]] | None = None) -> None:
                    super().__init__(sum(weights) + sum(sum(inner) for inner in more or []))
        """,
    )
    spec = checked("loss", ComponentSpec(use="summed", weights=[1, 2.5], more=[[1], [2, 3]]))
    assert spec.arguments == {"weights": [1.0, 2.5], "more": [[1], [2, 3]]}
    assert [construct("loss", spec, {}).beta().item() for _ in range(2)] == [9.5, 9.5]
    with pytest.raises(zoo.RecipeError, match=r"weights\.1"):
        zoo.recipe("mlp-vae", ["loss={use: summed, weights: [1, x]}"])
