from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import zoo
from zoo_deep.gated import GatedDense
from zoo_deep.resnet import ResidualBlock

SHAPES = [(1, 1, 1), (3, 7, 5), (1, 28, 28), (3, 15, 17), (4, 2, 1), (1, 1, 17)]


def resnet_vae(shape: tuple[int, int, int], channels: list[int], blocks: int = 1, **head: object) -> zoo.VAE:
    torch.manual_seed(0)
    return zoo.create_model(
        "resnet-vae",
        data_shape=shape,
        latent_dim=3,
        encoder={"channels": channels, "blocks": blocks},
        decoder={"channels": channels[::-1], "blocks": blocks, **head},
    )


# --- residual networks


@pytest.mark.parametrize(("channels", "blocks"), [([4], 2), ([4, 5], 1), ([3, 4, 16, 6, 7], 0)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_decoder_restores_any_image_size(shape, channels, blocks):
    """Trap 12: no size is hard-coded. Here five stages reduce every side to one pixel."""
    vae = resnet_vae(shape, channels, blocks)
    x = torch.rand(2, *shape)
    q = vae.encode(x)
    assert (q.batch_shape, q.event_shape) == ((2,), (3,))
    p = vae.decode(q.mean)
    assert (p.batch_shape, p.event_shape) == ((2,), shape)
    assert p.mean.shape == x.shape


@pytest.mark.parametrize("use", ["resnet", "gated"])
def test_a_latent_of_several_dimensions_is_flattened(use):
    decoder = zoo.get("decoder", use)(data_shape=(2, 5, 6), latent_shape=(2, 3))
    z = torch.randn(7, 4, 2, 3)
    assert decoder(z).batch_shape == (7, 4)
    torch.testing.assert_close(decoder(z).mean[2, 1], decoder(z[2, 1:2]).mean[0])


def test_there_is_one_stage_per_entry_of_channels():
    argument = [6, 5]
    encoder = zoo.get("encoder", "resnet")(data_shape=(3, 9, 12), latent_dim=2, channels=argument, blocks=3)
    strided = [(m.in_channels, m.out_channels) for m in encoder.modules() if getattr(m, "stride", None) == (2, 2)]
    assert strided == [(3, 6), (6, 5)]
    assert [m.residual[2].in_channels for m in encoder.modules() if isinstance(m, ResidualBlock)] == [6] * 3 + [5] * 3
    assert encoder.posterior.linear.in_features == 5 * math.ceil(9 / 4) * math.ceil(12 / 4)
    decoder = zoo.get("decoder", "resnet")(data_shape=(3, 9, 12), latent_shape=(2,), channels=argument, blocks=3)
    assert [m.size for m in decoder.modules() if isinstance(m, nn.Upsample)] == [(5, 6), (9, 12)]
    assert [m.residual[2].in_channels for m in decoder.modules() if isinstance(m, ResidualBlock)] == [6] * 3 + [5] * 3
    assert argument == [6, 5], "the caller's list must not be modified"


def test_a_residual_block_adds_to_its_input():
    torch.manual_seed(0)
    block, x = ResidualBlock(4), torch.randn(2, 4, 5, 6)

    def normalised(h, norm):
        """Group normalisation with one group of four channels."""
        mean, variance = h.mean((1, 2, 3), keepdim=True), h.var((1, 2, 3), keepdim=True, correction=0)
        h = (h - mean) / torch.sqrt(variance + 1e-5) * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)
        return h * torch.sigmoid(h)

    first, _, one, second, _, two = block.residual
    for parameter in (first.weight, first.bias, second.weight, second.bias):
        nn.init.normal_(parameter)
    h = nn.functional.conv2d(normalised(x, first), one.weight, one.bias, padding=1)
    h = nn.functional.conv2d(normalised(h, second), two.weight, two.bias, padding=1)
    torch.testing.assert_close(block(x), x + h)
    nn.init.zeros_(two.weight)
    nn.init.zeros_(two.bias)
    assert torch.equal(block(x), x)


def test_an_encoding_does_not_depend_on_other_images():
    """Neither on those in its batch nor on earlier ones, as it would with batch normalisation."""
    vae = resnet_vae((1, 9, 9), [16, 24], 2)
    x = torch.rand(6, 1, 9, 9)
    alone = vae.train().encode(x[:1]).mean
    torch.testing.assert_close(vae.encode(x).mean[:1], alone)
    torch.testing.assert_close(vae.eval().encode(x).mean[:1], alone)
    assert list(vae.buffers()) == [vae.prior.loc, vae.prior.scale]


def test_groups_have_about_eight_channels():
    encoder = zoo.get("encoder", "resnet")(data_shape=(1, 8, 8), latent_dim=2, channels=[1, 8, 12, 32, 40], blocks=0)
    groups = [m.num_groups for m in encoder.modules() if isinstance(m, nn.GroupNorm)]
    assert groups == [1, 1, 1, 4, 5]


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 7, 5), (1, 28, 28)], ids=str)
def test_gradients_reach_every_parameter_and_every_pixel(shape):
    vae = resnet_vae(shape, [16, 32, 16])
    x = torch.rand(16, *shape, requires_grad=True)
    vae.encode(x).mean.square().sum().backward()
    assert (x.grad != 0).all(dim=0).all()
    vae.zero_grad()
    zoo.create_loss("resnet-vae", data_shape=tuple(x.shape[1:]))(vae, zoo.Batch(x.detach()))["loss"].backward()
    for name, parameter in vae.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


# --- gated layers


def test_a_gated_layer_by_hand():
    torch.manual_seed(0)
    layer, x = GatedDense(3, 2), torch.randn(5, 3)
    linear = x @ layer.linear.weight.T + layer.linear.bias
    gate = x @ layer.gate.weight.T + layer.gate.bias
    torch.testing.assert_close(layer(x), linear / (1 + torch.exp(-gate)))


@pytest.mark.parametrize("hidden", [[], [5], [5, 1, 7]], ids=len)
def test_gated_layers_have_the_given_widths_in_order(hidden):
    argument = list(hidden)
    changes = {"encoder": {"hidden": argument}, "decoder": {"hidden": argument}}
    vae = zoo.create_model("gated-vae", data_shape=(2, 3, 4), latent_dim=2, **changes)
    for trunk, ends in ((vae.encoder.trunk, 24), (vae.decoder.trunk, 2)):
        layers = [m for m in trunk if isinstance(m, GatedDense)]
        assert [m.linear.out_features for m in layers] == hidden
        assert [m.gate.in_features for m in layers] == [ends, *hidden][: len(hidden)]
    assert argument == hidden
    x = torch.rand(4, 2, 3, 4)
    assert vae.reconstruct(x).shape == x.shape


@pytest.mark.parametrize(
    ("model", "setting"),
    [
        ("resnet-vae", "encoder.channels=[0]"),
        ("resnet-vae", "decoder.blocks=-1"),
        ("gated-vae", "encoder.hidden=[0]"),
        ("gated-vae", "decoder.hidden=[2.5]"),
    ],
)
def test_parameters_are_checked(model, setting):
    with pytest.raises(zoo.RecipeError, match=setting.partition("=")[0].replace(".", r"\.")):
        zoo.recipe(model, [setting])
