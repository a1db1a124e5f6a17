"""Reports: the page shows the numbers and figures of the run, is self-contained, and renders correctly."""

from __future__ import annotations

import base64
import io
import itertools
import json
import math
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

import zoo
import zoo.api
from resuming import TINY, reseal, run_main, stopped
from zoo.recipes.components import with_defaults
from zoo.recipes.source import parse_yaml
from zoo_canvas import png
from zoo_figures import figures
from zoo_report.page import Code, Facts, Gallery, Headline, Page, Picture, Section, Table, Text
from zoo_report.report import Report, report
from zoo_report.sections import changes
from zoo_sweep.sweep import Sweep
from zoo_sweep.sweep import sweep as run_sweep

VOID = {"meta", "img", "br", "hr", "link", "input"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    def all(self, tag: str) -> list[Element]:
        """All descendants with this tag, in order."""
        return [element for element in self._below() if element.tag == tag]

    def by_id(self, name: str) -> Element:
        (result,) = (element for element in self._below() if element.attributes.get("id") == name)
        return result

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def _below(self) -> Iterator[Element]:
        for child in self.children:
            if isinstance(child, Element):
                yield child
                yield from child._below()


class Tree(HTMLParser):
    """Parse the elements of a document; fails if tags are not nested correctly."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.root = Element("", {})
        self.open = [self.root]
        self.feed(document)
        self.close()
        assert self.open == [self.root], f"never closed: {[element.tag for element in self.open[1:]]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute of {tag} stands twice"
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def read(path: Path) -> Element:
    return Tree(path.read_text("utf-8")).root


def headlines(page: Element) -> dict[str, list[str]]:
    """Name to value with unit, and note."""
    boxes = next(e for e in page.all("dl") if e.attributes["class"] == "headlines").all("div")
    return {box.all("dt")[0].text: [dd.text for dd in box.all("dd")] for box in boxes}


def table(section: Element, number: int = 0) -> list[list[str]]:
    rows = section.all("table")[number].all("tr")
    return [[cell.text for cell in row.children if isinstance(cell, Element)] for row in rows]


def images(page: Element) -> dict[str, bytes]:
    """The PNG of each figure, by its alternative text."""
    prefix = "data:image/png;base64,"
    result = {}
    for image in page.all("img"):
        assert image.attributes["src"].startswith(prefix)
        result[image.attributes["alt"]] = base64.b64decode(image.attributes["src"].removeprefix(prefix), validate=True)
    return result


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> zoo.Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zoo_figures.callback.DrawFigures.on_train_end", lambda *_, **__: None)
        return zoo.train("mlp-vae", [*TINY, "latent_dim=3", "train.epochs=2"], out=tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Sweep:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zoo_figures.callback.DrawFigures.on_train_end", lambda *_, **__: None)
        patch.setattr(Sweep, "draw", lambda *_: [])
        overrides = [*TINY[2:], "data=digits", "train.epochs=1", "latent_dim=2,3", "train.optimizer.lr=1e-3,1e20"]
        return run_sweep("mlp-vae", overrides, out=tmp_path_factory.mktemp("sweeps"))


@pytest.fixture(scope="module")
def reports(run, sweep) -> dict[str, Report]:
    return {"run": report(run, limit=200), "sweep": report(sweep)}


@pytest.fixture(scope="module", params=["run", "sweep"])
def written(request, reports) -> Path:
    return reports[request.param].path


# The page of a run


def test_numbers_are_those_of_the_best_epoch_and_the_evaluation(run, reports):
    page = read(reports["run"].path)
    epochs = run.epochs()
    best = epochs[-1]
    shown = headlines(page)
    assert "validation loss" not in shown
    assert shown["test loss"] == [f"{best.test['loss']:.2f} nats", "359 test images"]
    assert shown["test rate"] == [f"{best.test['rate']:.2f} nats", "359 test images"]
    assert shown["training time"][0] == f"{sum(epoch.seconds for epoch in epochs):.1f} s"
    assert table(page.by_id("training"))[1 + epochs.index(best)][:2] == [str(best.epoch), f"{best.train['loss']:.2f}"]

    evaluation = zoo.evaluate(run, limit=200)
    rows = {row[0].partition(" [")[0]: row for row in table(page.by_id("metrics"))[1:]}
    measured = [one for measurements in evaluation.measurements.values() for one in measurements]
    assert (
        {"elbo", "rate", "active-units", "mse-at-mean", "linear-probe"} <= rows.keys() == {one.name for one in measured}
    )
    for one in measured:
        assert rows[one.name][1:] == [one.shown, one.unit, one.how]
    assert page.by_id("metrics").all("caption")[0].text == evaluation.how == "200 test images, binarize none, seed 0"
    assert "fitted to 1438 training images" in rows["linear-probe"][3], "a limit applies to the measured images"
    note = "no likelihood: the pixels are outside the support of p(x | z)"
    assert f"[1] {note}" in page.by_id("metrics").text
    assert shown["bits per dimension"] == [f"{evaluation['bits-per-dimension'].shown.split()[0]}", note]
    assert "not a bound on log p(x)" in page.by_id("training").text


def test_figures_are_those_of_the_commands(run, reports):
    page = images(read(reports["run"].path))
    vae, test = run.load(), run.test_batch(200)
    expected = {
        "The loss against": figures.curves(run.epochs(), "", ["loss"]),
        "24 test images": figures.reconstructions(vae, test.x[:24], ""),
        "64 images": figures.samples(vae, 64, ""),
        "The posterior means of 200": figures.latent_space(vae, test.x, test.condition, title="", panels=["codes"]),
        "A bar for each": figures.latent_space(vae, test.x, test.condition, title="", panels=["rates"]),
        "Images decoded while": figures.traversals(vae, images=test, title=""),
    }
    for start, figure in expected.items():
        (drawn,) = (image for alt, image in page.items() if alt.startswith(start))
        assert drawn == png(figure), start
    assert len(page) == 8  # and the curves of distortion and rate


def test_the_recipe_and_its_changes_are_shown(run, reports):
    section = read(reports["run"].path).by_id("recipe")
    assert parse_yaml(section.all("code")[0].text) == parse_yaml((run.path / "recipe.yaml").read_text())
    assert table(section) == [
        ["key", "this run", "registry"],
        ["latent_dim", "3", "40"],
        ["encoder.hidden", "[8]", "[400]"],
        ["decoder.hidden", "[8]", "[400]"],
        ["data.repeat", "1", "40"],
        ["train.epochs", "2", "5"],
    ]


def test_changes_of_a_recipe():
    unchanged = zoo.recipe("mlp-vae", data=["mnist"])
    assert changes(unchanged) == {}
    result = changes(zoo.recipe(unchanged, loss={"beta": 2.0}, data=["kmnist"], encoder="conv"))
    assert result["loss.beta"] == (2.0, 1.0)
    assert result["data"] == ("kmnist", "mnist")
    assert result["encoder"] == ("conv", "mlp")
    assert result["encoder.hidden"] == (None, [400])
    assert all(key.partition(".")[0] in ("loss", "data", "encoder") for key in result)
    assert changes(unchanged.model_copy(update={"name": "mine"})) is None


def test_the_environment_is_shown(run, reports):
    section = read(reports["run"].path).by_id("environment")
    facts = {pair.all("dt")[0].text: pair.all("dd")[0].text for pair in section.all("div")}
    assert facts["data digest"] == f"sha256 {run.environment['data']['sha256']}"
    assert facts["data"] == "digits: 1438 training and 359 test images of 1x8x8, binarize none"
    assert facts["seed"] == "0"
    assert f"torch {run.environment['versions']['torch']}" in facts["versions"]


def test_parts_without_data_are_left_out_with_the_reason(run, tmp_path):
    """With other data than those of the run, there are curves and samples, but no images and metrics."""
    other = Path(shutil.copytree(run.path, tmp_path / "other"))
    facts = json.loads((other / "environment.json").read_text())
    facts["data"]["sha256"] = "0" * 64
    (other / "environment.json").write_text(json.dumps(facts))
    reseal(other)
    written = report(other)
    assert list(written.figures) == ["Loss", "Distortion", "Rate", "Samples from the prior"]
    (reason,) = written.left_out.values()
    assert "their SHA-256 differs" in reason
    page = read(written.path)
    assert reason in page.by_id("left-out").text
    assert "bits per dimension" not in headlines(page)
    assert not [link for link in page.all("a") if link.attributes["href"] == "#metrics"]


def test_a_model_without_rate_or_probability(tmp_path, monkeypatch):
    """An autoencoder with a two-dimensional latent."""
    monkeypatch.setattr("zoo_figures.callback.DrawFigures.on_train_end", lambda *_, **__: None)
    run = zoo.train("ae", [*TINY[:1], *TINY[2:], "latent_dim=2", "train.epochs=1"], out=tmp_path)
    written = report(run, tmp_path / "ae.html", limit=50)
    assert written.path == tmp_path / "ae.html"
    assert {"Reconstructions", "Test images in the latent space", "The latent space, decoded"} <= set(written.figures)
    assert written.left_out["rate of each dimension"].startswith("The rate does not decompose")
    assert "metric information" in written.left_out


# The page of a sweep


def test_a_sweep_has_its_table_figures_and_differences(sweep, reports):
    swept = reports["sweep"]
    page = read(swept.path)
    assert list(swept.figures) == ["Loss against the epochs", "Reconstructions"]
    drawn = images(page)
    for name, draw in sweep.drawings().items():
        assert png(draw()) in drawn.values(), name
    results = sweep.results()
    header, *rows = table(page.by_id("results"))
    assert header[:4] == ["trial", "latent_dim", "train.optimizer.lr", "train loss"]
    assert header[-1] == "note"
    assert [row[1:3] for row in rows] == [["2", "0.001"], ["2", "1e+20"], ["3", "0.001"], ["3", "1e+20"]]
    assert rows[0][4] == f"{results.rows[0].outcomes[0].validation['loss']:.2f}"
    assert rows[0][5] == f"{results.rows[0].outcomes[0].test['loss']:.2f}"
    assert results.rows[1].reasons[0] in rows[1][-1], "the reason is not cut"
    (marked,) = (row for row in page.all("tr") if row.attributes.get("class") == "marked")
    assert marked.all("th")[0].text == str(results.best.number)
    assert headlines(page)["trainings"] == ["2 finished", "2 failed"]
    assert headlines(page)["validation loss"][0] == f"{results.score(results.best):.2f} nats"
    recipe = parse_yaml(page.by_id("recipe").all("code")[0].text)["models"]["mlp-vae"]
    assert recipe["decoder"]["likelihood"]["use"] == "bernoulli", "the recipe is complete"
    assert zoo.recipe("mlp-vae", **recipe) == with_defaults(sweep.recipe)
    assert table(page.by_id("differences")) == [["key", "values"], ["latent_dim", "2, 3"]]
    assert [row[-1] for row in table(page.by_id("runs"))[1:]] == [str(trial.path) for trial in sweep.trials]
    with pytest.raises(zoo.UsageError, match="report of a sweep has no metrics"):
        report(sweep, samples=10)


# The file


def test_the_file_is_valid_html_without_external_resources(written):
    page = read(written)
    document = written.read_text("utf-8")
    assert document.startswith('<!doctype html>\n<html lang="en">')
    assert len(document) < 3_000_000
    assert not page.all("script")
    assert "url(" not in document
    assert "@import" not in document
    ids = [element.attributes["id"] for element in page._below() if "id" in element.attributes]
    assert len(set(ids)) == len(ids)
    for element in page._below():
        assert not [name for name in element.attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "action", "data", "poster", "background"):
            value = element.attributes.get(name, "#")
            assert value.startswith("data:image/png;base64,") or value[1:] in ("", *ids), value[:50]
        assert "http:" not in element.attributes.get("style", "")
    policy = next(e for e in page.all("meta") if "http-equiv" in e.attributes).attributes["content"]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_the_file_is_accessible(written):
    page = read(written)
    assert len(page.all("h1")) == len(page.all("main")) == 1
    levels = [int(e.tag[1]) for e in page._below() if re.fullmatch("h[1-6]", e.tag)]
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    for image in page.all("img"):
        assert len(image.attributes["alt"]) > 20
        assert int(image.attributes["width"]) > 0 < int(image.attributes["height"])
    for each in page.all("table"):
        assert each.all("caption")[0].text
        assert all("scope" in cell.attributes for cell in each.all("th"))


def test_every_text_is_escaped():
    hostile = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;{{ 7 * 7 }}"
    pixel = png(figures.curves([zoo.Epoch(1, 1, 0.1, {"loss": 1.0}, {"loss": 1.0}, {"loss": [1.0, 2.0]})]))
    parts = [
        Text(hostile),
        Gallery([Picture(hostile, hostile, pixel, hostile)]),
        Table(hostile, [hostile], [[hostile], [hostile]], notes=[hostile]),
        Table(hostile, [hostile], [[hostile, hostile]], folded=True),
        Facts([(hostile, hostile)]),
        Code(hostile, hostile),
    ]
    headline = Headline(hostile, hostile, hostile, hostile)
    page = Tree(Page(hostile, hostile, [hostile], [headline], [Section(hostile, parts)], hostile).to_html()).root
    assert not page.all("script")
    (image,) = page.all("img")
    assert image.attributes["alt"] == hostile
    assert page.all("h1")[0].text == page.all("code")[0].text == page.all("footer")[0].text == hostile
    assert page.all("title")[0].text == f"{hostile}: report"
    assert page.all("dd")[0].text == f"{hostile} {hostile}"


# The command


def test_the_command(run, sweep, tmp_path, capsys):
    assert run_main("report", str(run.path), "--no-metrics", "--json", "-o", str(tmp_path / "r.html")) == 0
    printed = json.loads(capsys.readouterr().out)
    page = read(tmp_path / "r.html")
    assert printed == {
        "run": str(run.path),
        "model": "mlp-vae",
        "report": str(tmp_path / "r.html"),
        "bytes": (tmp_path / "r.html").stat().st_size,
        "figures": [*printed["figures"]],
        "left_out": {},
    }
    assert len(printed["figures"]) == len(page.all("img")) == 8
    assert not [section for section in page.all("section") if section.attributes.get("id") == "metrics"]
    assert [file.name for file in tmp_path.iterdir()] == ["r.html"]

    assert run_main("report", str(run.path), "--samples", "3", "--limit", "4", "-o", str(tmp_path / "r.html")) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "r.html")
    evaluation = zoo.evaluate(run, samples=3, limit=4, metrics=["elbo"])
    assert headlines(read(tmp_path / "r.html"))["log-likelihood"][0] == (
        evaluation["log-likelihood"].shown.split()[0] + " nats"
    )


def test_sources_that_cannot_be_reported_are_refused(run, tmp_path, monkeypatch):
    monkeypatch.setattr("zoo_figures.callback.DrawFigures.on_train_end", lambda *_, **__: None)
    with pytest.raises(zoo.RunError, match="nowhere is not a directory"):
        report(tmp_path / "nowhere")
    with pytest.raises(zoo.RunError, match="has no finished epoch"):
        report(stopped("mlp-vae", [*TINY, "train.epochs=1"], 1, tmp_path))
    with pytest.raises(zoo.RunError, match=r"no.r\.html cannot be written: No such file or directory"):
        report(run, tmp_path / "no" / "r.html", metrics=False)
    early = stopped("mlp-vae", [*TINY, "train.epochs=2"], 15, tmp_path)
    page = read(report(early, metrics=False).path)
    assert "unfinished" in [badge.text for badge in page.all("li")]
    assert headlines(page)["training time"][1] == "1 epoch on cpu"


# How it looks, in a browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FORMS = {"light": (1100, False), "dark": (1100, True), "phone": (390, False), "dark phone": (390, True)}
POLICY = "style-src 'unsafe-inline'"
PROBE = """<script>
onload = () => {
  const luminance = color => {
    const [r, g, b] = color.match(/[0-9.]+/g).map(v => v / 255).map(
      v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    const color = getComputedStyle(element).backgroundColor;
    return color === "rgba(0, 0, 0, 0)" ? behind(element.parentElement) : color;
  };
  const texts = "h1, h2, h3, p, li, a, dt, dd, th, td, caption, summary, code, footer";
  const contrasts = [...document.querySelectorAll(texts)]
    .map(e => [luminance(getComputedStyle(e).color), luminance(behind(e))].sort((a, b) => b - a))
    .map(([lighter, darker]) => (lighter + 0.05) / (darker + 0.05));
  const page = document.documentElement;
  parent.postMessage(JSON.stringify({
    width: innerWidth, height: page.scrollHeight, over: page.scrollWidth - innerWidth,
    dark: matchMedia("(prefers-color-scheme: dark)").matches,
    background: getComputedStyle(document.body).backgroundColor,
    images: [...document.images].map(i => [i.complete, i.naturalWidth, i.naturalHeight, i.width, i.height]),
    charts: [...document.querySelectorAll(".chart img")].map(
      i => (r => [r.left, r.top, r.right, r.bottom])(i.getBoundingClientRect())),
    contrast: Math.min(...contrasts),
    overflowing: [...document.querySelectorAll("section *:not(.scroll *)")].filter(
      e => e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.outerHTML.slice(0, 80)),
  }), "*");
};
</script></body>"""
FRAME = """<!doctype html><style>body, iframe {{ margin: 0; border: 0; display: block }}</style>
<pre hidden></pre><iframe src="page.html" width="{width}" height="{height}"></iframe>
<script>onmessage = event => document.querySelector("pre").textContent = event.data</script>"""
HEIGHT = 2600


@pytest.fixture(scope="module", params=FORMS)
def seen(request, written, tmp_path_factory) -> dict[str, object]:
    """The layout of the page in a browser, with a screenshot of its upper part."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here")
    width, dark = FORMS[request.param]
    folder = tmp_path_factory.mktemp("browser")
    document = written.read_text("utf-8")
    assert POLICY in document
    probed = document.replace(POLICY, f"{POLICY}; script-src 'unsafe-inline'").replace("</body>", PROBE)
    (folder / "page.html").write_text(probed, "utf-8")
    (folder / "frame.html").write_text(FRAME.format(width=width, height=HEIGHT))
    command = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
        *("--disable-background-networking", "--disable-sync", f"--user-data-dir={folder / 'profile'}"),
        *("--force-device-scale-factor=1", f"--blink-settings=preferredColorScheme={0 if dark else 1}"),
        *(f"--window-size={width},{HEIGHT}", f"--screenshot={folder / 'shot.png'}", "--virtual-time-budget=5000"),
        *("--dump-dom", (folder / "frame.html").as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    result = json.loads(Tree(done.stdout).root.all("pre")[0].text)
    pixels = matplotlib.image.imread(io.BytesIO((folder / "shot.png").read_bytes()), "png")[:, :, :3]
    return {**result, "wanted": (width, dark), "pixels": np.rint(pixels * 255).astype(int)}


def test_the_page_renders_correctly_in_a_browser(seen):
    """Desktop and phone, light and dark: nothing overflows, every image is decoded, pixels are light or dark."""
    width, dark = seen["wanted"]
    assert (seen["width"], seen["dark"]) == (width, dark)
    assert seen["over"] <= 0
    assert seen["overflowing"] == []
    assert seen["images"]
    for complete, natural_width, natural_height, shown_width, shown_height in seen["images"]:
        assert complete
        assert natural_width > 200 < shown_width
        assert shown_width / shown_height == pytest.approx(natural_width / natural_height, rel=0.02)
    assert seen["contrast"] >= 4.5, "WCAG 2, AA"

    pixels = seen["pixels"]
    background = [int(value) for value in re.findall(r"\d+", str(seen["background"]))]
    assert pixels.shape[1] == width
    corner = pixels[4:8, 4:8]
    assert (abs(corner - background) <= 1).all()
    assert (corner.max() < 30) if dark else (corner.min() > 235)
    left, top, right, bottom = (math.floor(edge) for edge in seen["charts"][0])
    chart = pixels[top + 2 : bottom - 2, max(left, 0) + 2 : min(right, width) - 2]
    assert chart.shape[0] > 100 < chart.shape[1], "the first chart is in the screenshot"
    paper = np.median(chart.reshape(-1, 3), axis=0)
    assert (paper.max() < 40) if dark else (paper.min() > 245)
    assert chart.max() - chart.min() > 180, "and is not empty"
