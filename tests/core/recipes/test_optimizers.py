from __future__ import annotations

import pytest
import torch

from zoo.recipes.normalized import NormalizedAdam
from zoo.recipes.optimizers import find_optim
from zoo.recipes.piecewise import PiecewiseConstantLR

IWAE_STAGES = [round(10 ** (1 - i / 7), 1) / 10 for i in range(8)]
"""The learning rates of arXiv 1509.00519, as factors of the first one, 0.001."""


def test_the_eight_stages_of_the_importance_weighted_autoencoder():
    """Stage i has 3^(i - 1) epochs at 1e-4 * round(10^(1 - (i - 1) / 7), 1), 3280 epochs in all."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1e-3)
    milestones = [sum(3**i for i in range(stage)) for stage in range(1, 8)]
    assert milestones == [1, 4, 13, 40, 121, 364, 1093]
    schedule = PiecewiseConstantLR(optimizer, milestones, IWAE_STAGES[1:])
    rates = []
    for _ in range(3280):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    expected = [1e-4 * round(10 ** (1 - i / 7), 1) for i in range(8) for _ in range(3**i)]
    assert rates == pytest.approx(expected, rel=1e-12)
    assert expected[0] == 1e-3
    assert expected[-1] == 1e-4


@pytest.mark.parametrize(
    ("milestones", "factors", "message"),
    [([1, 2], [0.5], "one factor"), ([2, 2], [0.5, 0.1], "increasing"), ([0], [0.5], "from 1 on")],
)
def test_a_schedule_without_a_factor_for_each_milestone_is_refused(milestones, factors, message):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    with pytest.raises(ValueError, match=message):
        PiecewiseConstantLR(optimizer, milestones, factors)


def test_the_scale_of_a_gradient_does_not_matter_to_normalized_adam():
    """Two tensors, one with a gradient 1000 times that of the other, and a step of the other size: the path of Adam on
    unit gradients, computed by torch's own Adam."""
    gradients = [torch.tensor([3.0, 4.0]), torch.tensor([-1.0, 7.0]), torch.tensor([0.5, 0.0])]
    small, large, unit = (torch.nn.Parameter(torch.zeros(2)) for _ in range(3))
    normalized = NormalizedAdam([small, large], lr=0.1)
    adam = torch.optim.Adam([unit], lr=0.1)
    for scale, gradient in zip((1.0, 30.0, 0.2), gradients, strict=True):
        small.grad, large.grad = scale * gradient, 1000 * scale * gradient
        unit.grad = gradient / gradient.norm()
        normalized.step()
        adam.step()
    torch.testing.assert_close(large, small, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(small.detach(), unit.detach(), rtol=1e-5, atol=1e-6)


def test_recipes_find_them_by_name():
    assert find_optim("optimizer", "normalizedadam") is NormalizedAdam
    assert find_optim("scheduler", "PiecewiseConstantLR") is PiecewiseConstantLR
