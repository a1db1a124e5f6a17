from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.func import jacrev, vmap

import zoo
from resuming import TINY, stopped
from toys import linear_gaussian_vae
from zoo_hamiltonian.dynamics import generalized_leapfrog, leapfrog, make_force
from zoo_hamiltonian.metric import Metric
from zoo_hamiltonian.parameters import StepSize, Tempering

SHAPE = (1, 2, 2)
BLOCK = {"hidden": [5], "activation": "tanh"}
CHANGES = {"data_shape": SHAPE, "latent_dim": 2, "encoder": BLOCK, "decoder": BLOCK}
LOSSES = ["hvae", "rhvae"]


def small(recipe: str, **loss: object) -> tuple[zoo.VAE, zoo.Loss, zoo.Batch]:
    """A VAE with two latent dimensions and four pixels, its loss and three images, in float64."""
    torch.manual_seed(0)
    changes = {**CHANGES, "loss": {"use": recipe, **({"hidden": [5]} if recipe == "rhvae" else {}), **loss}}
    vae = zoo.create_model("mlp-vae", **changes).double()
    return vae, zoo.create_loss("mlp-vae", **changes).double(), zoo.Batch(torch.rand(3, *SHAPE, dtype=torch.float64))


def some_metric() -> Metric:
    generator = torch.Generator().manual_seed(1)
    centroids = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    factors = torch.randn(3, 2, 2, generator=generator, dtype=torch.float64).tril()
    return Metric(centroids, factors, temperature=1.3, regularization=0.1)


METRIC = some_metric()


def well(z: Tensor) -> Tensor:
    """The force of the energy |z|^2 / 2 + sum cos z, which is non-linear and anisotropic."""
    return torch.sin(z) - z


STEP = torch.tensor([0.2, 0.1], dtype=torch.float64)


def start(n: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    z, momentum = torch.randn(2, n, 2, generator=generator, dtype=torch.float64)
    return z, momentum


INTEGRATORS = {
    "plain": lambda z, v, factors: leapfrog(well, z, v, STEP, factors),
    "generalized": lambda z, v, factors: generalized_leapfrog(well, METRIC, z, v, STEP, factors, 40),
}


# --- the dynamics


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_the_integrators_are_reversible(integrator):
    """Integrating forward, negating the momentum and integrating again returns to the start."""
    integrate, factors = INTEGRATORS[integrator], torch.ones(5, dtype=torch.float64)
    z, momentum = start()
    there, speed = integrate(z, momentum, factors)
    assert (there - z).abs().min() > 0.01
    back, back_momentum = integrate(there, -speed, factors)
    torch.testing.assert_close(back, z, rtol=0, atol=1e-10)
    torch.testing.assert_close(-back_momentum, momentum, rtol=0, atol=1e-10)


@pytest.mark.parametrize("cooling", [1.0, 0.8])
@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_volume_changes_by_the_tempering_only(integrator, cooling):
    """The determinant of the Jacobian from (z_0, v_0) to (z_K, v_K), by autograd, is the product of the factors,
    squared in two dimensions.
    """
    factors = torch.tensor([cooling, 1.0, cooling], dtype=torch.float64)

    def full_map(state: Tensor) -> Tensor:
        z, momentum = INTEGRATORS[integrator](state[None, :2], state[None, 2:], factors)
        return torch.cat([z, momentum], dim=-1)[0]

    determinants = vmap(jacrev(full_map))(torch.cat(start(), dim=-1)).det()
    torch.testing.assert_close(determinants, factors.prod().square().expand(4), rtol=1e-9, atol=0)


def test_the_volume_error_decreases_with_the_iterations():
    """Three iterations, as in the recipe, and six, at the maximum step size of the recipe."""
    ones, step = torch.ones(3, dtype=torch.float64), torch.full((2,), 0.05, dtype=torch.float64)
    errors = []
    for iterations in (3, 6):

        def full_map(state: Tensor, iterations: int = iterations) -> Tensor:
            z, v = generalized_leapfrog(well, METRIC, state[None, :2], state[None, 2:], step, ones, iterations)
            return torch.cat([z, v], dim=-1)[0]

        errors.append((vmap(jacrev(full_map))(torch.cat(start(), dim=-1)).det() - 1).abs().max())
    assert 100 * errors[1] < errors[0] < 1e-3


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_the_energy_error_is_of_second_order(integrator):
    """Half the step size gives a quarter of the error; a wrong sign or half step would give an error of first order."""

    def energy(z: Tensor, v: Tensor) -> Tensor:
        kinetic = METRIC.kinetic_energy(z, v) if integrator == "generalized" else v.square().sum(-1) / 2
        return (z.square() / 2 + z.cos()).sum(-1) + kinetic

    errors = []
    for halvings in (2, 3):
        z, v = start()
        step, ones = torch.full((2,), 0.1 / 2**halvings), torch.ones(5 * 2**halvings, dtype=torch.float64)
        if integrator == "generalized":
            end = generalized_leapfrog(well, METRIC, z, v, step.double(), ones, 20)
        else:
            end = leapfrog(well, z, v, step.double(), ones)
        errors.append((energy(*end) - energy(z, v)).abs())
    torch.testing.assert_close(errors[0] / errors[1], torch.full((4,), 4.0, dtype=torch.float64), rtol=0.1, atol=0)


def test_a_leapfrog_step_by_hand():
    """The harmonic oscillator with step size 1/2: 1 -> 1 - 1/8 + 1/4, and so on."""
    z, momentum = leapfrog(lambda z: -z, torch.tensor([[1.0]]), torch.tensor([[0.5]]), torch.tensor(0.5), torch.ones(1))
    assert z.item() == 1 + 0.5 * (0.5 - 0.25)
    assert momentum.item() == (0.5 - 0.25) - 0.25 * z.item()


def test_with_a_constant_metric_both_integrators_agree():
    flat = Metric(torch.zeros(1, 2).double(), torch.zeros(1, 2, 2).double(), temperature=1.0, regularization=1.0)
    ones = torch.ones(3, dtype=torch.float64)
    for actual, expected in zip(
        generalized_leapfrog(well, flat, *start(), STEP, ones, 1), leapfrog(well, *start(), STEP, ones), strict=True
    ):
        torch.testing.assert_close(actual, expected)


def test_the_force_is_the_gradient_of_the_joint_density():
    vae, _, batch = small("hvae")
    z = torch.randn(3, 2, dtype=torch.float64)
    expected = torch.empty_like(z)
    for i in range(2):
        h = torch.zeros(2, dtype=torch.float64)
        h[i] = 1e-5
        above, below = (
            vae.decode(z + s * h).log_prob(batch.x) + vae.prior(vae.encoder).log_prob(z + s * h) for s in (1, -1)
        )
        expected[:, i] = (above - below) / 2e-5
    torch.testing.assert_close(make_force(vae, vae.trace(batch))(z), expected, rtol=1e-6, atol=1e-8)


# --- the metric


def test_the_metric_by_hand():
    """Two centroids at distances 0 and 1 from the point, with T = 2 and lambda = 1/2."""
    centroids = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    factors = torch.tensor([[[1.0, 0.0], [2.0, 1.0]], [[3.0, 0.0], [0.0, 1.0]]])
    metric = Metric(centroids, factors, temperature=2.0, regularization=0.5)
    z, momentum = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, -1.0]])
    far = math.exp(-0.25)
    inverse = torch.tensor([[1 + 9 * far + 0.5, 2.0], [2.0, 5 + far + 0.5]])
    torch.testing.assert_close(metric.inverse(z)[0], inverse)
    torch.testing.assert_close(metric.velocity(z, momentum)[0], inverse @ momentum[0])
    energy = (momentum[0] @ inverse @ momentum[0] - inverse.logdet()) / 2
    torch.testing.assert_close(metric.kinetic_energy(z, momentum)[0], energy)


def test_the_gradient_of_the_kinetic_energy_agrees_with_autograd():
    z, momentum = (value.requires_grad_() for value in start())
    by_z, by_momentum = torch.autograd.grad(METRIC.kinetic_energy(z, momentum).sum(), (z, momentum))
    torch.testing.assert_close(METRIC.kinetic_gradient(z, momentum), by_z)
    torch.testing.assert_close(METRIC.velocity(z, momentum), by_momentum)


def test_momenta_have_the_covariance_of_the_metric():
    z = torch.tensor([[0.3, -0.4]], dtype=torch.float64)
    linear = torch.stack([METRIC.draw(z, e[None])[0] for e in torch.eye(2, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(linear @ linear.T, METRIC.inverse(z)[0].inverse())


# --- step sizes and tempering


@pytest.mark.parametrize("schedule", ["fixed", "free"])
def test_the_factors_multiply_to_the_root_of_the_first_inverse_temperature(schedule):
    factors = Tempering(schedule, steps=4, start=0.3)()
    assert factors.prod().square().item() == pytest.approx(0.3, rel=1e-5)
    assert factors.max() < 1


def test_the_quadratic_schedule_by_hand():
    """beta_0 = 1/4 and two steps: 1 / sqrt(beta_k) is 2, 7/4, 1."""
    torch.testing.assert_close(Tempering("fixed", steps=2, start=0.25)(), torch.tensor([7 / 8, 4 / 7]))
    torch.testing.assert_close(Tempering("none", steps=2, start=0.25)(), torch.ones(2))


def test_step_sizes_stay_within_their_bound():
    step = StepSize((3,), start=0.05, maximum=0.5)
    torch.testing.assert_close(step(), torch.full((3,), 0.05))
    torch.nn.init.constant_(step.logit, 10.0)
    assert (step() < 0.5).all()
    with pytest.raises(zoo.ComponentError, match=r"step_size \(0.5\) must be smaller than max_step_size"):
        StepSize((3,), start=0.5, maximum=0.5)


# --- the bound


@pytest.mark.parametrize("tempering", ["none", "fixed", "free"])
@pytest.mark.parametrize("use", LOSSES)
def test_without_steps_it_is_the_negative_elbo(use, tempering):
    """K = 0, to float64 precision."""
    vae, loss, batch = small(use, steps=0, tempering=tempering)
    torch.manual_seed(3)
    terms = loss(vae, batch)
    torch.manual_seed(3)
    trace = vae.trace(batch)
    torch.testing.assert_close(terms["loss"], -trace.log_weight.mean(), rtol=1e-12, atol=0)
    torch.testing.assert_close(terms["distortion"], -trace.log_px.mean(), rtol=1e-12, atol=0)


def on_a_linear_gaussian(use: str, tempering: str) -> tuple[Tensor, float]:
    """Log-weights of many samples for one image, and its exact log p(x)."""
    vae = linear_gaussian_vae()
    extra = {"data_shape": (1, 1, 4), "hidden": [4], "iterations": 8, "centroids": 3} if use == "rhvae" else {}
    torch.manual_seed(0)
    loss = zoo.get("loss", use)(
        latent_shape=(2,), steps=3, step_size=0.1, max_step_size=0.2, tempering=tempering, **extra
    ).eval()
    if use == "rhvae":
        loss.centroids.copy_(torch.randn(3, 2))
        loss.factors.copy_(torch.randn(3, 2, 2).tril())
    x = vae.decoder.marginal().sample().view(1, 1, 1, 4)
    with torch.no_grad():
        distortion, rate = loss.parts(vae, zoo.Batch(x.expand(8_000, -1, -1, -1)))
    return -(distortion + rate), vae.decoder.marginal().log_prob(x.flatten()).item()


@pytest.mark.parametrize("tempering", ["none", "fixed", "free"])
@pytest.mark.parametrize("use", LOSSES)
def test_the_weights_are_unbiased_and_the_bound_is_below_log_p(use, tempering):
    """E[w] = p(x) in a linear Gaussian model, so no factor of the density of (z_K, rho_K) is missing. Hence
    E[log w] <= log p(x).
    """
    log_weight, exact = on_a_linear_gaussian(use, tempering)
    ratio = (log_weight - exact).exp()
    error = ratio.std() / math.sqrt(len(ratio))
    assert error < 0.05
    assert abs(ratio.mean() - 1) < 4 * error
    assert log_weight.mean() < exact


def test_the_steps_tighten_the_bound_for_a_poor_posterior():
    log_weight, exact = on_a_linear_gaussian("hvae", "none")
    vae = linear_gaussian_vae()
    torch.manual_seed(0)
    x = vae.decoder.marginal().sample().view(1, 1, 1, 4)
    loss = zoo.get("loss", "hvae")(latent_shape=(2,), steps=0)
    with torch.no_grad():
        distortion, rate = loss.parts(vae, zoo.Batch(x.expand(8_000, -1, -1, -1)))
    assert -(distortion + rate).mean() < log_weight.mean() - 0.01 < exact


@pytest.mark.parametrize("tempering", ["fixed", "free"])
@pytest.mark.parametrize("use", LOSSES)
def test_gradients_agree_with_finite_differences(use, tempering):
    """Every parameter (step sizes, tempering, metric, encoder, decoder), through the inner gradients."""
    extra = {"centroids": 4} if use == "rhvae" else {}
    vae, loss, batch = small(use, steps=2, tempering=tempering, step_size=0.04, **extra)
    before = {name: value.clone() for name, value in loss.named_buffers()}

    def evaluate() -> Tensor:
        with torch.no_grad():
            for name, value in loss.named_buffers():
                value.copy_(before[name])
        torch.manual_seed(1)
        return loss(vae, batch)["loss"]

    evaluate().backward()
    assert loss.step_size.logit.grad.abs().min() > 1e-6
    h = 1e-5
    for module in (loss, vae):
        for name, parameter in module.named_parameters():
            # The first and the last entry suffice to detect a wrong formula.
            for index in {0, parameter.numel() - 1}:
                with torch.no_grad():
                    value = parameter.view(-1)[index : index + 1]
                    value += h
                    above = evaluate()
                    value -= 2 * h
                    actual = (above - evaluate()) / (2 * h)
                    value += h
                expected = parameter.grad.view(-1)[index]
                torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("use", LOSSES)
def test_an_evaluation_works_under_no_grad(use):
    """The terms of a split are computed under `no_grad`, although the force is a gradient."""
    vae, loss, batch = small(use)
    loss(vae, batch)
    loss.eval()
    torch.manual_seed(5)
    expected = loss(vae, batch)
    torch.manual_seed(5)
    with torch.no_grad():
        terms = loss(vae, batch)
    assert not any(value.requires_grad for value in terms.values())
    assert all(parameter.grad is None for module in (vae, loss) for parameter in module.parameters())
    torch.testing.assert_close(terms, {name: value.detach() for name, value in expected.items()})


# --- the metric during training


def test_centroids_are_stored_newest_first_and_used_in_evaluation():
    """Trap 11: they are part of the state, so a restored loss returns the same value."""
    vae, loss, batch = small("rhvae", centroids=5)
    loss(vae, batch)
    first = loss.centroids[:3].clone()
    torch.testing.assert_close(first, vae.encode(batch.x).mean)
    assert (loss.factors[:3].diagonal(dim1=-2, dim2=-1) > 0).all()
    assert (loss.factors[3:] == 0).all()
    assert (loss.factors.triu(1) == 0).all()
    other = zoo.Batch(1 - batch.x)
    loss(vae, other)
    torch.testing.assert_close(loss.centroids, torch.cat([vae.encode(other.x).mean, first[:2]]))

    _, restored, _ = small("rhvae", centroids=5)
    restored.load_state_dict(loss.state_dict())
    _, fresh, _ = small("rhvae", centroids=5)
    losses = []
    for each in (loss, restored, fresh):
        each.eval()
        torch.manual_seed(4)
        losses.append(each(vae, batch)["loss"].item())
        torch.testing.assert_close(each.centroids, each.state_dict()["centroids"])
    assert losses[0] == losses[1]
    assert abs(losses[0] - losses[2]) > 1e-3, "the metric must have an effect"


def test_the_metric_is_in_the_checkpoint(tmp_path):
    """Trap 11."""
    loss = "loss={use: rhvae, hidden: [4], centroids: 7, steps: 1}"
    run = stopped("mlp-vae", [*TINY, loss, "train.epochs=1"], 2, tmp_path)
    state = run.checkpoints.newest().state()["loss"]
    assert state["centroids"].shape == (7, 2)
    assert (state["factors"].diagonal(dim1=-2, dim2=-1) > 0).all()


def test_a_latent_that_is_not_a_vector_is_an_error():
    with pytest.raises(zoo.ComponentError, match=r"a latent of shape \(d,\)"):
        zoo.get("loss", "rhvae")(data_shape=SHAPE, latent_shape=(2, 3))


@pytest.mark.parametrize("use", LOSSES)
def test_the_dynamics_run_in_float32_under_autocast(use):
    vae, loss, batch = small(use)
    vae, loss = vae.float(), loss.float()
    with torch.autocast("cpu", torch.bfloat16):
        terms = loss(vae, zoo.Batch(batch.x.float()))
    assert terms["loss"].dtype == torch.float32
    terms["loss"].backward()
    assert torch.isfinite(loss.step_size.logit.grad).all()
