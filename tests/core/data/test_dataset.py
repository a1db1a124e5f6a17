"""``--data`` by name or path, ``zoo data``, and data sets in Python."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import zoo
from zoo.cli.main import main
from zoo.recipes.datasets import spec_for
from zoo_figures.gallery import gallery

SMALL = ("encoder.channels=[4,8]", "decoder.channels=[8,4]", "latent_dim=2")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg" / "vae-zoo" / "cache"


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which `zoo_command` runs."""
    folder = tmp_path / "work"
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    return folder


def photograph(seed: int, height: int, width: int) -> Image.Image:
    """A smooth gradient with a disc on it, which compresses like a photograph."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    one, other, disc = draw.random((3, 3))
    image = one + (other - one) * (x + y)[..., None] / 2
    centre = draw.random(2)
    inside = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < 0.04
    return Image.fromarray((255 * np.where(inside[..., None], disc, image)).astype(np.uint8))


def photographs(folder: Path, n: int = 60) -> Path:
    """Photographs of several sizes in two subfolders, among them five files that are broken in different ways."""
    sizes = [(48, 64), (64, 48), (70, 70), (90, 50)]
    for i in range(n):
        sub = folder / ("hills", "sea")[i % 2]
        sub.mkdir(parents=True, exist_ok=True)
        photograph(i, *sizes[i % 4]).save(sub / f"{i:04}.{'jpg' if i % 3 else 'png'}", quality=90)
    whole = (folder / "hills" / "0000.png").read_bytes()
    (folder / "hills" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "hills" / "empty.jpg").write_bytes(b"")
    (folder / "sea" / "page.jpg").write_text("<html>")
    (folder / "sea" / "gone.jpg").symlink_to("nowhere.jpg")
    Image.fromarray(np.zeros((9, 9), dtype=np.float32)).save(folder / "sea" / "float.tif")
    return folder


# --- a name or a path


def test_a_name_comes_before_a_path_and_a_path_is_absolute(work):
    (work / "digits").mkdir()
    np.save(work / "x.npy", np.zeros((3, 4, 5), dtype=np.uint8))
    (work / "X.NPZ").write_bytes(b"")
    assert spec_for("digits").model_dump() == "digits"
    assert spec_for("vae-zoo:digits").model_dump() == "vae-zoo:digits"
    for written in ("./digits", "digits/", str(work / "digits"), f"../{work.name}/digits"):
        block = spec_for(written)
        assert block.use == "folder"
        assert Path(block.parameters["path"]).is_absolute()
        assert Path(block.parameters["path"]).samefile(work / "digits")
    assert spec_for("x.npy").model_dump() == {"use": "arrays", "path": str(work / "x.npy")}
    assert spec_for("X.NPZ").use == "arrays"


def test_a_home_folder(work, monkeypatch):
    monkeypatch.setenv("HOME", str(work))
    (work / "pics").mkdir()
    assert spec_for("~/pics").parameters == {"path": str(work / "pics")}


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ("mnits", zoo.UnknownName, "Did you mean 'mnist'?"),
        ("photos", zoo.UnknownName, "There is no dataset named 'photos'"),
        ("no/photos", zoo.DataUnavailable, "There is no file or folder {work}/no/photos"),
        ("photos/", zoo.DataUnavailable, "There is no file or folder {work}/photos"),
        ("x.npy", zoo.DataUnavailable, r"There is no file or folder {work}/x\.npy"),
        ("table.xyz", zoo.DataError, r"No data set reads .*table\.xyz.* or a file of type .*\.npy, \.npz, "),
    ],
)
def test_what_is_neither(data, error, message, work):
    (work / "table.xyz").write_text("1,2")
    message = message.format(work=re.escape(str(work)))
    with pytest.raises(error, match=message):
        zoo.train("mlp-vae", data=data)
    with pytest.raises(error, match=message):
        zoo.load_dataset(data)


def test_a_plugin_says_what_its_data_set_reads(install, work):
    install(
        "acme-data",
        """
        import torch, zoo

        @zoo.hookimpl
        def zoo_components():
            yield zoo.Component("dataset", "acme", "acme_data:acme", reads=(".acme", ".npy"))

        def acme(path: str, level: int = 7) -> zoo.Dataset:
            images = zoo.Split(torch.full((2, 1, 4, 4), level, dtype=torch.uint8))
            return zoo.Dataset(images, images)
        """,
    )
    (work / "mine.acme").write_text("")
    (work / "mine.npy").write_text("")
    assert zoo.load_dataset("mine.acme").train.x.unique().tolist() == [7]
    assert zoo.load_dataset("mine.acme", level=9).train.x.unique().tolist() == [9]
    with pytest.raises(
        zoo.NameConflict, match=r'arrays can both read .*mine\.npy\. Write data="{use: acme, path: .*mine'
    ):
        zoo.load_dataset("mine.npy")
    assert {status.name: status.detail for status in zoo.survey_data()}["acme"] == ".acme .npy"


def test_parameters_are_those_of_the_recipe_and_overrides_refine_them(work):
    run = zoo.train("mlp-vae", ["data.repeat=2"], data="digits", epochs=1, encoder={"hidden": [4]})
    assert run.environment["data"]["train"] == 2 * 1438
    assert run.recipe.data[0].parameters == {"repeat": 2, "validation": 0}
    run = zoo.train("mlp-vae", data="digits", encoder={"hidden": [4]}, train={"steps": 1})
    assert run.environment["data"]["train"] == 40 * 1438, "as the recipe wants them"
    with pytest.raises(zoo.UsageError, match="Two data sets were given: digits and mnist"):
        zoo.train("mlp-vae", ["data=mnist"], data="digits")


def test_load_dataset_takes_its_parameters_by_name():
    assert len(zoo.load_dataset("digits", repeat=3).train) == 3 * 1438
    with pytest.raises(zoo.RecipeError, match="Did you mean 'repeat'"):
        zoo.load_dataset("digits", repaet=3)


# --- issue 4, item 3


def test_a_folder_of_photographs_trains_and_is_decoded_once(work, caplog, monkeypatch):
    """Issue 4, item 3, and scenario 27 on a small scale: mixed sizes and broken files, reported each time with the
    reason.
    """
    photographs(work / "photos")
    runs, said = [], []
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.INFO, "zoo"):
            runs.append(zoo.train("conv-vae", [*SMALL, "data.size=[16,16]", "train.steps=2"], data="photos"))
        said.append(caplog.text)
        assert "5 of 65 image files in" in caplog.text
        assert "hills/cut.png: is truncated; hills/empty.jpg: is empty; sea/float.tif: cannot" in caplog.text
        monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("decoded again"))
    assert f"Decoding 64 images in {work / 'photos'}. This is done once." in said[0]
    assert "Using 60 decoded images from the cache." in said[1]
    data = runs[0].environment["data"]
    assert data == runs[1].environment["data"]
    assert (data["shape"], data["train"], data["test"], data["classes"]) == ([3, 16, 16], 54, 6, 2)
    assert runs[0].recipe.data[0].parameters["path"] == str(work / "photos")


def test_the_command_takes_a_path(zoo_command, work):
    np.savez(work / "x.npz", x=np.random.default_rng(0).random((9, 8, 8)), y=np.arange(9))
    done = zoo_command("train", "mlp-vae", "--data", "x.npz", "data.test_fraction=0.5", "train.steps=1", "--json")
    assert "mlp-vae on x.npz: 5 training, 4 test examples of 1x8x8" in done.stderr
    recipe = yaml.safe_load((work / json.loads(done.stdout)["run"] / "recipe.yaml").read_text())["models"]["mlp-vae"]
    assert recipe["data"][0]["path"] == str(work / "x.npz")


def test_a_training_on_a_path_is_resumed_elsewhere(work, tmp_path, monkeypatch):
    """Even if the recipe has a relative path."""
    np.save(work / "x.npy", np.random.default_rng(0).random((9, 8, 8)))
    for source in ({"data": "x.npy"}, {"overrides": ["data={use: arrays, path: x.npy}"]}):
        monkeypatch.chdir(work)
        with pytest.raises(zoo.Interrupted) as stopped:
            zoo.train("mlp-vae", out=tmp_path / "runs", time_limit=0, encoder={"hidden": [4]}, **source)
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / "elsewhere")
        run = zoo.resume(stopped.value.run)
        assert run.finished
        assert run.recipe.data[0].parameters["path"] == str(work / "x.npy")


@pytest.mark.parametrize(("n", "batch_size"), [(3, 128), (5, 2), (130, 128)])
def test_few_images_and_a_batch_of_one_left_over(n, batch_size, work):
    """Scenario 29: fewer images than the batch, and a last batch of one image."""
    x = np.random.default_rng(0).random((n, 8, 8))
    np.savez(work / "x.npz", x_train=x, x_test=x[:1])
    train = {"batch_size": batch_size, "epochs": 2}
    run = zoo.train("mlp-vae", data="x.npz", encoder={"hidden": [4]}, decoder={"hidden": [4]}, train=train)
    assert len(run.epochs()) == 2
    assert all(np.isfinite(epoch.test["loss"]) for epoch in run.epochs())
    assert len(run.epochs()[0].curve["loss"]) == -(-n // batch_size)


# --- what is recommended for photographs


def stored(work: Path, kind: str) -> str:
    """The values of photographs are spread over the range, drawings are nearly black and white."""
    rng = np.random.default_rng(0)
    x = {
        "colour": rng.random((9, 8, 8, 3)),
        "grey": rng.random((9, 8, 8)),
        "drawings": np.clip(rng.normal(rng.integers(0, 2, (9, 8, 8)), 0.02), 0, 1),
    }[kind]
    np.save(work / "x.npy", x)
    return "x.npy"


GAUSSIAN = 'For photographs, use decoder.likelihood="{use: gaussian, scale: optimal}".'


@pytest.mark.parametrize(
    ("kind", "advice"),
    [("colour", GAUSSIAN), ("grey", GAUSSIAN), ("drawings", "binarize=dynamic draws binary pixels.")],
)
def test_the_likelihood_that_is_recommended_suits_the_data(kind, advice, work, caplog):
    """Issue 10, item 27: binarize=dynamic was recommended for color photographs."""
    data = stored(work, kind)
    with caplog.at_level(logging.INFO, "zoo"):
        zoo.train("mlp-vae", ["train.steps=1", "encoder.hidden=[4]", "decoder.hidden=[4]"], data=data)
    (note,) = (message for message in caplog.messages if message.startswith("Note:"))
    assert note.endswith(advice)
    caplog.clear()
    change = GAUSSIAN[len("For photographs, use ") : -1].replace('"', "") if advice == GAUSSIAN else "binarize=dynamic"
    with caplog.at_level(logging.INFO, "zoo"):
        zoo.train("mlp-vae", ["train.steps=1", "encoder.hidden=[4]", "decoder.hidden=[4]", change], data=data)
    assert "Note:" not in caplog.text, "it helps"


def test_likelihoods_of_plugins_are_recommended_too(install, work, caplog):
    install(
        "acme-pixels",
        """
        import torch, zoo
        @zoo.hookimpl
        def zoo_components(): yield zoo.Component("likelihood", "acme", "acme_pixels:Acme")
        class Acme(zoo.Likelihood):
            photographs = {}
            def forward(self, parameters): raise NotImplementedError
        """,
    )
    with caplog.at_level(logging.INFO, "zoo"):
        zoo.train("mlp-vae", ["train.steps=1", "encoder.hidden=[4]"], data=stored(work, "colour"))
    assert "use decoder.likelihood=acme or decoder.likelihood=" in caplog.text


# --- zoo data


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], work: Path) -> Callable[..., str]:
    """Run ``zoo data`` in this process; return its stdout, or its stderr if it fails."""

    def run(*arguments: object, code: int = 0) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(map(str, arguments)))
        out, err = capsys.readouterr()
        assert ended.value.code == code, err
        assert not code or not out
        return err if code else out

    return run


def test_zoo_data_says_what_is_there_and_python_says_the_same(run, work):
    photographs(work / "photos", 20)
    summary = json.loads(run("data", "photos", "size=[16,16]", "mode=rgb", "--json"))
    assert summary.pop("name") == "photos"
    dataset = zoo.load_dataset("photos", size=[16, 16], mode="rgb")
    assert summary == dataset.summary()
    assert (summary["train"], summary["test"], summary["shape"]) == (18, 2, [3, 16, 16])
    x = dataset.train.x.double() / 255
    assert summary["mean"] == pytest.approx(x.mean((0, 2, 3)).tolist())
    assert summary["std"] == pytest.approx(x.std((0, 2, 3), correction=0).tolist())
    both = torch.cat([dataset.train.x, dataset.test.x])
    assert summary["range"] == [both.min().item() / 255, both.max().item() / 255]
    counts = [{"label": name, "train": 0, "test": 0} for name in ("hills", "sea")]
    for split in ("train", "test"):
        for label in getattr(dataset, split).labels.tolist():
            counts[label][split] += 1
    assert summary["labels"] == counts
    assert summary["left_out"] == list(dataset.left_out)
    assert [reason.partition(":")[0] for reason in summary["left_out"]] == [
        "hills/cut.png", "hills/empty.jpg", "sea/float.tif", "sea/gone.jpg", "sea/page.jpg",
    ]  # fmt: skip
    assert summary["cache"] == [str(file) for file in dataset.cache]
    text = run("data", "photos")
    assert "images   18 to train on, 2 to test on\nshape    48 x 48 pixels, colour\n" in text, "no size has a majority"
    assert "left out 5 files\n" in text
    assert "  hills/empty.jpg: is empty\n" in text


def test_zoo_data_of_one_without_files(run):
    text = run("data", "digits")
    assert "images   1438 to train on, 359 to test on\nshape    8 x 8 pixels, grey\npixels   0 to 1;" in text
    assert "labels   10, to train + to test on: 0: 151 + 27, 1: 161 + 21," in text
    assert "left out nothing\ncache    not needed\n" in text


def test_zoo_data_lists_what_is_here(run, work):
    rows = {row["name"]: row for row in json.loads(run("data", "--data-dir", work, "--json"))}
    assert rows["digits"] == {"name": "digits", "status": "available", "detail": "1438 + 359 examples, 1x8x8"}
    assert (rows["mnist"]["status"], rows["arrays"]["status"]) == ("absent", "path")
    table = run("data", "--data-dir", work).splitlines()
    assert table[0].split() == ["DATA", "SET", "STATUS", "WHAT"]
    assert ["folder", "path", "folders"] in [line.split() for line in table]
    assert list(work.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mnits"], "Did you mean 'mnist'?"),
        (["no/photos"], "There is no file or folder"),
        (["digits", "repeat=0"], "greater than 0"),
        (["digits", "repaet=2"], "Did you mean 'repeat'?"),
    ],
)
def test_bad_input_gets_one_clear_message(run, arguments, message):
    assert message in " ".join(run("data", *arguments, code=2).split())


# --- the summary, and the grid


def test_the_summary_of_pixels_that_are_known():
    pixels = torch.tensor([0, 51, 255, 51], dtype=torch.uint8).view(2, 2, 1, 1)
    dataset = zoo.Dataset(
        zoo.Split(pixels, torch.tensor([2, 0])), zoo.Split(pixels[:1], torch.tensor([3])), label_names=("a", "b", "c")
    )
    summary = dataset.summary()
    assert summary["mean"] == pytest.approx([0.5, 0.2])
    assert summary["std"] == pytest.approx([0.5, 0.0])
    assert summary["range"] == [0.0, 1.0]
    assert summary["labels"] == [
        {"label": "a", "train": 1, "test": 0},
        {"label": "c", "train": 1, "test": 0},
        {"label": "3", "train": 0, "test": 1},
    ]


def drawn(figure: object) -> np.ndarray:
    return figure.axes[0].images[0].get_array()  # type: ignore[attr-defined,no-any-return]


def test_the_grid_has_a_row_for_each_label():
    pixels = torch.arange(60, dtype=torch.uint8).view(60, 1, 1, 1).expand(60, 1, 3, 4).contiguous()
    labels = torch.arange(60) % 6
    images = zoo.Split(pixels, labels)
    figure = gallery(zoo.Dataset(images, images, label_names=tuple("uvwxyz")), "title")
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == list("uvwxyz")
    grid = drawn(figure)
    assert grid.shape == (6 * 4 - 1, 10 * 5 - 1, 3)
    for row in range(6):
        assert grid[4 * row, ::5, 0].tolist() == list(range(row, 60, 6))
    assert (grid[3] == 255).all(), "a white line between them"


def test_the_grid_of_few_images_of_colour_without_labels():
    images = zoo.Split(torch.arange(2 * 3 * 4, dtype=torch.uint8).view(2, 3, 2, 2))
    grid = drawn(gallery(zoo.Dataset(images, images), "title"))
    assert grid.shape == (2, 5, 3)
    assert np.array_equal(grid[:, :2], images.x[0].permute(1, 2, 0))
    assert np.array_equal(grid[:, 3:], images.x[1].permute(1, 2, 0))
