"""Each check of the conformance kit detects a component that violates exactly that check."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import unfaithful
import zoo
from zoo_conformance.kit import CHECKS, cases

BROKEN = {
    "annotated": ("encoder", "Annotated", "'width' has no annotation"),
    "yaml": ("encoder", "Yaml", "its own defaults are refused: encoder.hidden.0"),
    "unknown-parameters": ("encoder", "UnknownParameters", r"\*\*kwargs"),
    "arguments-untouched": ("decoder", "ArgumentsUntouched", r"'hidden' changed from \[[34], [34]\] to \[[34], [34]\]"),
    "shapes": ("decoder", "ShapesInColour", r"for 1 images of \(3, 9, 7\)"),
    "terms": ("loss", "Terms", "must be a scalar tensor"),
    "sample-dimensions": ("decoder", "SampleDimensions", r"at \[0, 1\] differs from that of the latents"),
    "batch-independence": ("encoder", "BatchIndependence", "image 0 alone differs from that in a batch of 5"),
    "finite": ("encoder", "Finite", "not finite on zeros"),
    "kl": ("encoder", "KL", "in closed form it is"),
    "density": ("likelihood", "Density", r"its integral is 1\.77"),
    "reproducible": ("prior", "Reproducible", "two draws with the same seed differ"),
    "state-dict": ("decoder", "StateDict", "depends on state outside of its state_dict"),
    "side-effects": ("encoder", "SideEffects", "Python's generator changed from"),
    "inputs-untouched": ("encoder", "InputsUntouched", "it modifies x"),
    "dtype": ("decoder", "Dtype", "has dtype torch.float32 in a model of torch.float64"),
    "device": ("prior", "Device", "device"),
    "exports": ("encoder", "Exports", "cannot be exported"),
    "gradients": ("encoder", "Gradients", "encoder.unused"),
    "seeded-loss": ("loss", "SeededLoss", "loss differs between two runs"),
    "overfits": ("model", "Overfits", "after 1000 steps"),
    "resume": ("model", "Resume", "differs after resuming"),
    "images": ("dataset", "images", "two calls return different images"),
    "measurements": ("metric", "Measurements", "two measurements with the same seed differ"),
}

PLUGIN = """
    import zoo
    from pathlib import Path

    @zoo.hookimpl
    def zoo_components():
        yield zoo.Component("{kind}", "broken", "unfaithful:{attribute}", expected_failures={expected})

    @zoo.hookimpl
    def zoo_recipes():
        yield Path(__file__).parent / "acme.yaml"
"""
RECIPE = """
models:
  broken:
    extends: mlp-vae
    loss: broken
"""


@pytest.fixture
def broken(install):
    """Install a plugin with one component named broken, and a model if it is a loss."""

    def install_broken(kind: str, attribute: str, expected: dict[str, str] | None = None) -> None:
        source = PLUGIN.format(kind="loss" if kind == "model" else kind, attribute=attribute, expected=expected or {})
        install("acme-unfaithful", source, acme__yaml=RECIPE if kind == "model" else "models: {}")

    return install_broken


@pytest.mark.parametrize("check", BROKEN)
def test_a_component_fails_exactly_the_check_that_it_violates(check, broken):
    kind, attribute, message = BROKEN[check]
    broken(kind, attribute)
    results = [case.run() for case in cases(f"{kind}/broken")]
    failed = {result.check: result.reason for result in results if result.outcome == "failed"}
    assert set(failed) == {check}, failed
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(failed[check])


def test_every_check_has_a_component_that_violates_it():
    assert {*BROKEN, "light-import"} == set(CHECKS)


@pytest.mark.parametrize(
    ("kind", "attribute"),
    [("encoder", "Encoder"), ("decoder", "Decoder"), ("prior", "Prior"), ("loss", "Loss"), ("model", "Loss")],
)
def test_a_correct_component_passes_every_check(kind, attribute, broken):
    broken(kind, attribute)
    results = [case.run() for case in cases(f"{kind}/broken")]
    assert {result.outcome for result in results} == {"passed"}, results


@pytest.mark.parametrize(
    ("check", "kind", "attribute", "message"),
    [
        ("shapes", "encoder", "UndeclaredEvent", "must return a distribution with batch shape (N,), not (N, 40)"),
        ("side-effects", "dataset", "seeding", "it draws from torch's generator"),
    ],
)
def test_other_violations(check, kind, attribute, message, broken):
    broken(kind, attribute)
    (case,) = cases(f"{kind}/broken", only=(check,))
    result = case.run()
    assert result.outcome == "failed"
    assert message in result.reason


def test_a_plugin_that_imports_torch(install):
    install("acme-heavy", "import torch")
    (result,) = [case.run() for case in cases("acme-heavy")]
    assert (result.candidate, result.check, result.outcome) == ("plugin/acme_heavy", "light-import", "failed")
    assert "importing acme_heavy imports torch" in result.reason


def test_a_plugin_that_does_not_load(install):
    """Scenario 30."""
    install("acme-absent", "import no_such_module")
    (result,) = [case.run() for case in cases("acme-absent")]
    assert result.outcome == "failed"
    assert "No module named 'no_such_module'" in result.reason


def test_expected_failures(broken):
    broken("encoder", "Gradients", {"gradients": "a spare part"})
    (case,) = cases("encoder/broken", only=("gradients",))
    result = case.run()
    assert (result.outcome, result.reason) == ("expected", "a spare part")
    with pytest.raises(pytest.xfail.Exception, match="a spare part"):
        case.verify()


def test_a_declared_failure_that_passes_is_a_failure(broken):
    broken("encoder", "Encoder", {"kl": "it is too hard"})
    (case,) = cases("encoder/broken", only=("kl",))
    result = case.run()
    assert result.outcome == "failed"
    assert "it passes, but is declared to fail (it is too hard)" in result.reason


def test_a_model_is_not_blamed_for_the_declared_failures_of_its_components(broken):
    broken("model", "Resume", {"resume": "it counts in Python"})
    (case,) = cases("model/broken", only=("resume",))
    result = case.run()
    assert (result.outcome, result.reason) == ("expected", "loss/broken: it counts in Python")


def test_a_declared_failure_of_an_unknown_check_is_refused(broken):
    broken("encoder", "Encoder", {"kll": "misspelt"})
    (case,) = cases("encoder/broken", only=("kl",))
    with pytest.raises(zoo.ComponentError, match="expects to fail 'kll', which is not a check. Did you mean 'kl'"):
        case.run()


def test_names():
    def of(name):
        return {str(case.candidate) for case in cases(name)}

    assert of("mlp-vae") == of("model/mlp-vae") == {"model/mlp-vae"}
    assert of("encoder/mlp") == {"encoder/mlp"}
    assert {"plugin/conv", "encoder/conv", "decoder/conv"} == of("conv")
    assert of("gaussian") | of("conv") | of("mlp-vae") < of("vae-zoo")
    for name, message in (("mlp-vea", "Did you mean 'mlp-vae'"), ("encoder/mpl", "Did you mean 'mlp'")):
        with pytest.raises(zoo.UnknownName, match=message):
            of(name)
    with pytest.raises(zoo.UsageError, match="no check 'shape'. Did you mean 'shapes'"):
        list(cases("mlp-vae", only=("shape",)))


def test_the_command(broken, zoo_command):
    broken("prior", "Prior")
    options = ("--json", "--only", "light-import", "--only", "annotated")
    tests = os.pathsep.join([str(Path(unfaithful.__file__).parent), os.environ["PYTHONPATH"]])
    done = zoo_command("check", "acme_unfaithful", *options, PYTHONPATH=tests)
    assert json.loads(done.stdout) == [
        {"candidate": candidate, "check": check, "outcome": "passed", "reason": ""}
        for candidate, check in (
            ("plugin/acme_unfaithful", "light-import"),
            ("prior/broken", "light-import"),
            ("prior/broken", "annotated"),
        )
    ]
    listed = zoo_command("check", "--list").stdout
    assert all(check.name in listed and check.proves in listed for check in CHECKS.values())


def test_the_exit_code_is_1_if_a_check_fails(install, zoo_command):
    install("acme-heavy", "import torch")
    done = zoo_command("check", "acme-heavy", code=1)
    assert "light-import  failed" in done.stdout
    assert "1 failed" in done.stdout
    assert "Did you mean 'mlp-vae'" in zoo_command("check", "mlp-vea", code=2).stderr


@pytest.fixture
def unfinished(install):
    """Install a plugin with one component named unfinished, whose module has a syntax error."""

    def install_unfinished(kind: str) -> None:
        source = f"""
            import zoo

            @zoo.hookimpl
            def zoo_components():
                yield zoo.Component("{kind}", "unfinished", "acme_syntax:Part")
        """
        install("acme-broken", source, acme_syntax__py="def broken(:")

    return install_unfinished


@pytest.mark.parametrize("kind", ["encoder", "prior", "loss"])
def test_a_component_that_cannot_be_imported_fails_every_check(kind, unfinished):
    unfinished(kind)
    results = [case.run() for case in cases(f"{kind}/unfinished") if case.check.name != "light-import"]
    assert results
    for result in results:
        assert result.outcome == "failed", result
        assert f"{kind} 'unfinished' of acme-broken 1.0 could not be imported" in result.reason
        assert "SyntaxError" in result.reason


def test_a_reason_shared_by_checks_is_written_once(unfinished, zoo_command):
    unfinished("encoder")
    lines = zoo_command("check", "encoder/unfinished", code=1).stdout.splitlines()
    assert sum("SyntaxError" in line for line in lines) == 1
    assert sum(line.split()[1:] == ["failed", "same", "as", "annotated"] for line in lines) > 10
