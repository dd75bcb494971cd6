"""A good file gives the application with every default filled in."""

from __future__ import annotations

import json

import pytest

from datahall.core.errors import DataError, SpecError
from datahall.spec.kinds import Kinds
from datahall.spec.load import load, parse
from datahall.spec.policy import policy_of
from datahall.spec.schema import DataSection

FULL = """\
datahall: 1
name: loans
team: risk
task: classification
data:
  sources:
    - 2024.csv
    - {path: old/2023.dat, format: parquet}
  target: repaid
  subject: person
  sensitive: [sex, age_group]
  ignore: [row_id]
  columns:
    income: {kind: number, min: 0, nullable: false}
    sex: {kind: category, values: [f, m]}
    2020: {unique: true}
  on_broken: drop
  split: {holdout: 0.25, validation: 0.25, seed: 7}
train:
  candidates:
    small: {model: logistic, c: 0.1, search: none}
    big: {model: forest, depth: 4, search: {trials: 9, timeout_s: 30}}
  seeds: 3
  seed: 11
  metric: roc_auc
  engine: sklearn
  threshold: 0.4
evaluate:
  claims:
    - {kind: accuracy, at_least: 0.8, reason: the branch decides at 0.78}
    - {kind: accuracy, metric: f1, at_least: 0, confidence: 0.9, reason: reported, resamples: 500}
    - {kind: fairness, at_most: 0.1, reason: four fifths}
    - {kind: fairness, metric: ratio, column: sex, at_least: 0.8, reason: law}
    - {kind: improvement, at_least: 0, reason: never worse}
    - {kind: latency, at_most: 50, reason: people wait}
  evidence_days: 7
  node_class: big
serve:
  replicas: 2
  protocols: [predict]
  limits: {rate_per_s: 50, burst: 10, concurrency: 4}
  cache: {seconds: 2}
  rollout: {strategy: replace, drain_seconds: 3}
"""


def test_eight_lines_suffice(minimal, kinds):
    spec = parse(minimal, kinds).spec
    assert spec.team == "main"
    assert {name: item.model for name, item in spec.train.candidates.items()} == {
        "forest": "forest",
        "logistic": "logistic",
    }
    assert spec.train.candidates["forest"].settings == {"trees": 50}
    assert spec.train.candidates["forest"].search.trials == 5
    assert [(c.name, c.direction, c.bound, c.reason) for c in spec.evaluate.claims] == [
        ("accuracy", "at_least", 0.7, "a start")
    ]
    assert (spec.serve.replicas, spec.serve.protocols, spec.search_metric) == (1, ("v2", "predict"), "log_loss")


def test_defaults_follow_task_and_sensitive_columns(minimal, kinds):
    regression = parse(minimal.replace("classification", "regression"), kinds).spec
    assert list(regression.train.candidates) == ["forest"]
    assert [(c.metric, c.direction) for c in regression.evaluate.claims] == [("mae", "at_most")]
    fair = parse(minimal + "  sensitive: [sex, age]\n", kinds).spec
    assert [claim.name for claim in fair.evaluate.claims] == ["accuracy", "fairness/sex", "fairness/age"]


def test_a_claim_without_bound_takes_what_the_default_demands(minimal, kinds):
    def claims(text, task="classification"):
        text = minimal.replace("classification", task) + f"evaluate: {{claims: [{text}]}}"
        return [(c.name, c.bound, c.reason) for c in parse(text, kinds).spec.evaluate.claims]

    assert claims("{kind: accuracy}") == [("accuracy", 0.7, "a start")]
    assert claims("{kind: accuracy, reason: mine}") == [("accuracy", 0.7, "mine")]
    assert claims("{kind: accuracy}", "regression") == [("accuracy/mae", 1e9, "a start")]
    assert claims("{kind: accuracy, metric: mae}", "regression") == [("accuracy/mae", 1e9, "a start")]
    assert claims("{kind: accuracy, at_most: 3, reason: r}", "regression") == [("accuracy", 3, "r")]


def test_every_key_reaches_the_application(kinds):
    spec = parse(FULL, kinds).spec
    assert [(s.path, s.format) for s in spec.data.sources] == [("2024.csv", "csv"), ("old/2023.dat", "parquet")]
    assert spec.data.columns["2020"].unique
    assert spec.data.columns["sex"].values == ("f", "m")
    assert spec.train.candidates["small"].search is None
    assert spec.train.candidates["big"].settings == {"depth": 4}, "a search may vary what the file does not name"
    assert [claim.name for claim in spec.evaluate.claims] == [
        "accuracy",
        "accuracy/f1",
        "fairness/sex",
        "fairness/age_group",
        "fairness/ratio/sex",
        "improvement",
        "latency",
    ]
    assert spec.evaluate.claims[1].settings == {"resamples": 500, "average": None}
    assert spec.evaluate.claims[3].settings == {"column": "age_group"}
    limits = spec.serve.limits
    assert (limits.rate_per_s, limits.burst, limits.concurrency, spec.serve.cache.seconds) == (50, 10, 4, 2)
    assert (spec.train.threshold, spec.serve.rollout.drain_seconds, spec.evaluate.node_class) == (0.4, 3, "big")


def test_a_section_survives_json(kinds):
    data = parse(FULL, kinds).spec.data
    assert DataSection.model_validate(json.loads(json.dumps(data.model_dump(mode="json")))) == data


def test_features_hide_target_subject_ignored_and_sensitive(kinds):
    data = parse(FULL, kinds).spec.data
    columns = ("row_id", "income", "person", "sex", "repaid", "age_group", "2020")
    assert data.features_of(columns) == ("income", "2020")
    seen = data.model_copy(update={"use_sensitive": True})
    assert seen.features_of(columns) == ("income", "sex", "age_group", "2020")


def test_policy_has_a_claim_each_and_an_id_of_its_content(kinds, minimal):
    policy = policy_of(parse(FULL, kinds).spec)
    assert [claim.name for claim in policy.claims] == sorted(claim.name for claim in policy.claims)
    assert (policy.evidence_days, policy.node_class, len(policy.claims)) == (7, "big", 7)
    assert policy.id.startswith("pol_")
    again = policy_of(parse(FULL.replace("team: risk", "team: other").replace("seeds: 3", "seeds: 4"), kinds).spec)
    assert again == policy
    assert policy_of(parse(FULL.replace("0.78", "0.79"), kinds).spec).id != policy.id


def test_order_layout_and_comments_mean_nothing(kinds, minimal):
    head, _, data = minimal.partition("data:")
    shuffled = f"# hello\ndata:{data}\n" + "\n".join(reversed(head.splitlines())) + "\n"
    quoted = minimal.replace("[tumours.csv]", '\n  - path: "tumours.csv"').replace("\n", "\r\n")
    digests = {parse(text, kinds).spec.digest() for text in (minimal, shuffled, quoted, "\ufeff" + minimal)}
    assert len(digests) == 1


def test_a_file_and_its_sources(tmp_path, kinds: Kinds, minimal):
    path = tmp_path / "app.yaml"
    path.write_text(minimal)
    loaded = load(path, kinds)
    assert loaded.text == minimal
    assert loaded.source_paths == (tmp_path / "tumours.csv",)
    with pytest.raises(SpecError) as caught:
        load(path, kinds, columns_of=lambda *_: ("a", "diagnosis"))
    (problem,) = caught.value.problems
    assert str(problem).startswith(f"{path}:5:13: data.sources[0]: there is no file {tmp_path}/tumours.csv")
    (tmp_path / "tumours.csv").write_text("a,diagnosis\n")
    asked = []
    load(path, kinds, columns_of=lambda *source: asked.append(source) or ("a", "diagnosis"))
    assert asked == [(tmp_path / "tumours.csv", "csv")]


@pytest.fixture
def check_columns(kinds, tmp_path):
    """The problems of an application whose sources are there and have these columns."""

    def check(text, columns):
        for name in ("tumours.csv", "2024.csv", "old/2023.dat"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        try:
            parse(text, kinds, folder=tmp_path, columns_of=lambda *_: columns)
        except SpecError as error:
            return error.problems
        return ()

    return check


def test_columns_that_the_table_lacks(check_columns):
    text = FULL.replace("depth: 4", "depth: 4, columns: [incom, person]")
    columns = ("rowid", "income", "person", "gender", "sex", "age_group", "repayd", "2020")
    found = [(p.line, p.column, p.key, p.nearest) for p in check_columns(text, columns)]
    assert found == [
        (9, 11, "data.target", "repayd"),
        (12, 12, "data.ignore[0]", "rowid"),
        (22, 46, "train.candidates.big.columns[0]", "income"),
        (22, 53, "train.candidates.big.columns[1]", ""),
    ]
    assert check_columns(FULL, ("row_id", "income", "person", "sex", "age_group", "repaid", "2020")) == ()
    (problem,) = check_columns(FULL, ("row_id", "person", "sex", "age_group", "repaid", "2020"))
    assert (problem.line, problem.column, problem.key) == (14, 5, "data.columns.income")


def test_a_table_without_features(check_columns, minimal):
    (problem,) = check_columns(minimal, ("diagnosis",))
    assert (problem.line, problem.key) == (4, "data")


def test_a_missing_extra_names_its_install_line(kinds, minimal):
    with pytest.raises(SpecError) as caught:
        parse(minimal + "train: {candidates: {d: {model: deep}}}", kinds)
    (problem,) = caught.value.problems
    assert (problem.line, problem.column, problem.key) == (7, 33, "train.candidates.d.model")
    assert "pip install 'datahall[deep]'" in problem.expected


@pytest.mark.parametrize(("missing", "refused"), [(("torch", "torch"), True), (None, False)])
def test_a_model_whose_package_is_missing_is_refused_before_anything_runs(
    kinds, minimal, monkeypatch, missing, refused
):
    monkeypatch.setattr(kinds.models.load("forest"), "missing", lambda: missing)
    problems = ()
    try:
        parse(minimal + "train: {candidates: {d: {model: forest}}}", kinds)
    except SpecError as error:
        problems = error.problems
    assert [(problem.line, problem.key) for problem in problems] == [(7, "train.candidates.d.model")] * refused
    assert all("pip install 'datahall[torch]'" in problem.expected for problem in problems)


ALL_AT_ONCE = """\
datahall: 1
name: loans
task: classification
data:
  sources: [here.csv, gone.csv, folder.csv, broken.csv]
  target: repayd
  ignore: [row, income]
  columns:
    income: {min: 9, max: 3}
    agee: {min: 0}
train:
  candidates:
    small: {model: forst, columns: [incom]}
serve: {replicas: 0}
"""


def columns_of(path, form):
    if path.name == "broken.csv":
        raise DataError("two columns are called 'a'", where=path.name, hint="rename one of them in the file")
    return ("income", "age", "row_id", "repaid")


def test_problems_of_keys_files_and_columns_are_told_together_in_the_order_of_the_file(kinds, tmp_path):
    (tmp_path / "here.csv").touch()
    (tmp_path / "broken.csv").touch()
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(SpecError) as caught:
        parse(ALL_AT_ONCE, kinds, folder=tmp_path, columns_of=columns_of)
    found = [f"{p.line}:{p.column} {p.key} | {p.nearest} | {p.what}" for p in caught.value.problems]
    assert found == [
        f"5:23 data.sources[1] |  | there is no file {tmp_path}/gone.csv",
        "5:33 data.sources[2] |  | is a directory",
        "5:45 data.sources[3] |  | cannot be used: broken.csv: two columns are called 'a' (rename one of them in the file)",
        "6:11 data.target | repaid | there is no column 'repayd'",
        "7:12 data.ignore[0] | row_id | there is no column 'row'",
        "9:19 data.columns.income.min |  | is 9, more than max (3)",
        "10:5 data.columns.agee | age | there is no column 'agee'",
        "13:20 train.candidates.small.model | forest | there is no model 'forst'",
        "13:37 train.candidates.small.columns[0] |  | there is no column 'incom'",
        "14:19 serve.replicas |  | is 0",
    ]


def test_a_source_that_cannot_be_read_is_its_own_error_where_nothing_else_is_wrong(kinds, minimal, tmp_path):
    (tmp_path / "broken.csv").touch()
    with pytest.raises(DataError, match="two columns are called 'a'"):
        parse(minimal.replace("tumours", "broken"), kinds, folder=tmp_path, columns_of=columns_of)


@pytest.mark.parametrize("path", ["n" * 300 + ".csv", "a/" * 2000 + "b.csv", "/dev/null.csv/x.csv", "/dev/zero"])
def test_a_path_that_no_file_can_have_is_a_problem(kinds, minimal, path):
    text = minimal.replace("[tumours.csv]", f"[{{path: {path}, format: csv}}]")
    with pytest.raises(SpecError) as caught:
        parse(text, kinds, columns_of=columns_of)
    assert [(p.line, p.key) for p in caught.value.problems] == [(5, "data.sources[0]")]
