from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import zoo
from resuming import assert_same, essence, perturb_generators, stopped
from zoo.evaluation.evaluate import measure
from zoo.recipes.schema import ComponentSpec
from zoo_perceptual.lpips import LPIPS, MEAN, STAGES, STD
from zoo_perceptual.weights import LINEAR_SHA256, VGG_SHA256, linear_file, vgg_file

SHAPE = (1, 16, 16)
WIDTHS = (2, 3, 4, 5, 4)


def random_weights(widths: tuple[int, ...] = WIDTHS) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Random weights in the structure of VGG16, with few channels."""
    generator = torch.Generator().manual_seed(0)
    vgg, linear, c_in = {}, {}, 3
    for index, (stage, width) in enumerate(zip(STAGES, widths, strict=True)):
        for layer in stage:
            vgg[f"features.{layer}.weight"] = torch.randn(width, c_in, 3, 3, generator=generator) / (3 * c_in**0.5)
            vgg[f"features.{layer}.bias"] = torch.randn(width, generator=generator) / 10
            c_in = width
        linear[f"lin{index}.model.1.weight"] = torch.rand(1, width, 1, 1, generator=generator)
    return vgg, linear


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The settings of a loss or metric for random weights in files."""
    folder = tmp_path_factory.mktemp("weights")
    settings = {}
    for name, weights in zip(("vgg", "linear"), random_weights(), strict=True):
        torch.save(weights, folder / f"{name}.pth")
        digest = hashlib.sha256((folder / f"{name}.pth").read_bytes()).hexdigest()
        settings |= {name: str(folder / f"{name}.pth"), f"{name}_sha256": digest}
    return settings


def small(model: str = "mlp-vae", nested: str = "elbo", **settings: object) -> tuple[zoo.VAE, zoo.Loss, zoo.Batch]:
    torch.manual_seed(0)
    changes = {"data_shape": SHAPE, "latent_dim": 3, "encoder": {"hidden": [5]}, "decoder": {"hidden": [5]}}
    loss = zoo.create_loss(model, **changes, loss={"use": "perceptual", "loss": nested, **settings})
    return zoo.create_model(model, **changes), loss, zoo.Batch(torch.rand(5, *SHAPE))


def evaluate(phase: zoo.Phase, vae: zoo.VAE, batch: zoo.Batch) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return phase.objective(vae, batch)


def test_the_distance_from_its_definition():
    """Eq. 1 of arXiv 1801.03924, with torch's own layers, pixel by pixel."""
    vgg, linear = random_weights()
    x, y = torch.rand(2, 3, 17, 20), torch.rand(2, 3, 17, 20)

    def stages(images: Tensor) -> list[Tensor]:
        values = (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
        outputs = []
        for stage in STAGES:
            values = nn.MaxPool2d(2)(values) if outputs else values
            for layer in stage:
                weight = vgg[f"features.{layer}.weight"]
                convolution = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
                convolution.load_state_dict({"weight": weight, "bias": vgg[f"features.{layer}.bias"]})
                values = nn.ReLU()(convolution(values))
            outputs.append(values)
        return outputs

    expected = torch.zeros(2)
    for index, (a, b) in enumerate(zip(stages(x), stages(y), strict=True)):
        for h in range(a.shape[2]):
            for w in range(a.shape[3]):
                u, v = (f[:, :, h, w] / (f[:, :, h, w].square().sum(1, keepdim=True) + 1e-8).sqrt() for f in (a, b))
                weight = linear[f"lin{index}.model.1.weight"].flatten()
                expected += ((u - v).square() * weight).sum(1).detach() / (a.shape[2] * a.shape[3])
    distance = LPIPS(vgg, linear)
    torch.testing.assert_close(distance(x, y), expected)
    assert torch.equal(distance(x, x), torch.zeros(2))
    gray = x[:, :1]
    torch.testing.assert_close(distance(gray, y[:, :1]), distance(gray.repeat(1, 3, 1, 1), y[:, :1].repeat(1, 3, 1, 1)))


def test_the_distance_agrees_with_torchmetrics(monkeypatch):
    """VGG16 at full width with random weights, and the published linear weights that torchmetrics contains."""
    reference = pytest.importorskip("torchmetrics.functional.image.lpips")
    from torchvision.models.vgg import cfgs, make_layers

    monkeypatch.setattr(reference, "_get_tv_model_features", lambda *_: make_layers(cfgs["D"]))
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = reference._LPIPS(net="vgg", pnet_rand=True).eval()
    vgg = {f"features.{'.'.join(name.split('.')[1:])}": value for name, value in theirs.net.state_dict().items()}
    ours = LPIPS(vgg, linear_file(None, LINEAR_SHA256).load())
    x, y = torch.rand(2, 3, 32, 40), torch.rand(2, 3, 32, 40)
    with torch.no_grad():
        torch.testing.assert_close(ours(x, y), theirs(2 * x - 1, 2 * y - 1).flatten(), rtol=1e-4, atol=1e-7)


def test_only_the_reconstruction_has_a_gradient():
    """VGG is constant and stays out of checkpoints; black pixels, without features, have a finite gradient."""
    vgg, linear = random_weights()
    for name in vgg:
        if name.endswith("bias"):
            vgg[name].zero_()
    distance = LPIPS(vgg, linear)
    assert not list(distance.parameters())
    assert not distance.state_dict()
    x, y = torch.rand(2, 3, 16, 16, requires_grad=True), torch.rand(2, 3, 16, 16, requires_grad=True)
    distance(x, y).sum().backward()
    assert y.grad is None
    assert x.grad.norm() > 0
    mean = torch.tensor(MEAN).view(1, 3, 1, 1).expand(1, 3, 16, 16).clone().requires_grad_()
    distance(mean, y[:1]).sum().backward()  # every feature is zero
    assert torch.isfinite(mean.grad).all()


@pytest.mark.parametrize(("model", "nested"), [("mlp-vae", "elbo"), ("mlp-vae", "iwae"), ("vq-vae-mlp", "vq")])
def test_the_term_is_added_to_any_loss(model, nested, files):
    """One pass, D weight LPIPS of the reconstruction at its sample, and a gradient in encoder and decoder."""
    vae, loss, batch = small(model, nested, weight=0.5, **files)
    vae.eval()
    (phase,), (plain,) = loss.phases(vae), loss.loss.phases(vae)
    calls: list[int] = []
    handle = vae.encoder.register_forward_hook(lambda *_: calls.append(1))
    terms = evaluate(phase, vae, batch)
    assert len(calls) == 1
    handle.remove()
    recorded = zoo.RecordedVAE(vae)
    expected = evaluate(plain, recorded, batch)
    mean = recorded.last.p.mean
    x = batch.x.expand_as(mean)
    distance = LPIPS(*random_weights())(mean.flatten(0, -4), x.flatten(0, -4)).mean()
    torch.testing.assert_close(terms["lpips"], distance)
    torch.testing.assert_close(terms["loss"], expected["loss"] + 256 * 0.5 * distance)
    gradients = torch.autograd.grad(terms["lpips"], list(phase.parameters), allow_unused=True)
    for part in (vae.encoder, vae.decoder):
        owned = {id(parameter) for parameter in part.parameters()}
        norms = [g.norm() for p, g in zip(phase.parameters, gradients, strict=True) if id(p) in owned and g is not None]
        assert norms
        assert all(norm > 0 for norm in norms)
    torch.manual_seed(1)
    with torch.no_grad():
        torch.testing.assert_close(loss(vae, batch)["loss"], terms["loss"].detach())


def test_adversarial_and_perceptual_terms_compose(files):
    """VQGAN: the adaptive weight is relative to the whole loss without the adversarial term."""
    perceptual = {"use": "perceptual", "weight": 1.0, "loss": "vq", **files}
    torch.manual_seed(0)
    changes = {"data_shape": SHAPE, "latent_dim": 3}
    vae = zoo.create_model("vq-gan", **changes).eval()
    loss = zoo.create_loss("vq-gan", **changes, loss={"loss": perceptual})
    batch = zoo.Batch(torch.rand(5, *SHAPE))
    first, discriminator = loss.phases(vae)
    terms, inner = evaluate(first, vae, batch), evaluate(loss.loss.phases(vae)[0], vae, batch)
    expected = inner["loss"] + 256 * terms["adversarial_weight"] * terms["adversarial"]
    torch.testing.assert_close(terms["loss"], expected)
    assert terms["lpips"] > 0
    assert evaluate(discriminator, vae, batch)["loss"].isfinite()
    assert not any("distance" in name for name in loss.state_dict())


def test_a_resumed_training_is_bit_identical(tmp_path, files):
    """With both terms, stopped before the adversarial one starts. The trained model needs no weights of VGG."""
    generator = torch.Generator().manual_seed(0)
    splits = [zoo.Split(torch.randint(0, 256, (n, *SHAPE), dtype=torch.uint8, generator=generator)) for n in (20, 4, 4)]
    data = zoo.Dataset(splits[0], splits[1], validation=splits[2])
    perceptual = ", ".join(f"{name}: {value!r}" for name, value in {"weight": 1.0, **files}.items())
    overrides = [
        f"loss={{use: adversarial, channels: [3], start: 4, loss: {{use: perceptual, loss: vq, {perceptual}}}}}",
        *("encoder.channels=[4,4,4]", "decoder.channels=[4,4,4]", "encoder.groups=2", "decoder.groups=2"),
        *("train.epochs=2", "train.batch_size=5"),
    ]
    uninterrupted = zoo.train("vq-gan", overrides, data=data, out=tmp_path / "one", device="cpu")
    run = stopped("vq-gan", overrides, 3, tmp_path / "other", data=data, device="cpu")
    perturb_generators()
    zoo.resume(run, data=data, device="cpu")
    assert_same(essence(run), essence(uninterrupted))
    assert uninterrupted.epochs()[-1].curve["adversarial_weight"][-1] > 0
    assert uninterrupted.epochs()[0].curve["adversarial_weight"] == [0.0] * 4
    Path(files["vgg"]).rename(tmp_path / "moved.pth")
    try:
        assert zoo.load(run).reconstruct(splits[1].x / 255).shape == (4, *SHAPE)
    finally:
        (tmp_path / "moved.pth").rename(files["vgg"])


def test_without_weight_nothing_is_read(monkeypatch):
    """The default: the loss is the nested one, with or without weights of VGG."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: "/absent")
    vae, loss, batch = small()
    (phase,), (plain,) = loss.phases(vae), loss.loss.phases(vae)
    assert evaluate(phase, vae, batch) == evaluate(plain, vae, batch)


def test_absent_files_are_named(monkeypatch, tmp_path, files):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(zoo.DataUnavailable, match=r"checkpoints/vgg16-397923af.pth does not exist.*or set vgg"):
        small(weight=1.0)
    with pytest.raises(zoo.DataUnavailable, match="file of weights absent.pth does not exist"):
        small(weight=1.0, vgg="absent.pth")
    monkeypatch.setattr("zoo_perceptual.weights._installed", lambda: iter([tmp_path / "vgg.pth"]))
    with pytest.raises(zoo.DataUnavailable, match="set linear to the path"):
        small(weight=1.0, vgg=files["vgg"], vgg_sha256=files["vgg_sha256"])


def test_files_are_verified(tmp_path, files):
    digest = hashlib.sha256(Path(files["vgg"]).read_bytes()).hexdigest()
    with pytest.raises(zoo.DataError, match=f"SHA-256 {digest}; expected {VGG_SHA256}"):
        vgg_file(files["vgg"], VGG_SHA256).load()
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"no weights")
    with pytest.raises(zoo.DataError, match="does not contain weights"):
        vgg_file(str(broken), hashlib.sha256(b"no weights").hexdigest()).load()
    vgg, linear = random_weights()
    with pytest.raises(zoo.DataError, match="not those of LPIPS with VGG16: 'lin0.model.1.weight'"):
        LPIPS(vgg, {})
    with pytest.raises(zoo.DataError, match="not those of LPIPS"):
        LPIPS(vgg, {**linear, "lin0.model.1.weight": torch.ones(1, 9, 1, 1)})


def test_weights_in_safetensors(tmp_path):
    from safetensors.torch import save_file

    vgg, _ = random_weights()
    path = tmp_path / "vgg.safetensors"
    save_file(vgg, path)
    loaded = vgg_file(str(path), hashlib.sha256(path.read_bytes()).hexdigest()).load()
    assert loaded.keys() == vgg.keys()
    assert all(torch.equal(loaded[name], value) for name, value in vgg.items())


@pytest.mark.parametrize("shape", [(1, 15, 16), (2, 16, 16)])
def test_images_that_do_not_fit_are_refused(shape, files):
    with pytest.raises(zoo.ComponentError, match="1 or 3 channels and at least 16 pixels per side"):
        zoo.create_loss("mlp-vae", data_shape=shape, loss={"use": "perceptual", "weight": 1.0, **files})


def test_the_metric(files):
    """LPIPS of the reconstruction at the posterior mean, named after the file and with its digests."""
    vae, *_ = small()
    split = zoo.Split(torch.randint(0, 256, (6, *SHAPE), dtype=torch.uint8))
    context = zoo.EvaluationContext(vae, zoo.recipe("mlp-vae"), zoo.Dataset(split, split))
    (one,) = measure(context, [ComponentSpec(use="lpips", **files)], by_default=False).measurements["lpips"]
    x = split.x / 255
    with torch.no_grad():
        expected = LPIPS(*random_weights())(vae.reconstruct(x), x)
    assert one.name == "lpips_vgg"
    assert one.value == pytest.approx(expected.mean().item(), rel=1e-5)
    assert one.error == pytest.approx(expected.std().item() / 6**0.5, rel=1e-4)
    assert one.protocol == {"vgg sha256": files["vgg_sha256"], "linear sha256": files["linear_sha256"]}
    digits = zoo.EvaluationContext(vae, zoo.recipe("mlp-vae"), zoo.load_dataset("digits"))
    with pytest.raises(zoo.NotApplicable, match="at least 16 pixels per side; these have shape"):
        measure(digits, [ComponentSpec(use="lpips", **files)], by_default=False)
