"""``distribution:name`` stands wherever a name does."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

import zoo
from zoo.cli.main import cli
from zoo.plugins.registry import registry
from zoo.recipes.library import load
from zoo.recipes.source import read_models
from zoo_report.report import report
from zoo_sweep.comparison import compare
from zoo_sweep.sweep import Sweep, sweep

OVERRIDES = ["encoder.hidden=[8]", "decoder.hidden=[8]", "train.steps=2", "data={use: digits}"]

ACME = """
    import zoo

    @zoo.hookimpl
    def zoo_components():
        yield zoo.Component("encoder", "mlp", "zoo_gaussian.mlp:MLPEncoder")
        yield zoo.Component("loss", "wide", "zoo_gaussian.losses:ELBO")
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A run of mlp-vae by its qualified name and one by the short one."""
    out = tmp_path_factory.mktemp("qualified")
    for name in ("mlp-vae", "vae-zoo:mlp-vae"):
        zoo.train(name, OVERRIDES, out=out)
    return out


def test_a_run_of_a_qualified_name_is_sound(runs):
    run = zoo.Run.open(runs / "vae-zoo.mlp-vae")
    assert run.recipe.name == "vae-zoo.mlp-vae"
    short = zoo.Run.open(runs / "mlp-vae")
    assert run.recipe.to_raw() == short.recipe.to_raw()
    weights, others = zoo.load(run.path).state_dict(), zoo.load(short.path).state_dict()
    assert all(weights[name].equal(others[name]) for name in others)


def test_what_takes_a_run_takes_it(runs, tmp_path):
    folder = runs / "vae-zoo.mlp-vae"
    metrics = zoo.evaluate(folder, ["vae-zoo:reconstruction"], {"vae-zoo:elbo": {}}, limit=4).measurements
    assert {"vae-zoo:reconstruction", "vae-zoo:elbo"} <= set(metrics)
    assert compare(folder, runs / "mlp-vae").differences == {}
    assert (
        zoo.fit_prior(folder, "vae-zoo:gaussian-mixture", ["components=2"])["prior"]["use"]
        == "vae-zoo:gaussian-mixture"
    )
    assert zoo.load(folder).sample(2).shape == (2, 1, 8, 8)
    page = report(folder, tmp_path / "page.html", metrics=False, limit=20).path.read_text()
    assert "Differences from" in page, "the recipe in the registry is found"


def test_a_sweep_takes_it(tmp_path):
    swept = sweep("vae-zoo:mlp-vae", [*OVERRIDES, "loss=vae-zoo:elbo,vae-zoo:mse"], name="s", out=tmp_path)
    assert swept.path == tmp_path / "vae-zoo.mlp-vae" / "sweep-s"
    assert [row.state for row in Sweep.open(swept.path).results().rows] == ["finished"] * 2


def test_the_command_line_takes_it(tmp_path):
    def output(*arguments: str) -> str:
        return CliRunner().invoke(cli, arguments, catch_exceptions=False).output

    assert output("list", "vae-zoo:mlp*") == output("list", "mlp*")
    assert output("list", "vae-zoo:el*", "--kind", "loss") == output("list", "el*", "--kind", "loss")
    for options in ([], ["--resolved"], ["latent_dim=3"]):
        file = tmp_path / "shown.yaml"
        file.write_text(output("show", "vae-zoo:mlp-vae", *options))
        assert list(read_models(file)) == ["vae-zoo.mlp-vae"]
        assert zoo.recipe(str(file)).encoder.use == "mlp"
    assert "hidden" in output("show", "encoder/vae-zoo:mlp")


def test_a_recipe_file_takes_it(tmp_path):
    file = tmp_path / "mine.yaml"
    text = """
        models:
          mine:
            extends: vae-zoo:mlp-vae
            encoder: {use: vae-zoo:mlp, posterior: vae-zoo:gaussian}
            decoder: {likelihood: {use: vae-zoo:bernoulli}}
            prior: vae-zoo:standard-normal
            loss: {use: vae-zoo:elbo, beta: 2.0}
            data: [vae-zoo:digits]
    """
    file.write_text(yaml.dump(yaml.safe_load(text)))
    recipe = zoo.recipe(str(file))
    assert recipe.encoder.parameters == {"hidden": [400], "posterior": "vae-zoo:gaussian"}
    vae = zoo.create_model(recipe, data_shape=(1, 8, 8))
    assert vae.sample(2).shape == (2, 1, 8, 8)
    assert zoo.load_dataset("vae-zoo:digits").train.shape == (1, 8, 8)


def test_data_by_a_qualified_name_keep_their_parameters():
    short, qualified = (zoo.catalog.recipe_for(name, "mlp-vae").data for name in ("digits", "vae-zoo:digits"))
    assert [block.parameters for block in qualified] == [block.parameters for block in short] == [{"repeat": 40}]


def test_a_qualified_name_is_another_spelling_and_no_other_component(install):
    install("acme", ACME)
    same = registry().same
    assert same("mlp", "vae-zoo:mlp"), "a name that others claim too is the zoo's own"
    assert not same("mlp", "acme:mlp")
    assert same("wide", "acme:wide"), "nobody else has it"
    assert not same("acme:mlp", "vae-zoo:mlp")
    assert not same("acme:wide", "mlp")
    assert zoo.recipe("mlp-vae", ["encoder=vae-zoo:mlp"]).encoder.parameters == {"hidden": [400]}
    assert zoo.recipe("mlp-vae", ["encoder=acme:mlp"]).encoder.parameters == {}


@pytest.mark.parametrize("name", ["ghost:mlp-vae", "vae-zoo:", ":", "vae-zoo:mlp-vae:mlp-vae", "vae-zoo:../x"])
def test_a_qualified_name_of_nothing_is_unknown(name):
    with pytest.raises(zoo.UnknownName):
        load(name)
