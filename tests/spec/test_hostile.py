"""Whatever lies under the name of an application file: one clear error, at a cost that is bounded by count."""

from __future__ import annotations

import json
import os
import re
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datahall.core.canonical import digest_of
from datahall.core.errors import SpecError
from datahall.spec import read, tree
from datahall.spec.checks import missing_columns
from datahall.spec.load import load, parse
from datahall.spec.read import SIZE_LIMIT_BYTES

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)

# text, then key and words of a problem
TEXTS = {
    "empty": ("", "(file)", "is empty"),
    "blank": (" \n\n  \n", "(file)", "is empty"),
    "comment only": ("# nothing\n", "(file)", "is empty"),
    "list": ("- a\n", "(file)", "is a list; expected keys with values"),
    "text": ("hello", "(file)", "is text; expected keys with values"),
    "number": ("7", "(file)", "is 7"),
    "alias bomb": (BOMB, "a", "has an anchor (&a); expected the value itself"),
    "alias": ("a: *b\n", "a", "is an alias (*b)"),
    "alias of itself": ("a: &a [*a]\n", "a", "has an anchor"),
    "merge key": ("<<: {a: 1}\n", "<<", "is not a key"),
    "python tag": ("a: !!python/object/apply:os.system [id]\n", "a", "has the tag tag:yaml.org,2002:python/object"),
    "own tag": ("name: !env HOME\n", "name", "has the tag !env"),
    "tag on a key": ("!!str a: 1\n", "a", "has an anchor or a tag"),
    "nan": ("a: .nan\n", "a", "is .nan; expected a finite number"),
    "infinity": ("a: [-.INF]\n", "a[0]", "is -.INF; expected a finite number"),
    "overflow": ("a: 1e999\n", "a", "is 1e999; expected a finite number"),
    "long number": ("a: " + "9" * 5000 + "\n", "a", "is a number beyond 64 bits"),
    "number beyond 64 bits": (f"a: {2**63}\n", "a", "is a number beyond 64 bits"),
    "tab": ("a:\n\tb: 1\n", "(file)", "is not YAML: found character '\\t'"),
    "unclosed": ("a: [1, 2\n", "(file)", "is not YAML"),
    "two documents": ("a: 1\n---\nb: 2\n", "(file)", "holds a second document"),
    "directive": ("%YAML 1.1\n---\na: yes\n", "(file)", "has a % directive"),
    "tag directive": ("%TAG ! tag:x,2000:\n---\na: 1\n", "(file)", "has a % directive"),
    "key that is a list": ("? [a]\n: 1\n", "(file)", "is a key that is not text"),
    "deep": ("[" * 5000, "(file)", "is nested more than 32 levels deep"),
    "deep by indentation": ("".join(" " * n + "a:\n" for n in range(300)), "(file)", "is nested more than 32 levels"),
    "many values": ("a: [" + "1," * 20_000 + "]", "(file)", "holds more than 10000 values"),
    "many keys": ("".join(f"k{n}: 1\n" for n in range(8000)), "(file)", "holds more than 10000 values"),
    "long key": ("k" * 500 + ": 1\n", "k" * 77 + "...", "is a key of 500 characters"),
    "very long key": ("k" * 5000 + ": 1\n", "(file)", "is not YAML"),
    "control character": ('name: "a\\0b"\n', "name", "holds a control character"),
    "half a surrogate pair": ('name: "\\uD800"\n', "name", "holds half of a surrogate pair"),
    "later version with unknown keys": ("datahall: 2\nnews: 1\n", "datahall", "is version 2"),
}

BYTES = {
    "binary": (b"\x7fELF\0\0\1", 1, 1, "is binary"),
    "latin-1": ("a: 1\nname: Zürich".encode("latin-1"), 2, 8, "the byte 0xfc is not UTF-8"),
    "utf-16": ("a: 1".encode("utf-16"), 1, 1, "is binary"),
    "large": (b"#" * (SIZE_LIMIT_BYTES + 1), 1, 1, "is larger than 128 KiB"),
}


def problems_of(text, kinds):
    with pytest.raises(SpecError) as caught:
        parse(text, kinds)
    assert "Traceback" not in str(caught.value)
    assert all(len(str(problem)) < 600 for problem in caught.value.problems)
    return caught.value.problems


@pytest.mark.parametrize("case", TEXTS)
def test_text(case, kinds):
    text, key, words = TEXTS[case]
    found = [str(problem) for problem in problems_of(text, kinds) if problem.key == key]
    assert [text for text in found if words in text]


@pytest.mark.parametrize("case", BYTES)
def test_bytes(case, kinds):
    data, line, column, words = BYTES[case]
    (problem,) = problems_of(data, kinds)
    assert (problem.line, problem.column, problem.key) == (line, column, "(file)")
    assert words in str(problem)


def test_both_places_of_a_repeated_key(kinds, minimal):
    (problem,) = problems_of(minimal + "name: other\n", kinds)
    assert str(problem) == "app.yaml:7:1: name: stands here a second time; the first is at 2:1; expected one"


def test_what_stands_under_a_repeated_key_is_not_blamed_on_the_first(kinds, minimal):
    text = minimal + "data:\n  sources: [1, .nan]\n"
    with pytest.raises(SpecError) as caught:
        parse(text, kinds)
    assert [(p.line, p.column, p.key) for p in caught.value.problems] == [(7, 1, "data"), (8, 16, "data.sources[1]")]


# the slowest shapes that we know, each as large as is read at all
SHAPES = {
    "anchors": lambda n: "a: [" + "&a 1, " * (n // 6) + "]",
    "aliases": lambda n: "a: [" + "*a, " * (n // 4) + "]",
    "brackets": lambda n: "[" * n,
    "comments": lambda n: "a: 1\n" + " #x\n" * (n // 4 - 2),
    "long tag": lambda n: "!<" + "a" * (n - 4) + ">",
    "words": lambda n: "a: " + "x y " * (n // 4 - 1),
    "keys": lambda n: "".join(f"k{i}: 1\n" for i in range(n // 12)),
    "key with a long name": lambda n: "? " + "k" * (n - 8) + "\n: 1",
    "one unknown model": lambda n: "train: {candidates: {a: {model: " + "f" * (n - 40) + "}}}",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_cost_grows_no_faster_than_the_file(shape, kinds):
    def calls(size):
        count = 0

        def tick(frame, event, argument):
            nonlocal count
            count += 1

        sys.setprofile(tick)
        try:
            with pytest.raises(SpecError):
                parse(SHAPES[shape](size), kinds)
        finally:
            sys.setprofile(None)
        return count

    small, large = calls(2048), calls(8192)
    assert large < 5 * small + 100_000


# what a cap stops goes through where the cap is lifted: the tests above are red without it
@pytest.mark.parametrize(
    ("module", "cap", "text"),
    [
        (tree, "NODE_LIMIT", "a: [" + "1," * 20_000 + "]"),
        (tree, "DEPTH_LIMIT", "a: " + "[" * 40 + "]" * 40),
        (tree, "KEY_LIMIT", "k" * 500 + ": 1\n"),
        (read, "SIZE_LIMIT_BYTES", "a: 1\n#" + "#" * SIZE_LIMIT_BYTES),
    ],
)
def test_each_cap_is_what_stops(module, cap, text, kinds, monkeypatch):
    def whats():
        with pytest.raises(SpecError) as caught:
            parse(text, kinds)
        return " ".join(problem.what for problem in caught.value.problems)

    stopped = whats()
    monkeypatch.setattr(module, cap, 10**9)
    lifted = whats()
    assert "is not a key" in lifted
    assert "is not a key" not in stopped or cap == "KEY_LIMIT"
    assert stopped != lifted


def test_files_that_are_none(tmp_path, kinds):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    locked = tmp_path / "locked"
    locked.symlink_to(locked)
    cases = {
        tmp_path / "missing.yaml": "there is no such file",
        tmp_path: "is a directory",
        pipe: "is not a regular file",
        locked: "cannot be opened",
        tmp_path / ("x" * 300): "cannot be opened",
        tmp_path / "a\0b": "cannot be opened",
    }
    for path, words in cases.items():
        with pytest.raises(SpecError, match=words) as caught:
            load(path, kinds)
        assert caught.value.problems[0].file == str(path)


KEY = "dh_" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    "text",
    [
        f"{KEY}\n",
        "cm9vdHM6IG5vdCBhbiBhcHBsaWNhdGlvbiBhdCBhbGw=\n",
        f"datahall: 1\n{KEY}: 1\n",
        f"datahall: 1\nname: {KEY}\ntask: {KEY}\nteam: ['{KEY}']\n",
        f"datahall: 1\n? !{KEY} a\n: *{KEY}\n",
        f"datahall: 1\nx: &{KEY} [\n",
        f"datahall: 1\ndata: {{sources: [a.csv], target: y, sensitive: [{KEY}, {KEY}], ignore: [{KEY.upper()}]}}\n",
        f"datahall: 1\ntrain: {{candidates: {{{KEY}: {{model: {KEY}}}}}}}\nevaluate: {{claims: [{{kind: {KEY}}}]}}\n",
    ],
)
def test_no_word_of_a_problem_gives_a_secret_away(text, kinds):
    with pytest.raises(SpecError) as said:
        parse(text, kinds, file="owner.key")
    words = str([problem.as_dict() for problem in said.value.problems]).lower()
    assert "0123456789" not in words
    assert "cm9vdhm6" not in words


def test_it_is_the_mask_that_hides_a_key(kinds, monkeypatch):
    monkeypatch.setattr(tree, "_API_KEY", re.compile("(?!)"))
    with pytest.raises(SpecError, match="0123456789"):
        parse(f"datahall: 1\n{KEY}: 1\n", kinds)


def test_a_column_that_looks_like_a_key_is_not_named(minimal, kinds):
    problems = missing_columns(tree.grow(minimal, "app.yaml"), (KEY, "b"))
    assert ["0123" in str(problem) for problem in problems] == [False]
    assert "dh_***" in str(problems[0])


def test_a_file_larger_than_memory_is_not_read(tmp_path, kinds):
    path = tmp_path / "huge.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a terabyte of holes
    with pytest.raises(SpecError, match="is larger than 128 KiB"):
        load(path, kinds)


def survives(text, kinds):
    """Parse, and insist on an application or a SpecError whose parts can be printed and sent as JSON."""
    problems = ()
    try:
        loaded = parse(text, kinds, columns_of=lambda *_: ("a", "diagnosis"))
    except SpecError as error:
        problems = error.problems
    else:
        assert len(loaded.spec.digest()) == 64
    for problem in problems:
        assert problem.line >= 1
        assert problem.column >= 1
        assert problem.key
        json.dumps(problem.as_dict())
        str(problem).encode()


@given(st.binary(max_size=400))
@example(b"\xef\xbb\xbf")
@example(b"a: !")
@settings(max_examples=150, deadline=None)
def test_any_bytes(kinds, data):
    survives(data, kinds)


@given(st.text(alphabet="ab:-?[]{},&*!|>%@`'\"#\\ \n\t0.~<=", max_size=60))
@example("!<")
@example("a: |99\n b")
@example("%TAG ! !\n---\n!a b")
@settings(max_examples=300, deadline=None)
def test_any_punctuation(kinds, text):
    survives(text, kinds)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_good_file_with_a_piece_replaced(kinds, minimal, data):
    text = minimal + "train: {candidates: {a: {model: forest}}}\nevaluate: {claims: [{kind: accuracy}]}\n"
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 20)))
    survives(text[:start] + data.draw(st.text(max_size=8)) + text[end:], kinds)


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()
)
CLAIM_WORDS = [
    "accuracy",
    "fairness",
    "metric",
    "at_least",
    "at_most",
    "column",
    "columns",
    "sensitive",
    "values",
    "min",
]
MODEL_WORDS = [
    "data",
    "sources",
    "path",
    "target",
    "candidates",
    "model",
    "search",
    "forest",
    "logistic",
    "a",
    "claims",
]
WORDS = st.sampled_from(["kind", *CLAIM_WORDS, *MODEL_WORDS])
ANYTHING = st.recursive(
    SCALARS | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
SHAPED = st.fixed_dictionaries(
    {"datahall": st.just(1) | ANYTHING, "name": st.just("a") | ANYTHING, "task": st.just("classification") | ANYTHING},
    optional={
        "data": ANYTHING
        | st.fixed_dictionaries(
            {"sources": st.just(["a.csv"]) | ANYTHING, "target": st.just("y") | ANYTHING},
            optional={"columns": ANYTHING, "split": ANYTHING, "sensitive": ANYTHING, "ignore": ANYTHING},
        ),
        "train": ANYTHING | st.fixed_dictionaries({"candidates": st.dictionaries(WORDS, ANYTHING, max_size=3)}),
        "evaluate": ANYTHING | st.fixed_dictionaries({"claims": st.lists(ANYTHING, max_size=3)}),
        "serve": ANYTHING,
    },
)


@given(SHAPED)
@settings(max_examples=200, deadline=None)
def test_any_values_under_known_keys(kinds, value):
    survives(json.dumps(value), kinds)
    grown = tree.grow(json.dumps(value), "app.yaml")
    for problem in missing_columns(grown, ("a", "diagnosis")):
        assert problem.key


@given(
    st.dictionaries(
        st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]), max_size=8), SCALARS, max_size=5
    )
)
@settings(max_examples=150, deadline=None)
def test_plain_values_mean_in_yaml_what_they_mean_in_json(value):
    value = {key: item for key, item in value.items() if not isinstance(item, int) or abs(item) < 2**63}
    grown = tree.grow(json.dumps(value), "f")
    if not grown.problems:
        assert digest_of(grown.value) == digest_of(value)
