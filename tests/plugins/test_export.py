"""Exported files agree with the model for any batch size, or are not written."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Distribution, Independent, Normal, TanhTransform, TransformedDistribution

import zoo
from toys import GivenPosterior, linear_gaussian_vae
from zoo_export.export import export, export_model

SHAPE = (1, 8, 8)


def load(folder, part):
    """Load an exported part without the zoo, as a function from named arrays to named arrays."""
    manifest = json.loads((folder / "export.json").read_text())
    described = manifest["parts"][part]
    path = folder / described["file"]
    inputs, outputs = ([tensor["name"] for tensor in described[of]] for of in ("inputs", "outputs"))
    if manifest["format"] == "torch":
        module = torch.export.load(path).module()
        return inputs, lambda **arrays: dict(zip(outputs, module(*(arrays[name] for name in inputs)), strict=True))
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == inputs
    assert [[*i.shape] for i in session.get_inputs()] == [tensor["shape"] for tensor in described["inputs"]]
    assert [o.name for o in session.get_outputs()] == outputs
    return inputs, lambda **arrays: dict(
        zip(outputs, session.run(None, {name: value.numpy() for name, value in arrays.items()}), strict=True)
    )


def assert_close(actual, expected):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("format", "model", "likelihood", "outputs"),
    [
        ("onnx", "conv-vae", "{use: gaussian, scale: pixelwise}", ["mean", "scale"]),
        ("torch", "conv-vae", "bernoulli", ["mean", "logits"]),
        ("torch", "mlp-vae", "{use: gaussian, scale: shared}", ["mean", "scale"]),
        ("onnx", "mlp-vae", "continuous-bernoulli", ["mean", "logits"]),
    ],
)
@torch.no_grad()
def test_the_files_agree_with_the_model(format, model, likelihood, outputs, tmp_path):
    """Also for batch sizes that were neither traced nor compared."""
    torch.manual_seed(0)
    vae = zoo.create_model(zoo.recipe(model, [f"decoder.likelihood={likelihood}", "latent_dim=3"]), data_shape=SHAPE)
    vae.eval()
    export_model(vae, SHAPE, tmp_path / "there", format)
    _, encoder = load(tmp_path / "there", "encoder")
    _, decoder = load(tmp_path / "there", "decoder")
    for n in (1, 2, 5, 17):
        x = torch.rand(n, *SHAPE)
        q = vae.encode(x)
        assert_close(encoder(x=x), {"mean": q.mean, "scale": q.base_dist.scale})
        z = q.sample()
        p = vae.decode(z)
        assert_close(decoder(z=z), {name: getattr(p.base_dist, name) for name in outputs})


@pytest.mark.parametrize("model", ["vq-vae-mlp", "rvq-vae", "fsq-vae"])
@torch.no_grad()
def test_codes_are_exported(model, tmp_path):
    """Codebooks export without branches that depend on values."""
    pytest.importorskip("vector_quantize_pytorch")
    torch.manual_seed(0)
    vae = zoo.create_model(model, data_shape=SHAPE, encoder={"hidden": [8]}, decoder={"hidden": [8]}).eval()
    export_model(vae, SHAPE, tmp_path / "there", "torch")
    _, encoder = load(tmp_path / "there", "encoder")
    for n in (1, 2, 17):
        x = torch.rand(n, *SHAPE)
        assert_close(encoder(x=x), {"mean": vae.encode(x).mean})


def test_a_conditional_model_takes_labels(tmp_path):
    """Only the part that uses labels takes them, one per example."""

    class Conditional(zoo.Encoder):
        def __init__(self):
            super().__init__()
            self.shift = nn.Embedding(10, 2)

        def forward(self, x, condition=None):
            mean = x.flatten(1)[:, :2] + self.shift(condition)
            return Independent(Normal(mean, torch.ones_like(mean)), 1)

    vae = zoo.create_model("mlp-vae-2d", data_shape=SHAPE)
    vae.encoder = Conditional()
    for format in ("onnx", "torch"):
        export_model(vae, SHAPE, tmp_path / format, format, classes=10)
        names, encoder = load(tmp_path / format, "encoder")
        assert names == ["x", "condition"]
        assert load(tmp_path / format, "decoder")[0] == ["z"]
        with torch.no_grad():
            for n in (1, 6):
                x, labels = torch.rand(n, *SHAPE), torch.randint(10, (n,))
                mean = vae.encode(x, labels).mean
                assert_close(encoder(x=x, condition=labels), {"mean": mean, "scale": torch.ones(n, 2)})


@pytest.fixture
def vae():
    """A linear decoder; each test sets its encoder."""
    return linear_gaussian_vae(pixels=4)


def refused(vae, folder, message, **options):
    with pytest.raises(zoo.ExportError, match=message) as caught:
        export_model(vae, (1, 1, 4), folder / "new" / "there", "torch", **options)
    assert len(str(caught.value).splitlines()) == 1
    assert list(folder.iterdir()) == [], "no file remains"


def gaussian(mean):
    return Independent(Normal(mean, torch.ones_like(mean), validate_args=False), 1)


def test_a_branch_that_depends_on_values_is_refused(vae, tmp_path):
    vae.encoder = GivenPosterior(lambda x: gaussian(x.flatten(1)[:, :2] * (2 if x.sum() > 3 else 1)))
    refused(
        vae,
        tmp_path,
        "The encoder cannot be exported: its `forward` cannot be traced.*GuardOnDataDependent",
    )


def test_a_posterior_without_a_mean_is_refused_and_the_decoder_is_not(vae, tmp_path):
    def squashed(x):
        mean = x.flatten(1)[:, :2]
        return Independent(TransformedDistribution(Normal(mean, torch.ones_like(mean)), [TanhTransform()]), 1)

    vae.encoder = GivenPosterior(squashed)
    refused(vae, tmp_path, "it returns a TransformedDistribution, which has no mean in closed form")
    export_model(vae, (1, 1, 4), tmp_path / "there", "torch", parts=["decoder"])
    assert {file.name for file in (tmp_path / "there").iterdir()} == {"decoder.pt2", "export.json"}
    z = torch.randn(3, 2)
    with torch.no_grad():
        assert_close({"mean": load(tmp_path / "there", "decoder")[1](z=z)["mean"]}, {"mean": vae.decode(z).mean})


def test_a_file_that_disagrees_with_the_model_is_refused(vae, tmp_path):
    """The graph has a constant that changes in the model."""
    calls = iter(range(100))
    vae.encoder = GivenPosterior(lambda x: gaussian(x.flatten(1)[:, :2] + next(calls)))
    refused(vae, tmp_path, "disagrees with the model: on a batch of 1, 'mean' differs by")


def test_a_constant_batch_size_in_the_graph_is_refused(vae, tmp_path):
    vae.encoder = GivenPosterior(lambda x: gaussian(x.flatten(1)[:, :2] / len(x)))
    refused(vae, tmp_path, "or on the batch size. UserError: Constraints violated")


def test_a_nan_result_is_refused(vae, tmp_path):
    vae.encoder = GivenPosterior(lambda x: gaussian((x.flatten(1)[:, :2] - 2).log()))
    refused(vae, tmp_path, "'mean' differs by nan")


def test_a_part_that_fails_is_named(vae, tmp_path):
    vae.encoder = GivenPosterior(lambda x: x.no_such_thing)
    refused(vae, tmp_path, "The encoder fails on random images: AttributeError: 'Tensor' object has no attribute")


def test_validation_of_distributions_is_disabled_and_restored(vae, tmp_path, monkeypatch):
    monkeypatch.setattr(Distribution, "_validate_args", True)  # importing zuko disables it
    vae.encoder = GivenPosterior(lambda x: Independent(Normal(*x.flatten(1).exp().split(2, 1)), 1))
    export_model(vae, (1, 1, 4), tmp_path / "there", "torch")
    assert Distribution._validate_args


def test_only_the_folder_of_an_export_is_replaced(vae, tmp_path):
    vae.encoder = GivenPosterior(lambda x: gaussian(x.flatten(1)[:, :2]))
    target = tmp_path / "there"
    target.mkdir()
    export_model(vae, (1, 1, 4), target, "torch")
    export_model(vae, (1, 1, 4), target, "torch", parts=["decoder"])
    assert {file.name for file in target.iterdir()} == {"decoder.pt2", "export.json"}
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("all of it")
    for folder in (mine, mine / "thesis.tex"):
        with pytest.raises(zoo.UsageError, match="exists and is not an earlier export"):
            export_model(vae, (1, 1, 4), folder, "torch")
    with pytest.raises(zoo.UsageError, match=r"cannot be written.*Choose another folder with --out"):
        export_model(vae, (1, 1, 4), mine / "thesis.tex" / "there", "torch")
    assert (mine / "thesis.tex").read_text() == "all of it"
    assert {file.name for file in tmp_path.iterdir()} == {"there", "mine"}


def test_a_missing_package_is_named(vae, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(zoo.UsageError, match=r"package onnxruntime: pip install 'vae-zoo\[export\]'"):
        export_model(vae, (1, 1, 4), tmp_path / "there", "onnx")
    with pytest.raises(zoo.UsageError, match=r"There is no format 'onyx'. Choose from: onnx, torch."):
        export_model(vae, (1, 1, 4), tmp_path / "there", "onyx")


def test_the_output_of_the_command(digits_run, zoo_command, tmp_path):
    done = zoo_command("export", digits_run, "-o", "new/there")
    assert done.stderr == ""
    encoder, decoder, folder = done.stdout.splitlines()
    assert encoder.startswith("encoder.onnx x (batch, 1, 8, 8) -> mean (batch, 2), scale (batch, 2), differs from")
    assert decoder.startswith("decoder.onnx z (batch, 2) -> mean (batch, 1, 8, 8), logits (batch, 1, 8, 8), differs")
    assert folder == "new/there"

    manifest = json.loads((tmp_path / "work" / "new" / "there" / "export.json").read_text())
    assert (manifest["model"], manifest["data"], manifest["binarize"]) == ("mlp-vae-2d", "digits", "none")
    assert manifest["parts"]["encoder"]["opset"] >= 18
    assert manifest["parts"]["encoder"]["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["batch", *SHAPE]}]
    for part in manifest["parts"].values():
        assert 0 <= part["greatest_difference"] < 1e-4

    again = export(digits_run, "torch", tmp_path / "again", parts=["decoder"])
    assert again == tmp_path / "again"
    other = json.loads((again / "export.json").read_text())
    assert other["weights_sha256"] == manifest["weights_sha256"]
    assert other["parts"]["decoder"]["outputs"] == manifest["parts"]["decoder"]["outputs"]
