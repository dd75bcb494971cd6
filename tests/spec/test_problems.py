"""Each mistake is named with its place, its key, what was expected and the nearest spelling."""

from __future__ import annotations

import pytest

from datahall.core.errors import SpecError
from datahall.spec.load import PROBLEM_LIMIT, parse

HEAD = "datahall: 1\nname: tumours\ntask: classification\ndata:\n  sources: [tumours.csv]\n  target: diagnosis\n"

# what is appended to HEAD (its line 7 on), then each problem as line:column key | nearest | words that it must say
APPENDED: dict[str, tuple[str, list[str]]] = {
    "unknown top key": ("srve: {}\n", ["7:1 srve | serve | is not a key"]),
    "unknown nested key": ("serve: {replica: 2}\n", ["7:9 serve.replica | replicas | is not a key"]),
    "unknown key far off": (
        "serve: {xyzzy: 2}\n",
        ["7:9 serve.xyzzy |  | one of: cache, limits, protocols, replicas, rollout"],
    ),
    "unknown deep key": (
        "serve: {rollout: {drain_second: 2}}\n",
        ["7:19 serve.rollout.drain_second | drain_seconds | is not a key"],
    ),
    "text for number": (
        'serve: {replicas: "2"}\n',
        ["7:19 serve.replicas |  | is the text '2'; expected a whole number"],
    ),
    "fraction for whole": ("serve: {replicas: 1.5}\n", ["7:19 serve.replicas |  | is 1.5; expected a whole number"]),
    "boolean for number": ("serve: {replicas: true}\n", ["7:19 serve.replicas |  | is true; expected a whole number"]),
    "number for text": ("team: 7\n", ['7:7 team |  | is 7; expected text; write "7" in quotes']),
    "text for boolean": ("  use_sensitive: yes\n", ["7:18 data.use_sensitive |  | expected true or false"]),
    "text for list": ("  ignore: id\n", ["7:11 data.ignore |  | is the text 'id'; expected a list"]),
    "list for section": ("serve: [1]\n", ["7:8 serve |  | is a list; expected keys with values"]),
    "number for section": (
        "serve: {limits: 5, cache: 600}\n",
        [
            "7:17 serve.limits |  | is 5; expected keys with values: burst, concurrency, rate_per_s",
            "7:27 serve.cache |  | is 600; expected keys with values: seconds",
        ],
    ),
    "empty section": ("serve:\n", ["7:1 serve |  | is empty; expected keys with values"]),
    "nested list as value": (
        "  columns:\n    a: {values: [[1], x]}\n",
        ["8:18 data.columns.a.values[0] |  | is a list; expected true or false or a whole number or a number or text"],
    ),
    "no rate": (
        "serve: {limits: {rate_per_s: 0}}\n",
        ["7:30 serve.limits.rate_per_s |  | is 0; expected more than 0"],
    ),
    "burst without a rate": (
        "serve: {limits: {burst: 3}}\n",
        ["7:17 serve.limits |  | has a burst without a rate; expected rate_per_s beside burst"],
    ),
    "cache for ever": (
        "serve: {cache: {seconds: 1e9}}\n",
        ["7:26 serve.cache.seconds |  | is 1000000000.0; expected at most 86400"],
    ),
    "limit": ("serve: {replicas: 0}\n", ["7:19 serve.replicas |  | is 0; expected at least 1"]),
    "other limit": ("serve: {replicas: 65}\n", ["7:19 serve.replicas |  | is 65; expected at most 64"]),
    "open limits": (
        "  split: {holdout: 1, validation: 0}\n",
        [
            "7:20 data.split.holdout |  | is 1; expected less than 1",
            "7:35 data.split.validation |  | is 0; expected more than 0",
        ],
    ),
    "choice": ("  on_broken: dorp\n", ["7:14 data.on_broken | drop | expected one of: stop, drop"]),
    "choice in list": (
        "serve: {protocols: [predct]}\n",
        ["7:21 serve.protocols[0] | predict | expected one of: v2, predict"],
    ),
    "empty list": ("serve: {protocols: []}\n", ["7:20 serve.protocols |  | is empty"]),
    "no claims": ("evaluate: {claims: []}\n", ["7:20 evaluate.claims |  | is empty; expected at least 1"]),
    "no candidates": ("train: {candidates: {}}\n", ["7:21 train.candidates |  | is empty; expected at least 1"]),
    "empty text": ("  subject: ''\n", ["7:12 data.subject |  | is empty; expected text"]),
    "holdout and validation": (
        "  split: {validation: 0.4, holdout: 0.6}\n",
        ["7:37 data.split.holdout |  | leave no rows to train on"],
    ),
    "validation beside the default": (
        "  split: {validation: 0.7}\n",
        ["7:23 data.split.validation |  | leave no rows"],
    ),
    "min above max": ("  columns: {a: {min: 3, max: 2}}\n", ["7:22 data.columns.a.min |  | more than max (2)"]),
    "range of a category": (
        "  columns: {a: {kind: category, max: 2}}\n",
        ["7:38 data.columns.a.max |  | is given for a category"],
    ),
    "values of a boolean": (
        "  columns: {a: {kind: boolean, values: [1]}}\n",
        ["7:40 data.columns.a.values |  | is given for a boolean"],
    ),
    "range beside values": (
        "  columns: {a: {min: 1, values: [1]}}\n",
        ["7:22 data.columns.a.min |  | is given beside values"],
    ),
    "text among numbers": (
        "  columns: {a: {kind: number, values: [1, b, true]}}\n",
        [
            "7:43 data.columns.a.values[1] |  | is the text 'b'; expected numbers",
            "7:46 data.columns.a.values[2] |  | is true",
        ],
    ),
    "value twice": ("  columns: {a: {values: [b, 1, b]}}\n", ["7:32 data.columns.a.values[2] |  | a second time"]),
    "column of two roles": (
        "  subject: diagnosis\n  sensitive: [a, b]\n  ignore: [a]\n",
        [
            "7:12 data.subject |  | 'diagnosis' already is data.target",
            "9:12 data.ignore[0] |  | 'a' already is data.sensitive",
        ],
    ),
    "column twice": ("  ignore: [a, b, a]\n", ["7:18 data.ignore[2] |  | names 'a' a second time"]),
    "protocol twice": ("serve: {protocols: [v2, v2]}\n", ["7:25 serve.protocols[1] |  | a second time"]),
    "unknown model": (
        "train: {candidates: {a: {model: forrest}}}\n",
        ["7:33 train.candidates.a.model | forest | no model"],
    ),
    "model of another task": (
        "train: {candidates: {a: {model: ridge}}}\n",
        ["7:33 train.candidates.a.model |  | 'ridge' is a model for regression; expected one of: forest, logistic"],
    ),
    "candidate without model": (
        "train:\n  candidates:\n    a: {depth: 3}\n",
        ["9:5 train.candidates.a.model |  | is missing; expected the kind of model"],
    ),
    "setting of another model": (
        "train: {candidates: {a: {model: logistic, depth: 3}}}\n",
        ["7:43 train.candidates.a.depth |  | is not a key; expected one of: c, model, search"],
    ),
    "setting misspelt and wrong": (
        "train: {candidates: {a: {model: forest, dept: 3, trees: 0}}}\n",
        [
            "7:41 train.candidates.a.dept | depth | is not a key",
            "7:57 train.candidates.a.trees |  | is 0; expected at least 1",
        ],
    ),
    "settings by our inner name": (
        "train: {candidates: {a: {model: forest, settings: {depth: 3}}}}\n",
        ["7:41 train.candidates.a.settings |  | is not a key"],
    ),
    "name of a candidate": (
        "train: {candidates: {A b: {model: forest}}}\n",
        ["7:22 train.candidates.A b |  | is not a name"],
    ),
    "candidate is text": (
        "train: {candidates: {a: forest}}\n",
        ["7:25 train.candidates.a |  | expected keys with values"],
    ),
    "candidate twice": (
        "train:\n  candidates:\n    a: {model: forest}\n    b: {model: forest}\n    a: {model: logistic, depht: 1}\n",
        ["11:5 train.candidates.a |  | stands here a second time; the first is at 9:5"],
    ),
    "search": (
        "train: {candidates: {a: {model: forest, search: {trial: 3}}}}\n",
        ["7:50 train.candidates.a.search.trial | trials | is not a key"],
    ),
    "search is text": (
        "train: {candidates: {a: {model: forest, search: nope}}}\n",
        ["7:49 train.candidates.a.search |  | is the text 'nope'"],
    ),
    "metric without a search": (
        "train: {metric: accuracy, candidates: {a: {model: forest, search: none}}}\n",
        ["7:17 train.metric |  | has no effect: no candidate searches"],
    ),
    "node class without latency": (
        "evaluate: {node_class: big, claims: [{kind: accuracy}]}\n",
        ["7:24 evaluate.node_class |  | has no effect: no claim measures latency; expected a claim of kind latency"],
    ),
    "node class beside a misspelt latency": (
        "evaluate: {node_class: big, claims: [{kind: latncy}]}\n",
        ["7:45 evaluate.claims[0].kind | latency | there is no claim 'latncy'"],
    ),
    "setting without meaning for the metric": (
        "evaluate: {claims: [{kind: accuracy, average: macro}]}\n",
        ["7:47 evaluate.claims[0].average |  | has no meaning for accuracy"],
    ),
    "search metric": ("train: {metric: acuracy}\n", ["7:17 train.metric | accuracy | for classification"]),
    "unknown claim": (
        "evaluate: {claims: [{kind: acuracy}]}\n",
        ["7:28 evaluate.claims[0].kind | accuracy | no claim"],
    ),
    "claim without kind": (
        "evaluate:\n  claims:\n    - {at_least: 0.5}\n",
        ["9:7 evaluate.claims[0].kind |  | is missing"],
    ),
    "impossible bound": (
        "evaluate: {claims: [{kind: accuracy, at_least: 1.2, reason: x}]}\n",
        ["7:48 evaluate.claims[0].at_least |  | is 1.2, which accuracy never is; expected 0 to 1"],
    ),
    "wrong side": (
        "evaluate: {claims: [{kind: accuracy, at_most: 0.2, reason: x}]}\n",
        ["7:47 evaluate.claims[0].at_most |  | wrong side; expected at_least: 0.2"],
    ),
    "both sides": (
        "evaluate: {claims: [{kind: accuracy, at_most: 0.2, at_least: 0.1, reason: x}]}\n",
        ["7:47 evaluate.claims[0].at_most |  | stands beside at_least"],
    ),
    "bound without reason": (
        "evaluate: {claims: [{kind: accuracy, at_least: 0.2}]}\n",
        ["7:21 evaluate.claims[0].reason |  | is missing; expected why accuracy should be at least that"],
    ),
    "metric without bound": (
        "evaluate: {claims: [{kind: accuracy, metric: f1}]}\n",
        ["7:21 evaluate.claims[0] |  | has no bound; expected at_least with a number between 0 and 1"],
    ),
    "metric of another task": (
        "evaluate: {claims: [{kind: accuracy, metric: rmse, at_most: 1, reason: x}]}\n",
        ["7:46 evaluate.claims[0].metric |  | no metric 'rmse' for accuracy in classification"],
    ),
    "metric misspelt": (
        "evaluate: {claims: [{kind: accuracy, metric: acuracy, at_least: 1, reason: x}]}\n",
        ["7:46 evaluate.claims[0].metric | accuracy | expected one of: accuracy, f1"],
    ),
    "setting of a claim": (
        "evaluate: {claims: [{kind: accuracy, resample: 500}]}\n",
        ["7:38 evaluate.claims[0].resample | resamples | is not a key"],
    ),
    "confidence": (
        "evaluate: {claims: [{kind: accuracy, confidence: 1}]}\n",
        ["7:50 evaluate.claims[0].confidence |  | is 1; expected less than 1"],
    ),
    "claim twice": (
        "evaluate:\n  claims:\n    - kind: accuracy\n    - {kind: accuracy, metric: accuracy, resamples: 900}\n",
        ["10:7 evaluate.claims[1] |  | makes the claim accuracy a second time; expected one; the first is in line 9"],
    ),
    "fairness without sensitive": (
        "evaluate: {claims: [{kind: fairness}]}\n",
        ["7:28 evaluate.claims[0].kind |  | needs a sensitive column"],
    ),
    "fairness over another column": (
        "  sensitive: [sex]\nevaluate: {claims: [{kind: fairness, column: sxe}]}\n",
        ["8:46 evaluate.claims[0].column | sex | 'sxe' is not among data.sensitive"],
    ),
    "fairness twice": (
        "  sensitive: [sex]\nevaluate: {claims: [{kind: fairness}, {kind: fairness, column: sex}]}\n",
        ["8:39 evaluate.claims[1] |  | makes the claim fairness/sex a second time"],
    ),
}

# what takes the place of what in HEAD
REPLACED: dict[str, tuple[str, str, list[str]]] = {
    "later version": (
        "datahall: 1",
        "datahall: 2",
        ["1:11 datahall |  | expected 1, the version that this Datahall understands"],
    ),
    "version as text": ("datahall: 1", "datahall: one", ["1:11 datahall |  | is not a version; expected 1"]),
    "version as boolean": ("datahall: 1", "datahall: true", ["1:11 datahall |  | is not a version; expected 1"]),
    "no version": ("datahall: 1\n", "", ["1:1 datahall |  | is missing"]),
    "no target": (
        "  target: diagnosis\n",
        "",
        ["4:1 data.target |  | is missing; expected the column that models predict"],
    ),
    "target as number": ("diagnosis", "3", ["6:11 data.target |  | is 3; expected text"]),
    "name": ("name: tumours", "name: Tumours", ["2:7 name |  | is not a name; expected a lower-case letter"]),
    "name as address": ("name: tumours", "name: ../etc", ["2:7 name |  | is not a name"]),
    "task": ("classification", "regresion", ["3:7 task | regression | is the text 'regresion'"]),
    "task as list": ("classification", "[regression]", ["3:7 task |  | is a list"]),
    "no source": ("[tumours.csv]", "[]", ["5:12 data.sources |  | is empty; expected at least 1"]),
    "source without format": ("tumours.csv", "t.xlsx", ["5:13 data.sources[0] |  | does not say its format"]),
    "source's wrong format": (
        "tumours.csv",
        "{path: t, format: cvs}",
        ["5:31 data.sources[0].format | csv | expected one of: csv, parquet, json"],
    ),
    "source at an address": ("tumours.csv", "'s3://b/t.csv'", ["5:13 data.sources[0] |  | is an address"]),
    "source as number": ("tumours.csv", "7", ["5:13 data.sources[0] |  | is 7; expected keys with values"]),
    "source twice": ("tumours.csv", "a.csv, {path: a.csv}", ["5:20 data.sources[1] |  | names 'a.csv' a second time"]),
    "setting without meaning for the task": (
        "classification",
        "regression\ntrain: {candidates: {a: {model: forest, balanced: true}}}",
        ["4:51 train.candidates.a.balanced |  | weighs classes, which a regression has none of"],
    ),
    "threshold": (
        "classification",
        "regression\ntrain: {threshold: 0.5, metric: accuracy}",
        [
            "4:20 train.threshold |  | is given for a regression",
            "4:33 train.metric |  | no search metric 'accuracy' for regression",
        ],
    ),
}


def problems_of(text, kinds):
    with pytest.raises(SpecError) as caught:
        parse(text, kinds)
    return caught.value.problems


def check(problems, expected):
    found = [f"{problem.line}:{problem.column} {problem.key} | {problem.nearest}" for problem in problems]
    assert found == [line.rpartition(" | ")[0] for line in expected], "\n".join(map(str, problems))
    for problem, line in zip(problems, expected, strict=True):
        assert line.rpartition(" | ")[2] in str(problem)


@pytest.mark.parametrize("case", APPENDED)
def test_appended(case, kinds):
    text, expected = APPENDED[case]
    check(problems_of(HEAD + text, kinds), expected)


@pytest.mark.parametrize("case", REPLACED)
def test_replaced(case, kinds):
    old, new, expected = REPLACED[case]
    assert old in HEAD
    check(problems_of(HEAD.replace(old, new), kinds), expected)


def test_the_unspoilt_file_has_no_problem(kinds):
    assert parse(HEAD, kinds).spec.name == "tumours"


def test_every_problem_at_once_in_file_order(kinds):
    text = HEAD.replace("tumours\n", "T\n").replace("classif", "clasif") + (
        "srve: 1\ntrain: {seeds: 0}\nevaluate:\n  claims:\n"
        "    - {kind: acuracy}\n    - {kind: accuracy, at_least: 7, reason: x}\n"
    )
    check(
        problems_of(text, kinds),
        [
            "2:7 name |  | is not a name",
            "3:7 task | classification | did you mean 'classification'?",
            "7:1 srve | serve | is not a key",
            "8:16 train.seeds |  | is 0",
            "11:14 evaluate.claims[0].kind | accuracy | no claim",
            "12:34 evaluate.claims[1].at_least |  | is 7",
        ],
    )


def test_the_text_form_is_what_editors_understand(kinds):
    (problem,) = problems_of(HEAD + "serve: {replica: 2}\n", kinds)
    assert str(problem) == (
        "app.yaml:7:9: serve.replica: is not a key; expected one of: cache, limits, protocols, replicas, rollout;"
        " did you mean 'replicas'?"
    )


def test_very_many_problems_are_counted(kinds):
    problems = problems_of(HEAD + "".join(f"k{number}: 1\n" for number in range(300)), kinds)
    assert len(problems) == PROBLEM_LIMIT + 1
    assert problems[-1].what == "has 200 more problems, not listed here"
