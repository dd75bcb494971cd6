from __future__ import annotations

import pytest

from datahall.core.errors import DataError


@pytest.fixture
def table(tmp_path, csv_table, write_csv):
    """The table of conftest with cells (row from 1, column) replaced."""

    def make(*cells, name="a.csv"):
        rows = csv_table()
        for row, column, value in cells:
            rows[row][rows[0].index(column)] = value
        return write_csv(tmp_path / name, rows)

    return make


BROKEN = {
    "number": ((7, "x", "many"), {}, "x = 'many'  is not a number"),
    "declared": ((7, "colour", "7"), {"member": {"kind": "number"}}, "member = "),
    "boolean": ((7, "member", "maybe"), {"member": {"kind": "boolean"}}, "member = 'maybe'  is not true or false"),
    "min": ((7, "x", "-40"), {"x": {"min": -9}}, "x = '-40'  is below -9"),
    "max": ((7, "x", "40"), {"x": {"max": 9}}, "x = '40'  is above 9"),
    "values": ((7, "colour", "pink"), {"colour": {"values": ["red", "green", "blue, dark"]}}, "is none of: red"),
    "missing": ((7, "colour", ""), {"colour": {"nullable": False}}, "colour = None  is missing"),
    "infinite": ((7, "x", "inf"), {}, "x = 'inf'  is not finite"),
    "no target": ((7, "y", ""), {}, "y = None  is missing"),
    "no subject": ((7, "person", " "), {}, "person = ' '  is missing"),
}


@pytest.mark.parametrize(("cell", "contract", "shown"), BROKEN.values(), ids=BROKEN)
def test_a_broken_row_is_shown_with_its_line(table, run_data, cell, contract, shown):
    with pytest.raises(DataError) as caught:
        run_data([table(cell)], subject="person", columns=contract)
    assert caught.value.where.startswith("a.csv:")
    assert "break" in caught.value.what
    assert any(shown in line and line.strip().startswith("a.csv:") for line in caught.value.hint.splitlines())


@pytest.mark.parametrize(("cell", "contract"), [case[:2] for case in BROKEN.values()][2:], ids=list(BROKEN)[2:])
def test_broken_rows_are_dropped_and_counted_when_the_application_says_so(table, run_data, cell, contract):
    result = run_data([table(cell)], subject="person", columns=contract, on_broken="drop")
    assert (result.num_rows, result.num_rows_dropped) == (119, 1)
    assert sum(result.split_rows.values()) - result.split_rows["holdout_outcomes"] == 119
    assert result.sources[0].num_rows == 120


def test_at_most_ten_rows_are_shown_and_each_rule_is_counted(table, run_data):
    cells = [(row, "x", "-50") for row in range(1, 31)] + [(40, "x", "99"), (40, "colour", "")]
    with pytest.raises(DataError) as caught:
        run_data([table(*cells)], columns={"x": {"min": -9, "max": 9}, "colour": {"nullable": False}}, subject="person")
    lines = [line.strip() for line in caught.value.hint.splitlines()]
    assert caught.value.what == "31 of 120 rows break the contract"
    assert caught.value.where == "a.csv:2"
    assert sum(line.startswith("a.csv:") for line in lines) == 10
    assert {"x is below -9: 30 rows", "x is above 9: 1 row", "colour is missing: 1 row"} <= set(lines)
    assert "... and 22 more" in lines
    assert "-50" not in caught.value.what  # the sentence that is stored names nobody's value


def test_unique_names_every_row_that_shares_its_value(tmp_path, csv_table, write_csv, run_data):
    rows = [[*row, f"k{index}"] for index, row in enumerate(csv_table())]
    rows[0][-1] = "key"
    rows[50][-1] = rows[3][-1]
    section = {"columns": {"key": {"unique": True}}, "ignore": ["key"], "subject": "person"}
    with pytest.raises(DataError, match="2 of 120 rows break the contract") as caught:
        run_data([write_csv(tmp_path / "a.csv", rows)], **section)
    assert "a.csv:4  key = 'k3'  is there more than once" in caught.value.hint
    result = run_data([tmp_path / "a.csv"], **section, on_broken="drop")
    assert result.num_rows_dropped == 2
    assert "key" not in {column.name for column in result.features}


def test_limits_on_a_column_of_words_are_an_error(table, run_data):
    with pytest.raises(DataError, match="'colour' holds no numbers"):
        run_data([table()], columns={"colour": {"max": 3}}, subject="person")


def test_nothing_left_is_an_error_even_when_dropping(table, run_data):
    with pytest.raises(DataError, match="120 of 120 rows break"):
        run_data([table()], columns={"person": {"values": ["nobody"]}}, subject="person", on_broken="drop")


@pytest.mark.parametrize(
    ("labels", "task", "what"),
    [
        (lambda _: "same", "classification", "nothing to learn"),
        (lambda i: "rare" if i < 9 else f"k{i % 2}", "classification", "1 of 3 classes"),
        (lambda i: f"k{i}", "classification", "120 different classes"),
        (lambda _: "5", "regression", "nothing to learn"),
        (lambda i: f"k{i}", "regression", "break the contract"),
    ],
)
def test_a_target_that_cannot_be_learnt_is_an_error(table, run_data, labels, task, what):
    path = table(*[(row, "y", labels(row - 1)) for row in range(1, 121)])
    with pytest.raises(DataError, match=what):
        run_data([path], task=task, subject="person")


@pytest.mark.parametrize(
    ("labels", "categories"),
    [
        (["0", "1"], ("0", "1")),
        (["1.0", "2.0"], ("1", "2")),
        (["True", "false"], ("false", "true")),
        (["1", "x"], ("1", "x")),
        (["0.5", "1"], ("0.5", "1.0")),
    ],
)
def test_classes_are_readable_words_in_order(table, run_data, labels, categories):
    path = table(*[(row, "y", labels[row % 2]) for row in range(1, 121)])
    result = run_data([path], subject="person")
    assert result.target.categories == categories
    assert result.target.kind == "category"


def test_a_sensitive_column_of_many_values_must_be_put_into_bands(table, run_data):
    with pytest.raises(DataError, match="'x' has") as caught:
        run_data([table()], subject="person", sensitive=["x"])
    assert "bands" in caught.value.hint
