"""Every verb: one JSON document when asked for, words and a hint when the input is wrong, and any folder at all."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys

import pytest

WRONG = {
    "no verb": ((), 2),
    "unknown verb": (("fly",), 2),
    "unknown option": (("run", "--fast"), 2),
    "no such file": (("run", "-y", "nowhere.yaml"), 2),
    "a folder for a file": (("check", "app"), 2),
    "no file to plan": (("plan", "nowhere.yaml"), 2),
    "no such template": (("new", "x", "--template", "nothing"), 2),
    "nothing to start from": (("new", "x"), 2),
    "both to start from": (("new", "x", "--template", "tumours", "--from", "a.csv"), 2),
    "no such source": (("new", "x", "--from", "nowhere.csv"), 2),
    "unknown application": (("report", "nothing"), 2),
    "an id that never was": (("provenance", "ans_nothing"), 2),
    "no such log": (("logs", "nothing"), 2),
    "no such key": (("key", "revoke", "key_nothing"), 2),
    "not a port": (("up", "-d", "--port", "99999"), 2),
    "not column=value": (("predict", "flowers", "petal"), 4),
    "nothing is up": (("predict", "flowers", "petal=1"), 4),
}
"""What is wrong in a hall that rests, and the exit status that says so."""

ASKED_WRONG = {
    "an unknown application": (("predict", "nothing", "petal=1"), 2),
    "a missing column": (("predict", "flowers", "petal=1"), 2),
    "a column too many": (("predict", "flowers", "petal=1", "sepal=1", "colour=red", "height=2"), 2),
    "a word for a number": (("predict", "flowers", "petal=long", "sepal=1", "colour=red"), 2),
    "not column=value": (("predict", "flowers", "petal"), 2),
    "nothing at all": (("predict", "flowers"), 2),
    "no such rows": (("predict", "flowers", "--rows", "nowhere.json"), 2),
    "a folder of rows": (("predict", "flowers", "--rows", "app"), 2),
    "rows that are no JSON": (("predict", "flowers", "--rows", "app/flowers.csv"), 2),
}
NO_HALL = [("ps",), ("verify",), ("report", "x"), ("provenance", "ans_x"), ("key", "list"), ("key", "revoke", "key_x")]


def one_document(text):
    document, end = json.JSONDecoder().raw_decode(text)
    assert text[end:].strip() == ""
    return document


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_ends_in_words(shared, name):
    arguments, expect = WRONG[name]
    done = shared.tell(*arguments)
    assert done.returncode == expect, done.stderr
    assert done.stderr.strip() or name == "no verb"


@pytest.mark.parametrize("name", ASKED_WRONG)
def test_a_wrong_question_ends_in_words(serving, name):
    arguments, expect = ASKED_WRONG[name]
    done = serving.tell(*arguments)
    assert (done.returncode, done.stderr.startswith("error: ")) == (expect, True), done.stderr
    as_json = serving.tell(*arguments, "--json")
    assert one_document(as_json.stderr)["what"]


@pytest.mark.parametrize("arguments", NO_HALL)
def test_where_there_is_no_hall_each_verb_says_how_to_make_one(place, arguments):
    done = place.tell(*arguments)
    assert (done.returncode, "datahall run" in done.stderr) == (2, True), done.stderr
    assert not place.hall.exists(), "asking makes no hall"


def test_stopping_where_there_is_no_hall_is_no_error_and_makes_none(place):
    assert place.ask("stop") == {"was_up": False, "up": False}
    assert not place.hall.exists()


def test_every_verb_prints_one_json_document(serving, kit, tmp_path):
    answer = serving.ask("predict", "flowers", "petal=3", "sepal=2", "colour=red")
    assert answer["predictions"][0]["label"] == "tulip"
    assert set(serving.ask("version")) == {"datahall", "python", "platform"}
    assert serving.ask("check", "app/app.yaml")["ok"] is True
    assert {line["action"] for line in serving.ask("plan", "app/app.yaml")["lines"]} == {"reused"}
    assert serving.ask("run", "-y", "app/app.yaml")["ended"]["outcome"] == "unchanged"
    assert serving.ask("up", "-d")["url"] == serving.state().url
    status = serving.ask("ps")
    assert (status["up"], status["status"]["apps"][0]["num_ready"]) == (True, 1)
    assert serving.ask("provenance", answer["id"])["verified"] is True
    assert serving.ask("verify")["ok"] is True
    assert serving.ask("report", "flowers")["app"]["id"] == "flowers"
    assert serving.ask("key", "list")[0]["name"] == "owner"
    assert serving.ask("new", tmp_path / "n", "--template", "tumours")["app_file"].endswith("app.yaml")


def test_rows_come_from_a_file_or_from_standard_input(serving, kit):
    rows = json.dumps({"rows": [kit.ROW, {**kit.ROW, "petal": 9}]})
    said = json.loads(serving.do("predict", "flowers", "--rows", "-", "--json", stdin=rows))
    assert [line["label"] for line in said["predictions"]] == ["tulip", "rose"]
    assert serving.do("predict", "flowers", "--rows", "-", stdin=json.dumps(kit.ROW)).count("tulip") >= 1


def test_a_report_and_the_logs_can_be_read(serving, tmp_path):
    page = tmp_path / "report.html"
    serving.do("report", "flowers", "-o", page)
    assert "<html" in page.read_text()[:200]
    assert {"control", "gateway", "supervisor"} <= {line.split()[0] for line in serving.do("logs").splitlines()}


def test_an_application_from_a_file_of_ones_own_is_right_and_runs(place, kit):
    place.write()
    made = place.ask("new", "mine", "--from", "app/flowers.csv")
    assert made["notes"], "it says what it guessed"
    assert place.ask("check", "mine/app.yaml")["ok"] is True
    file = place.root / "mine" / "app.yaml"
    head, _, _ = file.read_text().partition("\ntrain:")
    rest = kit.app_file().partition("train:")[2]
    file.write_text(f"{head}\ntrain:{rest}")
    assert place.events("mine/app.yaml", "--no-serve").ended["outcome"] == "released"


def test_any_folder_will_do(released, tmp_path_factory):
    name = "a folder with spaces, 'quotes' & ö".ljust(200, "n")
    place = released.copy(tmp_path_factory.mktemp("w") / name)
    try:
        assert place.up().ask("ps")["status"]["hall"] == str(place.hall)
        assert place.events("app/app.yaml").ended["outcome"] == "unchanged"
        assert place.ask("predict", "flowers", "petal=9", "sepal=2", "colour=red")["predictions"][0]["label"] == "rose"
    finally:
        place.close()


def test_the_hall_is_where_it_is_said_to_be(shared, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    shared.write()
    file = shared.app
    shared.do("--hall", elsewhere / "a", "plan", file)
    shared.do("plan", file, DATAHALL_HOME=str(elsewhere / "b"))
    shared.do("plan", file, cwd=tmp_path, DATAHALL_HOME="")
    shared.do("--hall", elsewhere / "c", "plan", file, DATAHALL_HOME=str(elsewhere / "d"))
    assert sorted(path.parent.name for path in elsewhere.glob("*/hall.db")) == ["a", "b", "c"]
    assert (tmp_path / ".datahall" / "hall.db").exists()


def test_a_home_that_cannot_be_written_does_not_break_the_hall(rested):
    nowhere = rested.root / "s" / "a-file"
    nowhere.write_text("where a folder should be")
    unwritable = {"HOME": "/proc/1", "XDG_STATE_HOME": str(nowhere)}
    rested.write(replicas=2)
    assert rested.do("run", "-y", "--no-serve", "app/app.yaml", **unwritable)
    assert rested.do("ps", **unwritable)
    rested.do("up", "-d", **unwritable)
    assert rested.do("predict", "flowers", "petal=3", "sepal=2", "colour=red", **unwritable)


def test_a_hall_that_cannot_be_made_is_a_clear_error(place):
    place.write()
    for folder in ("/proc/hall", str(place.app)):
        done = place.tell("--hall", folder, "run", "-y", "app/app.yaml")
        assert (done.returncode, "--hall" in done.stderr) == (2, True), done.stderr


def test_rows_that_break_the_contract_name_the_row(place):
    place.write()
    rows = place.app.with_name("flowers.csv")
    lines = list(csv.reader(rows.read_text().splitlines()))
    lines[7][0] = "long"
    rows.write_text("\n".join(map(",".join, lines)) + "\n")
    place.app.write_text(
        place.app.read_text().replace("target: kind", "target: kind\n  columns: {petal: {kind: number}}")
    )
    done = place.tell("run", "-y", "app/app.yaml")
    assert done.returncode == 2, done.stderr
    assert "long" in done.stderr
    assert "flowers.csv" in done.stderr
    place.do("plan", "app/app.yaml")
    assert "long" not in (place.hall / "hall.db").read_bytes().decode("latin-1"), (
        "rows of people stay out of the ledger"
    )


def test_a_reader_that_has_seen_enough_is_no_error(serving):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "datahall.app.cli", "ps", "--json"],
        env=serving.environment,
        cwd=serving.root,
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
