"""Verbs that need no hall: what they check, and the way on that they name."""

import pytest
from typer.testing import CliRunner

from datahall.app.cli.verbs import check, new, predict
from datahall.app.kinds import KINDS
from datahall.app.planning import read_app
from datahall.core.errors import DataError, SpecError, UserError

HEAD = "datahall: 1\nname: loans\ntask: classification\ndata:\n  sources: [loans.csv]\n  target: paid\n"


@pytest.fixture
def loans(tmp_path):
    """An application file over a good table; its text can be changed."""
    rows = [f"{i % 293}.5,{'abc'[i % 3]},{['no', 'yes'][i % 2]}" for i in range(300)]
    (tmp_path / "loans.csv").write_text("income,city,paid\n" + "\n".join(rows) + "\n")
    file = tmp_path / "app.yaml"
    file.write_text(HEAD)
    return file


def do(verb, *arguments):
    result = CliRunner().invoke(verb.command, [str(argument) for argument in arguments])
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_check_looks_at_every_row(loans):
    assert "nothing is wrong with it, nor with its 300 rows" in do(check, loans)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (",yes\n", ",\n", "150 of 300 rows break the contract"),
        (",yes\n", ",no\n", "every row has the same 'paid'"),
        ("\n3.5,a,yes\n", "\n3.5,a,maybe\n", "1 of 3 classes of 'paid' have fewer than 10 rows"),
    ],
)
def test_check_finds_what_a_run_would_stop_at(loans, old, new, words):
    table = loans.with_name("loans.csv")
    table.write_text(table.read_text().replace(old, new))
    with pytest.raises(DataError, match=words):
        do(check, loans)


def test_check_says_how_far_it_looked(loans, monkeypatch):
    monkeypatch.setattr(check, "MAX_CHECKED_BYTES", 100)
    said = do(check, loans)
    assert "the head of each table (a run checks every row)" in said
    assert "300 rows" not in said


def test_an_impossible_bound_hides_neither_a_missing_file_nor_a_wrong_column(loans):
    loans.write_text(
        HEAD.replace("[loans.csv]", "[loans.csv, more.csv]").replace("paid", "payd")
        + "  ignore: [nope]\n  columns: {income: {min: 9, max: 3}}\n"
    )
    with pytest.raises(SpecError) as caught:
        read_app(loans, KINDS)
    assert [(problem.line, problem.key) for problem in caught.value.problems] == [
        (5, "data.sources[1]"),
        (6, "data.target"),
        (7, "data.ignore[0]"),
        (8, "data.columns.income.min"),
    ]


def test_new_names_the_application_after_its_folder_and_says_so(loans, tmp_path):
    folder = tmp_path / "Kredit Büro"
    said = do(new, folder, "--from", loans.with_name("loans.csv"))
    assert "name: kredit-buro, after the folder 'Kredit Büro'" in said
    assert "\nname: kredit-buro\n" in (folder / "app.yaml").read_text()
    assert "its 300 rows" in do(check, folder / "app.yaml")


def test_new_over_a_file_that_is_not_there_says_where_it_looked(tmp_path):
    with pytest.raises(DataError) as caught:
        do(new, tmp_path / "a", "--from", tmp_path / "nope.csv")
    assert caught.value.hint == f"looked for it at {tmp_path / 'nope.csv'}"
    assert not (tmp_path / "a").exists()


def test_rows_that_are_no_json_are_answered_with_the_shape(loans):
    with pytest.raises(UserError, match="this is not JSON") as caught:
        predict._rows([], loans.with_name("loans.csv"))
    assert '{"rows": [{"column": value, ...}]}' in caught.value.hint
