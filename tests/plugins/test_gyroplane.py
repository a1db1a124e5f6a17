from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import zoo
from zoo_manifolds.gyroplane import Gyroplanes
from zoo_manifolds.poincare import Ball


def mobius_add(x: Tensor, y: Tensor, c: float) -> Tensor:
    """x + y on the ball (arXiv 1901.06033, eq. 2)."""
    xy, xx, yy = (x * y).sum(-1, keepdim=True), x.square().sum(-1, keepdim=True), y.square().sum(-1, keepdim=True)
    return ((1 + 2 * c * xy + c * yy) * x + (1 - c * xx) * y) / (1 + 2 * c * xy + c**2 * xx * yy)


def signed_distance(z: Tensor, p: Tensor, a: Tensor, c: float) -> Tensor:
    """The paper's formula in coordinates inside the ball (section 3.2; arXiv 1805.09112, theorem 5)."""
    shifted = mobius_add(-p, z, c)
    inner = (shifted * a).sum(-1)
    below = (1 - c * shifted.square().sum(-1)) * a.norm(dim=-1)
    return torch.asinh(2 * math.sqrt(c) * inner / below) / math.sqrt(c)


@pytest.mark.parametrize("curvature", [0.1, 0.7, 1.4])
def test_distances_are_those_of_the_paper(curvature):
    torch.manual_seed(0)
    layer = Gyroplanes(3, 8, curvature).double()
    ball = Ball(curvature)
    z = torch.randn(5, 3, dtype=torch.float64) * 1.5
    direction = layer.weight / layer.weight.norm(dim=-1, keepdim=True)
    # A point at the distance t from the origin: the published code has p = exp_0(b w), whose distance is 2 b |w|.
    root = math.sqrt(curvature)
    length = layer.offset.unsqueeze(-1) * layer.weight.norm(dim=-1, keepdim=True)
    p = torch.tanh(root * length) / root * direction
    expected = signed_distance(ball.project(z).unsqueeze(-2), p, layer.weight, curvature)
    torch.testing.assert_close(layer(z), expected, rtol=1e-9, atol=1e-9)


def test_a_flat_ball_has_the_distances_of_euclidean_planes():
    torch.manual_seed(0)
    layer = Gyroplanes(3, 4, 1e-8).double()
    z = torch.randn(6, 3, dtype=torch.float64)
    norm = layer.weight.norm(dim=-1)
    torch.testing.assert_close(layer(z), z @ (layer.weight / norm[:, None]).T - 2 * layer.offset * norm)


def test_far_points_and_the_origin_are_finite_with_their_gradients():
    layer = Gyroplanes(2, 3, 1.0)
    z = torch.tensor([[0.0, 0.0], [12.0, 0.0], [0.0, -12.0]], requires_grad=True)
    distances = layer(z)
    distances.sum().backward()
    assert bool(torch.isfinite(distances).all())
    assert bool(torch.isfinite(z.grad).all())
    assert distances.abs().max() < 20


def test_a_model_on_the_ball_trains_with_it(tmp_path):
    curvature = {"curvature": 0.7}
    run = zoo.train(
        "mlp-vae",
        ["data=digits", "train.epochs=2", "latent_dim=2"],
        out=tmp_path,
        encoder={"hidden": [32], "posterior": {"use": "wrapped-normal", **curvature}},
        decoder={"use": "gyroplane", "hidden": [32], **curvature},
        prior="wrapped-normal",
    )
    losses = [epoch.train["loss"] for epoch in run.epochs()]
    assert losses[1] < losses[0]


def test_a_latent_that_is_no_vector_is_refused():
    with pytest.raises(zoo.ComponentError, match="'gyroplane' needs a latent of shape"):
        zoo.get("decoder", "gyroplane")(data_shape=(1, 8, 8), latent_shape=(4, 4, 2))
