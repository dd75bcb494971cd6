from __future__ import annotations

import datetime as dt
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datahall.core.errors import DataError
from datahall.data.draft import app_file, app_name
from datahall.data.guess import Guess, guess
from datahall.data.rehearse import rehearse
from datahall.evaluate import CLAIMS
from datahall.spec.kinds import Kinds
from datahall.spec.load import parse
from datahall.train import MODELS

NUM = 200


def save(folder, **columns):
    path = folder / "my table.csv"
    pl.DataFrame(columns).write_csv(path)
    return path


def numbers(step=1.0):
    return [i * step % 37 + 0.5 for i in range(NUM)]


def test_names_tell_target_subject_and_groups(tmp_path):
    path = save(
        tmp_path,
        churn=["yes", "no"] * (NUM // 2),
        customer_id=[f"c{i // 2}" for i in range(NUM)],
        Sex=["f", "m"] * (NUM // 2),
        income=numbers(),
        rowNumber=list(range(NUM)),
        note=[f"he said {i}" for i in range(NUM)],
        country=["X"] * NUM,
        last=numbers(2),
    )
    found = guess(path)
    assert (found.target, found.task, found.subject) == ("churn", "classification", "customer_id")
    assert (found.sensitive, found.ignore) == (("Sex",), ("rowNumber", "note", "country"))
    for name in ("churn", "customer_id", "Sex", "rowNumber", "note", "country"):
        assert any(name in reason and "because" in reason for reason in found.reasons)


@pytest.mark.parametrize(
    ("columns", "target", "task"),
    [
        ({"y": numbers(), "x": numbers(2)}, "y", "regression"),
        (
            {"x": numbers(2), "house_price": list(range(0, NUM * 1000, 1000)), "z": numbers(3)},
            "house_price",
            "regression",
        ),
        ({"x": numbers(2), "digit": [i % 10 for i in range(NUM)]}, "digit", "classification"),
        ({"a": numbers(), "b": [str(i % 3) for i in range(NUM)]}, "b", "classification"),
        ({"label": [1] * NUM, "b": numbers(2), "a": numbers()}, "a", "regression"),  # one label only is no target
        ({"is_fraud": [i % 7 == 0 for i in range(NUM)], "a": numbers()}, "is_fraud", "classification"),
    ],
)
def test_the_task_follows_from_the_target(tmp_path, columns, target, task):
    found = guess(save(tmp_path, **columns))
    assert (found.target, found.task) == (target, task)


def test_an_id_that_comes_back_is_a_subject_and_one_that_does_not_is_ignored(tmp_path):
    shop = [f"s{i % 40}" for i in range(NUM)]
    order = [f"o{i}" for i in range(NUM)]
    found = guess(save(tmp_path, shop_id=shop, order_id=order, a=numbers(), y=[i % 2 for i in range(NUM)]))
    assert (found.subject, found.ignore) == ("shop_id", ("order_id",))


def test_a_sensitive_number_is_pointed_out_but_not_taken(tmp_path):
    found = guess(save(tmp_path, age=[20 + i % 60 for i in range(NUM)], y=[i % 2 for i in range(NUM)]))
    assert found.sensitive == ()
    assert any("age sounds sensitive" in reason for reason in found.reasons)


def test_one_column_is_too_few(tmp_path):
    with pytest.raises(DataError, match="one column only"):
        guess(save(tmp_path, y=[1, 2]))


NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12).filter(str.strip)


@settings(max_examples=40, deadline=None)
@given(st.lists(NAMES, min_size=3, max_size=6, unique=True), NAMES)
def test_any_names_make_an_application_file_that_can_be_read(names, stem):
    target, subject, sensitive, *ignore = names
    reasons = [f"target: {target}, because of its name"]
    found = Guess(target, "regression", subject, (sensitive,), tuple(ignore), reasons=reasons)
    text = app_file(Path("/home") / f"{stem.replace('/', '')}.csv", Path("/home/app"), found)
    data = parse(text, Kinds(MODELS, CLAIMS)).spec.data
    assert (data.target, data.subject, data.sensitive, data.ignore) == (target, subject, (sensitive,), tuple(ignore))
    assert Path("/home/app") / data.sources[0].path


def test_a_guessed_application_runs(tmp_path, csv_table, write_csv, run_data):
    path = write_csv(tmp_path / "a.csv", csv_table(300))
    found = guess(path)
    assert (found.target, found.task, found.subject) == ("y", "classification", "person")
    result = run_data([path], target=found.target, task=found.task, subject=found.subject, ignore=list(found.ignore))
    assert result.num_rows == 300


def test_a_column_of_dates_is_ignored_with_its_reason(tmp_path):
    path = tmp_path / "a.parquet"
    days = [dt.date(2024, 1, 1) + dt.timedelta(days=i) for i in range(NUM)]
    pl.DataFrame({"day": days, "a": numbers(), "y": numbers(2)}).write_parquet(path)
    found = guess(path)
    assert (found.target, found.ignore) == ("y", ("day",))
    assert any("dates" in reason for reason in found.reasons)


def lines_of(tmp_path, head, *rows):
    path = tmp_path / "mine.csv"
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


def rehearsed(path, found):
    """What a run would make of the rows, under the file that `new` writes."""
    folder = path.parent / "app"
    folder.mkdir()
    loaded = parse(app_file(path, folder, found), Kinds(MODELS, CLAIMS), folder=folder)
    return rehearse(loaded.source_paths, loaded.spec.data, loaded.spec.task)


def notes_of(found):
    return [reason for reason in found.reasons if reason.startswith("note: ")]


def test_a_table_without_any_usable_column_is_refused_with_each_reason(tmp_path):
    rows = [f'2024-01-{i % 28 + 1:02},Person {i},"{i + 1},234.5{i % 10}",{i % 2}' for i in range(NUM)]
    path = lines_of(tmp_path, "day,name,amount,y", *rows)
    with pytest.raises(DataError, match="beside y no column is left") as caught:
        guess(path)
    for words in (
        "day, because it holds dates",
        "name, because it looks like free text",
        "amount, because it holds num",
    ):
        assert words in caught.value.hint
    assert "write numbers plainly" in caught.value.hint


@pytest.mark.parametrize("hole", ["", "?", "NA"])
def test_rows_without_a_target_are_dropped_and_it_is_said(tmp_path, hole):
    path = lines_of(tmp_path, "a,b,y", *[f"{i % 37}.5,{i % 11},{hole if i % 20 == 3 else i * 1.5}" for i in range(400)])
    found = guess(path)
    assert found.on_broken == "drop"
    assert "on_broken: drop, because a run would stop at 20 of 400 rows: y is missing in 20" in found.reasons
    text = app_file(path, tmp_path / "app", found)
    assert "  # drop, because a run would stop at 20 of 400 rows" in text
    assert rehearsed(path, found).num_dropped == 20


def test_a_column_with_many_misfits_is_left_out_rather_than_its_rows(tmp_path):
    rows = [
        f"{'some words' if i % 4 == 0 else i % 37 + 0.5},{i % 11},{'much' if i == 7 else i % 90},{i % 2}"
        for i in range(400)
    ]
    path = lines_of(tmp_path, "odd,b,few,y", *rows)
    found = guess(path)
    assert found.ignore == ("odd",)
    assert any("odd, because it has 100 values that are no number" in reason for reason in found.reasons)
    assert any("few is not a number in 1" in reason for reason in found.reasons)
    assert rehearsed(path, found).num_rows == 399


def test_few_rows_and_rare_classes_are_noted(tmp_path):
    few = guess(lines_of(tmp_path, "a,b,price", *[f"{i % 7}.5,{i % 5},{i * 3 + 0.5}" for i in range(20)]))
    assert notes_of(few) == ["note: 20 rows are few: the gate will hardly be sure of anything, and say so"]
    rare = lines_of(
        tmp_path, "a,b,label", *[f"{i % 37}.5,{i % 11},{'rare' if i < 4 else 'xy'[i % 2]}" for i in range(400)]
    )
    (note,) = notes_of(guess(rare))
    assert "a run would stop at these rows: 1 of 3 classes of 'label' have fewer than 10 rows" in note
    assert "bring more rows, or merge or leave out rare classes: 'rare' (4)" in note
    assert f"# {note.removeprefix('note: ')}" in app_file(rare, tmp_path / "app", guess(rare))


@pytest.mark.parametrize("first", ["5.1,3.5,setosa", "5.1,5.1,setosa", "4.9,3,virginica"])
def test_a_file_without_a_line_of_names_is_refused(tmp_path, first):
    rows = [f"{i % 37}.5,{i % 11},{('setosa', 'virginica')[i % 2]}" for i in range(NUM)]
    with pytest.raises(DataError, match="first line is a row like the others") as caught:
        guess(lines_of(tmp_path, first, *rows))
    assert (caught.value.where, caught.value.hint) == (
        "mine.csv:1",
        "put a line of names before it, such as: column1,column2,column3",
    )


def test_a_first_line_that_may_be_a_row_is_doubted(tmp_path):
    rows = [f"{i % 37}.5,{i % 11},Name {i % 50},{i % 2}" for i in range(NUM)]
    (note,) = notes_of(guess(lines_of(tmp_path, "7.5,3,Ann Miller,1", *rows)))
    assert note.startswith("note: the first line may be a row and not names (7.5, 3, 1)")


@pytest.mark.parametrize("head", ["country,2019,2020,y", "0,1,2,3", "a,b,c,y", "class,2021,2022,2023"])
def test_names_that_count_up_are_names(tmp_path, head):
    rows = [f"{'abc'[i % 3]},{i % 37}.5,{i % 11},{i % 2}" for i in range(NUM)]
    assert notes_of(guess(lines_of(tmp_path, head, *rows))) == []


def test_a_number_of_every_row_is_no_target_where_another_column_is(tmp_path):
    found = guess(lines_of(tmp_path, "a,worth,row_id", *[f"{i % 37}.5,{i % 91},{i}" for i in range(NUM)]))
    assert (found.target, found.ignore) == ("worth", ("row_id",))


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("Kredit Büro", "kredit-buro"),
        ("Ærø—Ça va!", "r-ca-va"),
        ("2024", "app-2024"),
        ("信用", "app"),
        ("a" * 99, "a" * 63),
    ],
)
def test_an_application_is_named_after_its_folder(tmp_path, folder, name):
    found = Guess("y", "regression", reasons=[])
    spec = parse(app_file(tmp_path / "Other.csv", tmp_path / folder, found), Kinds(MODELS, CLAIMS)).spec
    assert spec.name == app_name(folder) == name


def test_a_file_that_is_not_there_is_named_by_its_whole_path(tmp_path):
    with pytest.raises(DataError) as caught:
        guess(tmp_path / "nope.csv")
    assert caught.value.hint == f"looked for it at {tmp_path / 'nope.csv'}"
