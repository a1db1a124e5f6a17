"""Tables from files and frames: kinds, scales of the training rows, round trips, and what can be wrong."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import zoo
from zoo.cli.main import main
from zoo_tables.frames import to_frame

ROWS = 200


def mixed_frame(n: int = ROWS) -> pd.DataFrame:
    """A frame with every kind and format, and gaps in most columns."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "key": [f"k{i}" for i in range(n)],
            "height": rng.normal(170, 10, n).round(1),
            "income": np.exp(rng.normal(10, 1, n)).round(2),
            "visits": rng.poisson(4, n) * (1 + np.arange(n) % 5),
            "age": rng.integers(18, 90, n),
            "city": rng.choice(["Köln", "Rome", "Łódź", "New\nYork"], n),
            "member": rng.random(n) < 0.5,
            "answer": rng.choice(["no", "yes"], n),
            "size": pd.Categorical(rng.choice(["S", "M", "L"], n), ["S", "M", "L"], ordered=True),
            "stars": rng.integers(1, 6, n),
            "day": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 900, n), unit="D"),
            "time": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 9000, n), unit="min"),
            "constant": 7,
            "empty": None,
        }
    )
    for name in ("height", "income", "age", "city", "size", "day", "stars"):
        frame.loc[rng.random(n) < 0.1, name] = None
    return frame


KINDS = {
    "height": ("real", "float"),
    "income": ("positive", "float"),
    "visits": ("count", "integer"),
    "age": ("real", "integer"),
    "city": ("categorical", "text"),
    "member": ("binary", "boolean"),
    "answer": ("binary", "text"),
    "size": ("ordinal", "text"),
    "stars": ("categorical", "integer"),
    "day": ("real", "date"),
    "time": ("real", "datetime"),
    "constant": ("categorical", "integer"),
}


def command(*arguments: str) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    return int(stop.value.code or 0)


def by_name(dataset: zoo.Dataset) -> dict[str, zoo.Column]:
    return {column.name: column for column in dataset.columns}


def assert_equal_frames(one: pd.DataFrame, other: pd.DataFrame) -> None:
    """The same columns, gaps and values, numbers to the precision of float32."""
    assert list(one.columns) == list(other.columns)
    for name in one:
        assert (one[name].isna().to_numpy() == other[name].isna().to_numpy()).all(), name
        a, b = (frame[name].dropna().reset_index(drop=True) for frame in (one, other))
        if KINDS[name][1] == "float":
            np.testing.assert_allclose(a.astype(float), b.astype(float), rtol=1e-5)
        elif KINDS[name][1] in ("date", "datetime"):
            assert (abs(pd.to_datetime(a) - pd.to_datetime(b)) <= pd.Timedelta("30s")).all()
        elif KINDS[name][1] == "integer":
            assert a.astype(int).tolist() == b.astype(int).tolist()
        else:
            assert a.astype(str).tolist() == b.astype(str).tolist(), name


@pytest.mark.parametrize("form", ["frame", "csv", "tsv", "parquet", "polars"])
def test_every_kind_survives_the_way_to_x_and_back(form, tmp_path):
    """In the original units and categories, missing entries included. A CSV file has no order of sizes."""
    frame = mixed_frame()
    source: object = frame
    if form in ("csv", "tsv"):
        frame.to_csv(source := tmp_path / f"t.{form}", index=False, sep="," if form == "csv" else "\t")
    elif form == "parquet":
        frame.to_parquet(source := tmp_path / "t.parquet")
    elif form == "polars":
        source = pytest.importorskip("polars").from_pandas(frame)
    sizes = {"columns": {"size": {"kind": "ordinal", "categories": ["S", "M", "L"]}}}
    dataset = zoo.load_dataset(source, **sizes)
    columns = by_name(dataset)
    assert {name: (column.kind, column.format) for name, column in columns.items()} == KINDS
    assert columns["size"].categories == ("S", "M", "L")
    assert dataset.modality == "table"
    assert [reason.split(":")[0] for reason in dataset.left_out] == ["column key", "column empty"]
    for split in (dataset.train, dataset.test):
        expected = frame.drop(columns=["key", "empty"]).iloc[split.index.numpy()].reset_index(drop=True)
        assert_equal_frames(to_frame(split.x, dataset.columns, split.mask), expected)
    assert sorted([*dataset.train.index.tolist(), *dataset.test.index.tolist()]) == list(range(ROWS))


def test_the_scale_is_that_of_the_training_rows():
    """By hand, and test rows change no training value, whatever they hold."""
    frame = mixed_frame()
    dataset = zoo.load_dataset(frame, validation=0.2)
    rows = frame.iloc[dataset.train.index.numpy()]
    columns = by_name(dataset)
    assert columns["height"].location == pytest.approx(rows["height"].mean())
    assert columns["height"].scale == pytest.approx(rows["height"].std(ddof=0))
    assert columns["income"].scale == pytest.approx(np.exp(np.log(rows["income"]).mean()))
    changed = frame.copy()
    held_out = np.concatenate([dataset.test.index.numpy(), dataset.validation.index.numpy()])
    changed.loc[held_out, ["height", "income", "visits", "city"]] = [1e6, 1e9, 12345, "Atlantis"]
    other = zoo.load_dataset(changed, validation=0.2)
    assert other.columns == dataset.columns
    assert torch.equal(other.train.x, dataset.train.x)
    assert torch.equal(other.train.mask, dataset.train.mask)


def test_new_categories_are_missing_and_reported(caplog):
    """In the test rows and in other data for a run; nothing else changes."""
    frame = mixed_frame()
    dataset = zoo.load_dataset(frame)
    frame.loc[dataset.test.index.numpy()[0], "city"] = "Atlantis"
    with caplog.at_level(logging.WARNING, "zoo"):
        other = zoo.load_dataset(frame)
    position = [column.name for column in other.columns].index("city")
    assert not other.test.mask[0, position]
    assert "'city': 1 value counts as missing, since 'Atlantis' in row" in caplog.text
    assert "is not a category of the training rows" in caplog.text


WRONG = {
    "empty": (b"", "is empty"),
    "blank": (b"\n\n", "is empty"),
    "header only": (b"a,b\n", "has no rows"),
    "one row": (b"a,b\n1,2\n", "has one row; training and testing need at least two"),
    "duplicate names": (b"a,b,a\n1,2,3\n4,5,6\n", "several columns named 'a'. Rename them"),
    "ragged": (b"a,b\n1,2\n3,4,5\n6,7\n", "Expected 2 fields in line 3, saw 3. Every row needs as many fields"),
    "more fields than names": (b"a,b\n1,2,3\n4,5,6\n", "more fields than the 2 names in the first row"),
    "infinite": (b"a,b\n1,2\ninf,3\n4,5\n", "'a' is infinite in row 2. Leave the field empty"),
    "nothing left": (b"a,b\n,\n,\n,\n", "has no column to train on"),
    "not parquet": (b"PAR1 no", "is damaged or is not a .parquet file"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_file_gets_one_clear_message(what, tmp_path):
    content, message = WRONG[what]
    (file := tmp_path / ("t.parquet" if "parquet" in what else "t.csv")).write_bytes(content)
    with pytest.raises(zoo.DataError, match=message) as error:
        zoo.load_dataset(file)
    assert "'a'" in str(error.value) or str(file) in str(error.value)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"columns": {"heihgt": "real"}}, "there is no column 'heihgt'. Did you mean 'height'"),
        ({"columns": {"height": "float"}}, "expected one of real, positive"),
        ({"columns": {"height": "count"}}, "counts are 0, 1, 2"),
        ({"columns": {"key": "categorical"}, "max_categories": 20}, "has 180 different values, more than data.max_cat"),
        ({"columns": {"city": "count"}}, "'city' holds text such as '.*', so it cannot be count"),
        ({"columns": {"city": "binary"}}, "binary columns have two. Write data.columns.city=categorical"),
        ({"label": "town"}, "data.label=town: there is no column 'town'"),
        ({"label": "city"}, "the label 'city' is missing in row"),
        ({"validation": 1000}, "would hold out 1000 of 180 training rows"),
    ],
)
def test_a_wrong_choice_gets_one_clear_message(parameters, message):
    with pytest.raises(zoo.DataError, match=message):
        zoo.load_dataset(mixed_frame(), **parameters)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("\ufeffa,b\n1.5,x\n2.5,y\n1,x\n".encode(), {"a": [1.5, 2.5, 1.0], "b": ["x", "y", "x"]}),
        ("a,b\n1.5,Köln\n2.5,Bern\n1,Köln\n".encode("latin-1"), {"b": ["Köln", "Bern", "Köln"]}),
        (b'a,b\n1.5,"x\ny"\n2.5,"u, v"\n1,"u, v"\n', {"b": ["x\ny", "u, v", "u, v"]}),
        (b"a;b\n1,5;x\n2,5;y\n1;x\n", {"a": [1.5, 2.5, 1.0], "b": ["x", "y", "x"]}),
        (b"a,b\n1,2.5\n,3.5\n3,\n", {"b": [2.5, 3.5, None]}),
        (b"a,b\n1,x\n2\n3,y\n", {"b": ["x", None, "y"]}),
    ],
    ids=["byte-order mark", "latin-1", "quoted line break", "decimal comma", "gaps", "short row"],
)
def test_unusual_files_are_read_without_loss(content, expected, tmp_path):
    (file := tmp_path / "t.csv").write_bytes(content)
    dataset = zoo.load_dataset(file, test_fraction=0.4)
    every = zoo.load_dataset(file, columns={"a": "real"}, test_fraction=0.3)
    rows = pd.concat([to_frame(split.x, every.columns, split.mask) for split in (every.train, every.test)])
    order = torch.cat([every.train.index, every.test.index]).argsort().numpy()
    assert dataset.shape == every.shape
    for name, values in expected.items():
        observed = rows[name].iloc[order].tolist()
        train = set(every.train.index.tolist())
        for i, (value, other) in enumerate(zip(observed, values, strict=True)):
            if other is None or (isinstance(other, str) and i not in train and pd.isna(value)):
                assert pd.isna(value)
            else:
                assert value == (pytest.approx(other) if isinstance(other, float) else other)


def test_text_among_numbers_is_kept_or_missing_as_chosen(caplog):
    """Mixed types: a category with a note, or a number with the text missing."""
    frame = pd.DataFrame({"a": ["1", "2", "n.v.", "1", "2", "1"] * 5, "b": range(30)})
    with caplog.at_level(logging.WARNING, "zoo"):
        dataset = zoo.load_dataset(frame)
    assert dataset.columns[0].kind == "categorical"
    assert "of the values are numbers and others are text such as 'n.v.'" in caplog.text
    real = zoo.load_dataset(frame, columns={"a": "real"})
    assert real.columns[0].kind == "real"
    masked = torch.cat([real.train.mask, real.test.mask])[:, 0]
    assert int((~masked).sum()) == 5


def test_a_million_categories_are_left_out_with_a_message(tmp_path):
    n = 1_000_000
    frame = pd.DataFrame({"id": np.arange(n).astype(str), "word": (np.arange(n) // 2).astype("U"), "x": np.ones(n)})
    frame["id"] += "k"
    frame["word"] += "w"
    frame["x"] = np.random.default_rng(0).normal(size=n)
    dataset = zoo.load_dataset(frame)
    assert [column.name for column in dataset.columns] == ["x"]
    assert dataset.left_out[0] == "column id: identifies the rows: all its values differ, such as '0k'"
    assert "more than data.max_categories=1000" in dataset.left_out[1]


def test_labels_by_name(tmp_path):
    frame = mixed_frame()
    dataset = zoo.load_dataset(frame, label="answer")
    assert "answer" not in by_name(dataset)
    assert dataset.label_names == ("no", "yes")
    expected = (frame["answer"] == "yes").astype(int).to_numpy()[dataset.train.index.numpy()]
    assert dataset.train.labels.tolist() == expected.tolist()


def trained(out: Path, data: object, *overrides: str, model: str = "table-vae") -> zoo.Run:
    small = ["encoder.hidden=[8]", "latent_dim=2", *overrides]
    return zoo.train(model, small, data=data, out=out, epochs=2, figures=False, progress=False)


def test_a_run_reads_other_rows_with_its_columns(tmp_path, caplog):
    """Whole and in order; columns may be in another order, and others are ignored."""
    frame = mixed_frame()
    frame.to_csv(tmp_path / "t.csv", index=False)
    run = trained(tmp_path, tmp_path / "t.csv", "data.columns.visits=real", "data.test_fraction=0.3")
    other = frame.iloc[:7, ::-1].reset_index(drop=True)
    split = run.read(other)
    expected = to_frame(split.x, run.columns, split.mask)
    names = [column.name for column in run.columns]
    plain = other.astype({"size": object})
    assert_equal_frames(expected, plain[names])
    assert len(run.read(other.iloc[:1])) == 1
    with pytest.raises(zoo.DataError, match="has no column 'height', which the model was trained on"):
        run.read(frame.drop(columns="height"))


def test_rows_are_sampled_in_the_original_columns(tmp_path, capsys):
    """As CSV and Parquet, the same draws for the same seed, with categories and formats of the data."""
    frame = mixed_frame()
    frame.to_csv(tmp_path / "t.csv", index=False)
    run = trained(tmp_path, tmp_path / "t.csv")
    for name in ("a.csv", "b.csv", "c.parquet"):
        assert command("sample", str(run.path), "-n", "50", "--out", str(tmp_path / name)) == 0
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    rows, stored = pd.read_csv(tmp_path / "a.csv"), pd.read_parquet(tmp_path / "c.parquet")
    assert list(rows.columns) == list(stored.columns) == [column.name for column in run.columns]
    assert len(rows) == len(stored) == 50
    assert set(rows["city"]) <= {"Köln", "Rome", "Łódź", "New\nYork"}
    assert (rows["constant"] == 7).all()
    assert (rows["visits"] >= 0).all()
    assert rows["visits"].dtype.kind == rows["age"].dtype.kind == "i"
    pd.to_datetime(rows["day"], format="%Y-%m-%d")
    assert (rows["income"] > 0).all()


def test_conditional_rows_have_their_label(tmp_path):
    run = trained(tmp_path, mixed_frame(), "data.label=answer", model="conditional-table-vae")
    assert command("sample", str(run.path), "-n", "20", "--label", "yes", "--out", str(tmp_path / "s.csv")) == 0
    assert (pd.read_csv(tmp_path / "s.csv")["answer"] == "yes").all()


def test_figures_that_suit_a_table_and_a_message_for_those_that_do_not(tmp_path, capsys):
    frame = mixed_frame()
    frame.to_csv(tmp_path / "t.csv", index=False)
    small = ["encoder.hidden=[8]", "latent_dim=2"]
    run = zoo.train("table-vae", small, data=tmp_path / "t.csv", out=tmp_path, epochs=1, progress=False)
    drawn = {file.name for file in run.figures.glob("*.png")}
    assert drawn == {"curves.png", "marginals.png", "correlations.png"}
    assert command("reconstruct", str(run.path)) != 0
    assert "Only images (C, H, W) can be drawn in a grid" in capsys.readouterr().err


def test_zoo_data_shows_the_columns(tmp_path, capsys):
    mixed_frame().to_csv(tmp_path / "t.csv", index=False)
    command("data", str(tmp_path / "t.csv"), "columns.visits=real")
    text = capsys.readouterr().out
    assert "visits    real         integer" in text
    assert "city      categorical  4 categories" in text
    command("data", str(tmp_path / "t.csv"), "--json")
    assert len(json.loads(capsys.readouterr().out)["columns"]) == len(KINDS)


@pytest.mark.parametrize("name", ["wine", "breast-cancer", "diabetes", "iris"])
def test_the_tables_of_scikit_learn(name):
    sizes = {"wine": (142, 36, 14), "breast-cancer": (455, 114, 31), "diabetes": (354, 88, 11), "iris": (120, 30, 5)}
    dataset = zoo.load_dataset("sklearn-table", name=name)
    assert (len(dataset.train), len(dataset.test), *dataset.shape) == sizes[name]
