"""Text is read and written in UTF-8, whatever the locale says: every file and every subprocess states its encoding."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resuming import TINY, run_main

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    path
    for folder in ("core", "plugins")
    for suffix in ("*.py", "*.py.in")
    for path in (ROOT / folder).rglob(suffix)
    if ".venv" not in path.parts
)


def text_without_encoding(tree: ast.AST) -> Iterator[int]:
    """The lines of calls that open, read or write text in the encoding of the locale."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        position = {"read_text": 0, "write_text": 1}.get(name)
        if position is not None:
            stated = "encoding" in keywords or len(node.args) > position
        elif name in ("open", "fdopen", "TextIOWrapper", "NamedTemporaryFile", "TemporaryFile"):
            modes = [a.value for a in (*node.args, keywords.get("mode")) if isinstance(a, ast.Constant)]
            modes = [mode for mode in modes if isinstance(mode, str) and re.fullmatch(r"[rwxabt+]{1,3}", mode)]
            text = any("b" not in mode for mode in modes) or name == "TextIOWrapper"
            plain = name == "open" and isinstance(node.func, ast.Name) and not modes
            stated = "encoding" in keywords or not (text or plain)
        else:
            binary = keywords.keys().isdisjoint({"text", "universal_newlines"})
            stated = binary or "encoding" in keywords
        if not stated:
            yield node.lineno


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_text_file_states_its_encoding(path):
    source = re.sub(r"@\w+@", "x", path.read_text("utf-8"))
    lines = list(text_without_encoding(ast.parse(source)))
    assert not lines, f"{path}: state encoding='utf-8' in the lines {lines}"


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("path.read_text()", 1),
        ("path.read_text('utf-8')", 0),
        ("path.write_text(text)", 1),
        ("path.write_text(text, encoding='utf-8')", 0),
        ("open(path)", 1),
        ("path.open('w')", 1),
        ("path.open('wb')", 0),
        ("os.fdopen(1, 'w')", 1),
        ("Run.open(path)", 0),
        ("subprocess.run(x, text=True)", 1),
        ("subprocess.run(x, text=True, encoding='utf-8')", 0),
    ],
)
def test_the_check_finds_what_it_is_for(source, count):
    assert len(list(text_without_encoding(ast.parse(source)))) == count


# A path in UTF-8; one in Latin-1; and the first as Python has it where the locale is ASCII.
PLACES = ["Läufe Ω", os.fsdecode("Läufe".encode("latin-1")), "Läufe".encode().decode("ascii", "surrogateescape")]


@pytest.mark.parametrize("place", PLACES, ids=["utf-8", "latin-1", "ascii"])
def test_every_command_takes_a_run_below_such_a_path(place, tmp_path, monkeypatch, capsys):
    """Whatever a command writes and prints: nothing is unexpected, and a page has the name in UTF-8."""
    monkeypatch.chdir(tmp_path)
    assert run_main("train", "mlp-vae", *TINY, "train.epochs=1", "--out", place) == 0
    run = f"{place}/mlp-vae"
    for command in (
        ["evaluate", run, "--metric", "elbo", "--limit", "20"],
        ["report", run, "--limit", "20", "--out", f"{place}/page.html"],
        ["sample", run],
        ["reconstruct", run, "--json"],
        ["latent", run],
        ["traverse", run],
        ["interpolate", run, "0", "1"],
        ["encode", run, "--json"],
        ["fit-prior", run, "gaussian-mixture", "components=2"],
        ["compare", run, run],
        ["sweep", "mlp-vae", *TINY, "loss=elbo,mse", "--epochs", "1", "--out", place],
        ["new-plugin", "acme-vae", "--out", place],
    ):
        assert run_main(*command) == 0, capsys.readouterr().err
    page = (tmp_path / place / "page.html").read_text("utf-8")
    assert ("Läufe" if place != PLACES[1] else "L\N{REPLACEMENT CHARACTER}ufe") in page
    code = run_main("export", run, "--format", "torch")
    error = capsys.readouterr().err
    assert code == (0 if place == PLACES[0] else 2), error
    assert ("is not UTF-8, which exporters need" in error) == (place != PLACES[0])


@pytest.mark.parametrize("place", PLACES, ids=["utf-8", "latin-1", "ascii"])
def test_images_with_such_names(place, tmp_path, monkeypatch, capsys):
    """Files and labels may be called anything. The path of the data stands in the recipe, and must be UTF-8."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)
    for label, images in ((place, pixels[:10]), ("b", pixels[10:])):
        folder = tmp_path / "photos" / label
        folder.mkdir(parents=True)
        for number, image in enumerate(images):
            Image.fromarray(image).save(folder / f"{place} {number}.png")
    (tmp_path / "photos" / f"{place}.png").write_bytes(b"no image")
    photos, runs = str(tmp_path / "photos"), str(tmp_path / "runs")
    assert run_main("preview", photos, "--out", str(tmp_path / f"{place}.png")) == 0, capsys.readouterr().err
    assert run_main("train", "mlp-vae", *TINY[1:], "--data", photos, "--epochs", "1", "--out", runs) == 0
    assert run_main("evaluate", f"{runs}/mlp-vae", "--metric", "elbo") == 0
    (tmp_path / place).symlink_to(tmp_path / "photos")
    capsys.readouterr()
    code = run_main("preview", str(tmp_path / place), "--out", str(tmp_path / "drawn.png"))
    error = capsys.readouterr().err
    assert code == (0 if place == PLACES[0] else 2), error
    assert ("not valid UTF-8, so a recipe cannot contain it" in error) == (place != PLACES[0])
