"""Exactly where admission's counts, windows, shares and logs begin and end."""

import pytest
from msgspec.msgpack import decode

from datahall.core.records import Quota, TeamRule
from datahall.policy.concurrency import LimitView
from datahall.serve.admission import Admission, AdmissionSettings
from datahall.serve.decisions import DecisionFiles, decision_files, read_decision_file
from tests.serve.test_admission import MS, NOW, SECOND, SMALL, admission, enter, grant, reasons, route, table

WINDOW_NUM = 20


def logged(folder, policy):
    return [
        one for path in decision_files(folder) for one in read_decision_file(path).decisions if one.policy == policy
    ]


def told(tmp_path, *, sample_every, act):
    """What is logged of what `act` does at a door of two places."""
    files = DecisionFiles(tmp_path, "g1", sample_every=sample_every)
    door = Admission(SMALL, draw=lambda: 0.25, decisions=files)
    door.follow(table(route(concurrency=2), teams={"lab": TeamRule(quota=Quota(rate_per_s=100.0, burst=50))}), NOW)
    act(door)
    files.close()
    return {policy: logged(tmp_path, policy) for policy in ("admit", "rate", "share")}


@pytest.mark.parametrize(("priority", "peers"), [("high", [1, 0, 0]), ("normal", [0, 1, 0]), ("low", [0, 0, 1])])
def test_each_priority_counts_its_own(priority, peers):
    door = admission()
    enter(door, priority=priority)
    assert door._apps["lab", "flowers"].peers == peers


def test_the_most_in_flight_is_remembered_of_application_and_hall():
    door = admission()
    places = enter(door, 3)
    for place in places:
        place.leave(NOW, sample_ns=None)
    enter(door)
    assert (door._apps["lab", "flowers"].gauge.peak, door._hall.peak) == (3, 3)


def test_before_any_table_nobody_shares_a_quota():
    door = Admission(draw=lambda: 0.0)
    assert reasons(enter(door, 3, to=route(concurrency=2))) == ["admitted", "admitted", "app_concurrency"]


def test_without_a_rate_no_time_is_remembered():
    door = admission()
    enter(door)
    assert (door._teams["lab"].tat_ns, door._apps["lab", "flowers"].tat_ns) == (0, 0)


def test_a_refused_request_is_logged_and_one_let_in_only_by_its_turn(tmp_path):
    seen = told(tmp_path, sample_every=1000, act=lambda door: enter(door, 3, to=route(concurrency=2)))
    assert [one.reason for one in seen["admit"]] == ["app_concurrency"]
    assert seen["rate"] == []


def test_a_look_at_the_headers_that_lets_in_is_not_logged(tmp_path):
    def act(door):
        enter(door, 1)
        door._app(route(), NOW).gauge.limit = 1  # no calm: the policy is asked, and a sixteenth is always let in
        assert door.shed(grant(priority="high"), route(), NOW) is None

    assert told(tmp_path, sample_every=1000, act=act)["admit"] == []


def test_rates_are_logged_as_they_were_asked(tmp_path):
    seen = told(tmp_path, sample_every=1, act=lambda door: enter(door, 2, to=route(concurrency=2)))
    assert [(decode(one.event), one.draw) for one in seen["rate"]] == [(1, 0.0), (1, 0.0)]


def test_shares_are_logged_when_they_change(tmp_path):
    def act(door):
        before = len(door._log._files._waiting)
        door.follow(table(route(concurrency=2)), NOW + MS)  # the same revision: nothing changes
        assert len(door._log._files._waiting) == before
        door.follow(table(route(concurrency=5), revision=2), NOW + 2 * MS)

    seen = told(tmp_path, sample_every=1, act=act)["share"]
    assert seen
    assert {one.draw for one in seen} == {0.0}
    assert all(one.new_state != one.state for one in seen)


def answered(door, num, *, at, sample_ns):
    places = enter(door, num, now=at)
    for place in places:
        place.leave(at, sample_ns=sample_ns)


def test_a_window_ends_at_its_time_with_just_as_many_answers_as_it_needs():
    door = admission()
    gauge = door._apps["lab", "flowers"].gauge
    at = NOW + door.settings.window_ns
    answered(door, WINDOW_NUM - 1, at=at, sample_ns=3 * MS)
    assert gauge.mean_ns == 0, "one too few"
    answered(door, 1, at=at, sample_ns=3 * MS)
    assert gauge.mean_ns == 3 * MS


def test_an_answer_takes_a_nanosecond_at_least():
    door = admission()
    answered(door, WINDOW_NUM, at=NOW + door.settings.window_ns, sample_ns=1)
    assert door._apps["lab", "flowers"].gauge.mean_ns == 1


def test_another_deployment_s_first_answers_say_nothing_of_the_hall():
    door = admission()
    answered(door, WINDOW_NUM, at=NOW + SECOND, sample_ns=3 * MS)
    door.follow(table(route(deployment="other"), revision=2), NOW + SECOND)
    before = door._hall._num
    answered(door, 1, at=NOW + SECOND, sample_ns=3 * MS)
    assert door._hall._num == before


def test_a_team_of_almost_no_weight_has_one_place_and_no_more():
    tight = AdmissionSettings(app=LimitView(calm=64), hall=SMALL.hall)
    teams = {"lab": TeamRule(weight=0.001), "shop": TeamRule(weight=100.0)}
    door = admission(settings=tight, teams=teams)
    enter(door, 16, team="shop", priority="high")
    # Whoever has less than a sixteenth of its priority in flight comes in all the same: two of the lab's do.
    assert reasons(enter(door, 6, priority="low"))[-1] == "hall_overloaded"
    lab = admission(settings=tight, teams=teams)
    enter(lab, 15, team="shop", priority="normal")
    assert reasons(enter(lab, 3, priority="normal")) == ["admitted", "hall_overloaded", "hall_overloaded"]


@pytest.mark.parametrize("num_others", [8, 9])
def test_where_teams_compete_low_priority_is_asked_about_from_three_quarters_of_the_hall_on(num_others):
    tight = AdmissionSettings(app=LimitView(calm=64), hall=SMALL.hall)
    door = admission(settings=tight, teams={"shop": TeamRule(weight=3.0)})
    enter(door, num_others, team="shop")
    enter(door, 12 - num_others, team="lab", priority="low")
    refused = reasons(enter(door, 1, team="lab", priority="low")) == ["hall_overloaded"]
    assert refused == (12 - num_others >= 4), "its share is 4 of 16"
