"""``zoo encode --format safetensors``: shards of latents, which an interrupted command continues."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import time

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import zoo
from processes import Process
from resuming import run_main
from zoo.storage.files import sha256
from zoo_export import shards
from zoo_export.codes import encode
from zoo_export.shards import encode_shards
from zoo_export.standardization import standardization


@pytest.fixture
def run(digits_run, tmp_path) -> zoo.Run:
    """A run of a test's own, whose latents are measured."""
    run = zoo.Run(shutil.copytree(digits_run, tmp_path / "run"))
    standardization(run)
    return run


def joined(folder):
    """The arrays of all shards."""
    files = sorted(folder.glob("*.safetensors"))
    arrays = [load_file(file) for file in files]
    return {
        name: np.concatenate([part[name] for part in arrays], axis=1 if name == "samples" else 0) for name in arrays[0]
    }


def metadata(path):
    with safe_open(path, "np") as file:
        return json.loads(file.metadata()["zoo"])


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def test_the_shards_have_the_latents_of_the_test_split(run, tmp_path, capsys):
    assert run_main("encode", str(run.path), "--format", "safetensors", "--shard-size", "100", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    folder = run.path / "latents"
    names = [f"latents-{i:05d}-of-00004.safetensors" for i in range(1, 5)]
    assert sorted(path.name for path in folder.iterdir()) == [".lock", *names, "latents.index.json"]
    encoded, expected = joined(folder), encode(run)
    assert set(encoded) == {"index", "labels", "mean", "scale"}
    for name, array in encoded.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-6, err_msg=name)
    index, factors = json.loads((folder / "latents.index.json").read_text()), standardization(run)
    assert printed == {"run": str(run.path), "folder": str(folder), **index}
    assert index["recipe"] == "mlp-vae-2d"
    assert index["weights_sha256"] == sha256(run.path / "model.safetensors")
    assert (index["shift_factor"], index["scaling_factor"]) == (factors.shift_factor, factors.scaling_factor)
    assert index["examples"] == 359
    assert index["arrays"]["mean"] == {"dtype": "F32", "shape": [359, 2]}
    assert index["arrays"]["labels"] == {"dtype": "I64", "shape": [359]}
    assert [shard["examples"] for shard in index["shards"]] == [100, 100, 100, 59]
    assert [shard["sha256"] for shard in index["shards"]] == [sha256(folder / name) for name in names]


def test_all_examples_are_written_once_split_by_split(run, tmp_path):
    """An epoch of the digits repeats them 40 times; the third shard has examples of both splits."""
    folder = encode_shards(run, "digits", tmp_path / "latents", shard_size=600)
    encoded, expected = joined(folder), encode(run, "digits")
    assert encoded["index"].tolist() == [*range(1438), *range(359)]
    for name, array in encoded.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)
    splits = [metadata(path)["splits"] for path in sorted(folder.glob("*.safetensors"))]
    assert splits == [[["train", 600]], [["train", 600]], [["train", 238], ["test", 359]]]


def test_scaled_samples_are_written(run, tmp_path):
    plain = joined(encode_shards(run, folder=tmp_path / "a", shard_size=200, samples=3, split="train"))
    folder = encode_shards(run, folder=tmp_path / "b", shard_size=200, samples=3, split="train", scaled=True)
    scaled, factors = joined(folder), standardization(run)
    assert scaled["samples"].shape == (3, 1438, 2)
    for name in ("samples", "mean"):
        np.testing.assert_array_equal(scaled[name], factors.apply(plain[name]), err_msg=name)
    np.testing.assert_array_equal(scaled["scale"], plain["scale"] * factors.scaling_factor)
    standard = (plain["samples"] - plain["mean"]) / plain["scale"]
    assert abs(standard.mean()) < 4 / np.sqrt(standard.size)
    assert not np.array_equal(standard[:, :200], standard[:, 200:400]), "shards have their own draws"


def test_a_continued_call_writes_the_bytes_of_an_uninterrupted_one(run, tmp_path):
    """Interrupted before the third shard. Finished shards are not written again."""

    def interrupt(done, total):
        if done == 2:
            raise KeyboardInterrupt

    settings = {"shard_size": 90, "samples": 1, "scaled": True}
    with pytest.raises(KeyboardInterrupt):
        encode_shards(run, folder=tmp_path / "a", **settings, progress=interrupt)
    first = tmp_path / "a" / "latents-00001-of-00004.safetensors"
    written = first.stat().st_mtime_ns
    assert len(list((tmp_path / "a").glob("*.safetensors"))) == 2
    encode_shards(run, folder=tmp_path / "a", **settings)
    assert first.stat().st_mtime_ns == written
    encode_shards(run, folder=tmp_path / "b", **settings)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_killed_command_is_continued(run, tmp_path):
    """SIGKILL among 90 shards of four images."""
    command = [sys.executable, "-m", "zoo", "encode", str(run.path), "--format", "safetensors", "--shard-size", "4"]
    process = Process([*command, "-o", str(tmp_path / "a")], tmp_path)
    try:
        deadline = time.monotonic() + 120
        while len(list((tmp_path / "a").glob("latents-*"))) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        process.popen.send_signal(signal.SIGKILL)
        process.end()
    count = len(list((tmp_path / "a").glob("latents-*")))
    assert 3 <= count < 90, "killed in the middle"
    leftover = tmp_path / "a" / ".saving-0123abcd-latents-00009-of-00090.safetensors"
    leftover.write_bytes(b"half")
    for name in ("a", "b"):
        encode_shards(run, folder=tmp_path / name, shard_size=4)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert len(contents(tmp_path / "a")) == 91


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 5}, "seed is 5, was 0"),
        ({"samples": 1}, "samples is 1, was 0"),
        ({"scaled": True}, "scaled is True, was False"),
        ({"shard_size": 150}, "shard_size is 150, was 200"),
        ({"data": "digits"}, "split is 'all', was 'test'; examples is 1797, was 359"),
    ],
)
def test_shards_of_other_settings_are_refused(change, message, run, tmp_path):
    folder = encode_shards(run, folder=tmp_path / "latents", shard_size=200)
    before = contents(folder)
    with pytest.raises(zoo.UsageError, match=f"written with other settings: .*{message}.* Choose another folder"):
        encode_shards(run, **{"shard_size": 200, **change}, folder=folder)
    assert contents(folder) == before


def test_shards_of_another_run_are_refused(run, tmp_path):
    folder = encode_shards(run, folder=tmp_path / "latents")
    other = zoo.train("mlp-vae-2d", ["data=digits"], train={"steps": 1}, out=tmp_path, device="cpu")
    with pytest.raises(zoo.UsageError, match="weights_sha256 is .*, was .*"):
        encode_shards(other, folder=folder)


def test_other_files_and_a_second_process_are_refused(run, tmp_path):
    foreign = tmp_path / "latents-00001-of-00009.safetensors"
    save_file({"x": np.zeros(3)}, foreign)
    with pytest.raises(zoo.UsageError, match="is not a shard of latents. Choose another folder with -o"):
        encode_shards(run, folder=tmp_path)
    foreign.unlink()
    with FileLock(tmp_path / ".lock"), pytest.raises(zoo.UsageError, match="is being written by another process"):
        encode_shards(run, folder=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(zoo.UsageError, match="cannot be written"):
        encode_shards(run, folder=tmp_path / "file")
    assert run_main("encode", str(run.path), "--shard-size", "3") == 2


def test_the_memory_is_that_of_a_shard(run, tmp_path, monkeypatch):
    """No more than one shard of images is encoded at once."""
    sizes = []
    codes = shards.codes
    monkeypatch.setattr(
        shards, "codes", lambda vae, images, **o: sizes.append(len(images.x)) or codes(vae, images, **o)
    )
    encode_shards(run, "digits", tmp_path / "latents", shard_size=500)
    assert sizes == [500, 500, 438, 62, 297]


def test_a_folder_of_images_is_written_with_its_paths(run, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    for i in range(12):
        folder = tmp_path / "photos" / ("train" if i < 8 else "test" if i < 10 else "val")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
    folder = encode_shards(run, str(tmp_path / "photos"), tmp_path / "latents", shard_size=5)
    files = sorted(folder.glob("*.safetensors"))
    paths = [path for file in files for path in metadata(file)["paths"]]
    assert sorted(paths) == [f"test/{i:02}.png" for i in (8, 9)] + [f"train/{i:02}.png" for i in range(8)] + [
        f"val/{i:02}.png" for i in (10, 11)
    ]
    vae = run.load()
    for path, mean in zip(paths, joined(folder)["mean"], strict=True):
        x = torch.from_numpy(np.asarray(Image.open(tmp_path / "photos" / path)).copy())[None, None] / 255
        with torch.no_grad():
            np.testing.assert_allclose(mean, vae.encode(x).mean[0], rtol=1e-4, atol=1e-5)


def test_discrete_latents_have_no_scale(tmp_path, caplog):
    run = zoo.train("fsq", ["data=digits"], train={"steps": 1}, out=tmp_path, device="cpu")
    folder = encode_shards(run, folder=tmp_path / "latents")
    index = json.loads((folder / "latents.index.json").read_text())
    assert index["scaling_factor"] is None
    assert "The latents are discrete" in caplog.text
    with pytest.raises(zoo.UsageError, match="The latents are discrete"):
        encode_shards(run, folder=tmp_path / "other", scaled=True)
