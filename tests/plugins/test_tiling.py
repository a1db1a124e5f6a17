"""Images larger than those of the training, in tiles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import zoo
from resuming import run_main
from zoo_images.tiling import decode_tiled, encode_tiled, reconstruct_tiled, tiled

LAYERS: dict[str, Any] = {"blocks": 1, "groups": 1, "attention": False}


def photo_vae(size: tuple[int, int], model: str = "photo-vae", **changes: Any) -> zoo.VAE:
    """An untrained model, f2, in float64."""
    parts = {"encoder": {"channels": [2, 3], **LAYERS}, "decoder": {"channels": [3, 2], **LAYERS}}
    torch.manual_seed(0)
    recipe = zoo.recipe(model, {"data": "digits", "latent_dim": 3, **parts, **changes})
    return zoo.create_model(recipe, data_shape=(1, *size)).double()


def without_norms(vae: zoo.VAE) -> zoo.VAE:
    """Replace the group norms, whose statistics are those of the whole image."""
    for module in list(vae.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, nn.Identity())
    return vae


def image(height: int, width: int, n: int = 1) -> Tensor:
    return torch.rand(n, 1, height, width, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("size", [(8, 8), (5, 9), (23, 31), (40, 8)])
@pytest.mark.parametrize("factor", [1, 2, 4])
def test_layers_without_a_border_equal_the_untiled_ones(factor, size, overlap):
    """A convolution whose stride is its size, and its transpose, see the same pixels in every tile."""
    torch.manual_seed(0)
    down = nn.Conv2d(2, 3, factor, stride=factor).double()
    up = nn.ConvTranspose2d(3, 2, factor, stride=factor).double()
    height, width = size
    x = torch.randn(2, 2, height, width).double()
    z = tiled(down, x, (8, 8), (8 // factor, 8 // factor), overlap)
    assert z.shape == (2, 3, -(-height // factor), -(-width // factor))
    whole = nn.functional.pad(x, (0, -width % factor, 0, -height % factor), mode="replicate")
    torch.testing.assert_close(z, down(whole))
    grid = 8 // factor
    big = torch.randn(2, 3, max(grid, height), max(grid, width)).double()
    torch.testing.assert_close(tiled(up, big, (grid, grid), (8, 8), overlap), up(big))


def test_a_constant_image_has_no_seams():
    """The results of the tiles agree, so their blend is one of them, and constant for a network without a border."""
    y = tiled(
        lambda x: x.mean((2, 3), keepdim=True) * torch.ones_like(x),
        torch.full((1, 1, 30, 19), 0.3),
        *2 * ((8, 8),),
        0.25,
    )
    torch.testing.assert_close(y, torch.full((1, 1, 30, 19), 0.3))


def test_seams_are_blended_linearly():
    """Two tiles with the results 0 and 1, and an overlap of three columns between them."""
    results = iter((0.0, 1.0))
    y = tiled(lambda x: torch.full_like(x, next(results)), torch.zeros(1, 1, 4, 9), (4, 6), (4, 6), 0.5)
    assert y[0, 0, 2].tolist() == pytest.approx([0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1])


def test_values_away_from_seams_equal_those_of_a_larger_model():
    """A tile's border changes the values within the receptive field, 18 pixels or 9 positions. The two tiles begin at
    rows 0 and 32 of 96 and the first ends at row 64."""
    vae, large = (without_norms(photo_vae(size)) for size in ((64, 24), (96, 24)))
    large.load_state_dict(vae.state_dict())
    x = image(96, 24)
    expected, z = large.encode(x).mean, encode_tiled(vae, x)
    assert z.shape == (1, 48, 12, 3) == expected.shape
    for rows in (slice(0, 16), slice(-16, None)):
        torch.testing.assert_close(z[:, rows], expected[:, rows])
    assert not torch.allclose(z, expected)
    expected_x, y = large.decode(expected).mean, decode_tiled(vae, expected)
    assert y.shape == (1, 1, 96, 24)
    for rows in (slice(0, 32), slice(-32, None)):
        torch.testing.assert_close(y[..., rows, :], expected_x[..., rows, :])


@torch.no_grad()
@pytest.mark.parametrize("size", [(16, 12), (9, 12), (16, 5)])
def test_one_tile_is_the_model(size):
    """Images of the size of the training, and smaller ones, which are extended."""
    vae = photo_vae((16, 12)).eval()
    x = image(*size, n=2)
    whole = nn.functional.pad(x, (0, 12 - size[1], 0, 16 - size[0]), mode="replicate")
    expected = vae.reconstruct(whole)[..., : size[0], : size[1]]
    torch.testing.assert_close(reconstruct_tiled(vae, x), expected)
    z = encode_tiled(vae, x)
    torch.testing.assert_close(z, vae.encode(whole).mean[:, : -(-size[0] // 2), : -(-size[1] // 2)])


@pytest.mark.parametrize("model", ["mlp-vae", "conv-vae", "vq-vae"])
def test_any_model_of_images_reconstructs_larger_ones(model):
    """Away from seams, the reconstruction is that of the tile."""
    if model == "vq-vae":
        pytest.importorskip("vector_quantize_pytorch")
    torch.manual_seed(0)
    vae = zoo.create_model(model, data_shape=(1, 8, 8)).eval()
    x = image(20, 8).float()
    y = reconstruct_tiled(vae, x)
    assert y.shape == x.shape
    with torch.no_grad():
        torch.testing.assert_close(y[..., :6, :], vae.reconstruct(x[..., :8, :])[..., :6, :])
    assert not vae.training


@pytest.mark.parametrize(
    ("changes", "size", "message"),
    [
        ({}, (7, 8), r"Tiles of 7x8 pixels are not a multiple of the 4x4 positions of the latent"),
        ({"encoder": "mlp", "decoder": "mlp"}, (8, 8), "Tiles need a spatial latent"),
    ],
)
def test_latents_that_cannot_be_tiled(changes, size, message):
    recipe = zoo.recipe("photo-vae", {"data": "digits", "encoder.channels": [4, 4], "decoder.channels": [4, 4]})
    vae = zoo.create_model(zoo.recipe(recipe, changes), data_shape=(1, *size))
    with pytest.raises(zoo.UsageError, match=message):
        encode_tiled(vae, image(16, 16).float())


def test_codes_are_not_blended():
    pytest.importorskip("vector_quantize_pytorch")
    vae = zoo.create_model("vq-vae", data_shape=(1, 8, 8))
    with pytest.raises(zoo.UsageError, match="Blended codes are not codes"):
        encode_tiled(vae, image(16, 16).float())


def test_wrong_arguments():
    vae = photo_vae((8, 8))
    with pytest.raises(zoo.UsageError, match=r"Expected images \(N, 1, H, W\); got shape \(1, 3, 16, 16\)"):
        reconstruct_tiled(vae, torch.rand(1, 3, 16, 16))
    with pytest.raises(zoo.UsageError, match="The overlap must be at least 0 and below 1; got 1.0"):
        reconstruct_tiled(vae, image(16, 16), overlap=1.0)


def test_the_command_reconstructs_a_file_at_its_size(digits_run: Path, tmp_path: Path, capsys):
    levels = np.random.default_rng(0).integers(0, 256, (21, 13, 3), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "photograph.png")
    out = tmp_path / "new" / "reconstruction.png"
    arguments = ("--file", str(tmp_path / "photograph.png"), "--out", str(out), "--json")
    assert run_main("reconstruct", str(digits_run), *arguments) == 0
    assert json.loads(capsys.readouterr().out)["figure"] == str(out)
    with Image.open(out) as result, Image.open(tmp_path / "photograph.png") as original:
        assert (result.mode, result.size) == ("L", (13, 21))
        grey = torch.from_numpy(np.asarray(original.convert("L")).copy())[None, None] / 255
        expected = reconstruct_tiled(zoo.Run(digits_run).load(), grey)[0, 0]
        actual = torch.from_numpy(np.asarray(result).copy()) / 255
    torch.testing.assert_close(actual, expected, atol=0.51 / 255, rtol=0)
    (tmp_path / "damaged.png").write_bytes(b"no image")
    assert run_main("reconstruct", str(digits_run), "--file", str(tmp_path / "damaged.png")) == 2
    assert "damaged.png: is not an image in BMP" in capsys.readouterr().err
