"""Files of tables in the formats that people use: what is read, and that the same formats are written again."""

from __future__ import annotations

import csv
import logging
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import zoo
from zoo.cli.main import main
from zoo_tables.frames import to_frame
from zoo_tables.values import read_values

DAYS = [date(2020, 1, 1) + timedelta(days=17 * i) for i in range(40)]
ROWS = 60


def command(*arguments: str) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as stop:
        main([*map(str, arguments)])
    return int(stop.value.code or 0)


def read(cells: list[str | None], **options: object):
    return read_values(pd.Series(cells, dtype=object), "c", **options)


@pytest.mark.parametrize(
    "pattern",
    ["%Y-%m-%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%Y/%m/%d", "%d %b %Y", "%d %B %Y", "%d-%b-%Y"],
)
@pytest.mark.parametrize("time", ["", " %H:%M", " %H:%M:%S"])
def test_dates_in_the_usual_patterns_are_dates(pattern, time):
    """The days since 1970, the pattern, and whether there is a time, against the standard library."""
    stamps = [datetime.combine(day, datetime.min.time()) + timedelta(minutes=61 * i) * bool(time)
              for i, day in enumerate(DAYS)]  # fmt: skip
    values = read([stamp.strftime(pattern + time) for stamp in stamps] + [None])
    expected = [(stamp - datetime(1970, 1, 1)) / timedelta(days=1) for stamp in stamps]
    assert values.values[:-1] == pytest.approx(expected, abs=1e-9)
    assert np.isnan(values.values[-1])
    assert (values.format, values.pattern) == ("datetime" if time else "date", pattern + time)


@pytest.mark.parametrize(
    ("cells", "pattern", "hours"),
    [
        (["2020-03-01T10:00:00Z"], "%Y-%m-%dT%H:%M:%SZ", 10),
        (["2020-03-01T10:00:00+02:00"], "%Y-%m-%dT%H:%M:%S+00:00", 8),
        (["2020-03-01 10:00"], "%Y-%m-%d %H:%M", 10),
        (["2020-03"], "%Y-%m", 0),
    ],
)
def test_dates_of_iso_8601(cells, pattern, hours):
    values = read(cells)
    assert values.pattern == pattern
    assert values.values[0] == pytest.approx((date(2020, 3, 1) - date(1970, 1, 1)).days + hours / 24)


def test_days_and_months_that_cannot_be_told_apart_are_text(caplog):
    with caplog.at_level(logging.WARNING, "zoo"):
        values = read(["01/02/2020", "03/04/2020", "05/05/2020"])
    assert values.format == "text"
    assert "'01/02/2020' may be day/month/year or month/day/year. Write dates as 2020-01-31." in caplog.text


def test_dates_mixed_with_text_are_kept_or_missing_as_chosen():
    cells = ["2020-01-05", "2020-02-07", "2020-02-30", "unknown"]
    mixed = read([*cells, *cells[:2]])
    assert mixed.format == "text"
    assert mixed.note == (
        "66% of the values are dates and others are text such as '2020-02-30'; data.columns.c=real would read the text "
        "as missing"
    )
    chosen = read([*cells[:3], *cells[:2]], numeric=True)
    assert chosen.format == "date"
    assert chosen.missing.tolist() == [False, False, True, False, False]
    assert chosen.note == "1 value such as '2020-02-30' is not a date and counts as missing"


@pytest.mark.parametrize(
    ("cells", "written", "values"),
    [
        (["01005", "20001", "00001"], "text", ["01005", "20001", "00001"]),
        (["0", "10", "7"], "integer", [0.0, 10.0, 7.0]),
        (["0.5", "01.5", "2"], "float", [0.5, 1.5, 2.0]),
        (["TRUE", "false", "True"], "boolean", [True, False, True]),
        (["9" * 20, "9" * 19 + "8"], "text", ["9" * 20, "9" * 19 + "8"]),
        ([str(2**60), str(2**61)], "integer", [2.0**60, 2.0**61]),
    ],
)
def test_text_of_digits(cells, written, values):
    """Codes with leading zeros, and integers that float64 confuses, are text."""
    result = read(cells)
    assert result.format == written
    assert result.values.tolist() == values


def test_other_rows_are_read_in_the_format_of_the_trained_column():
    """Codes without a leading zero are still text, and a day that may be a month is read as in the training."""
    codes = zoo.Column("c", "categorical", ("01005", "20001"), format="text")
    assert read(["20001", "20001"], column=codes).values.tolist() == ["20001", "20001"]
    day = zoo.Column("c", "real", format="date", pattern="%m/%d/%Y")
    expected = (date(2020, 2, 1) - date(1970, 1, 1)).days
    assert read(["02/01/2020"], numeric=True, column=day).values.tolist() == [expected]


def table(path: Path, separator: str = ",", comma: bool = False) -> Path:
    """A file with gaps in every column, in formats that pandas does not write."""
    rng = np.random.default_rng(3)
    rows = [["code", "when", "day", "grade", "price", "vip", "note"]]
    for i in range(ROWS):
        stamp = datetime(2021, 1, 1) + timedelta(hours=int(rng.integers(20_000)))
        price = f"{rng.normal(50, 9):.2f}"
        cells = [
            f"{int(rng.integers(4)) * 1001:05d}",
            stamp.strftime("%Y-%m-%dT%H:%M:%SZ"),
            stamp.strftime("%d.%m.%Y"),
            str(rng.integers(1, 6)),
            price.replace(".", ",") if comma else price,
            str(rng.choice(["TRUE", "FALSE"])),
        ]
        rows.append([*("" if rng.random() < 0.2 else cell for cell in cells), "NA" if i % 3 else f" n{i}"])
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=separator).writerows(rows)
    return path


def cells(path: Path, separator: str = ",") -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return [*csv.reader(file, delimiter=separator)]


PATTERNS = [
    r"0[0123]00[0123]",
    r"202[1-3]-\d\d-\d\dT\d\d:\d\d:\d\dZ",
    r"\d\d\.\d\d\.202[1-3]",
    r"[1-5]",
    r"\d\d[.,]\d\d",
    "TRUE|FALSE",
]


@pytest.mark.parametrize(("separator", "comma"), [(",", False), (";", True)])
def test_imputed_cells_are_written_as_the_others_are(separator, comma, tmp_path):
    """Cells that are not missing are unchanged, to the character: 02002, TRUE, 5 beside gaps, decimal commas."""
    source = table(tmp_path / "t.csv", separator, comma)
    overrides = ["encoder.hidden=[8]", "latent_dim=2", "data.columns.note=omit"]
    run = zoo.train("table-vae", overrides, data=source, out=tmp_path, epochs=1, figures=False, progress=False)
    target = tmp_path / "filled.csv"
    assert command("impute", run.path, source, "--out", target, "--samples", "20") == 0
    before, after = cells(source, separator), cells(target, separator)
    assert after[0] == before[0]
    assert len(after) == ROWS + 1
    gaps = 0
    for old, new in zip(before[1:], after[1:], strict=True):
        assert [b for a, b in zip(old, new, strict=True) if a] == [a for a in old if a]
        for position, (a, b) in enumerate(zip(old[:-1], new[:-1], strict=True)):
            gaps += not a
            assert pd.Series([b]).str.fullmatch(PATTERNS[position].replace("[.,]", "," if comma else r"\."))[0], b
    assert gaps > ROWS / 2
    again = zoo.load_dataset(target, columns={"note": "omit"})
    assert again.train.mask is None
    assert [c.format for c in again.columns] == ["text", "datetime", "date", "integer", "float", "boolean"]
    assert command("impute", run.path, source, "--out", tmp_path / "m.parquet", "--multiple", "2") == 0
    typed = pd.read_parquet(tmp_path / "m.parquet")
    assert typed["imputation"].tolist() == [1] * ROWS + [2] * ROWS
    kinds = [typed[name].dtype.kind for name in ("when", "day", "grade", "price", "vip")]
    assert kinds == ["M", "M", "i", "f", "b"]
    observed = [i for i, row in enumerate(before[1:]) if row[1]]
    stamps = typed["when"].iloc[observed].dt.strftime("%Y-%m-%dT%H:%M:%SZ").tolist()
    assert stamps == [before[1 + i][1] for i in observed]


def test_samples_are_written_in_the_formats_of_the_training_file(tmp_path):
    source = table(tmp_path / "t.csv")
    overrides = ["encoder.hidden=[8]", "latent_dim=2", "data.columns.note=omit"]
    run = zoo.train("table-vae", overrides, data=source, out=tmp_path, epochs=1, figures=False, progress=False)
    assert command("sample", run.path, "-n", "30", "--out", tmp_path / "s.csv") == 0
    rows = pd.read_csv(tmp_path / "s.csv", dtype=str)
    for name, pattern in zip(["code", "when", "day", "grade"], PATTERNS, strict=False):
        assert rows[name].str.fullmatch(pattern.replace("202[1-3]", r"\d{4}")).all(), name
    prices = rows["price"].astype(float)
    assert prices.tolist() == prices.round(2).tolist()


def test_an_observed_number_is_not_rounded_to_the_kind_of_its_column(tmp_path):
    """A column of integers, and 19.5 in the rows to impute."""
    pd.DataFrame({"a": range(20, 60), "b": np.arange(40) * 0.5}).sample(frac=1, random_state=0).to_csv(
        tmp_path / "t.csv", index=False
    )
    run = zoo.train(
        "table-vae", ["data.columns.a=real"], data=tmp_path / "t.csv", out=tmp_path, epochs=1, figures=False,
        progress=False,
    )  # fmt: skip
    (other := tmp_path / "o.csv").write_text("a,b\n19.5,1\n,2\n1e3,3\n")
    assert command("impute", run.path, other, "--out", tmp_path / "f.csv") == 0
    lines = (tmp_path / "f.csv").read_text().splitlines()
    assert (lines[1], lines[3]) == ("19.5,1", "1e3,3")
    assert lines[2].split(",")[0].isdigit()


@pytest.mark.parametrize("scale", [1e-300, 1e-15, 1e300])
def test_the_unit_of_a_column_does_not_matter(scale):
    """Squares of such numbers are 0 or infinite in float64."""
    values = np.random.default_rng(0).normal(5, 1, 50) * scale
    dataset = zoo.load_dataset(pd.DataFrame({"a": values, "b": range(50, 0, -1)}))
    rows = dataset.train.index.numpy()
    assert dataset.train.x[:, 0].std(correction=0).item() == pytest.approx(1.0, rel=1e-4)
    restored = to_frame(dataset.train.x, dataset.columns)["a"].to_numpy()
    np.testing.assert_allclose(restored, values[rows], rtol=1e-5)


def test_a_number_out_of_range_names_its_row():
    values = np.exp(np.arange(40.0) * 10)
    with pytest.raises(zoo.DataError, match="'a' has the value 8.8186e.125 in row 30, too far from the others"):
        zoo.load_dataset(pd.DataFrame({"a": values}), columns={"a": "positive"})


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_of_every_system(end, tmp_path):
    (file := tmp_path / "t.csv").write_bytes(end.join(["a,b", "1.5,x", "2.5,y", "3.5,x", "4.5,y", ""]).encode())
    dataset = zoo.load_dataset(file)
    assert [column.name for column in dataset.columns] == ["a", "b"]
    assert len(dataset.train) + len(dataset.test) == 4


@pytest.mark.parametrize("order", ["sorted", "shuffled", "half"])
def test_row_numbers_are_left_out_in_any_order(order):
    """Also in the folds of a cross-validation, where some are absent; integers that repeat are numbers."""
    rng = np.random.default_rng(0)
    numbers = np.arange(1000, 1200)
    rows = {"sorted": numbers, "shuffled": rng.permutation(numbers), "half": rng.permutation(numbers)[:110]}[order]
    frame = pd.DataFrame({"id": rows, "age": rng.integers(18, 90, len(rows))})
    dataset = zoo.load_dataset(frame)
    assert [column.name for column in dataset.columns] == ["age"]
    assert dataset.left_out[0].startswith("column id: identifies the rows: all its values differ, such as 1")
    assert [column.name for column in zoo.load_dataset(frame, columns={"id": "real"}).columns] == ["id", "age"]


def test_labels_are_in_the_order_of_their_numbers(tmp_path):
    rows = "".join(f"{i % 12},{i * 0.5}\n" for i in range(60))
    (file := tmp_path / "t.csv").write_text("k,v\n" + rows)
    dataset = zoo.load_dataset(file, label="k")
    assert dataset.label_names == tuple(map(str, range(12)))
    assert dataset.train.labels.tolist() == [i % 12 for i in dataset.train.index.tolist()]


def test_rows_far_from_the_training_rows_get_a_finite_score(tmp_path, capsys):
    """1e9 in a column of about 20, beside a gap: the density is that of the closed form for this column."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"k": rng.normal(20, 1, 90).round(2), "c": rng.choice(["x", "y", "z"], 90)})
    run = zoo.train("table-vae", ["latent_dim=2"], data=frame, out=tmp_path, epochs=2, figures=False, progress=False)
    (other := tmp_path / "o.csv").write_text("k,c\n1e9,\n20,x\n,y\n")
    assert command("score", run.path, other, "-o", tmp_path / "s.csv") == 0
    scores = pd.read_csv(tmp_path / "s.csv").iloc[:, -1].to_numpy()
    scale = run.load().decoder.likelihood.shapes["0"].exp().item()
    assert scores[0] == pytest.approx(((1e9 - 20) / run.columns[0].scale / scale) ** 2 / 2, rel=1e-3)
    assert (np.abs(scores[1:]) < 20).all()


def test_data_takes_the_keys_of_a_recipe(tmp_path, capsys):
    """`data.columns.a=count` as for a training, and the location of dates as dates."""
    lines = [f"{i % 30},{DAYS[i % 40]:%d.%m.%Y},{'a, b' if i % 3 else 'c'}" for i in range(90)]
    (file := tmp_path / "t.csv").write_text("a,day,text\n" + "\n".join(f'{a},{d},"{t}"' for a, d, t in
                                             (line.split(",", 2) for line in lines)))  # fmt: skip
    assert command("data", file, "data.columns.a=real", "data.columns.text=binary") == 0
    output = capsys.readouterr().out
    mean = datetime(1970, 1, 1) + timedelta(
        days=next(c.location for c in zoo.load_dataset(file).columns if c.name == "day")
    )
    assert f"real         date  location {mean:%Y-%m-%d}, scale" in output
    assert "a     real         integer" in output
    assert "2 categories: 'a, b', c" in output
