from __future__ import annotations

import datetime as dt
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datahall.core.errors import DataError
from datahall.data.guess import Guess, app_file, guess
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
        ({"label": [1] * NUM, "a": numbers()}, "a", "regression"),  # one label only is no target
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
    found = Guess(target, "regression", subject, (sensitive,), tuple(ignore), reasons)
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
