from __future__ import annotations

import json
import sys

import pytest

import zoo
from zoo.plugins.registry import registry


def test_list_and_get():
    assert zoo.list_models("*conv*") == ["conv-vae", "conv-vae-mse"]
    assert {"conv", "mlp"} <= set(zoo.list_components("encoder"))
    assert issubclass(zoo.get("encoder", "mlp"), zoo.Encoder)


def test_a_pattern_is_a_substring_or_a_shell_pattern(zoo_command, tmp_path):
    assert zoo.list_models("conv") == ["conv-vae", "conv-vae-mse"]
    assert set(zoo.list_models("vae")) == {name for name in zoo.list_models() if "vae" in name}
    assert zoo.list_components("likelihood", "bernoulli") == ["bernoulli", "continuous-bernoulli"]
    assert zoo.list_components("likelihood", "bern*") == ["bernoulli"]
    assert zoo.list_models("") == zoo.list_models("*") == zoo.list_models()
    assert zoo.list_models("?") == zoo.list_models("Conv") == []
    own = tmp_path / "mine.yaml"
    own.write_text("models: {my-conv-net: {extends: conv-vae}}")
    listed = zoo_command("list", "conv", "--registry", own, "--json").stdout
    assert [row["name"] for row in json.loads(listed)] == ["conv-vae", "conv-vae-mse", "my-conv-net"]


def test_an_unknown_name_causes_a_suggestion():
    with pytest.raises(zoo.UnknownName, match=r"no encoder named 'mpl'. Did you mean 'mlp'\?$"):
        zoo.get("encoder", "mpl")
    with pytest.raises(zoo.UnknownName, match=r"no encoder named 'transformer'. Available: .*conv, .*mlp"):
        zoo.get("encoder", "transformer")
    with pytest.raises(zoo.UnknownName, match="Did you mean 'encoder'"):
        zoo.list_components("encoders")
    with pytest.raises(zoo.UnknownName, match="Did you mean 'mlp-vae'"):
        zoo.recipe("mlp_vae")


ACME = """
    import zoo

    @zoo.hookimpl
    def zoo_components():
        yield zoo.Component("encoder", "{name}", "zoo_gaussian.mlp:MLPEncoder", "theirs")
"""


def test_a_contested_name_is_an_error_for_that_name_only(install):
    install("acme-vae", ACME.format(name="mlp"), version="2.1")
    with pytest.raises(zoo.NameConflict) as error:
        zoo.get("encoder", "mlp")
    assert "acme-vae 2.1" in str(error.value)
    assert "vae-zoo 0.1.0" in str(error.value)
    assert "acme-vae:mlp or vae-zoo:mlp" in str(error.value)
    assert zoo.get("encoder", "acme-vae:mlp") is zoo.get("encoder", "vae-zoo:mlp")
    assert zoo.get("decoder", "mlp") is not None
    assert zoo.list_components("encoder", "*mlp") == ["vae-zoo:mlp", "acme-vae:mlp"]
    with pytest.raises(zoo.RecipeError, match=r"encoder: encoder 'mlp' is claimed by"):
        zoo.recipe("mlp-vae", ["encoder={use: mlp, hidden: [3]}"])
    assert zoo.recipe("mlp-vae", ["encoder={use: 'acme-vae:mlp', hidden: [3]}"]).encoder.use == "acme-vae:mlp"


def test_an_unknown_name_lists_broken_plugins(install):
    install("acme-vae", "import nothing_of_the_kind")
    with pytest.raises(zoo.UnknownName, match="A broken plugin may provide it: acme_vae of acme-vae 1.0"):
        zoo.get("encoder", "acme")


def test_a_component_that_cannot_be_imported_is_named(install):
    install(
        "acme-vae",
        """
        import zoo

        @zoo.hookimpl
        def zoo_components():
            yield zoo.Component("encoder", "absent", "no_such_module:Encoder")
            yield zoo.Component("encoder", "misspelt", "zoo_gaussian.mlp:MPLEncoder")
        """,
    )
    with pytest.raises(zoo.ComponentError, match="encoder 'absent' of acme-vae 1.0 could not be imported") as error:
        zoo.get("encoder", "absent")
    assert "pip install" not in str(error.value), "the module could belong to any package"
    with pytest.raises(zoo.ComponentError, match="MPLEncoder"):
        zoo.get("encoder", "misspelt")


@pytest.mark.parametrize(
    ("module", "name", "advice"),
    [("zuko", "iaf", "pip install 'vae-zoo[flows]'"), ("vector_quantize_pytorch", "vector-quantized", "[discrete]'")],
)
def test_a_missing_requirement_names_its_extra(module, name, advice, monkeypatch):
    target = registry().names("posterior").find(name).item.target.partition(":")[0]
    for loaded in [target, *(m for m in sys.modules if m.partition(".")[0] == module)]:
        monkeypatch.delitem(sys.modules, loaded, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Absent(module), *sys.meta_path])
    with pytest.raises(zoo.ComponentError) as error:
        zoo.get("posterior", name)
    assert str(error.value).endswith(advice)


class Absent:
    """An import hook that hides a package."""

    def __init__(self, module: str) -> None:
        self.module = module

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == self.module:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return [3]", "returned 3, not a zoo.Component"),
        ("return 3", "TypeError"),
        ("yield zoo.Component('encodr', 'x', 'a:b')", "unknown kind 'encodr'"),
        ("yield zoo.Component('encoder', 'good', 'a:b'); raise ValueError('half-way')", "ValueError: half-way"),
    ],
)
def test_an_invalid_result_of_a_hook_is_an_error_of_its_plugin(install, body, message):
    install("acme-vae", f"import zoo\n@zoo.hookimpl\ndef zoo_components():\n    {body}\n")
    (broken,) = registry().plugins.broken()
    assert message in broken.errors[0]
    assert {"elbo", "mse"} <= set(zoo.list_components("loss")), "the rest works"
    assert "good" not in zoo.list_components("encoder"), "a hook that fails midway provides nothing"
