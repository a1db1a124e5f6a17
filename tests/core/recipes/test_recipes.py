from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import yaml

import zoo
from zoo.recipes.checking import FOREIGN, keys_of
from zoo.recipes.components import check_spec, explicit
from zoo.recipes.library import library
from zoo.recipes.merge import merge, parse_overrides
from zoo.recipes.schema import ComponentSpec, Recipe
from zoo.recipes.signatures import read_signature
from zoo.recipes.source import builtin_registry, read_models, write_models


def problems(error: pytest.ExceptionInfo[zoo.RecipeError]) -> dict[str, str]:
    return {problem.place: problem.message for problem in error.value.problems}


def test_a_recipe_inherits_and_drops_the_parameters_of_another_component():
    resolved = library().resolve("conv-vae")
    assert resolved["encoder"] == {"use": "conv", "channels": [32, 64, 128]}
    assert resolved["latent_dim"] == 40
    assert "extends" not in resolved


@pytest.mark.parametrize(
    ("base", "change", "merged"),
    [
        ({"encoder": {"use": "mlp", "hidden": [4]}}, {"encoder": {"hidden": [9]}}, {"use": "mlp", "hidden": [9]}),
        ({"encoder": {"use": "mlp", "hidden": [4]}}, {"encoder": {"use": "conv"}}, {"use": "conv"}),
        ({"encoder": {"use": "mlp", "hidden": [4]}}, {"encoder": "mlp"}, {"use": "mlp", "hidden": [4]}),
        ({"encoder": "mlp"}, {"encoder": {"hidden": [9]}}, {"use": "mlp", "hidden": [9]}),
        (
            {"encoder": {"use": "mlp", "posterior": {"use": "gaussian", "a": 1}}},
            {"encoder": {"posterior": "laplace"}},
            {"use": "mlp", "posterior": "laplace"},
        ),
    ],
)
def test_merging_blocks(base, change, merged):
    before = yaml.dump(base)
    assert merge(base, change)["encoder"] == merged
    assert yaml.dump(base) == before, "the caller's recipe is not altered"


def test_overrides_on_the_command_line():
    overrides = ["latent_dim=2", "encoder.hidden=[512,256]", "loss=mse", "train.optimizer.lr=1e-4"]
    recipe = zoo.recipe("mlp-vae", overrides)
    assert (recipe.latent_dim, recipe.loss.use) == (2, "mse")
    assert recipe.encoder.parameters == {"hidden": [512, 256]}
    assert recipe.train.optimizer.parameters == {"lr": 1e-4}
    assert recipe.train.epochs == 5


def test_keyword_arguments_come_last():
    recipe = zoo.recipe("mlp-vae", ["latent_dim=2"], latent_dim=3, encoder={"hidden": [7]}, data="digits")
    assert (recipe.latent_dim, recipe.encoder.parameters, recipe.data[0].use) == (3, {"hidden": [7]}, "digits")


def test_every_problem_is_reported_at_once_with_its_place_and_a_suggestion():
    overrides = [
        "latnt_dim=3",
        "latent_dim=-1",
        "encoder.hiden=[5]",
        "decoder.hidden=[4.5]",
        "decoder.activation=rleu",
        "loss.beta=-1",
        "prior=standard-nromal",
        "train.epochs=0",
        "train.optimizer.lr=fast",
        "encoder.posterior=gausian",
    ]
    with pytest.raises(zoo.RecipeError) as error:
        zoo.recipe("mlp-vae", overrides)
    messages = problems(error)
    assert "Did you mean 'latent_dim'?" in messages["latnt_dim"]
    assert "greater than 0, got -1" in messages["latent_dim"]
    assert "Did you mean 'hidden'?" in messages["encoder.hiden"]
    assert "valid integer" in messages["decoder.hidden.0"]
    assert "'relu'" in messages["decoder.activation"]
    assert "greater than or equal to 0" in messages["loss.beta"]
    assert "Did you mean 'standard-normal'?" in messages["prior"]
    assert "greater than 0" in messages["train.epochs"]
    assert "valid number, got 'fast'" in messages["train.optimizer.lr"]
    assert "Did you mean 'gaussian'?" in messages["encoder.posterior"]
    assert len(messages) == len(overrides)


@pytest.mark.parametrize("key", ["encoder.data_shape=[1,2,3]", "encoder.latent_dim=3", "decoder.latent_shape=[2]"])
def test_what_the_zoo_injects_cannot_be_set(key):
    with pytest.raises(zoo.RecipeError, match="is set by the zoo"):
        zoo.recipe("mlp-vae", [key])


@pytest.mark.parametrize("text", ["latent_dim", "=2", "latent_dim=", "a..b=1", "x=[1"])
def test_an_override_that_cannot_be_read(text):
    with pytest.raises(zoo.RecipeError) as error:
        parse_overrides([text])
    assert text in problems(error)


def test_unknown_optimizer():
    with pytest.raises(zoo.RecipeError, match="Did you mean 'Adam'"):
        zoo.recipe("mlp-vae", ["train.optimizer.use=adm"])


def test_a_resolved_recipe_is_read_back_the_same(tmp_path: Path):
    recipe = zoo.recipe("conv-vae-mse", ["train.optimizer.lr=1e-5", "loss.beta=0.5"])
    file = tmp_path / "mine.yaml"
    file.write_text(write_models({recipe.name: recipe.to_raw()}))
    assert zoo.recipe(str(file)) == recipe


def test_own_files_come_first_and_may_add_to_what_they_hide(tmp_path: Path):
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("models:\n  mlp-vae: {extends: mlp-vae, latent_dim: 7}\n  mine: {extends: mlp-vae, loss: mse}\n")
    second.write_text("models:\n  mlp-vae: {extends: mlp-vae, encoder: {hidden: [3]}}\n")
    recipe = zoo.recipe("mlp-vae", registries=[first, second])
    assert (recipe.latent_dim, recipe.encoder.parameters["hidden"]) == (7, [3])
    mine = zoo.recipe("mine", registries=[first])
    assert (mine.latent_dim, mine.loss.use) == (7, "mse"), "it extends the one that the user sees"


def test_a_circle_of_recipes(tmp_path: Path):
    file = tmp_path / "r.yaml"
    file.write_text("models:\n  a: {extends: b}\n  b: {extends: a}\n  c: {extends: c}\n")
    with pytest.raises(zoo.RecipeError, match="forms a cycle: a -> b -> a"):
        zoo.recipe("a", registries=[file])
    with pytest.raises(zoo.RecipeError, match="no model named 'c'"):
        zoo.recipe("c", registries=[file])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models: {a: !!python/object/apply:os.system ['true']}", "tags such as .* are not supported"),
        ("models: {a: {latent_dim: 1, latent_dim: 2}}", "duplicate key"),
        ("models: {../x: {}}", "letters, digits"),
        ("models: {/etc/x: {}}", "letters, digits"),
        ('models: {"a\\0b": {}}', "letters, digits"),
        ("models: {a: 3}", "expected a mapping"),
        ("modls: {a: {}}", "expected a mapping `models:`"),
        ("models: {a: {}}\nmodel: 3", "unknown key"),
        ("models: [", "while parsing"),
        ("- 1", "expected a mapping"),
        ("", "expected a mapping"),
    ],
)
def test_files_that_are_no_recipe_files(tmp_path: Path, text: str, message: str):
    """Scenarios 34 and 35."""
    file = tmp_path / "r.yaml"
    file.write_text(text)
    with pytest.raises(zoo.RecipeError, match=message):
        read_models(file)


def test_a_file_with_several_models_names_none(tmp_path: Path):
    file = tmp_path / "r.yaml"
    file.write_text("models: {a: {extends: mlp-vae}, b: {extends: mlp-vae}}")
    with pytest.raises(zoo.UnknownName, match="has 2 .a, b."):
        zoo.recipe(str(file))
    with pytest.raises(zoo.RecipeError, match="cannot be read"):
        zoo.recipe("nowhere.yaml")


def test_a_class_path_is_never_imported():
    """Scenario 33: only registered names are components."""
    with pytest.raises(zoo.RecipeError, match="no encoder named"):
        zoo.recipe("mlp-vae", ["encoder=zoo_gaussian.mlp:MLPEncoder"])
    with pytest.raises(zoo.RecipeError, match="no loss named"):
        zoo.recipe("mlp-vae", ["loss=os.system"])


def test_numbers_are_not_made_out_of_strings_or_bits():
    with pytest.raises(zoo.RecipeError) as error:
        zoo.recipe("mlp-vae", ["latent_dim='40'", "encoder.hidden=[true]"])
    assert set(problems(error)) == {"latent_dim", "encoder.hidden.0"}


def test_the_registry_file_is_the_one_at_the_root():
    assert Path(str(builtin_registry())) == Path(__file__).parents[3] / "registry.yaml"


def test_a_model_is_required_to_have_its_four_parts(tmp_path: Path):
    file = tmp_path / "r.yaml"
    file.write_text("models: {bare: {latent_dim: 3, data: digits}}")
    with pytest.raises(zoo.RecipeError) as error:
        zoo.recipe(str(file))
    assert {place for place, message in problems(error).items() if message == "is required"} == {
        *("encoder", "decoder", "prior", "loss")
    }


def test_a_part_of_a_nested_block_keeps_the_rest_of_the_default():
    """decoder.hidden of a two-stage prior: the likelihood is still that in the default of the prior's constructor."""
    block = ComponentSpec(use="two-stage", decoder={"hidden": [9]})
    assert explicit("prior", block).parameters["decoder"]["hidden"] == [9]
    likelihood = explicit("prior", block).parameters["decoder"]["likelihood"]
    assert likelihood == explicit("prior", ComponentSpec(use="two-stage")).parameters["decoder"]["likelihood"]
    prior = zoo.ComponentFactory("prior", "two-stage", decoder={"hidden": [9]})(latent_shape=(2,), latent_dim=2)
    assert prior.vae.decoder.likelihood.parameters_per_entry == 2


@pytest.mark.parametrize(
    ("override", "suggestion"),
    [
        ("latent-dim=2", "latent-dim: unknown key. Did you mean 'latent_dim'?"),
        (
            "train.optimizer.weight-decay=0.1",
            "train.optimizer.weight-decay: unknown key. Did you mean 'train.optimizer.weight_decay'?",
        ),
        ("train.batch-size=3", "train.batch-size: unknown key. Did you mean 'train.batch_size'?"),
        ("train.checkpoint.min-utes=3", "train.checkpoint.min-utes: unknown key. Did you mean 'minutes'?"),
        ("encoder={use: mlp, hidden-layers: [3]}", "encoder.hidden-layers: unknown key. Did you mean 'hidden'?"),
        ("latent_dım=2", "latent_dım: unknown key. Did you mean 'latent_dim'?"),
        ("use=conv", "use: unknown key. Did you mean 'encoder.use'?"),
        ("extends=conv-vae", "extends: unknown key."),
        ("int=3", "int: unknown key."),
        ("encoder.use.x=3", "encoder.use: input should be a valid string, got {'x': 3}"),
        ("train=3", "train: expected a mapping, got 3"),
        ("name=x", "name: cannot be set; the name of a model is its key under `models:`"),
        ("encoder.hidden={x: 3}", "encoder.hidden: "),
        ("epochs=2", "Did you mean 'train.epochs'?"),
        ("encoder.posteror=gaussian", "Did you mean 'posterior'? Known: hidden, activation, init, posterior."),
        ("train.optimiser=adam", "Did you mean 'optimizer'?"),
    ],
)
def test_a_key_in_the_wrong_place_or_misspelt_comes_with_a_suggestion(override, suggestion):
    with pytest.raises(zoo.RecipeError) as error:
        zoo.recipe("mlp-vae", [override])
    assert suggestion in str(error.value)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        *(
            (key, "set the whole list")
            for key in ("encoder.hidden[0]", "encoder.hidden.0", "data.0.use", "data[0]", "0")
        ),
        *((key, "set the whole list") for key in ("encoder.hidden[", "data.-1.use")),
        *((key, "expected KEY=VALUE") for key in ("", ".", "a..b", ".a", "a.", "a b", "a\tb", "{a}", "a,b", " . ")),
        (".".join("a" * 51), "more than 50 parts"),
        (".".join("a" * 20_000), "more than 50 parts"),
    ],
    ids=lambda value: ascii(value[:30]),
)
def test_a_key_that_is_none(key, message):
    with pytest.raises(zoo.RecipeError, match=message) as error:
        parse_overrides([f"{key}=5"])
    assert len(str(error.value)) < 500


ODD = [
    "latent_dim\u200b",
    "\x1b[31m".replace("[", ""),
    "x" * 10_000,
    "🦁",
    "l\u0430tent_dim",
    "train.🦁",
    "train.x-y.z",
    "use.use",
    "a:b.c",
]


@pytest.mark.parametrize("key", ODD, ids=lambda key: ascii(key[:20]))
def test_an_odd_key_is_an_unknown_one(key):
    with pytest.raises(zoo.RecipeError, match="unknown key|expected a mapping") as error:
        zoo.recipe("mlp-vae", [f"{key}=5"])
    assert len(str(error.value)) < 1000
    assert "\x1b" not in str(error.value)


def test_a_name_inside_of_a_recipe_is_refused(tmp_path: Path):
    file = tmp_path / "r.yaml"
    file.write_text("models: {a: {extends: mlp-vae, name: b}}")
    for use in (lambda: zoo.recipe(str(file)), lambda: zoo.recipe("mlp-vae", name="b")):
        with pytest.raises(zoo.RecipeError, match="name: cannot be set"):
            use()


def test_a_base_that_does_not_exist_is_told_with_the_recipe_that_names_it(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("models:\n  mine: {extends: mlp-vea}\n")
    with pytest.raises(zoo.RecipeError, match=r"Model 'mine' of .*mine.yaml cannot be resolved") as error:
        zoo.recipe("mine", registries=[file])
    assert "extends: There is no model named 'mlp-vea'. Did you mean 'mlp-vae'?" in str(error.value)


ANY_SIGN = {("info-vae", "alpha")}
"""Numbers that may be negative."""


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *((kind, name) for kind in zoo.KINDS if kind != "dataset" for name in zoo.list_components(kind)),
        *(("optimizer", name) for name in ("adam", "sgd", "adamw")),
        ("scheduler", "StepLR"),
    ],
)
def test_a_number_of_a_component_is_finite_and_no_weight_is_negative(kind, name):
    """Betas, gammas, temperatures, scales, rates: every parameter that is a fraction."""
    schema = read_signature(kind, name).parameters.model_json_schema()
    numbers = [key for key, entry in schema.get("properties", {}).items() if '"number"' in json.dumps(entry)]
    for key in numbers:
        several = schema["properties"][key].get("type") == "array"
        refused = [math.inf, -math.inf, math.nan]
        if kind not in ("optimizer", "scheduler") and (name, key) not in ANY_SIGN:
            refused.append(-0.5)
        for value in refused:
            block = ComponentSpec.model_validate({"use": name, key: [value] if several else value})
            places = [problem.place for problem in check_spec(kind, block, kind)[1]]
            assert any(place.startswith(f"{kind}.{key}") for place in places), f"{key}={value} is accepted"


@pytest.mark.parametrize(
    "key", ["train.max_grad_norm", "train.ema_decay", "train.checkpoint.minutes", "train.optimizer.lr"]
)
@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan"])
def test_a_number_of_a_recipe_is_finite(key, value):
    with pytest.raises(zoo.RecipeError, match=key.replace(".", r"\.")):
        zoo.recipe("mlp-vae", [f"{key}={value}"])


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("lr=0.1", "train.optimizer.lr"),
        ("train.lr=0.1", "train.optimizer.lr"),
        ("learning_rate=0.1", "train.optimizer.lr"),
        ("encoder.lr=0.1", "train.optimizer.lr"),
        ("train.optimizer.learning_rate=0.1", "train.optimizer.lr"),
        ("max_epochs=3", "train.epochs"),
        ("train.max_epochs=3", "train.epochs"),
        ("num_epochs=3", "train.epochs"),
        ("batchsize=3", "train.batch_size"),
        ("latent_size=3", "latent_dim"),
        ("z_dim=3", "latent_dim"),
        ("encoder.latent_size=3", "latent_dim"),
        ("hidden=[3]", "encoder.hidden"),
        ("hidden_dims=[3]", "encoder.hidden"),
        ("decoder.hidden_dims=[3]", "decoder.hidden"),
        ("beta=3", "loss.beta"),
        ("kl_weight=3", "loss.beta"),
        ("likelihood=gaussian", "decoder.likelihood"),
        ("posterior=gaussian", "encoder.posterior"),
        ("weight_decay=0.1", "train.optimizer.weight_decay"),
        ("keep=3", "train.checkpoint.keep"),
        ("gradient_clip_val=1.0", "train.max_grad_norm"),
        ("random_state=1", "train.seed"),
        ("repeat=1", "data.repeat"),
    ],
)
def test_a_key_of_other_libraries_or_of_another_place_gets_a_hint(override, meant):
    """Issue 10, item 29: ``lr=``, ``train.lr=`` and ``max_epochs=`` had no suggestion."""
    with pytest.raises(zoo.RecipeError) as error:
        zoo.recipe("mlp-vae", [override])
    (problem,) = error.value.problems
    assert problem.place == override.partition("=")[0]
    assert f"Did you mean '{meant}'" in problem.message


def test_a_hint_is_a_key_that_this_recipe_has():
    with pytest.raises(zoo.RecipeError) as error:
        zoo.recipe("ae", ["kl_weight=3"])
    assert "Did you mean" not in str(error.value), "its loss has no beta"


def test_every_key_that_is_hinted_at_is_one():
    keys = [*keys_of(Recipe), "train.optimizer.lr", "train.optimizer.weight_decay", "encoder.hidden", "loss.beta"]
    keys += ["data.size", "decoder.likelihood"]
    for name, meant in FOREIGN.items():
        assert any(f".{key}".endswith(f".{meant}") for key in keys), meant
        assert name not in keys
