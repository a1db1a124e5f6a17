from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import zoo

SHAPES = [(1, 1, 1), (3, 7, 5), (1, 28, 28), (3, 31, 33), (2, 64, 48), (4, 2, 1), (1, 8, 8), (1, 1, 17)]


def conv_vae(shape: tuple[int, int, int], channels: list[int], latent_dim: int = 3, **head: object) -> zoo.VAE:
    torch.manual_seed(0)
    return zoo.create_model(
        "conv-vae",
        data_shape=shape,
        latent_dim=latent_dim,
        encoder={"channels": channels},
        decoder={"channels": channels[::-1], **head},
    )


@pytest.mark.parametrize("channels", [[4], [4, 5], [3, 4, 5, 6, 7, 8]], ids=len)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_decoder_restores_any_image_size(shape, channels):
    """Trap 12: no size is hard-coded. Here six layers reduce every side to one pixel."""
    vae = conv_vae(shape, channels)
    x = torch.rand(2, *shape)
    q = vae.encode(x)
    assert (q.batch_shape, q.event_shape) == ((2,), (3,))
    p = vae.decode(q.mean)
    assert (p.batch_shape, p.event_shape) == ((2,), shape)
    assert p.mean.shape == x.shape
    assert vae.sample(4).shape == (4, *shape)


def test_a_latent_of_several_dimensions_is_flattened():
    decoder = zoo.get("decoder", "conv")(data_shape=(2, 5, 6), latent_shape=(2, 3), channels=[4])
    z = torch.randn(7, 4, 2, 3)
    assert decoder(z).batch_shape == (7, 4)
    torch.testing.assert_close(decoder(z).mean[2, 1], decoder(z[2, 1:2]).mean[0])


@pytest.mark.parametrize("channels", [[6], [6, 5], [6, 5, 4, 3, 2]], ids=len)
def test_there_is_one_layer_per_entry_of_channels(channels):
    argument = list(channels)
    encoder = zoo.get("encoder", "conv")(data_shape=(3, 9, 12), latent_dim=2, channels=argument)
    sizes = [(m.in_channels, m.out_channels) for m in encoder.modules() if isinstance(m, nn.Conv2d)]
    assert sizes == list(zip([3, *channels], channels, strict=False))
    height, width = (math.ceil(side / 2 ** len(channels)) for side in (9, 12))
    assert encoder.posterior.linear.in_features == channels[-1] * height * width

    argument.reverse()
    decoder = zoo.get("decoder", "conv")(data_shape=(3, 9, 12), latent_shape=(2,), channels=argument)
    sizes = [(m.in_channels, m.out_channels) for m in decoder.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert sizes == list(zip(argument, [*argument[1:], 3], strict=True))
    (linear,) = (m for m in decoder.modules() if isinstance(m, nn.Linear))
    assert (linear.in_features, linear.out_features) == (2, channels[-1] * height * width)
    assert argument == channels[::-1], "the caller's list must not be modified"


def test_the_channels_of_the_decoder_need_not_mirror_those_of_the_encoder():
    vae = zoo.create_model(
        "conv-vae", data_shape=(3, 10, 7), encoder={"channels": [4]}, decoder={"channels": [9, 2, 5]}
    )
    assert vae.reconstruct(torch.rand(2, 3, 10, 7)).shape == (2, 3, 10, 7)


def test_without_layers_there_are_only_the_heads():
    vae = conv_vae((2, 3, 4), [])
    x = torch.rand(5, 2, 3, 4)
    head = vae.encoder.posterior.linear
    torch.testing.assert_close(vae.encode(x).mean, (x.flatten(1) @ head.weight.T + head.bias)[:, :3])
    assert vae.reconstruct(x).shape == x.shape


@pytest.mark.parametrize("channels", [[4], [4, 5], [3, 4, 5, 6, 7, 8]], ids=len)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_reach_every_parameter(shape, channels):
    vae = conv_vae(shape, [16 + c for c in channels])  # wide enough that no layer has only dead units
    zoo.create_loss("conv-vae", data_shape=shape)(vae, zoo.Batch(torch.rand(16, *shape)))["loss"].backward()
    for name, parameter in vae.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_the_first_convolution_by_hand():
    """3x3, stride 2, zero padding: out[i, j] = relu(b + sum_kl w[k, l] x[2i + k - 1, 2j + l - 1])."""
    encoder = zoo.get("encoder", "conv")(data_shape=(1, 3, 4), latent_dim=2, channels=[1])
    x = torch.rand(1, 1, 3, 4)
    padded = nn.functional.pad(x[0, 0], (1, 1, 1, 1))
    convolution = encoder.trunk[0]
    expected = torch.stack(
        [
            (convolution.weight[0, 0] * padded[2 * i : 2 * i + 3, 2 * j : 2 * j + 3]).sum() + convolution.bias[0]
            for i in range(2)
            for j in range(2)
        ]
    )
    torch.testing.assert_close(encoder.trunk(x)[0], expected.relu())


def test_every_pixel_affects_the_latent_and_depends_on_it():
    """No row or column is skipped by a stride, for odd sizes either."""
    for height, width in ((7, 5), (8, 8), (9, 12)):
        vae = conv_vae((1, height, width), [8, 8])
        x = torch.rand(1, 1, height, width, requires_grad=True)
        vae.encode(x).mean.sum().backward()
        assert (x.grad != 0).all()
        z = torch.randn(64, 3)
        assert (vae.decode(z).mean.std(0) > 0).all()


@pytest.mark.parametrize("setting", ["encoder.channels=[0]", "decoder.channels=[8,-1]", "encoder.channels=[1.5]"])
def test_channels_are_positive_integers(setting):
    with pytest.raises(zoo.RecipeError, match=r"coder\.channels\."):
        zoo.recipe("conv-vae", [setting])
