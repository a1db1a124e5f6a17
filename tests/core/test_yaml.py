"""What a value of YAML means, and that no text, however large or deep, takes long or crashes."""

from __future__ import annotations

import math
import time

import pytest
import yaml

import zoo
from zoo.recipes.source import MAX_BYTES, MAX_DEPTH, explain, parse_yaml, read_models, write_yaml
from zoo_sweep.axes import read_axes
from zoo_sweep.plan import Plan
from zoo_sweep.sweep import Sweep
from zoo_sweep.trial import Trial


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("10", 10), ("-3", -3), ("+3", 3), ("0", 0), ("0x10", 16), ("0o10", 8), ("-0", 0)),
        *(("1e-3", 0.001), ("1.5", 1.5), (".5", 0.5), ("5.", 5.0), ("0.5", 0.5), ("1E3", 1000.0), ("-.inf", -math.inf)),
        *(("true", True), ("False", False), ("TRUE", True), ("null", None), ("~", None), ("", None)),
        # YAML 1.1 has numbers, truth values and dates here.
        *(
            (text, text)
            for text in ("1:30", "190:20:30", "1_000", "0b11", "2026-01-31", "2026-01-31 12:00:00", "1:30.5")
        ),
        *(
            (text, text)
            for text in ("yes", "no", "on", "off", "Yes", "OFF", "y", "n", "=", "<<", "0o8", "0xg", "e5", ".")
        ),
        *(("'010'", "010"), ('"1e3"', "1e3"), ("{yes: no}", {"yes": "no"})),
    ],
)
def test_a_scalar_means_what_it_means_in_yaml_1_2(text, value):
    read = parse_yaml(text)
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize("text", ["010", "-010", "+07", "00", "08", "010.5", "01e3", "[3, 010]", "{a: 0123}"])
def test_a_number_that_starts_with_0_is_refused(text):
    """YAML 1.1 reads 010 as 8, YAML 1.2 as 10."""
    with pytest.raises(yaml.YAMLError, match=r"starts with 0: write -?\d"):
        parse_yaml(text)


@pytest.mark.parametrize(
    "value",
    [
        "010",
        "08",
        "1:30",
        "1_000",
        "yes",
        "0o10",
        "0x10",
        "1e3",
        "2026-01-31",
        "null",
        "~",
        "",
        "=",
        "<<",
        ".inf",
        "1.",
        "a: b",
    ],
)
def test_text_is_written_so_that_it_is_read_back_as_text(value):
    """By this reader, and by one of YAML 1.1."""
    text = write_yaml({"x": [value]})
    assert parse_yaml(text) == {"x": [value]}
    assert yaml.safe_load(text) == {"x": [value]}


def test_a_list_that_stands_in_two_places_is_written_twice():
    shared = [1, 2]
    assert "&" not in write_yaml({"a": shared, "b": shared})


DEEP = MAX_DEPTH + 1
HOSTILE = {
    "brackets": ("[" * 60_000, "levels deep"),
    "braces": ("{a: " * 20_000, "levels deep"),
    "closed brackets": ("[" * 20_000 + "]" * 20_000, "levels deep"),
    "sequences": ("- " * 20_000, "levels deep"),
    "keys": ("? " * 20_000, "levels deep"),
    "indented": ("\n".join(" " * i + "a:" for i in range(1_000)), "levels deep"),
    "one too many": ("[" * DEEP + "]" * DEEP, "levels deep"),
    "alias bomb": (
        "a0: &a0 [x, x]\n" + "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)),
        "values, aliases included",
    ),
    "alias chain": (
        "a0: &a0 [x]\n" + "\n".join(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 5_000)),
        "levels deep",
    ),
    "recursive list": ("a: &a [*a]", "refers to a value that contains it"),
    "recursive mapping": ("a: &a {b: {c: *a}}", "refers to a value that contains it"),
    "unknown alias": ("a: *b", "undefined alias"),
    "many values": ("[" + "1," * 200_000 + "]", "values, aliases included"),
    "large": ("x" * (MAX_BYTES + 1), "characters"),
    "directives": ("".join(f"%TAG !a{i}! b\n" for i in range(50_000)) + "--- 1", "directives"),
    "digits": ("9" * 5_000, "too many digits"),
    "unhashable key": ("{[1]: 2}", "must be a string"),
    "number for a key": ("{1: 2}", "must be a string"),
    "tag": ("!!python/object/apply:os.system [x]", "tags such as"),
    "bad bool": ("!!bool maybe", "tags such as"),
    "binary": ("!!binary aGk=", "tags such as"),
    "NUL": ("a\0b", "control characters"),
    "surrogate": ("a\udc80b", "Unicode"),
    "two documents": ("1\n--- 2", "another document"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_refused_at_once_with_a_sentence(name):
    """An alias bomb of nine levels stands for 2 * 9^9 values; 60,000 brackets ended in a segmentation fault."""
    text, message = HOSTILE[name]
    started = time.perf_counter()
    with pytest.raises(yaml.YAMLError) as error:
        parse_yaml(text)
    assert message in explain(error.value)
    assert len(explain(error.value)) < 400
    assert time.perf_counter() - started < 2.0


def test_what_lies_within_the_bounds_is_read():
    assert parse_yaml("[" * MAX_DEPTH + "]" * MAX_DEPTH) is not None
    assert parse_yaml("{a: &a [1, 2], b: *a, c: {d: *a}}") == {"a": [1, 2], "b": [1, 2], "c": {"d": [1, 2]}}
    assert len(parse_yaml("[" + "1," * 50_000 + "]")) == 50_000


@pytest.mark.parametrize("name", ["brackets", "alias bomb", "recursive list", "large", "tag", "unhashable key"])
def test_every_reader_of_yaml_refuses_it(name, tmp_path):
    text, message = HOSTILE[name]
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(zoo.RecipeError, match=message.replace("characters", "bytes")):
        read_models(file)
    with pytest.raises(zoo.RecipeError, match="not valid YAML|expected KEY=VALUE"):
        zoo.recipe("mlp-vae", [f"encoder={text}"])
    (tmp_path / "sweep.yaml").write_text(text)
    with pytest.raises(zoo.RunError, match="cannot be read"):
        Sweep.open(tmp_path)
    (tmp_path / "trial.yaml").write_text(text)
    with pytest.raises(zoo.RunError, match="cannot be read"):
        Trial.open(tmp_path)


@pytest.mark.parametrize("override", ["latent_dim=010..64", "latent_dim=1..0100"])
def test_the_ends_of_a_range_are_read_as_every_number(override):
    with pytest.raises(zoo.UsageError, match="starts with 0"):
        read_axes([override])


PLAN = """
format: 2
model: mlp-vae
recipe: {latent_dim: 2}
axes: {latent_dim: [2, 3]}
seeds: null
trials: null
storage: null
study: s
digest: null
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("seeds: null", "seeds: [../../x]"),
        ("trials: null", "trials: many"),
        ("model: mlp-vae", "model: [1]"),
        ("recipe: {latent_dim: 2}", "recipe: 3"),
        ("axes: {latent_dim: [2, 3]}", "axes: {latent_dim: 3}"),
        ("axes: {latent_dim: [2, 3]}", "axes: {latent_dim: {low: x, high: 3}}"),
        ("axes: {latent_dim: [2, 3]}", "axes: 3"),
        ("study: s", "study: s\nmore: 3"),
        ("format: 2", "format: {}"),
        (PLAN, "{}"),
        (PLAN, "3"),
    ],
)
def test_a_plan_of_another_shape_is_refused(old, new, tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text(PLAN)
    assert Plan.read(file).model == "mlp-vae"
    file.write_text(PLAN.replace(old, new))
    with pytest.raises(zoo.RunError, match=r"sweep\.yaml"):
        Plan.read(file)


@pytest.mark.parametrize("seed", ["../../x", "1", "[1]"])
def test_a_trial_that_names_another_folder_is_refused(seed, tmp_path):
    folder = tmp_path / "trials" / "trial-001"
    folder.mkdir(parents=True)
    (folder / "trial.yaml").write_text(f"{{trial: 1, settings: {{}}, seed: {seed}}}")
    with pytest.raises(zoo.RunError, match="cannot be read"):
        Trial.open(folder)
