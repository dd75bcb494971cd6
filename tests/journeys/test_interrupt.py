"""Ctrl-C: the command ends at once, with a word, and leaves no process and nothing that a second run trips over."""

from __future__ import annotations

import os
import signal

import pytest

from datahall.core.records import Step

OTHER = {"other": "{model: logistic, columns: [petal]}"}


@pytest.mark.parametrize("name", ["train/other", "evaluate"])
def test_ctrl_c_in_a_step_leaves_no_process_and_the_next_run_goes_on(rested, kit, name):
    rested.write(candidates=OTHER)
    talk = rested.start("run", "-y", "--no-serve", "--json", "app/app.yaml")
    talk.event("step_began", name)
    kit.eventually(lambda: rested.processes("mains job"), what="the job's process")
    talk.signal(signal.SIGINT)
    assert talk.end() == 130
    assert not any("Traceback" in line for line in talk.said)
    assert rested.processes() == []
    with rested.catalogue() as catalogue:
        states = {f"{step.stage}/{step.name}": step.state for step in catalogue.find(Step) if step.state != "done"}
    assert list(states.values()) == ["interrupted"], "the step that ran was ended by the one who ran it"
    runs = [line["name"] for line in rested.ask("plan", "app/app.yaml")["lines"] if line["action"] == "runs"]
    assert runs[0] == name


def test_ctrl_c_while_serving_starts_leaves_no_process(rested, kit):
    talk = rested.start("run", "-y", "--json", "app/app.yaml")
    talk.event("ended")
    kit.eventually(lambda: rested.processes("mains supervisor"), what="the supervisor")
    talk.signal(signal.SIGINT)
    assert talk.end() == 130
    kit.eventually(lambda: not rested.processes(), what="every process gone")
    assert rested.ask("verify")["ok"] is True
    assert rested.events("app/app.yaml").ended["outcome"] == "unchanged"
    assert rested.ask("predict", "flowers", "petal=3", "sepal=2", "colour=red")["predictions"][0]["label"] == "tulip"


def test_a_terminated_run_leaves_no_process_either(rested, kit):
    rested.write(candidates=OTHER)
    talk = rested.start("run", "-y", "--no-serve", "--json", "app/app.yaml")
    talk.event("step_began", "train/other")
    kit.eventually(lambda: rested.processes("mains job"), what="the job's process")
    talk.signal(signal.SIGTERM)
    assert talk.end() != 0
    kit.eventually(lambda: not rested.processes(), what="every process gone")


def test_whoever_leaves_a_run_in_a_hall_that_is_up_stops_it(rested, kit):
    rested.do("up", "-d")
    rested.write(candidates=OTHER)
    talk = rested.start("run", "-y", "--json", "app/app.yaml")
    talk.event("step_began", "train/other")
    kit.eventually(lambda: rested.processes("mains job"), what="the job's process")
    talk.signal(signal.SIGINT)
    assert talk.end() == 130
    kit.eventually(lambda: not rested.processes("mains job"), what="the job gone")
    assert kit.eventually(lambda: [app for app in rested.ask("ps")["status"]["apps"] if app["running_step"] is None])
    answer = rested.ask("predict", "flowers", "petal=3", "sepal=2", "colour=red")
    assert answer["version"] == "flowers@1.0.0", "what was released goes on answering"


def test_while_a_lifecycle_runs_others_are_answered_and_a_second_one_is_refused(rested, kit):
    rested.write(candidates=OTHER)
    talk = rested.start("run", "-y", "--no-serve", "--json", "app/app.yaml")
    talk.event("step_began", "train/other")
    kit.eventually(lambda: rested.processes("mains job"), what="the job's process")
    assert rested.ask("ps")["status"]["apps"][0]["running_step"] == "train/other"
    second = rested.tell("run", "-y", "--no-serve", "app/app.yaml")
    assert (second.returncode, second.stderr.startswith("error: ")) in {(2, True), (4, True)}, second.stderr
    talk.signal(signal.SIGINT)
    assert talk.end() == 130


def test_a_control_that_dies_in_a_lifecycle_ends_it_in_words_and_the_next_run_goes_on(rested, kit):
    rested.up()
    rested.write(candidates=OTHER)
    talk = rested.start("run", "-y", "--json", "app/app.yaml")
    talk.event("step_began", "train/other")
    kit.eventually(lambda: rested.processes("mains job"), what="the job's process")
    (control,) = rested.processes("mains control")
    os.kill(control, signal.SIGKILL)
    assert talk.end() == 4
    assert "hint" in talk.said[-1]
    kit.eventually(lambda: not rested.processes("mains job"), what="the job gone")
    kit.eventually(lambda: rested.processes("mains control") not in ([], [control]), what="another control")
    again = rested.events("app/app.yaml")
    assert (again.reused, again.ran[0]) == (["data"], "train/other")
    assert again.ended["champion"] == again.ended["version"] != "flowers@1.0.0"
