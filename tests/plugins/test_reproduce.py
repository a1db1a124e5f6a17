from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import zoo
from resuming import run_main
from zoo_reproduce import document
from zoo_reproduce.exact import EXACT
from zoo_reproduce.reproduction import Reproduction
from zoo_reproduce.rows import Quantity, Row, installed, read_rows
from zoo_reproduce.verdict import Outcome, Verdict

ROOT = Path(__file__).parents[2]

TINY = """
rows:
  tiny:
    summary: A small model
    paper: {arxiv: "1312.6114", title: Auto-Encoding Variational Bayes}
    protocol: Digits, two epochs.
    recipe:
      latent_dim: 2
      encoder: {use: mlp, hidden: [8]}
      decoder: {use: mlp, hidden: [8]}
      prior: standard-normal
      loss: elbo
      data: digits
      binarize: dynamic
      train: {epochs: 2, optimizer: {use: Adam, lr: 0.01}}
    quantities:
      - name: log-likelihood
        metric: log-likelihood
        settings: {samples: 4}
        unit: nats/image
        limit: 50
        published: {value: -35.0, error: 0.5, source: Table 1}
        tolerance: 20
    deviations: [Two epochs instead of many.]
    seeds: [3]
    minutes: 0.1
  strict:
    extends: tiny
    summary: The same with a number that no model has
    quantities:
      - {name: elbo, metric: elbo, unit: nats/image, published: {value: 10.0, source: Table 2}, tolerance: 1}
    analysis: The number was invented.
"""


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    file = tmp_path / "rows.yaml"
    file.write_text(TINY)
    return file


def rows_of(file: Path) -> dict[str, Row]:
    return {row.name: row for row in read_rows(file)}


# --- the rows that come with the zoo


@pytest.mark.parametrize("name", installed().rows)
def test_every_row_has_a_valid_recipe_and_known_metrics(name):
    row = installed()[name]
    recipe = row.checked_recipe()
    assert (recipe.name, recipe.summary, recipe.train.seed) == (name, row.summary, row.seeds[0])
    for quantity in row.quantities:
        assert quantity.metric in zoo.list_components("metric")
        zoo.ComponentFactory("metric", quantity.metric, **quantity.settings)()


def test_rows_that_stop_early_hold_out_a_validation_split():
    for row in installed().rows.values():
        recipe = row.checked_recipe()
        if recipe.train.patience is not None:
            assert recipe.data[0].use == "freyfaces" or recipe.data[0].parameters["validation"] > 0, row.name


# --- reading rows


def test_a_row_takes_what_it_does_not_have_from_the_one_that_it_extends(rows_file):
    tiny, strict = rows_of(rows_file).values()
    assert strict.recipe == tiny.recipe
    assert strict.seeds == [3]
    assert (strict.summary, strict.quantities[0].name) == ("The same with a number that no model has", "elbo")


MALFORMED = {
    "no rows": ("models: {}", ["expected one key, `rows:`"]),
    "not YAML": ("rows: [", ["is not a file of rows"]),
    "not a mapping": ("rows: {a: 3}", ["rows.a: expected a mapping, got 3"]),
    "a circle": ("rows: {a: {extends: b}, b: {extends: a}}", ["rows.a: extends", "rows.b: extends"]),
    "many problems": (
        TINY.replace("minutes: 0.1", "minutes: '5'")
        .replace("tolerance: 20", "tolerance: -1")
        .replace("error: 0.5, ", "")
        + "    when: now\n",
        ["rows.tiny.minutes", "rows.tiny.quantities.0.tolerance", "rows.strict.when: unknown key"],
    ),
}


@pytest.mark.parametrize("problem", MALFORMED)
def test_a_malformed_file_is_refused_with_every_problem(problem, tmp_path):
    content, messages = MALFORMED[problem]
    file = tmp_path / "broken-rows.yaml"
    file.write_text(content)
    with pytest.raises(zoo.RecipeError, match=r"broken-rows\.yaml") as caught:
        read_rows(file)
    for message in messages:
        assert message in str(caught.value)


def test_a_row_whose_recipe_is_wrong_is_refused_by_name(tmp_path):
    file = tmp_path / "rows.yaml"
    file.write_text(TINY.replace("hidden: [8]", "hiden: [8]").replace("lr: 0.01", "lr: fast"))
    with pytest.raises(zoo.RecipeError) as caught:
        Reproduction(rows_of(file)["tiny"], tmp_path / "out").train()
    for place in ("encoder.hiden", "decoder.hiden", "train.optimizer.lr"):
        assert f"rows.tiny.recipe.{place}" in str(caught.value)
    assert not (tmp_path / "out").exists()


PLUGIN = """
    from pathlib import Path
    import zoo

    @zoo.hookimpl
    def zoo_reproductions():
        yield Path(__file__).with_name("{file}")
"""


def test_plugins_add_rows_and_a_broken_file_harms_no_other(install, zoo_command):
    install("acme-rows", PLUGIN.format(file="rows.yaml"), rows__yaml=TINY)
    install("acme-broken", PLUGIN.format(file="broken.yaml"), broken__yaml="rows: {bad: {}}")
    done = zoo_command("reproduce", "--list", "--json")
    listed = {row["name"]: row for row in json.loads(done.stdout)}
    assert listed["tiny"]["quantities"][0]["published"] == {
        "value": -35.0,
        "error": 0.5,
        "source": "Table 1",
        "verified": True,
    }
    assert "linear-vae-digits" in listed
    assert "broken.yaml is not a file of rows" in done.stderr
    assert "rows.bad.summary: is required" in done.stderr
    refused = zoo_command("reproduce", "bad", code=2)
    assert "There is no row named 'bad'" in refused.stderr
    assert "broken.yaml" in refused.stderr


def test_a_name_that_two_distributions_have_is_qualified(install):
    install("acme-rows", PLUGIN.format(file="rows.yaml"), rows__yaml=TINY)
    install("other-rows", PLUGIN.format(file="other.yaml"), other__yaml=TINY)
    rows = installed()
    assert {"acme-rows:tiny", "other-rows:tiny"} <= set(rows.rows)
    with pytest.raises(zoo.UnknownName, match=r"acme-rows:tiny or other-rows:tiny"):
        rows["tiny"]


# --- verdicts


def quantity(tolerance: float) -> Quantity:
    published = {"value": -93.84, "error": 0.3, "source": "Table 1", "verified": True}
    return Quantity(name="ll", metric="ll", unit="nats/image", published=published, tolerance=tolerance)


def measured(*values: float) -> list[dict[str, object]]:
    return [{"value": value, "error": 0.2, "protocol": {"samples": 500}, "note": ""} for value in values]


@pytest.mark.parametrize(
    ("value", "reproduced"), [(-94.4, True), (-93.3, True), (-94.5, False), (-93.2, False), (-80.0, False)]
)
def test_the_tolerance_is_two_sided(value, reproduced):
    """A number that is too good is off as well."""
    outcome = Outcome.of(quantity(0.6), measured(value), -93.84, 0.3)
    assert outcome.reproduced is reproduced
    assert outcome.difference == pytest.approx(value + 93.84)
    assert (outcome.error, outcome.error_over) == (0.2, "examples")


def test_several_seeds_have_a_mean_and_its_standard_error():
    outcome = Outcome.of(quantity(0.6), measured(-93.0, -94.0, -96.0), -93.84, 0.3)
    values = np.array([-93.0, -94.0, -96.0])
    assert outcome.value == pytest.approx(values.mean())
    assert outcome.error == pytest.approx(values.std(ddof=1) / 3**0.5)
    assert (outcome.error_over, outcome.by_seed) == ("seeds", [-93.0, -94.0, -96.0])


def test_from_training_to_the_verdict(rows_file, tmp_path, capsys):
    options = ("--rows", str(rows_file), "--out", str(tmp_path / "out"))

    def command(*arguments: str) -> str:
        assert run_main("reproduce", *arguments, *options) == 0
        return capsys.readouterr().out

    done = json.loads(command("tiny", "--json"))
    assert done["verdict"] == "reproduced"
    (outcome,) = done["outcomes"]
    folder = tmp_path / "out" / "tiny"
    assert json.loads((folder / "verdict.json").read_text()) == {key: done[key] for key in done if key != "folder"}

    run = zoo.Run(folder / "seed-3")
    assert (run.finished, run.recipe.train.seed, done["seeds"], done["epochs"]) == (True, 3, [3], [2])
    evaluation = zoo.evaluate(run, settings={"log-likelihood": {"samples": 4}}, limit=50)
    assert outcome["value"] == pytest.approx(evaluation["log-likelihood"].value, rel=1e-6)
    assert outcome["error"] == pytest.approx(evaluation["log-likelihood"].error, rel=1e-5)
    assert outcome["protocol"] == {"split": "test", "images": 50, "binarize": "dynamic", "seed": 0, "samples": 4}
    assert done["environment"]["data"]["sha256"] == run.environment["data"]["sha256"]
    assert done["recipe"] == json.loads(zoo.to_json(run.recipe.to_raw()))
    assert done["deviations"] == ["Two epochs instead of many."]
    assert done["seconds"]["training"] == pytest.approx(sum(epoch.seconds for epoch in run.epochs()), abs=0.1)

    before = {path: path.stat().st_mtime_ns for path in (run.path, folder / "seed-3.json")}
    again = json.loads(command("tiny", "--json"))
    assert again["outcomes"] == done["outcomes"]
    assert {path: path.stat().st_mtime_ns for path in before} == before, "what is finished is not done again"

    assert "verdict  elbo off by -" in command("strict")
    lines = command("--list").splitlines()
    assert " reproduced " in next(line for line in lines if line.startswith("tiny"))
    assert " elbo off by -" in next(line for line in lines if line.startswith("strict"))


def test_a_killed_training_is_resumed_to_the_same_verdict(rows_file, tmp_path, caplog):
    """kill -9 in the middle: the same command resumes the run, and its numbers are those of an undisturbed one."""
    rows_file.write_text(TINY.replace("epochs: 2,", "epochs: 60,"))
    row = rows_of(rows_file)["tiny"]
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "zoo", "reproduce", "tiny", "--rows", str(rows_file), "--out", str(out)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.startswith("epoch  3/60"):
                break
        process.kill()
    run = zoo.Run(out / "tiny" / "seed-3")
    assert not run.finished
    assert run.checkpoints.newest() is not None
    killed = Reproduction(row, out / "tiny")
    with caplog.at_level("INFO", "zoo"):
        killed.judge(killed.train())
    assert f"Resuming {run.path}." in caplog.text
    undisturbed = Reproduction(row, tmp_path / "whole")
    expected = undisturbed.judge(undisturbed.train())
    resumed = Verdict.load(out / "tiny")
    assert [outcome.value for outcome in resumed.outcomes] == [outcome.value for outcome in expected.outcomes]
    assert resumed.epochs == expected.epochs == [60]


def test_a_stopped_training_tells_how_to_continue(rows_file, tmp_path):
    rows_file.write_text(TINY.replace("epochs: 2,", "epochs: 4000,"))
    command = [sys.executable, "-m", "zoo", "reproduce", "tiny", "--rows", str(rows_file), "--out", str(tmp_path / "o")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.startswith("epoch"):
                break
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait() == 130
    assert "Run the same command again to continue." in rest
    assert not (tmp_path / "o" / "tiny" / "verdict.json").exists()


def test_a_run_of_another_recipe_is_refused(rows_file, tmp_path):
    rows = rows_of(rows_file)
    Reproduction(rows["tiny"], tmp_path / "out").train()
    rows_file.write_text(TINY.replace("latent_dim: 2", "latent_dim: 3"))
    with pytest.raises(zoo.RunError, match=r"trained with another recipe .* latent_dim\. Delete the folder"):
        Reproduction(rows_of(rows_file)["tiny"], tmp_path / "out").train()


# --- exact targets


def digits_recipe(latent_dim: int, scale: object) -> zoo.Recipe:
    decoder = {"hidden": [], "likelihood": {"use": "gaussian", "scale": scale}}
    encoder = {"hidden": [], "posterior": {"use": "gaussian", "scale": "shared"}}
    return zoo.recipe("mlp-vae", latent_dim=latent_dim, encoder=encoder, decoder=decoder)


def test_a_fixed_scale_at_the_optimum_has_the_score_of_scikit_learn():
    """With the noise that PCA finds, both closed forms agree (but for its n - 1)."""
    from sklearn.decomposition import PCA

    digits = zoo.load_dataset("digits")
    rows = digits.train.x.flatten(1).double().numpy() / 255
    scale = float(PCA(10).fit(rows).noise_variance_ ** 0.5)
    learned = EXACT["pca-score"](digits, digits_recipe(10, "shared"), "test")
    assert learned == pytest.approx(PCA(10).fit(rows).score(digits.test.x.flatten(1).numpy() / 255.0), rel=1e-9)
    assert EXACT["fixed-scale-pca-score"](digits, digits_recipe(10, scale), "test") == pytest.approx(learned, abs=0.01)
    assert EXACT["fixed-scale-active-units"](digits, digits_recipe(10, scale), "test") == 10
    assert EXACT["fixed-scale-active-units"](digits, digits_recipe(64, 0.23), "test") == 18
    assert EXACT["fixed-scale-active-units"](digits, digits_recipe(32, 0.355), "test") == 10


def toy_gaussian() -> zoo.Dataset:
    """1000 rows with the variances 4, 1, 0.25 and 0.09 on rotated axes."""
    generator = torch.Generator().manual_seed(0)
    axes, _ = torch.linalg.qr(torch.randn(4, 4, generator=generator))
    rows = torch.randn(2000, 4, generator=generator) * torch.tensor([2.0, 1.0, 0.5, 0.3]) @ axes.T
    return zoo.Dataset(zoo.Split(rows[:1000]), zoo.Split(rows[1000:]))


@pytest.mark.parametrize(("scale", "active"), [(0.4, 3), (0.7, 2), (1.5, 1)])
def test_surplus_dimensions_collapse_as_the_theory_says(scale, active):
    """Those whose principal component varies less than the noise (arXiv 1911.02469, section 4), in seconds: the
    variance of an active posterior mean is 1 - scale^2 / variance, and the ELBO is the exact log-likelihood."""
    data = toy_gaussian()
    recipe = digits_recipe(4, scale).model_copy(update={"data": [zoo.ComponentSpec(use="memory")]})
    torch.manual_seed(0)
    vae, loss = zoo.build(recipe, (4,))
    config = zoo.TrainConfig(
        epochs=200,
        batch_size=100,
        optimizer=zoo.ComponentSpec(use="Adam", lr=0.02),
        scheduler=zoo.ComponentSpec(use="CosineAnnealingLR", T_max=200),
    )
    zoo.Trainer(vae, loss, data, config, progress=False, device="cpu").fit()
    subject = zoo.EvaluationContext(vae, recipe, data, split="train")
    variance = subject.posterior_mean.double().var(0, correction=0).sort(descending=True).values
    assert EXACT["fixed-scale-active-units"](data, recipe, "test") == active
    assert int((variance > 0.01).sum()) == active
    rows = data.train.x.double().numpy()
    spectrum = np.linalg.eigvalsh(np.cov(rows.T, ddof=0))[::-1][:active].copy()
    np.testing.assert_allclose(variance[:active], 1 - scale**2 / spectrum, atol=0.03)
    exact = EXACT["fixed-scale-pca-score"](data, recipe, "train")
    bound = torch.cat([-loss(vae, batch)["loss"].detach().view(1) for batch in subject.images.in_order()]).mean().item()
    assert bound == pytest.approx(exact, abs=0.05)


# --- the page


def test_the_page_is_that_of_the_results():
    """docs/reproductions.md is generated from docs/reproductions.json and the rows."""
    folder = ROOT / "docs"
    rows = installed().rows
    assert (folder / document.PAGE).read_text() == document.page(rows, document.read(folder))


def test_the_page_of_verdicts(rows_file, tmp_path, capsys):
    tiny = Reproduction(rows_of(rows_file)["tiny"], tmp_path / "out" / "tiny")
    verdict = tiny.judge(tiny.train())
    docs = tmp_path / "docs"
    docs.mkdir()
    command = ("reproduce", "--document", str(docs), "--rows", str(rows_file), "--out", str(tmp_path / "out"))
    assert run_main(*command) == 0
    assert capsys.readouterr().out.strip() == str(docs / "reproductions.md")
    page = (docs / "reproductions.md").read_text()
    (outcome,) = verdict.outcomes
    (line,) = [line for line in page.splitlines() if line.startswith("| [`tiny`]")]
    assert "| -35.0 ± 0.5 |" in line
    assert f"| {outcome.difference:+.3g} | 20 | reproduced |" in line
    assert "- Two epochs instead of many." in page
    assert json.loads((docs / "reproductions.json").read_text())["tiny"]["verdict"] == "reproduced"
    (tiny.path / "verdict.json").unlink()
    assert run_main(*command) == 0
    assert (docs / "reproductions.md").read_text() == page, "results that are not here are kept"


def test_the_page_explains_a_number_that_is_off(rows_file, tmp_path):
    rows = rows_of(rows_file)
    strict = Reproduction(rows["strict"], tmp_path / "strict")
    verdicts = {"strict": strict.judge(strict.train())}
    assert "*Analysis.* The number was invented." in document.page(rows, verdicts)
    assert "*Analysis.*" not in document.page(rows, {})
