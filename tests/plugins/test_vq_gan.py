from __future__ import annotations

import pytest
import torch
from torch import Tensor

import zoo
from toys import LinearGaussian, linear_gaussian_vae
from zoo_adversarial.adversarial import adaptive_weight, last_layer
from zoo_adversarial.discriminators import PatchDiscriminator

SHAPE = (1, 8, 8)
NESTED = {
    "elbo": ("mlp-vae", {}),
    "mse": ("mlp-vae", {}),
    "iwae": ("mlp-vae", {"samples": 3}),
    "factor": ("mlp-vae", {}),
    "vq": ("vq-vae-mlp", {}),
}


def small(nested: str = "elbo", **settings: object) -> tuple[zoo.VAE, zoo.Loss, zoo.Batch]:
    """A model, the loss 'adversarial' around another one, and five images."""
    torch.manual_seed(0)
    model, parameters = NESTED[nested]
    changes = {"data_shape": SHAPE, "latent_dim": 3, "encoder": {"hidden": [5]}, "decoder": {"hidden": [5]}}
    loss = {"use": "adversarial", "channels": [3, 4], "loss": {"use": nested, **parameters}, **settings}
    vae, loss = zoo.create_model(model, **changes), zoo.create_loss(model, **changes, loss=loss)
    return vae, loss, zoo.Batch(torch.rand(5, *SHAPE))


def evaluate(phase: zoo.Phase, vae: zoo.VAE, batch: zoo.Batch) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return phase.objective(vae, batch)


def modules(vae: zoo.VAE, loss: zoo.Loss) -> dict[str, torch.nn.Module]:
    return {"encoder": vae.encoder, "decoder": vae.decoder, "discriminator": loss.discriminator}


def linear_model(c: float) -> tuple[zoo.VAE, zoo.Loss, zoo.Batch]:
    """A linear decoder W z, and the linear discriminator c (2 x - 1) of each of four pixels."""
    vae = linear_gaussian_vae(scale=0.5)
    shape = {"data_shape": (1, 1, 4), "latent_dim": 2}
    loss = {"use": "adversarial", "channels": [], "weight": 0.8, "last_layer": "weight"}
    adversarial = zoo.create_loss("mlp-vae", **shape, loss=loss)
    with torch.no_grad():
        kernel = adversarial.discriminator.layers[0].weight.zero_()
        kernel[..., 1, 1] = c
    return vae, adversarial, zoo.Batch(torch.rand(7, 1, 1, 4))


@pytest.mark.parametrize("c", [0.3, -2.0, 1e-9])
def test_the_adaptive_weight_of_a_linear_model_by_hand(c):
    """Eq. 7 of arXiv 2012.09841. The squared error has the gradient (W z - x) z^T / s^2 in W, and the mean logit of
    four pixels has 2 c / 4 z^T in each row. The rate has none.
    """
    vae, loss, batch = linear_model(c)
    first, _ = loss.phases(vae)
    terms = evaluate(first, vae, batch)
    torch.manual_seed(1)
    z, w = vae.trace(batch).z.detach(), vae.decoder.weight.detach()
    x = batch.x.flatten(1)
    gradient = ((z @ w.T - x) / 0.5**2).T @ z / len(x)
    game = (2 * c / 4 * z.mean(0)).expand(4, -1)
    weight = min(gradient.norm().item() / 4 / (game.norm().item() + 1e-6), 1e4)
    assert terms["adversarial_weight"].item() == pytest.approx(0.8 * weight, rel=1e-4)
    logits = c * (2 * (z @ w.T) - 1)
    assert terms["adversarial"].item() == pytest.approx(-logits.mean().item(), rel=1e-4)
    torch.manual_seed(1)
    nested = loss.loss(vae, batch)["loss"]
    assert terms["loss"].item() == pytest.approx((nested - 4 * 0.8 * weight * logits.mean()).item(), rel=1e-4)


def test_the_adaptive_weight_is_detached():
    """The gradient of the objective is that with the weight as a constant."""
    vae, loss, batch = small()
    first, _ = loss.phases(vae)
    terms = evaluate(first, vae, batch)
    assert not terms["adversarial_weight"].requires_grad
    loss.adaptive, loss.weight = False, terms["adversarial_weight"].item()
    constant = evaluate(first, vae, batch)
    mine = list(first.parameters)
    torch.testing.assert_close(
        torch.autograd.grad(terms["loss"], mine), torch.autograd.grad(constant["loss"], mine), rtol=1e-4, atol=1e-6
    )


def test_the_adaptive_weight_is_bounded():
    layer = torch.nn.Parameter(torch.ones(2))
    assert adaptive_weight(layer.sum(), 0 * layer.sum(), layer).item() == 1e4
    assert adaptive_weight(0 * layer.sum(), layer.sum(), layer).item() == 0
    assert adaptive_weight(3 * layer.sum(), -2 * layer.sum(), layer).item() == pytest.approx(1.5)


@pytest.mark.parametrize("nested", NESTED)
def test_the_term_is_added_to_any_loss(nested):
    """``loss`` of the first phase is that of the nested loss plus the weighted term; evaluated, it is the former."""
    vae, loss, batch = small(nested)
    vae.eval()  # the codebook does not change
    first, *others = loss.phases(vae)
    assert others[-1].name == "discriminator"
    terms = evaluate(first, vae, batch)
    inner, *_ = loss.loss.phases(vae)
    plain = evaluate(inner, vae, batch)
    expected = plain["loss"] + 64 * terms["adversarial_weight"] * terms["adversarial"]
    torch.testing.assert_close(terms["loss"], expected)
    assert plain.keys() <= terms.keys()
    torch.manual_seed(1)
    with torch.no_grad():
        evaluated = loss(vae, batch)
    torch.manual_seed(1)
    torch.testing.assert_close(evaluated["loss"], loss.loss(vae, batch)["loss"].detach())
    torch.testing.assert_close(evaluated["adversarial"], terms["adversarial"].detach())


def test_the_hinge_loss():
    """arXiv 1705.02894, with logits of real and reconstructed pixels in hand."""
    _, loss, _ = linear_model(2.0)
    real, fake = torch.tensor([1.0, 0.5, 0.7, 0.0]), torch.tensor([0.0, 1.0, 0.4, 0.5])
    # logits 2 (2 x - 1): real 2, 0, 0.8, -2; fake -2, 2, -0.4, 0
    expected = 0.5 * (0 + 1 + 0.2 + 3) / 4 + 0.5 * (0 + 3 + 0.6 + 1) / 4
    assert loss._hinge(real.view(1, 1, 1, 4), fake.view(1, 1, 1, 4)).item() == pytest.approx(expected)


@pytest.mark.parametrize("nested", ["elbo", "vq"])
def test_the_discriminator_does_not_reach_the_autoencoder(nested):
    """Neither by a gradient, nor by a second update of the codebook's moving averages."""
    vae, loss, batch = small(nested)
    vae.train()
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    evaluate(loss.phases(vae)[-1], vae, batch)["loss"].backward()
    assert all(parameter.grad is None for parameter in vae.parameters())
    assert all(parameter.grad.norm() > 0 for parameter in loss.discriminator.parameters())
    for name, value in vae.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(module.training for module in vae.modules())


@pytest.mark.parametrize("nested", ["elbo", "vq"])
def test_each_phase_moves_its_own_parameters_alone(nested):
    """As the trainer takes a step: the gradient goes into the parameters of the phase."""
    vae, loss, batch = small(nested)
    owners = {"all": {"encoder", "decoder"}, "discriminator": {"discriminator"}}
    for phase in loss.phases(vae):
        everything = [*vae.parameters(), *loss.parameters()]
        for parameter in everything:
            parameter.grad = None
        before = {name: [p.clone() for p in m.parameters()] for name, m in modules(vae, loss).items()}
        torch.autograd.backward(evaluate(phase, vae, batch)["loss"], inputs=list(phase.parameters))
        torch.optim.SGD(everything, lr=0.01).step()
        for name, module in modules(vae, loss).items():
            equal = [torch.equal(p, old) for p, old in zip(module.parameters(), before[name], strict=True)]
            assert all(equal) == (name not in owners[phase.name]), (phase.name, name)


def test_one_step_encodes_once():
    """A second pass would update the codebook twice and draw other samples."""
    vae, loss, batch = small("vq")
    calls: list[int] = []
    vae.encoder.register_forward_hook(lambda *_: calls.append(1))
    evaluate(loss.phases(vae)[0], vae, batch)
    assert len(calls) == 1


def test_before_the_start_the_weight_is_zero():
    """A function of the step, in a buffer: the parameters move as those of the nested loss alone."""
    vae, loss, batch = small(start=3)
    first, discriminator = loss.phases(vae)
    nested, *_ = loss.loss.phases(vae)
    for step, active in ((0, False), (2, False), (3, True), (2, False)):
        loss.schedule(step, 0.0)
        terms, plain = evaluate(first, vae, batch), evaluate(nested, vae, batch)
        assert (terms["adversarial_weight"].item() == 0) is not active
        assert torch.equal(terms["loss"], plain["loss"]) is not active
        gradients = [torch.autograd.grad(t["loss"], list(first.parameters)) for t in (terms, plain)]
        assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True)) is not active
        assert evaluate(discriminator, vae, batch)["loss"] > 0
    loss.schedule(3, 0.0)
    _, other, _ = small(start=3)
    other.load_state_dict(loss.state_dict())
    assert other.active.item() == 1


def test_a_step_of_the_autoencoder_increases_the_score_of_its_reconstructions():
    """With the wrong sign it would help the discriminator. The nested loss is negligible beside this weight."""
    vae, loss, batch = small(weight=1e4)

    def score() -> Tensor:
        torch.manual_seed(1)
        with torch.no_grad():
            return loss.discriminator(vae.trace(batch).p.mean).mean()

    before = score()
    first, _ = loss.phases(vae)
    evaluate(first, vae, batch)["loss"].backward(inputs=list(first.parameters))
    torch.optim.SGD(first.parameters, lr=1e-6).step()
    assert score() > before + 1e-5


def test_the_last_layer():
    vae, *_ = small()
    weights = [name for name, value in vae.decoder.named_parameters() if value.ndim == 2]
    assert last_layer(vae.decoder) is vae.decoder.get_parameter(weights[-1])
    assert last_layer(vae.decoder, weights[0]) is vae.decoder.get_parameter(weights[0])
    with pytest.raises(zoo.ComponentError, match=r"got None. Set loss.last_layer to one of weight"):
        last_layer(LinearGaussian(torch.ones(4, 2), 1.0))
    with pytest.raises(zoo.ComponentError, match="got 'out'"):
        last_layer(vae.decoder, "out")


def test_with_a_frozen_decoder_the_weight_is_that_of_the_latent():
    """With all of the model frozen, there is nothing to adapt to."""
    vae, loss, batch = small("mse")
    vae.decoder.requires_grad_(False)
    terms = evaluate(loss.phases(vae)[0], vae, batch)
    torch.manual_seed(1)
    recorded = zoo.RecordedVAE(vae)
    elbo = loss.loss(recorded, batch)["loss"]
    z = recorded.last.z
    game = -loss.discriminator(recorded.last.p.mean).mean()
    norms = [torch.autograd.grad(term, z, retain_graph=True)[0].norm() for term in (elbo / 64, game)]
    assert terms["adversarial_weight"].item() == pytest.approx(0.8 * (norms[0] / norms[1]).item(), rel=1e-3)
    vae.requires_grad_(False)
    assert evaluate(loss.phases(vae)[0], vae, batch)["adversarial_weight"].item() == pytest.approx(0.8)


@pytest.mark.parametrize(("layers", "pixels"), [(0, 3), (1, 8), (2, 18), (3, 38)])
def test_the_patch_of_a_logit(layers, pixels):
    """The pixels that one logit depends on, without the normalisation, which couples all of them."""
    torch.manual_seed(0)
    discriminator = PatchDiscriminator((2, 64, 64), [3] * layers)
    for index, module in enumerate(discriminator.layers):
        if isinstance(module, torch.nn.GroupNorm):
            discriminator.layers[index] = torch.nn.Identity()
    x = torch.rand(1, 2, 64, 64, requires_grad=True)
    logits = discriminator(x)
    side = 64 // 2**layers
    assert logits.shape == (1, side, side)
    (gradient,) = torch.autograd.grad(logits[0, side // 2, side // 2], x)
    rows, columns = (gradient.abs().sum((0, 1, other)) > 0 for other in (3, 2))
    assert (rows.sum().item(), columns.sum().item()) == (pixels, pixels)


def test_the_discriminator_does_not_couple_images():
    torch.manual_seed(0)
    discriminator, x = PatchDiscriminator((3, 9, 16), [4, 4]), torch.rand(4, 3, 9, 16)
    torch.testing.assert_close(discriminator(x)[1:2], discriminator(x[1:2]))


def test_messages():
    with pytest.raises(zoo.ComponentError, match=r"4 layers.* 8x8 pixels. Set loss.channels to a shorter list"):
        small(channels=[1, 1, 1, 1])
    with pytest.raises(zoo.ComponentError, match="loss 'adversarial' needs images of shape"):
        PatchDiscriminator((5,), [2])
    vae, loss, batch = small()
    with pytest.raises(zoo.ComponentError, match="missing entries"):
        loss(vae, zoo.Batch(batch.x, mask=torch.ones_like(batch.x, dtype=torch.bool)))

    class Silent(zoo.Loss):
        def forward(self, vae: zoo.VAE, batch: zoo.Batch) -> dict[str, Tensor]:
            return {"loss": vae.encode(batch.x).mean.square().sum()}

    loss.loss = Silent()
    with pytest.raises(zoo.ComponentError, match="nested loss does not call VAE.trace"):
        loss(vae, batch)


def test_training_is_stable_and_uses_both_phases():
    """A short training of the recipe, with the term from the tenth step on: finite, and better than at its start."""
    digits = zoo.load_dataset("digits")
    vae, loss = zoo.build(zoo.recipe("vq-gan", ["loss.start=10"]), digits.shape, digits.classes)
    config = zoo.TrainConfig(epochs=4, batch_size=64)
    history = zoo.Trainer(vae, loss, digits, config, device="cpu").fit()
    assert history[-1].test["distortion"] < history[0].test["distortion"]
    assert {"adversarial", "adversarial_weight", "discriminator.loss"} <= history[-1].train.keys()
    assert history[-1].curve["adversarial_weight"][-1] > 0
    assert history[0].curve["adversarial_weight"][:9] == [0.0] * 9
