from __future__ import annotations

import polars as pl
import pytest

from datahall.core.canonical import digest_bytes
from datahall.data.examples import EXAMPLES
from datahall.data.guess import guess
from datahall.evaluate import CLAIMS
from datahall.spec.kinds import Kinds
from datahall.spec.load import load
from datahall.train import MODELS

ROWS = {"digits": 1_797, "lending": 9_000, "tumours": 569}


@pytest.fixture(params=EXAMPLES.names)
def written(request, tmp_path):
    template = EXAMPLES.load(request.param)
    table = template.write(tmp_path)
    file = tmp_path / "app.yaml"
    file.write_text(template.APP_FILE, encoding="utf-8")
    return request.param, table, load(file, Kinds(MODELS, CLAIMS))


def test_a_template_is_a_table_and_a_file_that_fit(written, run_data):
    name, table, loaded = written
    assert loaded.source_paths == (table,)
    section = loaded.spec.data.model_dump(mode="json", exclude={"sources"})
    result = run_data([table], task=loaded.spec.task, **section)
    assert (result.num_rows, result.num_rows_dropped) == (ROWS[name], 0)
    assert min(result.split_rows.values()) > 100
    assert all(claim.reason for claim in loaded.spec.evaluate.claims)


def test_a_template_could_have_been_guessed(written):
    _, table, loaded = written
    found = guess(table)
    data = loaded.spec.data
    assert (found.target, found.task, found.subject) == (data.target, loaded.spec.task, data.subject)
    assert set(found.sensitive) <= set(data.sensitive)


@pytest.fixture
def lending(tmp_path):
    return pl.read_csv(EXAMPLES.load("lending").write(tmp_path))


def test_the_lending_table_is_the_same_each_time(lending, tmp_path):
    (tmp_path / "again").mkdir()
    again = EXAMPLES.load("lending").write(tmp_path / "again")
    assert digest_bytes(again.read_bytes()) == digest_bytes((tmp_path / "lending.csv").read_bytes())
    assert lending.height > lending["applicant_id"].n_unique() == 6_500


def test_the_lending_table_is_biased_through_its_proxy_alone(lending):
    def gap(frame):
        rates = frame.group_by("sex").agg((pl.col("approved") == "yes").mean().alias("rate"))["rate"]
        return rates.max() - rates.min()

    def approvals(**equals):
        return (lending.filter(**equals)["approved"] == "yes").mean()

    assert gap(lending) > 0.2
    # within those without a career break, and within those with one, the clerks treated both alike
    assert abs(approvals(sex="male", career_break_months=0) - approvals(sex="female", career_break_months=0)) < 0.05
    assert gap(lending.filter(pl.col("career_break_months") > 0)) < 0.06
