from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal
from torch.nn.functional import binary_cross_entropy_with_logits

import zoo
from toys import GivenPrior
from zoo_adversarial.discriminators import ImageDiscriminator, prior_samples

SHAPE = (1, 4, 4)
BLOCK = {"hidden": [5], "activation": "tanh"}
LOSSES = {"aae": {"hidden": [6]}, "vae-gan": {"channels": [3, 4], "gamma": 0.3}}
PHASES = [
    *(("aae", name) for name in ("reconstruction", "discriminator", "encoder")),
    *(("vae-gan", name) for name in ("encoder", "decoder", "discriminator")),
]


def small(use: str, **changed: object) -> tuple[zoo.VAE, zoo.Loss, zoo.Batch]:
    """A VAE with two latent dimensions, its loss and five images, in float64."""
    torch.manual_seed(0)
    changes = {"data_shape": SHAPE, "latent_dim": 2, "encoder": BLOCK, "decoder": BLOCK}
    loss = {"use": use, **LOSSES[use], **changed}
    vae = zoo.create_model("mlp-vae", **changes).double()
    batch = zoo.Batch(torch.rand(5, *SHAPE, dtype=torch.float64))
    return vae, zoo.create_loss("mlp-vae", **changes, loss=loss).double(), batch


def phase_of(loss: zoo.Loss, vae: zoo.VAE, name: str) -> zoo.Phase:
    (phase,) = (phase for phase in loss.phases(vae) if phase.name == name)
    return phase


def draws(vae: zoo.VAE, batch: zoo.Batch) -> tuple[Tensor, Tensor]:
    """The samples of posterior and prior in a phase, with the seed of `evaluate`."""
    torch.manual_seed(1)
    return vae.trace(batch).z, vae.prior(vae.encoder).sample((len(batch.x),))


def evaluate(phase: zoo.Phase, vae: zoo.VAE, batch: zoo.Batch) -> Tensor:
    torch.manual_seed(1)
    return phase.objective(vae, batch)["loss"]


def entropy(logits: Tensor, label: float) -> Tensor:
    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))


def expected(use: str, name: str, vae: zoo.VAE, loss: zoo.Loss, batch: zoo.Batch) -> Tensor:
    """The objective of a phase from its definition, with torch's cross-entropy."""
    z, z_p = draws(vae, batch)
    discriminator = loss.discriminator
    if use == "aae":
        return {
            "reconstruction": lambda: -vae.decode(z).log_prob(batch.x).mean(),
            "discriminator": lambda: entropy(discriminator(z_p), 1) + entropy(discriminator(z), 0),
            "encoder": lambda: entropy(discriminator(z), 1),
        }[name]()
    fakes = vae.decode(z).mean, vae.decode(z_p).mean
    cross_entropy = entropy(discriminator(batch.x), 1) + sum(entropy(discriminator(fake), 0) for fake in fakes)
    features = (discriminator.features(batch.x) - discriminator.features(fakes[0])).square().sum() / 2 / len(batch.x)
    return {
        "encoder": lambda: features + torch.distributions.kl_divergence(vae.encode(batch.x), vae.prior(None)).mean(),
        "decoder": lambda: 0.3 * features - cross_entropy,
        "discriminator": lambda: cross_entropy,
    }[name]()


@pytest.mark.parametrize(("use", "name"), PHASES)
def test_each_objective_and_its_gradient_match_the_paper(use, name):
    """Trap 3, for example the sign of the decoder's adversarial gradient. The definition detaches nothing, so only the
    gradients of the phase's parameters are compared.
    """
    vae, loss, batch = small(use)
    phase = phase_of(loss, vae, name)
    actual, definition = evaluate(phase, vae, batch), expected(use, name, vae, loss, batch)
    torch.testing.assert_close(actual, definition)
    mine = list(phase.parameters)
    torch.testing.assert_close(
        torch.autograd.grad(actual, mine), torch.autograd.grad(definition, mine), rtol=1e-10, atol=1e-14
    )


@pytest.mark.parametrize(("use", "name"), PHASES)
def test_gradients_agree_with_finite_differences(use, name):
    vae, loss, batch = small(use)
    phase = phase_of(loss, vae, name)
    gradients = torch.autograd.grad(evaluate(phase, vae, batch), list(phase.parameters))
    h = 1e-6
    for parameter, gradient in zip(phase.parameters, gradients, strict=True):
        with torch.no_grad():
            value = parameter.view(-1)[:1]
            value += h
            above = evaluate(phase, vae, batch)
            value -= 2 * h
            below = evaluate(phase, vae, batch)
            value += h
        torch.testing.assert_close(gradient.view(-1)[0], (above - below) / (2 * h), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("use", "name", "untouched"),
    [
        ("aae", "discriminator", "vae"),
        ("vae-gan", "discriminator", "vae"),
        ("vae-gan", "decoder", "encoder"),
        ("aae", "reconstruction", "discriminator"),
        ("aae", "encoder", "decoder"),
    ],
)
def test_a_phase_has_no_gradient_in_detached_parts(use, name, untouched):
    """Trap 3 and scenario 25: a discriminator sees detached inputs, so even a backward pass without ``inputs`` has no
    gradient in the other players.
    """
    vae, loss, batch = small(use)
    evaluate(phase_of(loss, vae, name), vae, batch).backward()
    module = (
        vae
        if untouched == "vae"
        else loss.discriminator
        if untouched == "discriminator"
        else vae.get_submodule(untouched)
    )
    assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize("use", LOSSES)
def test_a_phase_moves_its_own_parameters_alone(use):
    """Scenario 25, as in the trainer: all other parameters stay bit-identical."""
    vae, loss, batch = small(use)
    for phase in loss.phases(vae):
        everything = [*vae.parameters(), *loss.parameters()]
        before = [parameter.clone() for parameter in everything]
        for parameter in everything:
            parameter.grad = None
        torch.autograd.backward(evaluate(phase, vae, batch), inputs=list(phase.parameters))
        torch.optim.SGD(everything, lr=0.1).step()
        owned = {id(parameter) for parameter in phase.parameters}
        for parameter, old in zip(everything, before, strict=True):
            assert torch.equal(parameter, old) == (id(parameter) not in owned)


@pytest.mark.parametrize(("use", "name", "change"), [("aae", "encoder", {}), ("vae-gan", "decoder", {"gamma": 0.0})])
def test_a_generator_step_increases_the_score_of_its_fakes(use, name, change):
    """Trap 3: with the wrong sign it would help the discriminator."""
    vae, loss, batch = small(use, **change)
    phase = phase_of(loss, vae, name)

    def score() -> Tensor:
        z, z_p = draws(vae, batch)
        fakes = [z] if use == "aae" else [vae.decode(z).mean, vae.decode(z_p).mean]
        return sum(torch.sigmoid(loss.discriminator(fake)).mean() for fake in fakes)

    before = score()
    evaluate(phase, vae, batch).backward(inputs=list(phase.parameters))
    torch.optim.SGD(phase.parameters, lr=0.1).step()
    assert score() > before + 1e-5


@pytest.mark.parametrize("use", LOSSES)
def test_discriminator_steps_decrease_its_loss(use):
    vae, loss, batch = small(use)
    with torch.no_grad():  # linearly separable from the prior
        vae.encoder.posterior.linear.bias[:2] += 3
    phase = phase_of(loss, vae, "discriminator")
    before = evaluate(phase, vae, batch)
    optimizer = torch.optim.Adam(phase.parameters, lr=0.03)
    for _ in range(40):
        optimizer.zero_grad()
        evaluate(phase, vae, batch).backward()
        optimizer.step()
    assert evaluate(phase, vae, batch) < before - 0.05


@pytest.mark.parametrize(
    ("use", "losses"),
    [
        ("aae", {"discriminator.loss": 2 * math.log(2), "encoder.loss": math.log(2)}),
        ("vae-gan", {"discriminator.loss": 3 * math.log(2)}),
    ],
)
def test_losses_of_an_uninformative_discriminator(use, losses):
    """D = 1/2 for every input."""
    vae, loss, batch = small(use)
    last = (
        loss.discriminator.output if use == "vae-gan" else [m for m in loss.modules() if isinstance(m, nn.Linear)][-1]
    )
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    terms = loss(vae, batch)
    assert {name: terms[name].item() for name in losses} == pytest.approx(losses)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("use", "name"), PHASES)
def test_no_logit_saturates(use, name, sign):
    """Trap 13: a probability of 1 - e^-300 rounds to 1 in float64; its cross-entropy is infinite or clamped at 100."""
    vae, loss, batch = small(use)
    last = (
        loss.discriminator.output if use == "vae-gan" else [m for m in loss.modules() if isinstance(m, nn.Linear)][-1]
    )
    nn.init.constant_(last.bias, 300.0 * sign)
    phase = phase_of(loss, vae, name)
    value = evaluate(phase, vae, batch)
    assert torch.isfinite(value)
    assert all(torch.isfinite(gradient).all() for gradient in torch.autograd.grad(value, list(phase.parameters)))
    if name == "discriminator":
        wrong = 2 if (use, sign) == ("vae-gan", 1) else 1
        assert value.item() == pytest.approx(300 * wrong, abs=5)


@pytest.mark.parametrize("use", LOSSES)
def test_the_evaluated_terms(use):
    """``loss`` is that of the first phase, and ``distortion`` is comparable across models."""
    vae, loss, batch = small(use)
    torch.manual_seed(2)
    terms = loss(vae, batch)
    torch.manual_seed(2)
    trace = vae.trace(batch)
    torch.testing.assert_close(terms["distortion"], -trace.log_px.mean())
    torch.manual_seed(2)
    torch.testing.assert_close(terms["loss"], loss.phases(vae)[0].objective(vae, batch)["loss"])
    if use == "vae-gan":
        torch.testing.assert_close(terms["rate"], trace.kl.mean())
        torch.testing.assert_close(terms["loss"], terms["features"] + terms["rate"])
    with torch.no_grad():
        assert all(value.ndim == 0 and torch.isfinite(value) for value in loss(vae, batch).values())


@pytest.mark.parametrize("use", LOSSES)
def test_no_term_depends_on_the_size_of_the_batch(use):
    """Trap 14, with a posterior and a prior so narrow that all samples are equal."""
    vae, loss, batch = small(use)
    vae.prior = GivenPrior(Independent(Normal(torch.ones(2).double(), torch.full((2,), 1e-12).double()), 1))
    with torch.no_grad():
        vae.encoder.posterior.linear.weight[2:] = 0
        vae.encoder.posterior.linear.bias[2:] = -60
    once, thrice = (loss(vae, zoo.Batch(x)) for x in (batch.x, batch.x.repeat(3, 1, 1, 1)))
    torch.testing.assert_close(once, thrice)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 28, 28), (2, 5, 7), (1, 1, 3)])
def test_the_image_discriminator_takes_any_shape(shape):
    """Trap 12. Its output does not depend on the other images of the batch."""
    torch.manual_seed(0)
    discriminator = ImageDiscriminator(shape, [3, 5])
    x = torch.rand(4, *shape)
    sides = [math.ceil(side / 4) for side in shape[1:]]
    assert discriminator.features(x).shape == (4, 5 * math.prod(sides))
    assert discriminator(x).shape == (4,)
    torch.testing.assert_close(discriminator(x)[1:2], discriminator(x[1:2]))
    torch.testing.assert_close(discriminator.output(discriminator.features(x)).squeeze(-1), discriminator(x))


def test_a_conditional_prior_is_sampled_once_per_image():
    """Its batch shape is (N,), so it needs one sample of each distribution, not N."""
    vae, _, batch = small("aae")
    means = torch.arange(5.0)[:, None].expand(5, 2)
    vae.prior = GivenPrior(Independent(Normal(means, torch.full_like(means, 1e-6)), 1))
    torch.testing.assert_close(prior_samples(vae, batch), means, atol=1e-4, rtol=0)


def test_losses_are_computed_in_float32_under_autocast():
    for use in LOSSES:
        vae, loss, batch = small(use)
        vae, loss = vae.float(), loss.float()
        with torch.autocast("cpu", torch.bfloat16):
            terms = loss(vae, zoo.Batch(batch.x.float()))
        assert all(value.dtype == torch.float32 for value in terms.values())


@pytest.mark.parametrize("setting", ["aae hidden=[0]", "vae-gan channels=[0]", "vae-gan gamma=-1", "aae widths=[3]"])
def test_parameters_are_checked(setting):
    model, setting = setting.split()
    with pytest.raises(zoo.RecipeError, match=f"loss.{setting.partition('=')[0]}"):
        zoo.recipe(model, [f"loss.{setting}"])
