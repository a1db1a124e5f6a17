from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

import zoo
from zoo.recipes.library import library
from zoo_scaffold.json_schema import recipe_file_schema

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = recipe_file_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_committed_schema_is_that_of_the_built_in_components():
    """Update it with: zoo schema --builtin > recipes.schema.json"""
    assert json.loads((ROOT / "recipes.schema.json").read_text()) == recipe_file_schema("vae-zoo")


def test_the_built_in_registry_is_valid(validator):
    validator.validate(yaml.safe_load((ROOT / "registry.yaml").read_text()))


@pytest.mark.parametrize("model", zoo.list_models())
def test_every_resolved_recipe_is_valid(validator, model):
    validator.validate({"models": {model: library().resolve(model)}})


@pytest.mark.parametrize(
    ("model", "place"),
    [
        ({"latent_dim": 0}, "latent_dim"),
        ({"latent_dims": 2}, "a"),
        ({"encoder": "mpl"}, "encoder"),
        ({"encoder": {"use": "mlp", "hiden": [3]}}, "encoder"),
        ({"encoder": {"use": "mlp", "posterior": "bernoulli"}}, "encoder"),
        ({"loss": {"use": "elbo", "beta": -1.0}}, "loss"),
        ({"train": {"optimizer": {"use": "Adam", "lrr": 0.1}}}, "optimizer"),
        ({"train": {"epoch": 3}}, "train"),
        ({"data": ["mnits"]}, "data"),
    ],
    ids=str,
)
def test_errors_that_training_would_report_are_marked_in_the_editor(validator, model, place):
    errors = list(validator.iter_errors({"models": {"a": {"extends": "mlp-vae", **model}}}))
    assert errors
    assert place in [str(part) for part in errors[0].absolute_path]
