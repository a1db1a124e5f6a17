from __future__ import annotations

import hashlib
import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import zoo
from zoo.cli.main import main
from zoo.data.loader import Loader, _fits
from zoo_datasets import cache, cache_file, cached_images

SHAPE = (3, 20, 30)


def pixels(i: int, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(i).integers(0, 256, shape, dtype=np.uint8)


def stream(n: int = 50, shape: tuple[int, int, int] = SHAPE) -> Iterator[tuple[np.ndarray, int]]:
    for i in range(n):
        yield pixels(i, shape), i - 7


def untouched() -> Iterator[tuple[np.ndarray, int]]:
    raise AssertionError("the images were requested")
    yield


def expect(images: zoo.Split, n: int = 50) -> None:
    assert torch.equal(images.x, torch.stack([torch.from_numpy(pixels(i)) for i in range(n)]))
    assert images.labels is not None
    assert images.labels.tolist() == [i - 7 for i in range(n)]


def name_of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "cache"


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """The program of another process: it decodes 50 images slowly and prints the index of each."""
    file = tmp_path / "script.py"
    file.write_text(
        textwrap.dedent("""
        import json, os, random, signal, sys, time
        from pathlib import Path
        import numpy as np
        from zoo_datasets import cache, cache_file

        def die():
            os.kill(os.getpid(), signal.SIGKILL)

        def slow(pause=0.0, last=None):
            for i in range(50):
                if i == last:
                    die()
                print(i, file=sys.stderr, flush=True)
                time.sleep(pause)
                yield np.random.default_rng(i).integers(0, 256, (3, 20, 30), dtype=np.uint8), i - 7
            if last == 50:
                die()

        folder = Path(sys.argv[1])
        """)
    )
    return file


def start(script: Path, body: str, folder: Path, *arguments: object) -> subprocess.Popen[str]:
    file = script.with_name(f"{name_of(body)[:8]}.py")
    file.write_text(script.read_text() + textwrap.dedent(body))
    return subprocess.Popen(
        [sys.executable, str(file), str(folder), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# --- built once, then mapped


def test_the_second_call_decodes_nothing(folder):
    expect(cached_images("key", stream(), folder))
    expect(cached_images("key", untouched(), folder))
    with pytest.raises(AssertionError, match="requested"):
        cached_images("another key", untouched(), folder)
    assert [file.name for file in folder.iterdir()] == [f"{name_of('key')}.safetensors"]


def test_the_cache_is_a_plain_safetensors_file(folder):
    cached = cached_images("key", stream(), folder)
    (file,) = folder.iterdir()
    read = load_file(file)
    assert torch.equal(read["pixels"], cached.x)
    assert torch.equal(read["labels"], cached.labels)


def test_tensors_that_are_not_contiguous_are_accepted(folder):
    whole = torch.arange(2 * 4 * 6 * 3, dtype=torch.uint8).view(2, 4, 6, 3)
    cached = cached_images("key", ((image.permute(2, 0, 1), 0) for image in whole), folder)
    assert torch.equal(cached.x, whole.permute(0, 3, 1, 2))


def test_a_stray_write_never_reaches_the_file(folder):
    cached_images("key", stream(), folder).x.zero_()
    expect(cached_images("key", untouched(), folder))


def test_the_file_may_be_deleted_while_it_is_mapped(folder):
    cached = cached_images("key", stream(), folder)
    shutil.rmtree(folder)
    expect(cached)


def test_images_larger_than_memory_and_swap_are_mapped(folder):
    """Map a sparse file of twice the memory of this machine and read its last page."""
    fields = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    size = 2048 * sum(int(field[1]) for field in fields if field[0] in ("MemTotal:", "SwapTotal:"))
    shape = (size // 2**20, 1, 1024, 1024)
    file = folder / f"{name_of('key')}.safetensors"
    folder.mkdir(parents=True)
    with file.open("wb") as out:
        header = cache_file._Header(shape, 2, "0" * 64, 0)
        out.write(header.encode())
        try:
            out.truncate(header.size)
        except OSError as error:
            pytest.skip(f"cannot create a file of {size} bytes: {error}")
        out.seek(cache_file.HEADER + shape[0] * 2**20 - 1)
        out.write(b"\x55")
        out.seek(header.size - 2)
        out.write(b"[]")
    os.utime(file, ns=(0, 0))  # as the header states, so that no digest is computed
    cached = cached_images("key", untouched(), folder)
    assert (tuple(cached.x.shape), int(cached.x[-1, 0, -1, -1])) == (shape, 0x55)
    (batch,) = (next(Loader(cached, 4).in_order()),)
    assert batch.x.shape == (4, 1, 1024, 1024)


def resident_memory() -> int:
    """Private memory of this process in bytes, without the pages of mapped files."""
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(status["RssAnon"].split()[0])


def test_batches_and_the_digest_do_not_load_the_file_into_memory(folder):
    """Splitting, batching and digesting 96 MB of images takes less than 24 MB of memory at any time."""
    mapped = cached_images("key", ((pixels(i % 3, (3, 256, 256)), i) for i in range(512)), folder)
    assert mapped.labels is not None
    test, train = (zoo.Split(mapped.x[part], mapped.labels[part]) for part in (slice(50), slice(50, None)))
    dataset = zoo.Dataset(train=train, test=test)
    peak, done = [before := resident_memory()], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            peak.append(resident_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    dataset.sha256()
    gathered = Loader(dataset.train, 4)
    for index in list(torch.split(torch.randperm(462), 4))[:40]:
        assert gathered[index].x.shape == (4, 3, 256, 256)
    done.set()
    watcher.join()
    assert max(peak) - before < 24 * 2**20
    assert gathered.x.data_ptr() == dataset.train.x.data_ptr(), "the same pages"


def test_the_folder_of_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    cached_images("key", stream())
    assert [file.suffix for file in (tmp_path / "xdg" / "vae-zoo" / "cache").iterdir()] == [".safetensors"]
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert zoo.user_cache() == tmp_path / "home" / ".cache" / "vae-zoo"


# --- damaged files


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def lengthen(file: Path) -> None:
    with file.open("ab") as out:
        out.write(b"\0")


def empty(file: Path) -> None:
    os.truncate(file, 0)


def cut_in_the_header(file: Path) -> None:
    os.truncate(file, 100)


def no_header(file: Path) -> None:
    """The file before the last step of writing."""
    with file.open("r+b") as out:
        out.write(bytes(cache_file.HEADER))


def another_shape(file: Path) -> None:
    """The same size, but three times as many images with a third of the channels."""
    with file.open("r+b") as out:
        out.write(cache_file._Header((150, 1, 20, 30), 2, "0" * 64, 0).encode())


def negative_shape(file: Path) -> None:
    with file.open("r+b") as out:
        out.write(cache_file._Header((-50, -3, 20, 30), 2, "0" * 64, 0).encode())


def flip_a_bit(file: Path) -> None:
    with file.open("r+b") as out:
        out.seek(cache_file.HEADER + 12345)
        (byte,) = out.read(1)
        out.seek(cache_file.HEADER + 12345)
        out.write(bytes([byte ^ 1]))


def other_notes(file: Path) -> None:
    with file.open("r+b") as out:
        out.seek(-2, os.SEEK_END)
        out.write(b"{}")


@pytest.mark.parametrize(
    "damage",
    [cut, lengthen, empty, cut_in_the_header, no_header, another_shape, negative_shape, flip_a_bit, other_notes],
    ids=lambda d: d.__name__,
)
def test_a_damaged_file_is_written_again_with_a_warning(damage, folder, caplog):
    cached_images("key", stream(), folder)
    (file,) = folder.iterdir()
    damage(file)
    with caplog.at_level(logging.WARNING, "zoo"):
        expect(cached_images("key", stream(), folder))
    (warning,) = caplog.messages
    assert warning.startswith(f"{file} is damaged (it")
    assert warning.endswith("; decoding the images again.")
    expect(cached_images("key", untouched(), folder))
    assert list(folder.iterdir()) == [file]


# --- the digest, and notes


def test_the_digest_depends_on_the_pixels_and_reads_none_of_them(folder, monkeypatch):
    """`Dataset.sha256` differs for another image or split, and reads no cached pixels."""
    first = cached_images("one", stream(), folder)
    changed = cached_images("two", ((pixels(i + (i == 9)), i - 7) for i in range(50)), folder)
    again = cached_images("three", stream(), folder)

    def dataset(images: zoo.Split, n: int = 10) -> zoo.Dataset:
        return zoo.Dataset(images.part(n, 50), images.part(0, n))

    digests = [dataset(images).sha256() for images in (first, changed, again)]
    assert digests[0] == digests[2] != digests[1]
    assert dataset(first, 11).sha256() != digests[0]
    monkeypatch.setattr(torch.Tensor, "contiguous", lambda _: (_ for _ in ()).throw(AssertionError("read")))
    with pytest.raises(AssertionError, match="read"):
        zoo.Dataset(zoo.Split(first.x), zoo.Split(first.x)).sha256()
    unlabelled = zoo.Split(first.x, digest=first.digest)
    zoo.Dataset(unlabelled.part(10, 50), unlabelled.part(0, 10)).sha256()


def test_only_a_touched_file_is_digested_again(folder, monkeypatch):
    digest = cached_images("key", stream(), folder).digest
    (file,) = folder.iterdir()
    content = file.read_bytes()
    assert hashlib.sha256(content[cache_file.HEADER :]).hexdigest() == digest
    read: list[object] = []
    original = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *args: read.append(args) or original(*args))
    assert cached_images("key", untouched(), folder).digest == digest
    assert read == []
    file.write_bytes(content)  # the same content at a new time
    for _ in range(2):
        assert cached_images("key", untouched(), folder).digest == digest
    assert len(read) == 1, "after one check, the new time is trusted"


def test_notes_are_stored(folder):
    def with_notes() -> Iterator[tuple[np.ndarray, int] | str]:
        yield "before: é"
        yield from stream()
        yield "after"

    for images in (with_notes(), untouched()):
        cached = cached_images("key", images, folder)
        expect(cached)
        assert cached.notes == ("before: é", "after")
    assert cached_images("without", stream(), folder).notes == ()


# --- cleaning up


def age(file: Path, days: float) -> None:
    status = file.stat()
    os.utime(file, ns=(int(1e9 * (time.time() - 86400 * days)), status.st_mtime_ns))


def test_unused_images_are_deleted_and_mapped_ones_remain_readable(folder):
    old, new = cached_images("old", stream(), folder), cached_images("new", stream(), folder)
    (folder / "0.partial").write_bytes(b"an orphan")
    age(old.file, 31)
    age(new.file, 29)
    size = old.file.stat().st_size
    assert cache.clean_cache(30, folder) == [(old.file, size)]
    assert list(folder.iterdir()) == [new.file]
    expect(old)
    expect(cached_images("old", stream(), folder))


def test_each_use_is_recorded(folder):
    """Even on a file system that is mounted without access times."""
    file = cached_images("key", stream(), folder).file
    age(file, 100)
    cached_images("key", untouched(), folder)
    assert cache.clean_cache(1, folder) == []
    assert [deleted for deleted, _ in cache.clean_cache(0, folder)] == [file]
    assert cache.clean_cache(0, folder) == []


def test_an_unfinished_file_in_use_is_not_deleted(folder, script):
    process = start(script, "cache.cached_images('slow', slow(0.01), folder)", folder)
    assert process.stderr is not None
    process.stderr.readline()
    assert cache.clean_cache(0, folder) == []
    process.communicate(timeout=60)
    assert process.returncode == 0
    expect(cached_images("slow", untouched(), folder))


def test_a_survey_decodes_nothing(folder):
    def survey() -> zoo.Split:
        token = zoo.surveying.set(True)
        try:
            return cached_images("key", untouched(), folder)
        finally:
            zoo.surveying.reset(token)

    with pytest.raises(zoo.NotPrepared):
        survey()
    assert not folder.exists()
    cached_images("key", stream(), folder)
    expect(survey())


def test_the_command_cleans_the_users_cache(tmp_path, monkeypatch, capsys):
    def clean(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["clean-cache", *arguments])
        assert ended.value.code == 0
        return capsys.readouterr().out

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = cached_images("key", stream()).file
    size = file.stat().st_size
    assert clean() == "0 files deleted, 0.0 MB.\n"
    age(file, 29)
    assert clean() == "0 files deleted, 0.0 MB.\n"
    age(file, 29)
    assert json.loads(clean("--days", "28", "--json")) == {"deleted": [str(file)], "bytes": size}
    assert list(file.parent.iterdir()) == []


def test_importing_the_plugin_does_not_import_torch():
    program = "import sys, zoo_datasets; assert 'torch' not in sys.modules; print(zoo_datasets.cached_images.__name__)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "cached_images\n"


# --- killed


def test_a_killed_process_leaves_at_most_one_orphan(folder, script):
    """SIGKILL before the first image, after 1, 25 and all 50, before and after the sync, after the renaming; then five
    times from outside at a random moment. One unfinished file remains, or the complete one. The next process that
    writes to the folder removes the orphan, and the next that needs these images decodes them again."""
    body = """
    def child(moment):
        if moment == "before sync":
            cache.os.fsync = lambda _: die()
        if moment == "after sync":
            fsync = os.fsync
            cache.os.fsync = lambda descriptor: (fsync(descriptor), die())
        if moment == "after renaming":
            cache.sync_folder = lambda _: die()
        images = slow(pause=0.002) if isinstance(moment, float) else slow(last=moment)
        cache.cached_images("key", images, folder)

    def remaining():
        return sorted(file.name.partition(".")[2] for file in folder.iterdir()) if folder.exists() else []

    inside = [0, 1, 25, 50, "before sync", "after sync", "after renaming"]
    random.seed(0)
    for moment in inside + [random.uniform(0, 0.15) for _ in range(5)]:
        pid = os.fork()
        if pid == 0:
            child(moment)
            os._exit(0)
        if isinstance(moment, float):
            time.sleep(moment)
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        before = remaining()
        cache.cached_images("another", slow(), folder)
        print(json.dumps([moment, os.WIFSIGNALED(status), before, remaining()]))
        expected = cache.cached_images("key", slow(), folder).x
        assert all(np.array_equal(p, q) for p, (q, _) in zip(expected, slow(), strict=True))
        for file in folder.iterdir():
            file.unlink()
    """
    process = start(script, body, folder)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    lines = [json.loads(line) for line in out.splitlines()]
    whole, orphan = [["safetensors"], ["safetensors"] * 2], [["partial"], ["safetensors"]]
    *unfinished, renamed = lines[:7]
    assert unfinished == [[moment, True, *orphan] for moment in (0, 1, 25, 50, "before sync", "after sync")]
    assert renamed == ["after renaming", True, *whole]
    assert len(lines) == 12
    for _, _, before, after in lines[7:]:
        assert [before, after] in (whole, orphan, [[], ["safetensors"]])


def test_the_unfinished_file_of_a_living_process_is_left_alone(folder, script):
    body = "cache.cached_images('slow', slow(0.01), folder)"
    process = start(script, body, folder)
    assert process.stderr is not None
    process.stderr.readline()
    process.send_signal(signal.SIGSTOP)
    expect(cached_images("quick", stream(), folder))
    assert len(list(folder.glob("*.partial"))) == 1
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=60)
    assert process.returncode == 0
    expect(cached_images("slow", untouched(), folder))
    assert sorted(file.suffix for file in folder.iterdir()) == [".safetensors"] * 2


# --- concurrent access


def test_two_processes_decode_each_image_once(folder, script):
    body = """
    cached = cache.cached_images("key", slow(0.02), folder)
    assert all(np.array_equal(p, q) for p, (q, _) in zip(cached.x, slow(), strict=True))
    print("equal", flush=True)
    """
    processes = [start(script, body, folder) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [out for out, _ in outputs] == ["equal\n"] * 2
    # Each process also prints 50 lines in its comparison.
    assert sum(err.count("\n") for _, err in outputs) == 50 + 2 * 50
    assert [file.suffix for file in folder.iterdir()] == [".safetensors"]


def test_four_threads_decode_each_image_once(folder):
    requests = []

    def slow() -> Iterator[tuple[np.ndarray, int]]:
        for item in stream():
            requests.append(1)
            time.sleep(0.002)
            yield item

    results: list[zoo.Split] = []
    threads = [threading.Thread(target=lambda: results.append(cached_images("key", slow(), folder))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(requests) == 50
    assert len(results) == 4
    for images in results:
        expect(images)


def test_if_the_first_process_is_killed_the_second_takes_over(folder, script):
    first = start(script, "cache.cached_images('key', slow(0.2), folder)", folder)
    assert first.stderr is not None
    first.stderr.readline()
    threading.Timer(0.5, first.kill).start()
    expect(cached_images("key", stream(), folder))
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    assert [file.suffix for file in folder.iterdir()] == [".safetensors"]


def test_the_wait_for_a_hanging_process_is_bounded(folder, script, monkeypatch, caplog):
    """A stopped process holds its lock and writes nothing. A slow one makes progress, and is waited for."""
    monkeypatch.setattr(cache, "PATIENCE", 1.5)
    hanging = start(script, "cache.cached_images('key', slow(0.05), folder)", folder)
    assert hanging.stderr is not None
    hanging.stderr.readline()
    hanging.send_signal(signal.SIGSTOP)
    try:
        with (
            caplog.at_level(logging.INFO, "zoo"),
            pytest.raises(zoo.DataError, match=r"has locked .*\.partial .* 2 seconds"),
        ):
            cached_images("key", stream(), folder)
        assert "Waiting for another process" in caplog.text
        hanging.send_signal(signal.SIGCONT)
        # 50 images at 0.05 s take 2.5 s, longer than PATIENCE, but with progress.
        expect(cached_images("key", untouched(), folder))
    finally:
        hanging.kill()
        hanging.communicate()


# --- failures


def test_a_full_disk(tmp_path):
    """Write 2 MB of images to a real disk of 1 MB. The files that were there before stay intact."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system takes root")
    try:
        small = cached_images("small", stream(), disk / "cache")
        with pytest.raises(zoo.DataError, match=r"disk is full: .*/disk/cache\. Set XDG_CACHE_HOME") as error:
            cached_images("key", stream(2000), disk / "cache")
        assert isinstance(error.value.__cause__, OSError)
        assert [file.name for file in (disk / "cache").iterdir()] == [f"{name_of('small')}.safetensors"]
        expect(small)
        expect(cached_images("small", untouched(), disk / "cache"))
        del small
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_write_that_fails(folder):
    """A limit on file sizes: `write` accepts a part of an image and then fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10000, before[1]))
    try:
        with pytest.raises(zoo.DataError, match="Cannot cache .*: File too large"):
            cached_images("key", stream(), folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_created(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(zoo.DataError, match="Cannot cache .*: Not a directory.* Set XDG_CACHE_HOME"):
        cached_images("key", stream(), tmp_path / "file" / "cache")


class Stop(BaseException):
    pass


@pytest.mark.parametrize(
    "failure", [ValueError("bad"), FileNotFoundError(2, "gone"), Stop()], ids=lambda e: type(e).__name__
)
def test_an_error_from_the_images_is_raised_and_leaves_no_file(failure, folder):
    def failing() -> Iterator[tuple[np.ndarray, int]]:
        yield from stream(3)
        raise failure

    with pytest.raises(type(failure)) as error:
        cached_images("key", failing(), folder)
    assert error.value is failure
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "no images to cache"),
        ([np.zeros((1, 2, 2), np.float32)], r"Image 0 has dtype float32 .* expected uint8 \(C, H, W\)"),
        ([np.zeros((2, 2), np.uint8)], r"dtype uint8 and shape \(2, 2\)"),
        ([np.zeros((1, 0, 2), np.uint8)], r"\(1, 0, 2\)"),
        (
            [np.zeros((1, 2, 3), np.uint8)] * 2 + [np.zeros((1, 3, 2), np.uint8)],
            r"Image 2 has shape \(1, 3, 2\); the images before",
        ),
    ],
)
def test_invalid_images_are_refused(images, message, folder):
    with pytest.raises(zoo.DataError, match=message):
        cached_images("key", ((image, 0) for image in images), folder)
    assert list(folder.iterdir()) == []


# --- loading from the cache


def test_images_that_do_not_fit_on_the_device_move_by_batch(folder):
    """The device `meta` holds tensors without values, which shows what is moved."""
    mapped = cached_images("key", stream(), folder)
    loader = Loader(mapped, 20, device="meta", resident=False)
    assert loader.x.data_ptr() == mapped.x.data_ptr()
    assert [len(batch.x) for batch in loader.in_order()] == [20, 20, 10]
    for batch in loader.in_order():
        assert batch.condition is not None
        assert {batch.x.device.type, batch.condition.device.type} == {"meta"}
    assert Loader(mapped, 20, device="meta").x.device.type == "meta", "images that fit move at once"


def test_images_move_if_half_of_the_free_memory_is_enough(monkeypatch):
    device = torch.device("cuda")
    images = torch.zeros(10, 1, 10, 10, dtype=torch.uint8)
    for free, fits in ((2000, True), (1999, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 10000))
        assert _fits(images, device) is fits
    assert _fits(images, torch.device("cpu"))
