"""What a name means where several distributions have it: in a package's recipes its own, elsewhere nothing."""

from __future__ import annotations

import json

import pytest
import yaml

import zoo
from zoo.plugins.registry import fresh_registry, registry
from zoo.recipes.components import validate, with_defaults
from zoo.recipes.library import library
from zoo.recipes.source import builtin_registry, read_models
from zoo_conformance.kit import cases

BUILTIN = list(read_models(builtin_registry()))
RECIPES = """
@zoo.hookimpl
def zoo_recipes():
    import pathlib
    yield pathlib.Path(__file__).with_suffix(".yaml")
"""


def claiming(names: dict[str, list[str]], target: str = "nowhere:Nothing") -> str:
    """A plugin that claims names of components."""
    lines = [f"    yield zoo.Component('{kind}', '{name}', '{target}')" for kind in names for name in names[kind]]
    return "\n".join(["import zoo", "@zoo.hookimpl", "def zoo_components():", *(lines or ["    return []"])]) + "\n"


def greedy() -> str:
    return claiming({kind: [claim.name for claim in registry().names(kind)] for kind in zoo.KINDS})


def anew() -> None:
    """Look at the installed plugins again."""
    with fresh_registry():
        pass


def short(recipe):
    return json.loads(json.dumps(recipe).replace("vae-zoo:", ""))


def test_a_plugin_that_claims_every_name_changes_no_builtin_recipe(install):
    before = {name: zoo.recipe(name) for name in BUILTIN}
    written = {name: with_defaults(recipe).to_raw() for name, recipe in before.items()}
    install("greedy", greedy())
    anew()
    for name in BUILTIN:
        recipe = zoo.recipe(name)
        assert recipe.encoder.use.startswith("vae-zoo:")
        assert short(recipe.to_raw()) == before[name].to_raw()
        out = with_defaults(recipe)
        assert short(out.to_raw()) == written[name], "the components inside components, and their defaults"
        assert validate(name, out.to_raw()) == out, "what a run folder holds is read back"


@pytest.mark.parametrize("name", ["mlp-vae", "cvae", "joint-vae", "ladder-vae", "iaf", "vq-vae"])
def test_what_is_built_is_the_same_too(name, install):
    def parts() -> list[type]:
        return [type(module) for module in zoo.create_model(name, data_shape=(1, 8, 8), classes=10).modules()]

    before = parts()
    install("greedy", greedy())
    anew()
    assert zoo.recipe(name).loss.use.startswith("vae-zoo:")
    assert parts() == before


def test_a_prior_that_chooses_components_itself(install):
    install("greedy", greedy())
    anew()
    for name in ("two-stage", "gaussian-mixture"):
        assert zoo.create_model("mlp-vae", data_shape=(1, 28, 28), prior=f"vae-zoo:{name}") is not None


def test_a_training_where_every_name_is_contested(install, tmp_path):
    install("greedy", greedy())
    anew()
    tiny = ["encoder.hidden=[8]", "decoder.hidden=[8]"]
    run = zoo.train("mlp-vae", tiny, data="vae-zoo:digits", epochs=1, out=tmp_path)
    recipe = yaml.safe_load((run.path / "recipe.yaml").read_text())["models"]["mlp-vae"]
    assert recipe["encoder"]["posterior"]["use"] == "vae-zoo:gaussian"
    assert zoo.load(run.path).sample(3).shape == (3, 1, 8, 8)
    assert zoo.list_components("encoder", "mlp") == ["vae-zoo:mlp", "greedy:mlp"]
    with pytest.raises(zoo.NameConflict, match="dataset 'digits' is claimed by greedy 1.0"):
        zoo.train("mlp-vae", tiny, data="digits", epochs=1, out=tmp_path)
    with pytest.raises(zoo.RecipeError, match="Use greedy:elbo or vae-zoo:elbo, or uninstall one."):
        zoo.recipe("mlp-vae", ["loss=elbo"])
    results = [case.run() for case in cases("loss/vae-zoo:elbo", "vae-zoo:mlp-vae", only=("terms",))]
    assert [result.outcome for result in results] == ["passed", "passed"]


def test_a_model_that_is_contested_breaks_none_that_extends_it(install):
    models = {name: {"extends": "conv-vae", "latent_dim": 3} for name in ("mlp-vae", "ae")}
    before = {name: zoo.recipe(name).to_raw() for name in BUILTIN if name not in models}
    install("greedy", "import zoo\n" + RECIPES, greedy__yaml=json.dumps({"models": models}))
    anew()
    for name, raw in before.items():
        assert zoo.recipe(name).to_raw() == raw
    with pytest.raises(zoo.NameConflict, match="Use greedy:mlp-vae or vae-zoo:mlp-vae"):
        zoo.recipe("mlp-vae")
    assert library().resolve("vae-zoo:mlp-vae")["latent_dim"] == 40
    assert library().resolve("greedy:mlp-vae")["latent_dim"] == 3


def test_a_package_means_its_own_components_and_recipes(install):
    """By an encoder, inside it, in what extends its recipes, and in what it extends of others."""
    install(
        "acme",
        claiming({"encoder": ["mlp"], "posterior": ["gaussian"], "loss": ["elbo", "mine"]}, "zoo_x:X") + RECIPES,
        acme__yaml="""
        models:
          acme-vae:
            extends: mlp-vae
            latent_dim: 3
            loss: {use: elbo, beta: 2.0}
          acme-wide:
            extends: acme-vae
            encoder: mlp
          acme-conv:
            extends: conv-vae
            encoder: {posterior: gaussian}
            loss: mine
        """,
    )
    install("other", claiming({"loss": ["mine"]}))

    def uses(name):
        raw = library().resolve(name)
        return [
            raw[kind] if isinstance(raw[kind], str) else raw[kind]["use"] for kind in ("encoder", "decoder", "loss")
        ]

    assert uses("acme-vae") == ["vae-zoo:mlp", "mlp", "acme:elbo"]
    assert uses("acme-wide") == ["acme:mlp", "mlp", "acme:elbo"]
    assert uses("acme-conv") == ["conv", "conv", "acme:mine"]
    assert library().resolve("acme-conv")["encoder"]["posterior"] == "acme:gaussian"
    assert uses("beta-vae") == ["vae-zoo:mlp", "mlp", "vae-zoo:elbo"]


def test_a_recipe_that_extends_the_one_whose_name_it_takes(install):
    install("acme", "import zoo\n" + RECIPES, acme__yaml="models: {mlp-vae: {extends: mlp-vae, latent_dim: 3}}")
    base = library().resolve("vae-zoo:mlp-vae")
    del base["summary"]
    assert library().resolve("acme:mlp-vae") == {**base, "latent_dim": 3}


def test_names_that_nobody_else_claims_stay_as_they_are_written(install):
    install("acme", claiming({"loss": ["mse"]}))
    assert zoo.recipe("mlp-vae").to_raw()["encoder"] == {"use": "mlp", "hidden": [400]}
    assert zoo.recipe("mlp-vae-mse").loss.use == "vae-zoo:mse"


def test_distributions_are_compared_as_pip_compares_them(install):
    install("acme-vae", claiming({"loss": ["mse"]}, "zoo_gaussian.losses:ELBO"))
    assert zoo.get("loss", "Acme_VAE:mse") is zoo.get("loss", "acme-vae:mse")
