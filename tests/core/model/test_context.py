from __future__ import annotations

import torch
from torch import nn

from zoo.model.context import evaluating, flushed_denormals, seeded


def test_the_mode_of_every_submodule_is_restored():
    net = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2))
    net[1].eval()  # frozen on purpose
    with evaluating(net):
        assert not net.training
        assert not net[0].training
    assert net.training
    assert net[0].training
    assert not net[1].training


def test_seeded_draws_do_not_advance_the_global_generator():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with seeded(7):
        first = torch.rand(2)
    assert torch.equal(torch.rand(2), expected)
    with seeded(7):
        assert torch.equal(torch.rand(2), first)


def test_denormals_are_flushed_inside_the_block_only():
    tiny = torch.tensor(1e-40)
    with flushed_denormals():
        assert tiny * 1.0 == 0
        with flushed_denormals():
            pass
        assert tiny * 1.0 == 0
    assert tiny * 1.0 != 0
