"""What a gateway lets in: places, quotas that follow the table, and what a refused client is told."""

import msgspec
import pytest
from msgspec.msgpack import decode

from datahall.core.records import KeyGrant, Quota, Route, RouteTable, TeamRule
from datahall.policy import share
from datahall.policy.admit import Admission as Decision
from datahall.policy.admit import AdmitView, Arrival, decide
from datahall.policy.concurrency import LimitView
from datahall.serve.admission import Admission, AdmissionSettings, Place, Refusal
from datahall.serve.decisions import DecisionFiles, decision_files, read_decision_file
from tests.serve.flowers import MANIFEST

MS = 10**6
SECOND = 10**9
NOW = 10**12
SMALL = AdmissionSettings(
    app=LimitView(floor=4, ceiling=64, calm=16, unfelt_ns=0.0),
    hall=LimitView(floor=8, ceiling=16, calm=16, unfelt_ns=0.0, tolerance=6.0, learns=False),
)
ROOMY = msgspec.structs.replace(SMALL, app=LimitView(calm=31))


def route(app="flowers", *, team="lab", deployment="dep", **quota):
    return Route(
        app=app,
        team=team,
        deployment=deployment,
        version=f"{app}@1.0.0",
        manifest=MANIFEST,
        bundle="b" * 64,
        replicas=(),
        quota=Quota(**quota),
    )


def grant(team="lab", priority="normal"):
    return KeyGrant(key_id=team, principal="p", team=team, scopes=(), expires_at_ns=None, priority=priority)


def table(*routes, revision=1, teams=None, keys=(), **changes):
    return RouteTable(
        id="current",
        revision=revision,
        routes=routes,
        keys={str(number): key for number, key in enumerate(keys)},
        published_at_ns=0,
        teams=teams or {},
        **changes,
    )


def admission(*routes, settings=None, draw=0.0, **changes):
    made = Admission(settings, draw=lambda: draw)
    made.follow(table(*(routes or (route(),)), **changes), NOW)
    return made


def enter(door, num=1, *, team="lab", priority="normal", to=None, now=NOW, deadline_ns=1 << 62):
    key = grant(team, priority)
    return [door.enter(key, to or route(), now, deadline_ns=deadline_ns) for _ in range(num)]


def reasons(results):
    return [result.reason if isinstance(result, Refusal) else "admitted" for result in results]


def test_a_place_is_given_back_once_however_often_it_is_left():
    door = admission(teams={"lab": TeamRule(quota=Quota(concurrency=2))})
    first, second, third = enter(door, 3)
    assert reasons([first, second, third]) == ["admitted", "admitted", "team_concurrency"]
    assert (third.status, third.retry_after_s, door.num_in_flight) == (429, 1, 2)
    for _ in range(3):
        first.leave(NOW, sample_ns=None)
    assert door.num_in_flight == 1
    assert reasons(enter(door, 2)) == ["admitted", "team_concurrency"]


def test_teams_and_applications_have_quotas_of_their_own():
    maps, flowers = route("maps", concurrency=1), route("flowers")
    teams = {"lab": TeamRule(quota=Quota(concurrency=3)), "shop": TeamRule(quota=Quota(concurrency=1))}
    door = admission(maps, flowers, teams=teams)
    assert reasons(enter(door, 2, to=maps)) == ["admitted", "app_concurrency"]
    assert reasons(enter(door, 3, to=flowers)) == ["admitted", "admitted", "team_concurrency"]
    assert reasons(enter(door, 2, team="shop", to=flowers)) == ["admitted", "team_concurrency"]
    assert reasons(enter(door, 2, team="*", to=flowers)) == ["admitted", "admitted"]


def test_a_refused_request_uses_nothing_up():
    door = admission(route(rate_per_s=1.0, burst=2, concurrency=1))
    place, refused = enter(door, 2, to=route())
    assert refused.reason == "app_concurrency"
    place.leave(NOW, sample_ns=None)
    assert reasons(enter(door)) == ["admitted"], "the burst of two is not spent by who was refused"


def test_both_rates_are_asked_and_told_apart():
    teams = {"lab": TeamRule(quota=Quota(rate_per_s=0.5, burst=1))}
    door = admission(teams=teams)
    refused = enter(door, 2)[1]
    assert (refused.status, refused.reason, refused.retry_after_s) == (429, "team_rate", 2)
    assert reasons(enter(door, now=NOW + 2 * SECOND)) == ["admitted"]
    door = admission(route(rate_per_s=0.25, burst=3))
    assert reasons(enter(door, 4)) == ["admitted"] * 3 + ["app_rate"]
    assert enter(door)[0].retry_after_s == 4
    assert reasons(enter(door, now=NOW + 4 * SECOND - 1)) == ["app_rate"]
    assert reasons(enter(door, now=NOW + 4 * SECOND)) == ["admitted"]


@pytest.mark.parametrize(
    ("quota", "reason"),
    [
        ({"rate_per_s": 1.0, "burst": 1}, "app_rate"),
        ({"rate_per_s": 0.0}, "app_rate"),
        ({"concurrency": 1}, "app_concurrency"),
    ],
)
def test_who_would_be_refused_is_told_before_the_body_and_it_costs_nothing(quota, reason):
    door = admission(route(**quota))
    for _ in range(5):
        before = door.shed(grant(), route(), NOW)
        assert (before is None) == (quota.get("rate_per_s") != 0.0)
    enter(door)
    assert door.shed(grant(), route(), NOW).reason == reason
    assert enter(door)[0] == door.shed(grant(), route(), NOW)


def test_what_is_shed_by_the_headers_is_what_would_be_refused():
    door = admission(settings=SMALL, draw=0.5)
    told = []
    for priority in ["low"] * 13 + ["normal"] * 5 + ["high"] * 13:
        shed = door.shed(grant(priority=priority), route(), NOW)
        told.append(enter(door, priority=priority)[0])
        assert (told[-1] if isinstance(told[-1], Refusal) else None) == shed
    assert reasons(told[:13]) == ["admitted"] * 12 + ["app_overloaded"]
    assert reasons(told[13:18]) == ["admitted"] * 4 + ["app_overloaded"]
    assert reasons(told[18:]) == ["admitted"] * 12 + ["app_overloaded"]
    assert (told[12].status, told[12].retry_after_s) == (503, 3)


def test_teams_get_their_weighted_shares_while_they_compete():
    apps = {team: route(team, team=team) for team in ("lab", "shop", "plant")}
    teams = {"lab": TeamRule(weight=3.0), "shop": TeamRule(weight=1.0)}
    door = admission(*apps.values(), settings=ROOMY, teams=teams)
    idle = enter(door, 17, team="lab", to=apps["lab"])
    assert reasons(idle) == ["admitted"] * 16 + ["hall_overloaded"], "alone it may take all"
    assert reasons(enter(door, 5, team="shop", to=apps["shop"])) == ["admitted"] * 4 + ["hall_overloaded"]
    assert reasons(enter(door, 4, team="plant", to=apps["plant"])) == ["admitted"] * 3 + ["hall_overloaded"]
    for place in idle[:9]:
        place.leave(NOW, sample_ns=None)
    assert door.num_in_flight == 14
    assert reasons(enter(door, 3, team="lab", to=apps["lab"])) == ["admitted", "admitted", "hall_overloaded"]


def test_a_team_that_left_takes_no_share():
    apps = {team: route(team, team=team) for team in ("lab", "shop")}
    door = admission(*apps.values(), settings=ROOMY)
    for place in enter(door, 8, team="shop", to=apps["shop"]):
        place.leave(NOW, sample_ns=None)
    enter(door, 16, team="lab", to=apps["lab"])
    assert door._active_weight == 1000
    place = enter(door, 1, team="shop", to=apps["shop"])[0]
    door.follow(table(*apps.values(), revision=2, teams={"shop": TeamRule(weight=0.5)}), NOW)
    assert door._active_weight == 1500
    place.leave(NOW, sample_ns=None)
    assert door._active_weight == 1000


def test_a_new_table_is_followed_and_no_place_is_lost():
    door = admission(teams={"lab": TeamRule(quota=Quota(concurrency=4))})
    places = enter(door, 4)
    smaller = table(route(), revision=2, teams={"lab": TeamRule(quota=Quota(concurrency=2))})
    door.follow(smaller, NOW)
    assert reasons(enter(door)) == ["team_concurrency"]
    for place in places[:3]:
        place.leave(NOW, sample_ns=None)
    assert reasons(enter(door, 2)) == ["admitted", "team_concurrency"]
    larger = table(route(), revision=3, teams={"lab": TeamRule(quota=Quota(concurrency=3))})
    door.follow(larger, NOW)
    assert reasons(enter(door)) == ["team_concurrency"]
    door.follow(larger, NOW + share.LEASE_NS)
    assert reasons(enter(door, 2)) == ["admitted", "team_concurrency"]


def test_what_left_the_table_is_forgotten_once_nothing_of_it_is_in_flight():
    door = admission(route("maps"), keys=[grant("shop")])
    place = enter(door, 1, team="shop", to=route("maps"))[0]
    door.follow(table(route(), revision=2), NOW)
    assert set(door._teams) == {"shop"}
    assert set(door._apps) == {("lab", "maps"), ("lab", "flowers")}
    place.leave(NOW, sample_ns=None)
    door.follow(table(route(), revision=3), NOW)
    assert (set(door._teams), set(door._apps), door.num_in_flight) == (set(), {("lab", "flowers")}, 0)


def test_a_key_newer_than_the_table_has_its_team_s_rule():
    door = admission(teams={"lab": TeamRule(quota=Quota(concurrency=1), weight=2.5)})
    assert reasons(enter(door, 2, team="shop")) == ["admitted", "admitted"]
    assert reasons(enter(door, 2)) == ["admitted", "team_concurrency"]
    assert door._active_weight == 3500


def test_parts_of_two_gateways_and_where_to_go_where_there_is_none():
    quotas = {"lab": TeamRule(quota=Quota(concurrency=1)), "shop": TeamRule(quota=Quota(rate_per_s=1.0, burst=1))}
    for rank, expected in ((0, "admitted"), (1, None)):
        door = Admission(rank=rank)
        door.follow(table(route(), teams=quotas, num_gateways=2), NOW)
        lab, shop = enter(door)[0], enter(door, team="shop")[0]
        if expected:
            assert reasons([lab, shop]) == [expected] * 2
            assert not enter(door)[0].elsewhere
            assert not enter(door, team="shop")[0].elsewhere
        else:
            assert [(each.reason, each.elsewhere) for each in (lab, shop)] == [
                ("team_concurrency", True),
                ("team_rate", True),
            ]
            assert shop.response.close
    door = admission(route(concurrency=0))
    assert not enter(door)[0].elsewhere, "there is no other gateway"


def answer(door, latency_ns, num, *, at=NOW, in_flight=16):
    """Let `in_flight` in, and each answer take as long; return the time after `num` of them."""
    places = [place for place in enter(door, in_flight, now=at) if isinstance(place, Place)]
    for _ in range(num):
        at += 10 * MS
        places.pop(0).leave(at, sample_ns=latency_ns)
        places += [place for place in enter(door, 1, now=at) if isinstance(place, Place)]
    for place in places:
        place.leave(at, sample_ns=None)
    return at


def test_the_limit_follows_what_answers_take():
    door = admission(settings=SMALL)
    at = answer(door, 20 * MS, 40)
    assert door.limit("lab", "flowers") > 16
    at = answer(door, 300 * MS, 100, at=at)
    assert door.limit("lab", "flowers") < 16
    assert enter(door, now=at, deadline_ns=at)[0].leave(at, sample_ns=None) is None, "alone it is tried"
    enter(door, now=at)
    assert reasons(enter(door, now=at, deadline_ns=at + 20 * MS - 1)) == ["deadline"], "one answer each 10 ms"
    assert reasons(enter(door, now=at, deadline_ns=at + 20 * MS)) == ["admitted"]
    gauge = door._apps["lab", "flowers"].gauge
    assert [gauge.expect(num) // MS for num in (0, 28, 29, 1000)] == [10, 290, 300, 300]
    assert door.limit("lab", "maps") == 16


def test_another_deployment_is_measured_anew_within_the_same_limit():
    door = admission(settings=SMALL)
    answer(door, 20 * MS, 40)
    limit = door.limit("lab", "flowers")
    door.follow(table(route(deployment="next"), revision=2), NOW)
    gauge = door._apps["lab", "flowers"].gauge
    assert (gauge.state.base_ns, door.limit("lab", "flowers")) == (0.0, limit)


def test_the_hall_gives_way_where_applications_are_slow_together():
    door = admission(settings=SMALL)
    at = answer(door, 20 * MS, 40)
    assert door._hall.limit == 16
    answer(door, 300 * MS, 100, at=at)
    assert door._hall.limit < 16


def test_few_answers_are_judged_only_after_a_while():
    door = admission(settings=SMALL)
    gauge = door._apps["lab", "flowers"].gauge
    for at, judged in ((NOW + 99 * MS, False), (NOW + 999 * MS, False), (NOW + SECOND, True)):
        enter(door, now=at)[0].leave(at, sample_ns=5 * MS)
        assert (gauge.state.base_ns == 5 * MS) == judged


def test_the_bounds_that_hold_where_nobody_sets_others():
    usual = AdmissionSettings()
    assert usual.app == LimitView(16, 4096, 256, 3.0, 10.0 * MS, True, 200.0 * MS, 0.15 * MS)
    assert usual.hall == LimitView(64, 4096, 4096, 6.0, 0.0, False, 0.0)
    assert (usual.window_ns, usual.window_num) == (100 * MS, 20)
    assert not Refusal(503, "deadline", 1).elsewhere


@pytest.mark.parametrize("quota", [{"concurrency": 1}, {"rate_per_s": 1.0, "burst": 1}])
def test_whose_team_and_application_are_both_used_up_is_told_of_the_team(quota):
    door = admission(route(**quota), teams={"lab": TeamRule(quota=Quota(**quota))})
    assert door.shed(grant(), route(), NOW) is None
    enter(door)
    assert door.shed(grant(), route(), NOW).reason.startswith("team_")


def test_a_rate_that_changes_gives_no_second_burst():
    door = admission(teams={"lab": TeamRule(quota=Quota(rate_per_s=1.0, burst=4))})
    enter(door, 4)
    door.follow(table(route(), revision=2, teams={"lab": TeamRule(quota=Quota(rate_per_s=1.0, burst=2))}), NOW)
    assert reasons(enter(door)) == ["team_rate"]
    assert reasons(enter(door, 2, now=NOW + SECOND)) == ["admitted", "team_rate"]


def test_nothing_is_known_of_who_has_asked_nothing_yet():
    door = admission(keys=[grant()])
    team, gauge = door._teams["lab"], door._apps["lab", "flowers"].gauge
    assert (team.tat_ns, team.in_flight, gauge.mean_ns, gauge.pace_ns, gauge.peak) == (0, 0, 0, 0, 0)


def test_a_place_counts_once_for_its_priority_and_its_team():
    door = admission(teams={"lab": TeamRule(weight=0.0001)})
    place = enter(door, priority="low")[0]
    app = door._apps["lab", "flowers"]
    assert (app.peers, app.in_flight, door._active_weight) == ([0, 0, 1], 1, 1)
    place.leave(NOW, sample_ns=None)
    assert (app.peers, app.in_flight, door._active_weight) == ([0, 0, 0], 0, 0)


def test_every_decision_is_logged_and_decided_again(tmp_path):
    files = DecisionFiles(tmp_path, "g1", sample_every=1)
    door = Admission(SMALL, draw=lambda: 0.25, decisions=files)
    door.follow(table(route(concurrency=2)), NOW)
    enter(door, 3)
    files.close()
    [path] = decision_files(tmp_path)
    seen = [one for one in read_decision_file(path).decisions if one.policy == "admit"]
    assert [one.reason for one in seen] == ["admitted", "admitted", "app_concurrency"]
    for one in seen:
        view, event = decode(one.view, type=AdmitView), decode(one.event, type=Arrival)
        assert decide(None, view, event, one.now, one.draw) == (None, decode(one.decision, type=Decision), one.reason)
