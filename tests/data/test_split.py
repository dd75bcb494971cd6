from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datahall.data.split import assign, order, pseudonyms, units_of_rows, units_of_subjects

FRAMES = st.lists(
    st.tuples(st.one_of(st.none(), st.floats(allow_nan=False)), st.sampled_from([None, "a", "b"]), st.booleans()),
    min_size=1,
    max_size=40,
)


def frame_of(rows):
    schema = {"x": pl.Float64, "c": pl.String, "b": pl.Boolean}
    return pl.DataFrame([list(column) for column in zip(*rows, strict=True)], schema=schema)


def parts_of(frame, seed=0):
    return assign(units_of_rows(frame, seed), holdout=0.3, validation=0.2)


@given(FRAMES, st.randoms(use_true_random=False))
def test_a_row_keeps_its_part_whatever_the_order_and_whatever_is_added(rows, random):
    before = dict(zip(rows, parts_of(frame_of(rows)), strict=True))
    more = [*rows, (0.5, "new", True), *rows[:3]]
    random.shuffle(more)
    after = dict(zip(more, parts_of(frame_of(more)), strict=True))
    assert all(after[row] == part for row, part in before.items())


@given(FRAMES)
def test_equal_rows_are_never_on_both_sides(rows):
    doubled = rows + rows
    parts = parts_of(frame_of(doubled))
    assert (parts[: len(rows)] == parts[len(rows) :]).all()


@given(FRAMES)
def test_the_order_of_columns_changes_nothing(rows):
    frame = frame_of(rows)
    assert (parts_of(frame) == parts_of(frame.select("b", "x", "c"))).all()


@given(st.lists(st.sampled_from([f"p{i}" for i in range(12)]), min_size=1, max_size=60), st.integers(0, 2**32 - 1))
def test_a_person_is_never_on_both_sides(persons, seed):
    parts = assign(units_of_subjects(pl.Series(persons), seed), holdout=0.3, validation=0.2)
    seen: dict[str, set[int]] = {}
    for person, part in zip(persons, parts, strict=True):
        seen.setdefault(person, set()).add(int(part))
    assert all(len(each) == 1 for each in seen.values())


@given(FRAMES, st.randoms(use_true_random=False))
def test_the_written_order_depends_on_the_rows_alone(rows, random):
    shuffled = random.sample(rows, len(rows))
    first, second = frame_of(rows), frame_of(shuffled)
    in_order = [frame[order(units_of_rows(frame, 0), frame)] for frame in (first, second)]
    assert in_order[0].equals(in_order[1])


def test_a_split_by_place_would_break_the_laws():
    rows = [(float(i % 10), "a", True) for i in range(40)]
    by_place = units_of_rows(pl.DataFrame({"place": range(40)}), 0)
    parts = assign(by_place, holdout=0.3, validation=0.2)
    assert any(len({int(parts[i]) for i in range(40) if rows[i] == row}) > 1 for row in rows)


def test_missing_and_zero_and_text_are_told_apart():
    rows = [(None, None, True), (0.0, None, True), (None, "a", True), (None, None, False), (0.0, "a", True)]
    names = units_of_rows(frame_of(rows), 0).names
    assert len({tuple(name) for name in names}) == len(rows)


@pytest.mark.parametrize("seed", range(5))
def test_shares_are_met_within_chance(seed):
    units = units_of_subjects(pl.Series([f"p{i}" for i in range(20_000)]), seed)
    shares = np.bincount(assign(units, holdout=0.3, validation=0.2), minlength=3) / 20_000
    np.testing.assert_allclose(shares, [0.5, 0.2, 0.3], atol=4 * 0.5 / np.sqrt(20_000))


def test_seeds_divide_independently():
    people = pl.Series([f"p{i}" for i in range(20_000)])
    first, second = (assign(units_of_subjects(people, seed), holdout=0.5, validation=0.2) for seed in (0, 1))
    both = ((first == 2) & (second == 2)).mean()
    assert both == pytest.approx(0.25, abs=0.02)


@given(st.lists(st.text(min_size=1, max_size=4), min_size=2, max_size=20), st.randoms(use_true_random=False))
def test_pseudonyms_follow_the_persons_not_their_order(persons, random):
    persons = [person.encode("utf-8", "replace").decode() for person in persons]
    shuffled = random.sample(persons, len(persons))
    first = dict(zip(persons, pseudonyms(pl.Series(persons), 0), strict=True))
    second = dict(zip(shuffled, pseudonyms(pl.Series(shuffled), 0), strict=True))
    assert first == second
    assert len(set(first.values())) == len(set(persons))
    other = dict(zip(persons, pseudonyms(pl.Series(persons), 1), strict=True))
    grown = [*persons, "somebody else"]
    later = dict(zip(grown, pseudonyms(pl.Series(grown), 0), strict=True))
    assert not set(first.values()) & (set(other.values()) | set(later.values()))


@pytest.fixture(scope="module")
def makers(csv_table, write_csv, new_shelf, run_with):
    return csv_table, write_csv, new_shelf, run_with


@settings(max_examples=15, deadline=None)
@given(
    st.integers(20, 260), st.randoms(use_true_random=False), st.sampled_from([{}, {"subject": "person"}]), st.booleans()
)
def test_the_same_rows_make_the_same_bytes(makers, cut, random, whose, backwards):
    csv_table, write_csv, new_shelf, run_with = makers
    rows = csv_table(280, seed=3)
    header, body = rows[0], rows[1:]
    if not whose:
        header, body = [header[0], header[4]], [[row[0] or f"{i}.5", row[4]] for i, row in enumerate(body)]
    shuffled = random.sample(body, len(body))
    columns = list(range(len(header)))[:: -1 if backwards else 1]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = write_csv(folder / "whole.csv", [header, *body])
        parts = [
            write_csv(folder / "one.csv", [header, *shuffled[:cut]]),
            write_csv(folder / "two.csv", [[row[i] for i in columns] for row in (header, *shuffled[cut:])]),
        ]
        first, second = run_with(new_shelf(), [whole], **whose), run_with(new_shelf(), parts, **whose)
    assert [grant.digest for grant in first.splits.values()] == [grant.digest for grant in second.splits.values()]
    assert first.statistics.digest == second.statistics.digest
    assert first.features == second.features
