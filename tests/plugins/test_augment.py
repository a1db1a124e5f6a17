"""Augmentation: each operation against its definition, and a training that is resumed bit-identically."""

from pathlib import Path

import pytest
import torch
from PIL import Image

import zoo
from zoo_datasets.augment import LUMA, augmentation, color, crop, flip


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twenty colour images of 16x16."""
    generator = torch.Generator().manual_seed(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(20):
        pixels = torch.randint(0, 256, (16, 16, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{i:02d}.png")
    return folder


def test_flip_mirrors_about_half_of_the_images_and_leaves_the_others() -> None:
    x = torch.rand(1000, 1, 2, 3)
    with zoo.seeded(0):
        y = flip(x)
    mirrored = (y == x.flip(-1)).flatten(1).all(1)
    unchanged = (y == x).flatten(1).all(1)
    assert (mirrored ^ unchanged).all()
    assert mirrored.double().mean() == pytest.approx(0.5, abs=0.05)


def test_crop_shifts_every_channel_by_the_same_amount_uniformly() -> None:
    height, width = 16, 24
    ramp = torch.arange(height * width, dtype=torch.float32).view(1, 1, height, width)
    x = torch.cat([ramp, 1000 + ramp], 1).repeat(3000, 1, 1, 1)
    with zoo.seeded(0):
        y = crop(x)
    torch.testing.assert_close(y[:, 1], 1000 + y[:, 0])
    center = y[:, 0, 8, 12].long()
    rows, columns = center // width - 8, center % width - 12
    assert rows.unique().tolist() == list(range(-2, 3))  # 16 / 8
    assert columns.unique().tolist() == list(range(-3, 4))  # 24 / 8
    assert torch.bincount(rows + 2).double().div(3000).sub(1 / 5).abs().max() < 0.03
    for i in (0, 1, 2):  # away from the mirrored edges, the image is the shifted one
        expected = ramp[0, 0, 3 + rows[i] : 13 + rows[i], 4 + columns[i] : 20 + columns[i]]
        torch.testing.assert_close(y[i, 0, 3:13, 4:20], expected)


def test_color_scales_brightness_contrast_and_saturation() -> None:
    x = 0.3 + 0.2 * torch.rand(500, 3, 4, 4)
    with zoo.seeded(0):
        factors = 1 + 0.2 * (2 * torch.rand(3, 500, 1, 1, 1) - 1)
    with zoo.seeded(0):
        y = color(x)
    bright = x * factors[0]
    mean = bright.mean((1, 2, 3), keepdim=True)
    contrasted = mean + factors[1] * (bright - mean)
    luma = sum(w * contrasted[:, i : i + 1] for i, w in enumerate(LUMA))
    torch.testing.assert_close(y, luma + factors[2] * (contrasted - luma))
    grey = torch.rand(5, 1, 4, 4)
    assert ((color(grey) >= 0) & (color(grey) <= 1)).all()


def test_an_image_smaller_than_eight_pixels_is_not_shifted() -> None:
    x = torch.rand(4, 1, 7, 7)
    torch.testing.assert_close(crop(x), x)


def test_only_training_batches_are_augmented(photos: Path) -> None:
    plain = zoo.load_dataset(photos, validation=4)
    augmented = zoo.load_dataset(photos, validation=4, augment=["flip", "crop", "color"])
    assert plain.sha256() == augmented.sha256()
    vae = zoo.create_model("mlp-vae", latent_dim=2, data_shape=plain.shape)
    loss = zoo.create_loss("mlp-vae", data_shape=plain.shape)
    trainer = zoo.Trainer(vae, loss, augmented, zoo.TrainConfig(epochs=1), device="cpu")
    index = torch.arange(4)
    for loader, split in ((trainer.test, plain.test), (trainer.validation, plain.validation)):
        assert loader is not None
        assert split is not None
        size = len(split)
        torch.testing.assert_close(loader[torch.arange(size)].x, split.x / 255)
    assert not torch.equal(trainer.train[index].x, plain.train.x[index] / 255)


@pytest.mark.parametrize("names", [["flip"], ["crop"], ["color"], ["flip", "crop", "color"]])
def test_a_resumed_training_is_bit_identical(photos: Path, tmp_path: Path, names: list[str]) -> None:
    """Scenario 15."""
    overrides = [
        f"data.augment={names}".replace("'", ""),
        "encoder.hidden=[8]",
        "decoder.hidden=[8]",
        "train.epochs=3",
        "train.batch_size=5",
    ]

    class Stop(zoo.Callback):
        def on_epoch_end(self, trainer: zoo.Training, epoch: zoo.Epoch) -> None:
            if epoch.epoch == 2:
                raise KeyboardInterrupt

    whole = zoo.train("mlp-vae", overrides, data=photos, folder=tmp_path / "whole", figures=False)
    with pytest.raises(KeyboardInterrupt):
        zoo.train("mlp-vae", overrides, data=photos, folder=tmp_path / "stopped", figures=False, callbacks=[Stop()])
    resumed = zoo.resume(tmp_path / "stopped", figures=False)
    plain = zoo.train("mlp-vae", overrides[1:], data=photos, folder=tmp_path / "plain", figures=False)
    states = [zoo.load(run).state_dict() for run in (whole, resumed, plain)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert any(not torch.equal(value, states[2][name]) for name, value in states[0].items())


def test_data_with_missing_entries_are_refused() -> None:
    split = zoo.Split(torch.rand(9, 3, 8, 8), mask=torch.rand(9, 3, 8, 8) < 0.5)
    dataset = zoo.Dataset(split, split, augment=augmentation(["flip"]))
    vae = zoo.create_model("mlp-vae", data_shape=dataset.shape)
    loss = zoo.create_loss("mlp-vae", data_shape=dataset.shape)
    with pytest.raises(zoo.DataError, match="missing entries cannot be augmented"):
        zoo.Trainer(vae, loss, dataset)
