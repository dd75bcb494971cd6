"""The tutorial is executed as it stands; so is every other page with console blocks that asks for it."""

import importlib.util
from pathlib import Path

import pytest
from consoles import Command, Console, File, steps_of

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.skipif(not importlib.util.find_spec("datahall.app.cli.main"), reason="the command line is not built yet")
def test_the_tutorial_does_what_it_says(tmp_path):
    steps = steps_of((ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8"))
    console = Console(tmp_path, tmp_path / "hall")
    wrong = []
    try:
        for step in steps:
            wrong += console.run(step)
            if wrong:
                break
    finally:
        left = console.run(Command(0, "datahall stop", ()))
    assert not wrong, "\n".join(wrong)
    assert not left, "\n".join(left)
    assert len(steps) >= 10


def test_a_page_is_read_step_by_step():
    page = "# T\n```console\n$ echo one\none\n$ echo two\n```\n```yaml\n$ not: this\n```\n```json rows.json\n[1,\n2]\n```\n"
    assert steps_of(page) == [
        Command(3, "echo one", ("one",)),
        Command(5, "echo two", ()),
        File(10, "rows.json", "[1,\n2]\n"),
    ]


@pytest.mark.parametrize(
    ("shown", "printed", "wrong"),
    [
        ("took 1.5 s", "took   2.75 s", []),
        ("version 1.0.0 is live", "version 12.3.4 is live", []),
        ("accuracy ... pass", "accuracy  0.95 >= 0.9 pass", []),
        ("digest 0123456789abcdef", "digest fedcba9876543210", []),
        ("gate: pass", "gate: fail", ["gate: pass"]),
        ("a word", "", ["a word"]),
    ],
)
def test_output_is_compared_loosely_but_not_blindly(tmp_path, shown, printed, wrong):
    assert Console(tmp_path, tmp_path).compare((shown,), [printed]) == wrong


def test_a_word_in_capitals_takes_its_value_from_the_output(tmp_path):
    console = Console(tmp_path, tmp_path)
    assert console.run(Command(1, "echo answer ans_42", ("answer ANSWER_ID",))) == []
    assert console.values == {"ANSWER_ID": "ans_42"}
    assert console.run(Command(2, "echo got ANSWER_ID", ("got ans_42",))) == []


def test_a_command_that_fails_or_says_something_else_is_reported(tmp_path):
    console = Console(tmp_path, tmp_path)
    assert "ended with 1" in console.run(Command(7, "false", ()))[0]
    assert "did not print 'two'" in console.run(Command(8, "echo one", ("two",)))[0]
    assert "no folder" in console.run(Command(9, "cd nowhere", ()))[0]
