from __future__ import annotations

import polars as pl
import pytest

from datahall.core.errors import DataError
from datahall.data.kinds import convert, kind_of, text_of, trouble_with

NUM = 120


def texts(*values: str | None) -> pl.Series:
    return pl.Series("c", values, dtype=pl.String)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (texts("1", " 2.5 ", "-3e2", None), "number"),
        (texts("1", "NA", "?", ""), "number"),
        (texts("1", "2", "x"), "number"),  # x is then reported as broken
        (texts("1", "x", "y"), "category"),
        (texts("01067", "10115"), "category"),  # postal codes keep their zero
        (texts("0.5", "0"), "number"),
        (texts("true", "False", None), "boolean"),
        (texts("yes", "no"), "category"),
        (texts(None, ""), "category"),
        (pl.Series([True, None]), "boolean"),
        (pl.Series([1, None]), "number"),
        (pl.Series([0.5]), "number"),
    ],
)
def test_the_kind_of_a_column(values, kind):
    assert kind_of(values) == kind


def test_values_become_their_kind_and_misfits_are_listed():
    number = convert(texts("1", "x", "", "NaN", "inf", "-0"), "number")
    assert number.values.to_list() == [1.0, None, None, None, float("inf"), 0.0]
    assert str(number.values[5]) == "0.0"
    assert number.bad.tolist() == [1]
    boolean = convert(texts("TRUE", "0", "no", "maybe", None), "boolean")
    assert boolean.values.to_list() == [True, False, False, None, None]
    assert boolean.bad.tolist() == [3]
    assert convert(pl.Series([1.0, 0.0, float("nan")]), "boolean").values.to_list() == [True, False, None]
    assert convert(pl.Series([True, None]), "number").values.to_list() == [1.0, None]


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (texts(" a ", "", " ", "1.0"), ["a", None, None, "1.0"]),
        (pl.Series([1.0, 2.0, float("nan")]), ["1", "2", None]),
        (pl.Series([1.5, 2.0]), ["1.5", "2.0"]),
        (pl.Series([True, False]), ["true", "false"]),
        (pl.Series([10**17]), ["100000000000000000"]),
    ],
)
def test_text_is_the_same_however_it_was_stored(raw, text):
    assert text_of(raw).to_list() == text


@pytest.mark.parametrize(
    ("name", "values", "what"),
    [
        ("note", [f"text {i}" for i in range(NUM)], "free text or a name"),
        ("code", [f"c{i % 1001}" for i in range(3003)], "different texts"),
        ("day", [f"2024-01-{1 + i % 28:02d}" for i in range(NUM)], "dates"),
        ("id", [str(i * 7) for i in range(NUM)], "numbers the rows"),
        ("patient_id", [str(i * 7) for i in range(NUM)], "numbers the rows"),
        ("anything", [str(i + 5) for i in range(NUM)], "numbers the rows"),
        ("account", [str(91 * 10**14 + 7 * (i // 2)) for i in range(NUM)], "2^53"),
        ("nothing", [None] * NUM, "no value at all"),
        ("income", [str(i * i) for i in range(NUM)], None),
        ("few", [f"k{i % 31}" for i in range(NUM)], None),
    ],
)
def test_columns_that_tell_nothing_are_refused_with_what_to_do(name, values, what):
    raw = pl.Series(name, values, dtype=pl.String)
    trouble = trouble_with(raw, convert(raw, kind_of(raw)), declared=False)
    if what is None:
        assert trouble is None
    else:
        assert what in trouble
        assert "ignore" in trouble


def test_a_declared_kind_lifts_guesses_but_not_limits():
    raw = pl.Series("id", [str(i) for i in range(NUM)])
    assert trouble_with(raw, convert(raw, "category"), declared=True) is None
    assert trouble_with(raw, convert(raw, "number"), declared=True) is None
    many = pl.Series("id", [str(i) for i in range(1001)])
    assert "1,001 different texts" in trouble_with(many, convert(many, "category"), declared=True)


def test_every_useless_column_is_named_at_once(tmp_path, run_data, csv_table, write_csv):
    rows = [[*row, f"text {i}", ""] for i, row in enumerate(csv_table())]
    rows[0][-2:] = ["note", "hollow"]
    with pytest.raises(DataError, match="2 columns cannot be used") as caught:
        run_data([write_csv(tmp_path / "a.csv", rows)], subject="person")
    assert "'note' looks like free text" in caught.value.hint
    assert "'hollow' has no value at all" in caught.value.hint
    ignored = ["x", "colour", "member", "note", "hollow"]
    with pytest.raises(DataError, match="no column is left"):
        run_data([tmp_path / "a.csv"], subject="person", ignore=ignored)


def test_types_survive_each_format_alike(tmp_path, run_data, csv_table, write_csv):
    rows = csv_table()
    frame = pl.DataFrame(
        {
            "x": [float(row[0]) if row[0] else None for row in rows[1:]],
            "colour": [row[1] for row in rows[1:]],
            "member": [row[2] == "true" for row in rows[1:]],
            "person": [row[3] for row in rows[1:]],
            "y": [row[4] for row in rows[1:]],
        }
    )
    frame.write_parquet(tmp_path / "a.parquet")
    frame.write_ndjson(tmp_path / "a.jsonl")
    frame.write_json(tmp_path / "a.json")
    write_csv(tmp_path / "a.csv", rows)
    results = [run_data([tmp_path / f"a.{kind}"], subject="person") for kind in ("csv", "parquet", "jsonl", "json")]
    kinds = [[(column.name, column.kind, column.nullable) for column in result.features] for result in results]
    assert kinds[0] == [("x", "number", True), ("colour", "category", False), ("member", "boolean", False)]
    digests = [{name: grant.digest for name, grant in result.splits.items()} for result in results]
    assert all(other == digests[0] for other in digests)


def test_one_column_may_be_numbers_in_one_file_and_text_in_another(tmp_path, run_data, csv_table, write_csv):
    rows = csv_table()
    write_csv(tmp_path / "a.csv", rows[:61])
    pl.DataFrame({name: [row[i] for row in rows[61:]] for i, name in enumerate(rows[0])}).with_columns(
        pl.col("x").replace("", None).cast(pl.Float64)
    ).write_parquet(tmp_path / "b.parquet")
    mixed = run_data([tmp_path / "a.csv", tmp_path / "b.parquet"], subject="person")
    plain = run_data([write_csv(tmp_path / "c.csv", rows)], subject="person")
    assert mixed.splits["train"].digest == plain.splits["train"].digest
